/* The difference of two models as a LoRA file. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/common.h"
#include "base/log.h"
#include "base/os.h"
#include "base/text.h"
#include "engine/adapter.h"
#include "lora/extract.h"

struct extract_options {
    const char *base, *tuned, *out, *dtype;
    int rank;
    double kept, min_diff, clamp;
    bool quiet;
};
#define FIELD(name) offsetof(struct extract_options, name)

static const struct option rows[] = {
    {"base", OPTION_TEXT, FIELD(base), "PATH", "the model that was tuned: a folder or a single file", .required = true},
    {"tuned", OPTION_TEXT, FIELD(tuned), "PATH", "what became of it, in either form", .required = true},
    {"out", OPTION_TEXT, FIELD(out), "FILE", "the .safetensors file to write, in kohya's spelling", .required = true},
    {"rank", OPTION_INT, FIELD(rank), "N", "the LoRA's rank; with --kept the most that a layer gets", 1, 1 << 16},
    {"kept", OPTION_NUMBER, FIELD(kept), "X",
     "as much rank as each layer needs to keep this share of its change\n(of the Frobenius norm), like 0.95", 0, 1},
    {"min-diff", OPTION_NUMBER, FIELD(min_diff), "X",
     "a text encoder none of whose weights changes by so much stays out", 0, 1e9},
    {"clamp", OPTION_NUMBER, FIELD(clamp), "X",
     "numbers larger than this quantile of all are cut to it; 0.99 is what\n"
     "kohya's script has, 1 cuts nothing and is by far the nearest", 0, 1},
    {"dtype", OPTION_CHOICE, FIELD(dtype), "TYPE", "of the numbers in the file", .choices = "f32|f16|bf16"},
    {"quiet", OPTION_FLAG, FIELD(quiet), NULL, "say nothing but warnings, errors and the result"},
};

struct watch {
    double started, last_line;
};

static void on_layer(void *ctx, double share, const char *layer) {
    struct watch *w = ctx;
    double now = os_now_seconds();
    if (share < 0.01 || now - w->last_line < (os_stderr_is_terminal() ? 0.1 : 10)) return;
    w->last_line = now;
    char left[COMMON_BYTES_TEXT];
    log_progress("%.0f%% of the work done, %s left, at %s", 100 * share,
                 common_seconds_text((now - w->started) * (1 - share) / share, left), layer);
}

static void parts_of(const struct model *m, const struct nn_params *parts[LORA_N_PARTS]) {
    parts[LORA_UNET] = m->unet_params;
    for (int i = 0; i < m->n_texts; i++) parts[LORA_TEXT + i] = m->texts[i].params;
}

static void print_result(const struct extract_options *o, const struct lora_extract_result *r) {
    printf("%s: %d layers of rank %d", o->out, r->n_layers, r->rank_min);
    if (r->rank_max > r->rank_min) printf(" to %d", r->rank_max);
    printf("; %.2f%% of the change's norm kept", 100 * r->kept_fro);
    if (o->clamp < 1) printf(", %.2f%% after clamping", 100 * sqrt(fmax(0, 1 - r->error * r->error)));
    printf("\n");
    if (r->n_same) printf("left out      %d layers without a change\n", r->n_same);
    for (int i = 0; i < LORA_N_PARTS; i++)
        if (r->skipped[i])
            printf("left out      the %s, which changes by less than %g\n", lora_part_name((enum lora_part)i), o->min_diff);
    if (r->n_other)
        log_warn("%d biases, norms and embeddings differ too, by up to %.3g; a LoRA cannot hold them", r->n_other,
                 r->other_diff);
}

static bool extract(const struct extract_options *o, const struct model *base, const struct model *tuned, struct arena *a,
                    struct error *e) {
    struct watch w = {.started = os_now_seconds(), .last_line = os_now_seconds()};
    struct lora_extract_result r;
    struct lora_extract_params p = {.min_diff = o->min_diff, .clamp = o->clamp, .progress = on_layer, .ctx = &w,
                                    .rule = {o->kept > 0 ? LORA_RANK_FRO : LORA_RANK_FIXED, o->kept, o->rank},
                                    .dtype = !strcmp(o->dtype, "f32") ? ST_F32 : !strcmp(o->dtype, "bf16") ? ST_BF16 : ST_F16};
    p.comment = arena_printf(a, "atelier extract from %s and %s, %s %g", base->name, tuned->name, o->kept > 0 ? "kept" : "rank",
                             o->kept > 0 ? o->kept : o->rank);
    parts_of(base, p.base);
    parts_of(tuned, p.tuned);
    if (base->family != tuned->family)
        return error_set(e, "%s is %s and %s is %s: a LoRA is the difference of two models of one architecture.",
                         TEXT_SHOW(o->base), nn_family_name(base->family), TEXT_SHOW(o->tuned), nn_family_name(tuned->family));
    struct lora_model layers = adapter_lora_model(base);
    struct lora_keys *keys = lora_keys_create(&layers);
    bool ok = lora_extract(keys, &p, o->out, &r, e);
    if (ok && !(model_intact(base, e) && model_intact(tuned, e))) ok = false, os_file_remove(o->out, NULL);
    if (ok) print_result(o, &r);
    lora_keys_destroy(&keys);
    return ok;
}

static bool run(const struct extract_options *o, struct arena *a, struct error *e) {
    struct model_params mp = {TENSOR_F32, 0};
    if (!common_check_out("out", o->out, "safetensors", e)) return false;
    if (!o->rank && !(o->kept > 0)) return error_set(e, "Say how much to keep: --rank N, or --kept X for a rank per layer.");
    if (!(o->clamp > 0)) return error_set(e, "--clamp 0 cuts everything; 0.99 is kohya's, 1 cuts nothing.");
    struct model *base = model_open(o->base, &mp, e), *tuned = base ? model_open(o->tuned, &mp, e) : NULL;
    bool ok = base && tuned && extract(o, base, tuned, a, e);
    if (tuned) model_close(&tuned);
    if (base) model_close(&base);
    return ok;
}

bool cmd_extract(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct extract_options o = {.min_diff = 0.01, .clamp = 1, .dtype = "f16"};
    struct option_command cmd = {.usage = "extract --base PATH --tuned PATH --out FILE --rank N | --kept X [options]",
                                 .about = "Makes a LoRA of the difference of two models.",
                                 .tables = {{OPTION_ROWS(rows), &o}},
                                 .n_tables = 1};
    struct option_result given;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) {
        if (o.quiet) log_set_level(LOG_WARN);
        ok = run(&o, a, e);
    }
    arena_destroy(&a);
    return ok;
}
