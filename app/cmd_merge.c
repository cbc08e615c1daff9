/* Several LoRAs made into one. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/common.h"
#include "app/layers.h"
#include "app/lora_use.h"
#include "app/merge_learn.h"
#include "base/log.h"
#include "base/text.h"
#include "lora/delta.h"
#include "lora/merge.h"

struct merge_options {
    const char *method, *model, *out, *dtype;
    struct option_list loras;
    int rank;
    double density;
    uint64_t seed;
    bool partial;
};
#define FIELD(name) offsetof(struct merge_options, name)

static const struct option rows[] = {
    {"method", OPTION_CHOICE, FIELD(method), "NAME", "sum: the weighted sum, exact, at the smallest rank that holds it\n"
     "concat: the same, with the files' own factors side by side\n"
     "svd: the nearest to it that --rank can hold\n"
     "ties: each file's largest numbers, averaged where their signs agree\n"
     "dare: numbers dropped by chance, the others made larger by as much, then the sum\n"
     "magnitude: each file's largest numbers, then the sum\n"
     "ziplora: the sum with a factor per file and input, learnt so that the\n"
     "model answers each file's pictures as with that file alone\n"
     "gradient-fusion: the change that answers what layers read for each file's\n"
     "pictures as that file alone does, by least squares\n"
     "kv-closed-form: keys and values of cross-attention that answer each\n"
     "file's --prompt as that file does, and --captions as the model does",
     .choices = "sum|concat|svd|ties|dare|magnitude|ziplora|gradient-fusion|kv-closed-form", .required = true},
    {"lora", OPTION_LIST, FIELD(loras), "FILE[:WEIGHT]", "what to merge, of any spelling; may be repeated", .required = true},
    {"model", OPTION_TEXT, FIELD(model), "PATH",
     "a model of the family that they were made for: names its layers\n"
     "(for files of plain LoRAs of Stable Diffusion 1, 2 or SDXL not needed)"},
    {"rank", OPTION_INT, FIELD(rank), "N",
     "the new rank (0: the largest rank in the files; as\nneeded by ziplora and gradient-fusion)", 0, 1 << 16},
    {"density", OPTION_NUMBER, FIELD(density), "X", "share of each file's numbers that is kept", 0, 1},
    {"seed", OPTION_SEED, FIELD(seed), "N", "for what is dropped, drawn or chosen by chance"},
    {"dtype", OPTION_CHOICE, FIELD(dtype), "TYPE", "of the numbers in the file", .choices = "f32|f16|bf16"},
    {"partial", OPTION_FLAG, FIELD(partial), NULL, "leave out changes of biases and norms, instead of refusing"},
    {"out", OPTION_TEXT, FIELD(out), "FILE", "the .safetensors file to write, in kohya's spelling", .required = true},
};

static enum st_dtype dtype_of(const char *name) {
    return strcmp(name, "f32") == 0 ? ST_F32 : strcmp(name, "bf16") == 0 ? ST_BF16 : ST_F16;
}

/* Options that the method does not know are mistakes, not wishes. */
static bool check_method(const struct merge_options *o, const struct option_command *cmd, const struct option_result *given,
                         const struct lora_merger *m, struct error *e) {
    bool learns = train_merger_find(m->name) != NULL;
    const struct { const char *name; bool taken; } some[] = {
        {"rank", m->takes_rank}, {"density", m->takes_density}, {"seed", m->takes_seed}, {"partial", !learns}};
    for (int i = 0; i < 4; i++)
        if (!some[i].taken && option_given(cmd, given, some[i].name))
            return error_set(e, "--method %s takes no --%s (atelier merge --help says which do).", m->name, some[i].name);
    if (m->takes_density && !(o->density > 0)) return error_set(e, "--density 0 keeps nothing: give a share above 0, up to 1.");
    return true;
}

static bool use_files(struct lora_use *use, const struct merge_options *o, struct error *e) {
    for (int i = 0; i < o->loras.n; i++)
        if (!lora_use_file(use, o->loras.items[i], -1, e)) return false;
    for (int i = 0; i < use->n; i++)
        if (use->specs[i].details)
            return error_set(e, "%s:%s: a merged file has one weight per LoRA: give a plain number.",
                             TEXT_SHOW(use->paths[i]), TEXT_SHOW(use->specs[i].details));
    if (use->n < 2 && strcmp(o->method, "svd") != 0)
        return error_set(e, "--method %s needs at least two LoRA files: repeat --lora.", TEXT_SHOW(o->method));
    return true;
}

static void print_result(const struct merge_options *o, const struct lora_merge_result *r) {
    printf("%s: %d layers of rank %d to %d, %d of them in more than one file\n", o->out, r->n_layers, r->rank_min, r->rank_max,
           r->n_shared);
    if (r->n_left_out) printf("left out      %d changes of biases and norms\n", r->n_left_out);
}

/* Other kinds' changes start from the model's own weights. */
static bool check_plain(const struct lora_file *f, struct error *e) {
    for (int i = 0; i < f->n_modules; i++)
        if (!lora_module_is_low_rank(&f->modules[i]))
            return error_set(e, "%s holds %s (%s), whose change is computed with a model's weights; give that model with "
                                "--model.", TEXT_SHOW(f->given), TEXT_SHOW(f->modules[i].name), f->modules[i].kind_name);
    return true;
}

/* From the files alone. */
static bool run(struct lora_merge_params *p, const struct lora_use *use, const struct layers *layers,
                const struct merge_options *o, struct arena *a, struct error *e) {
    struct lora_keys *keys = lora_keys_create(&layers->names);
    struct lora_file **files = arena_alloc_n(a, (size_t)use->n, sizeof *files);
    struct lora_merge_result r;
    bool ok = true;
    for (int i = 0; ok && i < use->n; i++) {
        ok = (files[i] = lora_file_open(use->paths[i], keys, e)) && lora_file_require_match(files[i], keys, e) &&
             (layers->model || check_plain(files[i], e));
        if (ok && !lora_file_is_whole(files[i])) log_warn("%s: %s", TEXT_SHOW(files[i]->given), lora_file_report(files[i], a));
    }
    p->files = files;
    ok = ok && lora_merge(p, keys, o->out, &r, e);
    if (ok) print_result(o, &r);
    for (int i = 0; i < use->n; i++)
        if (files[i]) lora_file_close(&files[i]);
    lora_keys_destroy(&keys);
    return ok;
}

static bool merge_files(const struct merge_options *o, const struct lora_merger *method, const struct lora_use *use,
                        const float *weights, struct arena *a, struct error *e) {
    struct lora_merge_params p = {.method = method, .weights = weights, .n = use->n, .rank = o->rank, .density = o->density,
                                  .seed = o->seed, .dtype = dtype_of(o->dtype), .partial = o->partial};
    struct layers layers;
    if (!layers_open(&layers, o->model, use->paths, use->n, e)) return false;
    const struct model *m = layers.model;
    if (m) p.base[LORA_UNET] = m->unet_params;
    for (int i = 0; m && i < m->n_texts; i++) p.base[LORA_TEXT + i] = m->texts[i].params;
    bool ok = run(&p, use, &layers, o, a, e);
    layers_close(&layers);
    return ok;
}

static bool merge_learning(const struct merge_options *o, const struct merge_learn *learn, const struct common *common,
                           const struct train_merger *method, const struct lora_use *use, const float *weights,
                           struct error *e) {
    if (!o->model) return error_set(e, "--method %s watches a model at work: give one with --model.", TEXT_SHOW(o->method));
    struct train_merge_params p = train_merge_params_default();
    struct lora_merge_result r;
    p.method = method, p.loras = use->paths, p.weights = weights, p.n = use->n;
    p.rank = o->rank, p.seed = o->seed, p.dtype = dtype_of(o->dtype), p.out = o->out;
    if (!merge_learn_run(learn, common, o->model, &p, &r, e)) return false;
    if (!learn->dry_run) print_result(o, &r);
    return true;
}

static bool merge(const struct merge_options *o, const struct merge_learn *learn, const struct common *common,
                  const struct option_command *cmd, const struct option_result *given, struct arena *a, struct error *e) {
    const struct train_merger *learnt = train_merger_find(o->method);
    const struct lora_merger *method = learnt ? &learnt->merger : lora_merger_find(o->method);
    struct lora_use use = {.arena = a};
    assert(method);
    common_apply(common);
    if (!check_method(o, cmd, given, method, e) || !merge_learn_check(method->name, learnt, cmd, given, e) ||
        !use_files(&use, o, e) || !common_check_out("out", o->out, "safetensors", e))
        return false;
    float *weights = arena_alloc_n(a, (size_t)use.n, sizeof *weights);
    lora_use_strengths(&use, 0, 1, weights);
    return learnt ? merge_learning(o, learn, common, learnt, &use, weights, e) : merge_files(o, method, &use, weights, a, e);
}

bool cmd_merge(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct merge_options o = {.density = 0.5, .dtype = "f16"};
    struct merge_learn learn = merge_learn_defaults();
    struct common common = {0};
    struct option_command cmd = {.usage = "merge --method NAME --lora FILE[:WEIGHT]... --out FILE [--model PATH] [options]",
                                 .about = "Makes one LoRA file of several.",
                                 .tables = {{OPTION_ROWS(rows), &o}, merge_learn_table(&learn), common_table(&common),
                                            common_files_table(&common.files)},
                                 .n_tables = 4};
    struct option_result given;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) ok = merge(&o, &learn, &common, &cmd, &given, a, e);
    arena_destroy(&a);
    return ok;
}
