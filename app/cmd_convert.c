/* An adapter file in another program's spelling. */
#include <stdio.h>

#include "app/commands.h"
#include "app/common.h"
#include "app/layers.h"
#include "base/text.h"
#include "lora/convert.h"

struct convert_options {
    const char *model, *to, *out;
    bool partial;
};
#define FIELD(name) offsetof(struct convert_options, name)

static const struct option rows[] = {
    {"to", OPTION_CHOICE, FIELD(to), "SPELLING",
     "kohya: one file that every program reads, all kinds\n"
     "diffusers: one file with its settings in the metadata, LoRA and DoRA\n"
     "peft: a folder with adapter_config.json per part of the model, LoRA and DoRA",
     .choices = "kohya|diffusers|peft", .required = true},
    {"model", OPTION_TEXT, FIELD(model), "DIR",
     "a model of the family that it was made for: names its layers (Stable\nDiffusion 1, 2 and SDXL are known without)"},
    {"out", OPTION_TEXT, FIELD(out), "PATH", "the file to write; for peft a folder", .required = true},
    {"partial", OPTION_FLAG, FIELD(partial), NULL,
     "leave out what the spelling cannot hold, instead of refusing"},
};

static bool convert(const char *path, const struct convert_options *o, struct arena *a, struct error *e) {
    struct lora_convert_params p = {.partial = o->partial};
    struct lora_convert_result result = {0};
    lora_spelling_find(o->to, &p.to);
    if (p.to != LORA_SPELL_PEFT && !common_check_out("out", o->out, "safetensors", e)) return false;
    struct layers layers;
    if (!layers_open(&layers, o->model, &path, 1, e)) return false;
    struct lora_keys *keys = lora_keys_create(&layers.names);
    struct lora_file *f = lora_file_open(path, keys, e);
    bool ok = f && lora_file_require_match(f, keys, e) && lora_convert(f, keys, &p, o->out, a, &result, e);
    if (ok) printf("%s: %d modules in the spelling of %s\n", o->out, result.n_modules, o->to);
    if (ok && result.left_out) printf("left out      %d: %s\n", result.n_left_out, result.left_out);
    lora_file_close(&f);
    lora_keys_destroy(&keys);
    layers_close(&layers);
    return ok;
}

bool cmd_convert(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct convert_options o = {0};
    struct option_command cmd = {
        .usage = "convert FILE --to kohya|diffusers|peft --out PATH [--model DIR]",
        .about = "Writes a LoRA file or folder of any spelling in another program's, with the same numbers.",
        .tables = {{OPTION_ROWS(rows), &o}},
        .n_tables = 1,
        .min_args = 1,
        .max_args = 1,
        .args_name = "LoRA file"};
    struct option_result given;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) ok = convert(given.args[0], &o, a, e);
    arena_destroy(&a);
    return ok;
}
