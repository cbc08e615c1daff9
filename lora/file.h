/* Reading an adapter file against a model, with a report of what fits and what does not: a file that is applied in
 * part without a word is the commonest complaint about adapters. */
#ifndef ATELIER_LORA_FILE_H
#define ATELIER_LORA_FILE_H

#include "io/safetensors.h"
#include "lora/key.h"
#include "lora/kind.h"

enum lora_status {
    LORA_MATCHED,     /* can be applied */
    LORA_UNMATCHED,   /* the model has no such layer (or no model was given) */
    LORA_MISSHAPED,   /* the layer or the factors have other sizes */
    LORA_INCOMPLETE,  /* a tensor is missing, given twice, or its alpha is no number */
    LORA_UNSUPPORTED, /* of a kind that cannot be applied */
    LORA_N_STATUS
};
const char *lora_status_name(enum lora_status s); /* "matched", ... */

struct lora_module {
    const char *name;             /* as in the file, without the tensor's ending, normalised */
    const char *kind_name;        /* "lora", "loha", ... */
    const struct lora_kind *kind; /* NULL where unsupported */
    enum lora_status status;
    const char *why; /* a clause about the module; NULL where matched */
    enum lora_part part;
    const struct nn_target *target; /* NULL where the model has none */
    const struct st_tensor *tensors[LORA_MAX_SLOTS];
    int rank;       /* 0 while unknown, and for kinds that have none */
    bool has_alpha; /* the file gives it */
    float alpha;    /* rank if the file gives none */
    float scale;    /* what up*down is multiplied by at strength 1: alpha / rank; 1 for kinds without rank */
    int neumann_terms; /* PEFT's OFT: terms of the series it takes for a rotation; 0: the exact one */
};

struct lora_file {
    struct arena *arena;
    struct st_file *file; /* stays mapped */
    const char *path, *given; /* of the weights; as asked for: a folder perhaps */
    struct lora_module *modules; /* by name */
    int n_modules;
    int n_by_status[LORA_N_STATUS];
    const char *dialect;        /* spelling of most tensors */
    const char *other_dialect;  /* another one that occurs, or NULL */
    int n_foreign;              /* tensors that belong to no adapter */
    const char *first_foreign;  /* one of them, or NULL */
    int n_embeddings;           /* tensors that are vectors for words (textenc/embedding.h) */
    const char *first_embedding;
    int n_rank_min, n_rank_max; /* over modules of known rank */
};

/* Whether a folder holds an adapter as PEFT or diffusers save one, and no model. */
bool lora_file_in_folder(const char *path);

/* path may be a folder that PEFT or diffusers saved. keys may be NULL: then nothing matches and only the file is
 * described. NULL and a sentence if the file cannot be read, holds no adapter at all, or contradicts PEFT's settings. */
struct lora_file *lora_file_open(const char *path, const struct lora_keys *keys, struct error *e);
void lora_file_close(struct lora_file **f);


/* Whether every tensor of the file will be applied; where not, lora_file_report says more. */
bool lora_file_is_whole(const struct lora_file *f);

/* False, with a sentence that names both sides, if the file was made for another model family (lora/family.h) or
 * nothing can be applied. */
bool lora_file_require_match(const struct lora_file *f, const struct lora_keys *keys, struct error *e);

/* One line on what fits and, where something does not, the first few modules of each sort; memory from a. */
char *lora_file_report(const struct lora_file *f, struct arena *a);

/* Factors of a matched module of a low-rank kind; see lora_kind.factors. */
bool lora_module_read(const struct lora_module *m, float *down, float *up, struct error *e);

/* ---- Parts of it ---- */

/* Settings that PEFT keeps beside the weights: in the metadata, or in adapter_config.json in the same folder. Memory
 * from a, but for what close releases. */
struct lora_peft;
struct lora_peft *lora_peft_load(const struct st_file *file, const char *path, struct arena *a, struct error *e);
void lora_peft_close(struct lora_peft **p);
/* Scale of a module whose tensors have no rank to divide alpha by: 1 where the settings do not say both. */
float lora_peft_plain_scale(const struct lora_peft *p, const char *module);
/* See lora_module.neumann_terms; PEFT's default is 5. */
int lora_peft_neumann_terms(const struct lora_peft *p, const char *module);
/* Alpha for a module ("unet.down_blocks...") of that rank: alpha / rank is then the scale, also for rank-stabilised
 * adapters. False where the settings say nothing. */
bool lora_peft_alpha(const struct lora_peft *p, const char *module, int rank, float *alpha);
/* False with a sentence where the settings give the module another rank than its tensors have. */
bool lora_peft_check_rank(const struct lora_peft *p, const char *module, int rank, struct error *e);

#endif
