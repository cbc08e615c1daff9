/* PEFT's settings. diffusers stores them as one JSON text under "lora_adapter_metadata", keys prefixed by the part. */
#include "lora/file.h"

#include "base/arena.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "io/json.h"

#include <math.h>
#include <regex.h>
#include <string.h>

enum { NEUMANN_TERMS = 5, MAX_NEUMANN_TERMS = 64 }; /* PEFT's default; a bound on time */
enum { MAX_PATTERNS = 4096, MAX_EXPRESSIONS = 64, MAX_EXPRESSION_BYTES = 256 };

/* A value for the modules whose path ends like the layer or matches the expression. */
struct pattern {
    const char *layer;
    regex_t *expression; /* NULL: the text is meant as it stands */
    double value;
};

struct patterns {
    struct pattern *items;
    size_t n;
};

struct settings {
    bool given, rank_stabilised;
    double alpha;
    int rank; /* 0: not said, or none: OFT by block size */
    int neumann_terms;
    struct patterns ranks, alphas;
};

struct lora_peft {
    struct settings parts[LORA_N_PARTS];
    bool any, whole; /* whole: one set of settings for all parts */
    regex_t expressions[MAX_EXPRESSIONS];
    int n_expressions;
};

struct reader {
    struct arena *arena;
    struct lora_peft *peft;
    struct error *e;
    const char *source; /* for messages */
};

/* ---- Patterns ---- */

static bool is_plain(const char *key) { return strpbrk(key, "\\*+?[](){}|^$") == NULL; }

/* Python's expression as a POSIX one: "(.*\.)?(KEY)$" from the beginning. Only what a matcher handles in bounded time
 * and both languages mean alike: no counts, no references, no look-around. */
static char *posix_expression(const char *key, struct arena *a) {
    char *body = arena_alloc(a, 8 * strlen(key) + 1), *out = body;
    for (const char *p = key; *p; p++) {
        if (*p == '{' || *p == '}' || (*p == '?' && p > key && p[-1] == '(' && p[1] != ':')) return NULL;
        if (p[0] == '(' && p[1] == '?' && p[2] == ':') {
            *out++ = '(', p += 2;
        } else if (p[0] == '\\') {
            p++;
            if (*p == 'd') memcpy(out, "[0-9]", 5), out += 5;
            else if (*p == 'w') memcpy(out, "[0-9A-Za-z_]", 12), out += 12;
            else if (*p && strchr(".-_[]()*+?|^$\\", *p)) *out++ = '\\', *out++ = *p;
            else return NULL;
        } else {
            *out++ = *p;
        }
    }
    *out = 0;
    return arena_printf(a, "^(.*\\.)?(%s)$", body[0] == '^' ? body + 1 : body);
}

static bool compile(struct reader *r, struct pattern *p, const char *key) {
    struct lora_peft *peft = r->peft;
    bool room = strlen(key) <= MAX_EXPRESSION_BYTES && peft->n_expressions < MAX_EXPRESSIONS;
    char *text = room ? posix_expression(key, r->arena) : NULL;
    regex_t *expression = &peft->expressions[peft->n_expressions];
    if (!text || regcomp(expression, text, REG_EXTENDED | REG_NOSUB) != 0)
        return error_set(r->e,
                         "%s has a pattern %s, which is no expression that can be followed here; write the "
                         "layers' names out.",
                         TEXT_SHOW(r->source), TEXT_SHOW(key));
    p->expression = expression;
    peft->n_expressions++;
    return true;
}

/* "^name" is how diffusers writes a name that must be whole. */
static bool read_patterns(struct reader *r, struct patterns *list, const json_t *root, const char *key) {
    const json_t *patterns = json_object_get(root, key);
    const char *name;
    json_t *value;
    size_t n = json_object_size(patterns);
    if (n == 0) return true;
    if (n > MAX_PATTERNS) return error_set(r->e, "%s: %zu patterns in %s are too many.", TEXT_SHOW(r->source), n, key);
    list->items = arena_alloc_n(r->arena, n, sizeof *list->items);
    json_object_foreach((json_t *)patterns, name, value) {
        if (!json_is_number(value) || !isfinite(json_number_value(value)))
            return error_set(r->e, "%s: the %s of %s is no number.", TEXT_SHOW(r->source), key, TEXT_SHOW(name));
        struct pattern *p = &list->items[list->n++];
        *p = (struct pattern){.layer = arena_strdup(r->arena, name[0] == '^' ? name + 1 : name),
                              .value = json_number_value(value)};
        if (!is_plain(p->layer) && !compile(r, p, name)) return false;
    }
    return true;
}

static bool is_tail(const char *path, const char *tail) {
    size_t n = strlen(path), m = strlen(tail);
    return n >= m && strcmp(path + n - m, tail) == 0 && (n == m || path[n - m - 1] == '.');
}

/* The first that fits counts, as in PEFT. */
static double pattern_value(const struct patterns *list, const char *path, double otherwise) {
    for (size_t i = 0; i < list->n; i++) {
        const struct pattern *p = &list->items[i];
        if (p->expression ? regexec(p->expression, path, 0, NULL, 0) == 0 : is_tail(path, p->layer)) return p->value;
    }
    return otherwise;
}

/* ---- Settings ---- */

static bool read_number(struct reader *r, const json_t *root, const char *key, double *out, bool *given) {
    const json_t *value = json_object_get(root, key);
    *given = value && !json_is_null(value);
    if (!*given) return true;
    *out = json_number_value(value);
    return (json_is_number(value) && isfinite(*out)) || error_set(r->e, "%s: %s is no number.", TEXT_SHOW(r->source), key);
}

static bool read_neumann(struct reader *r, struct settings *s, const json_t *root, const char *prefix) {
    double terms = NEUMANN_TERMS;
    bool given;
    if (!read_number(r, root, arena_printf(r->arena, "%snum_cayley_neumann_terms", prefix), &terms, &given)) return false;
    if (given && !(terms >= 1 && terms <= MAX_NEUMANN_TERMS))
        return error_set(r->e, "%s: num_cayley_neumann_terms of %g is not possible.", TEXT_SHOW(r->source), terms);
    bool exact = json_is_false(json_object_get(root, arena_printf(r->arena, "%suse_cayley_neumann", prefix)));
    s->neumann_terms = exact ? 0 : given ? (int)terms : NEUMANN_TERMS;
    return true;
}

static bool read_settings(struct reader *r, struct settings *s, const json_t *root, const char *prefix) {
    struct arena *a = r->arena;
    double rank = 0;
    bool has_rank, has_alpha;
    if (!read_number(r, root, arena_printf(a, "%slora_alpha", prefix), &s->alpha, &has_alpha)) return false;
    if (!has_alpha && !read_number(r, root, arena_printf(a, "%salpha", prefix), &s->alpha, &has_alpha))
        return false; /* LoHa, LoKr */
    if (!read_number(r, root, arena_printf(a, "%sr", prefix), &rank, &has_rank)) return false;
    if (has_rank && !(rank >= 0 && rank <= 1e6))
        return error_set(r->e, "%s: a rank of %g is not possible.", TEXT_SHOW(r->source), rank);
    s->given = has_alpha;
    s->rank = (int)rank;
    if (!read_neumann(r, s, root, prefix)) return false;
    s->rank_stabilised = json_is_true(json_object_get(root, arena_printf(a, "%suse_rslora", prefix)));
    return read_patterns(r, &s->alphas, root, arena_printf(a, "%salpha_pattern", prefix)) &&
           read_patterns(r, &s->ranks, root, arena_printf(a, "%srank_pattern", prefix));
}

static json_t *load_root(struct reader *r, const struct st_file *file, const char *path, bool *beside, bool *failed) {
    const char *text = st_meta_find(file, "lora_adapter_metadata");
    r->source = path;
    if (text) {
        json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        *failed = !json_is_object(root) &&
                  !error_set(r->e, "%s: the metadata lora_adapter_metadata is no JSON object.", TEXT_SHOW(path));
        return root;
    }
    char *config = path_join(r->arena, path_dir(r->arena, path), "adapter_config.json");
    if (strncmp(path_base(path), "adapter_model.", 14) != 0 || !os_path_is_file(config)) return NULL;
    *beside = true;
    r->source = config;
    json_t *root = json_file_load(config, 0, r->e);
    *failed = root == NULL;
    return root;
}

struct lora_peft *lora_peft_load(const struct st_file *file, const char *path, struct arena *a, struct error *e) {
    struct lora_peft *p = arena_alloc(a, sizeof *p);
    struct reader r = {.arena = a, .peft = p, .e = e};
    bool failed = false;
    json_t *root = load_root(&r, file, path, &p->whole, &failed);
    for (int part = 0; root && !failed && part < LORA_N_PARTS; part++) {
        char *prefix = p->whole ? arena_strdup(a, "") : arena_printf(a, "%s.", lora_part_name((enum lora_part)part));
        failed = !read_settings(&r, &p->parts[part], root, prefix);
        p->any = true;
    }
    json_decref(root);
    if (failed) lora_peft_close(&p);
    return p;
}

void lora_peft_close(struct lora_peft **p) {
    if (!*p) return;
    for (int i = 0; i < (*p)->n_expressions; i++) regfree(&(*p)->expressions[i]);
    *p = NULL;
}

/* Settings of a module and its path inside its part. */
static const struct settings *settings_of(const struct lora_peft *p, const char *module, const char **path) {
    for (int part = 0; p->any && part < LORA_N_PARTS; part++) {
        const char *name = lora_part_name((enum lora_part)part);
        size_t n = strlen(name);
        if (strncmp(module, name, n) != 0 || module[n] != '.') continue;
        *path = module + n + 1;
        return &p->parts[part];
    }
    return NULL;
}

bool lora_peft_alpha(const struct lora_peft *p, const char *module, int rank, float *alpha) {
    const char *path;
    const struct settings *s = settings_of(p, module, &path);
    if (!s || !s->given) return false;
    double value = pattern_value(&s->alphas, path, s->alpha);
    *alpha = (float)(s->rank_stabilised ? value * sqrt(rank) : value);
    return true;
}

bool lora_peft_check_rank(const struct lora_peft *p, const char *module, int rank, struct error *e) {
    const char *path;
    const struct settings *s = settings_of(p, module, &path);
    if (!s || !s->rank) return true;
    int said = (int)pattern_value(&s->ranks, path, s->rank);
    return said == rank ||
           error_set(
               e, "%s has rank %d, but the settings beside it (%s) say %d: they belong to different files.",
               TEXT_SHOW(module), rank, p->whole ? "adapter_config.json" : "lora_adapter_metadata", said);
}

float lora_peft_plain_scale(const struct lora_peft *p, const char *module) {
    const char *path;
    const struct settings *s = settings_of(p, module, &path);
    return s && s->given && s->rank
               ? (float)(pattern_value(&s->alphas, path, s->alpha) / pattern_value(&s->ranks, path, s->rank))
               : 1;
}

int lora_peft_neumann_terms(const struct lora_peft *p, const char *module) {
    const char *path;
    const struct settings *s = settings_of(p, module, &path);
    return s ? s->neumann_terms : NEUMANN_TERMS;
}
