/* What is this file or folder? */
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/common.h"
#include "app/inspect.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "io/png.h"
#include "io/recipe.h"
#include "checkpoint/kind.h"
#include "engine/adapter.h"
#include "lora/delta.h"
#include "lora/family.h"

struct inspect_options {
    const char *model;
    struct model_files files;
    bool all;
};
#define FIELD(name) offsetof(struct inspect_options, name)

static const struct option rows[] = {
    {"model", OPTION_TEXT, FIELD(model), "DIR", "say which parts of a LoRA this model has a place for"},
    {"all", OPTION_FLAG, FIELD(all), NULL, "every tensor and metadata entry, whole, not only the first ones"},
};
enum { SHOW = INSPECT_SHOW };

static int shown(const struct inspect_options *o, int n) { return o->all || n <= SHOW ? n : SHOW; }

static void print_more(int n, int printed) {
    if (n > printed) printf("    ... and %d more (--all)\n", n - printed);
}

/* ---- LoRA files ---- */

static void print_meta(const struct st_file *f, const struct inspect_options *o) {
    int n = (int)st_meta_count(f), k = shown(o, n);
    struct arena *a = arena_create(NULL);
    if (n) printf("metadata      %d entries\n", n);
    for (int i = 0; i < k; i++) {
        const char *value = st_meta_value(f, (size_t)i);
        size_t cap = o->all ? strlen(value) + 4 : 120;
        printf("    %s: %s\n", TEXT_SHOW(st_meta_key(f, (size_t)i)), text_printable(arena_alloc(a, cap), cap, value));
    }
    print_more(n, k);
    arena_destroy(&a);
}

/* "lora 32" per kind, part and status: few enough for a small table. */
struct tally {
    const char *text;
    int n;
};

static int tally(struct tally *t, int n, int max, const char *text) {
    for (int i = 0; i < n; i++)
        if (!strcmp(t[i].text, text)) {
            t[i].n++;
            return n;
        }
    if (n < max) t[n] = (struct tally){text, 1};
    return n < max ? n + 1 : n;
}

static void print_tally(const char *what, const struct tally *t, int n) {
    printf("%-13s", what);
    for (int i = 0; i < n; i++) printf("%s %s (%d)", i ? "," : "", t[i].text, t[i].n);
    printf("\n");
}

static void print_modules(const struct lora_file *f, struct arena *a) {
    enum { MAX = 24 };
    struct tally kinds[MAX], parts[MAX], ranks[MAX], alphas[MAX];
    int nk = 0, np = 0, nr = 0, na = 0;
    for (int i = 0; i < f->n_modules; i++) {
        const struct lora_module *m = &f->modules[i];
        nk = tally(kinds, nk, MAX, m->kind_name);
        np = tally(parts, np, MAX, lora_part_name(m->part));
        nr = tally(ranks, nr, MAX, m->rank ? arena_printf(a, "%d", m->rank) : m->kind && m->kind->factors ? "unknown" : "none");
        na = tally(alphas, na, MAX, m->rank || m->has_alpha ? arena_printf(a, "%g", (double)m->alpha) : "none");
    }
    print_tally("kinds", kinds, nk);
    print_tally("parts", parts, np);
    print_tally("ranks", ranks, nr);
    print_tally("alphas", alphas, na);
}

static void print_match(const struct lora_file *f, const struct inspect_options *o, struct arena *a) {
    printf("match         %s\n", lora_file_report(f, a));
    int64_t numbers = 0;
    char memory[COMMON_BYTES_TEXT];
    for (int i = 0; i < f->n_modules; i++)
        if (f->modules[i].status == LORA_MATCHED) numbers += lora_module_numbers(&f->modules[i], NULL);
    printf("memory        %s beside the model in half precision, twice that in single\n",
           common_bytes_text(2 * numbers, memory));
    int n = f->n_modules - f->n_by_status[LORA_MATCHED], k = shown(o, n), printed = 0;
    for (int i = 0; i < f->n_modules && printed < k; i++) {
        const struct lora_module *m = &f->modules[i];
        if (m->status == LORA_MATCHED) continue;
        printf("    %s: %s%s%s\n", TEXT_SHOW(m->name), lora_status_name(m->status), m->why ? ", " : "", m->why ? m->why : "");
        printed++;
    }
    print_more(n, printed);
}

static bool inspect_lora(const struct lora_file *f, const struct inspect_options *o, const struct lora_keys *keys) {
    struct arena *a = arena_create(NULL);
    char hex[65], bytes[COMMON_BYTES_TEXT];
    size_t total = 0;
    for (size_t i = 0; i < st_count(f->file); i++) total += st_at(f->file, i)->bytes;
    printf("%s: an adapter of %d modules in %s's spelling%s%s, %s\n", TEXT_SHOW(f->given), f->n_modules,
           f->dialect ? f->dialect : "nobody", f->other_dialect ? " and " : "", f->other_dialect ? f->other_dialect : "",
           common_bytes_text((int64_t)total, bytes));
    const char *family = lora_family_of_file(f, a);
    if (family) printf("made for      %s\n", family);
    print_modules(f, a);
    if (keys) print_match(f, o, a);
    if (f->n_foreign)
        printf("foreign       %d tensors that belong to no adapter, e.g. %s\n", f->n_foreign, TEXT_SHOW(f->first_foreign));
    if (f->n_embeddings)
        printf("embeddings    %d tensors that are vectors for words, e.g. %s: --embedding loads them\n", f->n_embeddings,
               TEXT_SHOW(f->first_embedding));
    st_data_sha256(f->file, hex);
    printf("hash          %.12s (SHA-256 of the tensors %s)\n", hex, hex);
    print_meta(f->file, o);
    arena_destroy(&a);
    return true;
}

static void inspect_tensors(const struct st_file *f, const struct inspect_options *o, const char *why) {
    char bytes[COMMON_BYTES_TEXT], shape[ST_SHAPE_TEXT_BYTES];
    size_t total = 0;
    int n = (int)st_count(f), k = shown(o, n);
    for (int i = 0; i < n; i++) total += st_at(f, (size_t)i)->bytes;
    printf("%s: a file of weights with %d tensors, %s\n", TEXT_SHOW(st_path(f)), n, common_bytes_text((int64_t)total, bytes));
    printf("no adapter    %s\n", why);
    for (int i = 0; i < k; i++) {
        const struct st_tensor *t = st_at(f, (size_t)i);
        printf("    %s %s %s\n", TEXT_SHOW(t->name), st_dtype_name(t->dtype), st_tensor_shape_text(t, shape));
    }
    print_more(n, k);
    print_meta(f, o);
}

/* st: the file where it may be something else, NULL for a folder. */
static bool inspect_adapter(const char *path, const struct st_file *st, const struct inspect_options *o, struct error *e) {
    struct model_params mp = {.storage = TENSOR_F32, .files = o->files};
    struct model *m = o->model ? model_open(o->model, &mp, e) : NULL;
    bool ok = !o->model || m;
    struct lora_keys *keys = NULL;
    if (m) {
        struct lora_model lm = adapter_lora_model(m);
        keys = lora_keys_create(&lm);
    }
    struct error why;
    struct lora_file *f = ok ? lora_file_open(path, keys, st ? &why : e) : NULL;
    if (f) inspect_lora(f, o, keys);
    else if (ok && st) inspect_tensors(st, o, why.text);
    ok = ok && (f || st);
    lora_file_close(&f);
    lora_keys_destroy(&keys);
    model_close(&m);
    return ok;
}

/* A file of tensors: a model, or an adapter if any tensor is one's. */
static bool inspect_weights(const char *path, const struct inspect_options *o, struct error *e) {
    struct st_file *st = st_open(path, e);
    if (!st) return false;
    struct checkpoint_kind kind;
    bool model = inspect_is_model(st), foreign = !model && checkpoint_foreign(st, &kind) && kind.is_model;
    if (model || foreign) {
        if (foreign) printf("%s: %s; %s\n", path, kind.name, kind.hint);
        st_close(&st);
        return foreign || inspect_model(path, &o->files, o->all, e);
    }
    bool ok = inspect_adapter(path, st, o, e);
    st_close(&st);
    return ok;
}

/* ---- Pictures ---- */

/* The whole text, as a terminal may see it: a picture from outside can hold its control characters. */
static const char *clean(struct arena *a, const char *s) {
    size_t n = strlen(s) + 4, used = 0;
    char *out = arena_alloc(a, n), *line = arena_printf(a, "%s", s);
    for (char *next; line; line = next) {
        if ((next = strchr(line, '\n'))) *next++ = 0;
        used += strlen(text_printable(out + used, n - used, line));
        if (next) out[used++] = '\n';
    }
    return out;
}

static void print_recipe(struct arena *a, const struct recipe *r) {
    printf("prompt        %s\n", r->prompt ? clean(a, r->prompt) : "");
    if (r->negative && r->negative[0]) printf("negative      %s\n", clean(a, r->negative));
    for (size_t i = 0; i < r->n_loras; i++)
        printf("LoRA          %s, strength %g%s%s\n", clean(a, r->loras[i].name), r->loras[i].strength,
               r->loras[i].hash ? ", hash " : "", r->loras[i].hash ? clean(a, r->loras[i].hash) : "");
    printf("settings      %d steps", r->steps);
    if (r->sampler) printf(" of %s", clean(a, r->sampler));
    if (r->schedule) printf(" (%s)", clean(a, r->schedule));
    if (r->has_cfg) printf(", guidance %g", r->cfg);
    if (r->has_seed) printf(", seed %llu", (unsigned long long)r->seed);
    if (r->w) printf(", %dx%d", r->w, r->h);
    printf("\n");
    if (r->model)
        printf("model         %s%s%s\n", clean(a, r->model), r->model_hash ? ", hash " : "",
               r->model_hash ? clean(a, r->model_hash) : "");
    for (size_t i = 0; i < r->n_extra; i++) printf("%-13s %s\n", clean(a, r->extra[i].key), clean(a, r->extra[i].value));
}

static bool inspect_png(const char *path, struct error *e) {
    struct arena *a = arena_create(NULL);
    int w, h;
    struct png_text *texts;
    size_t n;
    bool ok = image_probe(path, &w, &h, e) && png_read_texts(a, path, &texts, &n, e);
    if (ok) {
        const char *text = png_text_find(texts, n, "parameters");
        struct recipe r;
        struct error none;
        printf("%s: a PNG of %dx%d pixels%s\n", path, w, h, text ? "" : " without a recipe");
        if (text && recipe_parse(a, text, &r, &none)) print_recipe(a, &r);
        else if (text) printf("    parameters: %s\n", TEXT_SHOW(text));
        for (size_t i = 0; i < n; i++)
            if (strcmp(texts[i].key, "parameters")) printf("    %s: %s\n", texts[i].key, TEXT_SHOW(texts[i].value));
    }
    arena_destroy(&a);
    return ok;
}

static bool is_png(const char *path) {
    struct os_map m;
    struct error none;
    if (!os_file_map(&m, path, &none)) return false;
    bool png = m.bytes >= 8 && !memcmp(m.data, "\x89PNG\r\n\x1a\n", 8);
    os_file_unmap(&m);
    return png;
}

static bool inspect(const char *path, const struct inspect_options *o, struct error *e) {
    if (!os_path_exists(path)) return error_set(e, "There is no file or folder %s.", TEXT_SHOW(path));
    if (os_path_is_dir(path) && lora_file_in_folder(path)) return inspect_adapter(path, NULL, o, e);
    if (os_path_is_dir(path)) return inspect_model(path, &o->files, o->all, e);
    if (is_png(path)) return inspect_png(path, e);
    static const char *const weights[] = {"safetensors", "json", "ckpt", "pt", "pth", "bin"};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        if (path_has_ext(path, weights[i])) return inspect_weights(path, o, e);
    return error_set(e, "%s is none of what inspect knows: a model folder, a .safetensors, .ckpt or .pt file, a PNG.",
                     TEXT_SHOW(path));
}

bool cmd_inspect(int argc, char **argv, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct inspect_options o = {0};
    struct option_command cmd = {.usage = "inspect FILE [--model DIR]",
                                 .about = "Says what a model folder, a checkpoint, a LoRA or other file of weights, or a PNG "
                                          "is, and of a model what became of every tensor.",
                                 .tables = {{OPTION_ROWS(rows), &o}, common_files_table(&o.files)}, .n_tables = 2,
                                 .min_args = 1, .max_args = 1, .args_name = "file or folder"};
    struct option_result given;
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) ok = inspect(given.args[0], &o, e);
    arena_destroy(&a);
    return ok;
}
