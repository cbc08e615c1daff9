/* LoRAs baked into a checkpoint. */
#include <stdio.h>

#include "app/commands.h"
#include "app/common.h"
#include "app/lora_use.h"
#include "base/text.h"
#include "engine/merge.h"

struct merge_options {
    const char *model, *out;
    struct option_list loras;
};
#define FIELD(name) offsetof(struct merge_options, name)

static const struct option rows[] = {
    {"model", OPTION_TEXT, FIELD(model), "PATH", "the model: a folder in diffusers' layout or a single file",
     .required = true},
    {"lora", OPTION_LIST, FIELD(loras), "FILE[:STRENGTH]",
     "what to bake in, of any kind and spelling; may be repeated", .required = true},
    {"out", OPTION_TEXT, FIELD(out), "PATH",
     "a new folder for a folder, a .safetensors file for a single file", .required = true},
};

static bool merge(const struct merge_options *o, struct arena *a, struct error *e) {
    struct lora_use use = {.arena = a};
    for (int i = 0; i < o->loras.n; i++)
        if (!lora_use_file(&use, o->loras.items[i], -1, e)) return false;
    struct merge_lora *loras = arena_alloc_n(a, (size_t)use.n + 1, sizeof *loras);
    float *strengths = arena_alloc_n(a, (size_t)use.n + 1, sizeof *strengths);
    lora_use_strengths(&use, 0, 1, strengths);
    for (int i = 0; i < use.n; i++) loras[i] = (struct merge_lora){use.paths[i], strengths[i]};
    struct model_params mp = {TENSOR_F32, 0};
    struct model *m = model_open(o->model, &mp, e);
    if (!m) return false;
    struct merge_params p = {loras, use.n, o->out};
    struct merge_result r;
    bool ok = model_merge(m, &p, &r, e);
    if (ok) printf("%s: %d tensors changed by %d %s\n", o->out, r.n_tensors, use.n, use.n == 1 ? "LoRA" : "LoRAs");
    model_close(&m);
    return ok;
}

bool cmd_merge_into(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct merge_options o = {0};
    struct option_command cmd = {.usage = "merge-into --model PATH --lora FILE[:STRENGTH]... --out PATH",
                                 .about = "Bakes LoRAs into a model: the same names, types and layout, with "
                                          "the LoRAs' changes in the weights.",
                                 .tables = {{OPTION_ROWS(rows), &o}},
                                 .n_tables = 1};
    struct option_result given;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) ok = merge(&o, a, e);
    arena_destroy(&a);
    return ok;
}
