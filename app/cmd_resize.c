/* A LoRA at another rank. */
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/common.h"
#include "app/layers.h"
#include "base/text.h"
#include "lora/resize.h"

struct resize_options {
    const char *lora, *model, *out, *keep, *dtype;
    int rank;
    double share;
};
#define FIELD(name) offsetof(struct resize_options, name)

static const struct option rows[] = {
    {"lora", OPTION_TEXT, FIELD(lora), "FILE", "the LoRA, in any spelling", .required = true},
    {"model", OPTION_TEXT, FIELD(model), "PATH",
     "a model of the family that it was made for: names its layers (Stable\nDiffusion 1, 2 and SDXL are known without)"},
    {"rank", OPTION_INT, FIELD(rank), "N", "the new rank; with --keep the largest (0: no limit)", 0, 1 << 16},
    {"keep", OPTION_CHOICE, FIELD(keep), "RULE",
     "a rank per layer, by its singular values and --share:\n"
     "sv_ratio: those above the largest / share, and one more\n"
     "sv_cumulative: a share of their sum\n"
     "sv_fro: a share of the Frobenius norm",
     .choices = "sv_ratio|sv_cumulative|sv_fro"},
    {"share", OPTION_NUMBER, FIELD(share), "X", "for --keep: 0 to 1, for sv_ratio above 1", 0, 1e6},
    {"dtype", OPTION_CHOICE, FIELD(dtype), "TYPE", "of the numbers in the file", .choices = "f32|f16|bf16"},
    {"out", OPTION_TEXT, FIELD(out), "FILE", "the .safetensors file to write, in kohya's spelling", .required = true},
};

static bool find_rule(const struct resize_options *o, struct lora_rank_rule *rule, struct error *e) {
    *rule = (struct lora_rank_rule){LORA_RANK_FIXED, o->share, o->rank};
    if (!o->keep && !o->rank) return error_set(e, "Say what to keep: --rank N, or --keep RULE --share X.");
    if (!o->keep) return o->share == 0 || error_set(e, "--share needs --keep.");
    bool ratio = strcmp(o->keep, "sv_ratio") == 0;
    if (ratio ? !(o->share > 1) : !(o->share > 0 && o->share <= 1))
        return error_set(e, "--keep %s needs --share %s.", o->keep, ratio ? "above 1" : "above 0, up to 1");
    rule->by = ratio ? LORA_RANK_RATIO : strcmp(o->keep, "sv_fro") == 0 ? LORA_RANK_FRO : LORA_RANK_CUMULATIVE;
    return true;
}

static bool resize(const struct resize_options *o, struct arena *a, struct error *e) {
    struct lora_resize_params p = {
        .dtype = strcmp(o->dtype, "f32") == 0 ? ST_F32 : strcmp(o->dtype, "bf16") == 0 ? ST_BF16 : ST_F16};
    if (!find_rule(o, &p.rule, e) || !common_check_out("out", o->out, "safetensors", e)) return false;
    p.comment = o->keep ? arena_printf(a, "atelier resize --keep %s --share %.9g --rank %d", o->keep, o->share, o->rank)
                        : arena_printf(a, "atelier resize --rank %d", o->rank);
    struct layers layers;
    if (!layers_open(&layers, o->model, &o->lora, 1, e)) return false;
    struct lora_keys *keys = lora_keys_create(&layers.names);
    struct lora_file *f = lora_file_open(o->lora, keys, e);
    struct lora_resize_result r;
    bool ok = f && lora_file_require_match(f, keys, e) && lora_resize(f, keys, &p, o->out, &r, e);
    if (ok)
        printf("%s: %d layers of rank %d to %d; %.1f%% of the singular values' sum, %.1f%% of the norm kept on average\n",
               o->out, r.n_layers, r.rank_min, r.rank_max, 100 * r.kept_sum, 100 * r.kept_fro);
    lora_file_close(&f);
    lora_keys_destroy(&keys);
    layers_close(&layers);
    return ok;
}

bool cmd_resize(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct resize_options o = {.dtype = "f16"};
    struct option_command cmd = {.usage = "resize --lora FILE --rank N | --keep RULE --share X --out FILE [--model PATH]",
                                 .about = "Writes a LoRA at another rank, the nearest that it can hold.",
                                 .tables = {{OPTION_ROWS(rows), &o}},
                                 .n_tables = 1};
    struct option_result given;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) ok = resize(&o, a, e);
    arena_destroy(&a);
    return ok;
}
