/* An adapter file written again in another program's spelling. Tensors keep their bytes wherever the target has the same
 * tensor under another name; only a Tucker core is multiplied into its factor where the target knows none. */
#ifndef ATELIER_LORA_CONVERT_H
#define ATELIER_LORA_CONVERT_H

#include "lora/file.h"

enum lora_spelling {
    LORA_SPELL_KOHYA,     /* every kind; names as kohya's scripts write them: for SDXL's UNet the single-file ones */
    LORA_SPELL_DIFFUSERS, /* pytorch_lora_weights.safetensors with PEFT's settings in the metadata: LoRA, DoRA */
    LORA_SPELL_PEFT,      /* a folder per part of the model, adapter_config.json in it: LoRA, DoRA */
    LORA_N_SPELLINGS
};
const char *lora_spelling_name(enum lora_spelling s); /* "kohya", "diffusers", "peft" */
bool lora_spelling_find(const char *name, enum lora_spelling *out);

struct lora_convert_params {
    enum lora_spelling to;
    bool partial; /* leave out what the target cannot hold, instead of refusing */
};
struct lora_convert_result {
    int n_modules, n_left_out;
    char *left_out; /* the first few and why; memory from the arena given; NULL where nothing was */
};
/* f must have been opened with the keys. out: a file; for PEFT a folder, which gets a folder per part where the file has
 * several. False with a sentence that names what the target cannot hold and why. */
bool lora_convert(const struct lora_file *f, const struct lora_keys *keys, const struct lora_convert_params *p, const char *out,
                  struct arena *a, struct lora_convert_result *result, struct error *e);

#endif
