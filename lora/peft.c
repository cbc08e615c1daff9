/* PEFT's settings. diffusers stores them as one JSON text under "lora_adapter_metadata", keys prefixed by the part. */
#include "lora/file.h"

#include "base/arena.h"
#include "base/os.h"
#include "io/json.h"

#include <math.h>
#include <string.h>

enum { MAX_PATTERNS = 4096 };

struct pattern {
    const char *layer; /* end of a path, at a dot */
    double alpha;
};

struct settings {
    bool given, rank_stabilised;
    double alpha;
    struct pattern *patterns;
    size_t n_patterns;
};

struct lora_peft {
    struct settings parts[LORA_N_PARTS];
    bool any;
};

static void read_patterns(struct settings *s, const json_t *patterns, struct arena *a) {
    const char *key;
    json_t *value;
    size_t n = json_object_size(patterns);
    if (n == 0 || n > MAX_PATTERNS) return;
    s->patterns = arena_alloc_n(a, n, sizeof *s->patterns);
    json_object_foreach((json_t *)patterns, key, value) {
        if (!json_is_number(value)) continue;
        s->patterns[s->n_patterns++] = (struct pattern){arena_strdup(a, key[0] == '^' ? key + 1 : key),
                                                        json_number_value(value)};
    }
}

static void read_settings(struct settings *s, const json_t *root, const char *prefix, struct arena *a) {
    json_t *alpha = json_object_get(root, arena_printf(a, "%slora_alpha", prefix));
    if (!json_is_number(alpha)) return;
    s->given = true;
    s->alpha = json_number_value(alpha);
    s->rank_stabilised = json_is_true(json_object_get(root, arena_printf(a, "%suse_rslora", prefix)));
    read_patterns(s, json_object_get(root, arena_printf(a, "%salpha_pattern", prefix)), a);
}

static json_t *load_beside(const char *path, struct arena *a, struct error *e, bool *failed) {
    const char *slash = strrchr(path, '/');
    char *config = slash ? arena_printf(a, "%.*s/adapter_config.json", (int)(slash - path), path)
                         : arena_strdup(a, "adapter_config.json");
    if (!os_path_is_file(config)) return NULL;
    json_t *root = json_file_load(config, 0, e);
    *failed = root == NULL;
    return root;
}

struct lora_peft *lora_peft_load(const struct st_file *file, const char *path, struct arena *a, struct error *e) {
    struct lora_peft *p = arena_alloc(a, sizeof *p);
    const char *text = st_meta_find(file, "lora_adapter_metadata"), *slash = strrchr(path, '/');
    bool failed = false, folder = strcmp(slash ? slash + 1 : path, "adapter_model.safetensors") == 0;
    json_t *root = text ? json_loads(text, 0, NULL) : folder ? load_beside(path, a, e, &failed) : NULL;
    if (failed) return NULL;
    for (int part = 0; root && part < LORA_N_PARTS; part++) {
        char *prefix = text ? arena_printf(a, "%s.", lora_part_name((enum lora_part)part)) : arena_strdup(a, "");
        read_settings(&p->parts[part], root, prefix, a);
        p->any |= p->parts[part].given;
    }
    json_decref(root);
    return p;
}

static bool is_tail(const char *path, const char *tail) {
    size_t n = strlen(path), m = strlen(tail);
    return n >= m && strcmp(path + n - m, tail) == 0 && (n == m || path[n - m - 1] == '.');
}

bool lora_peft_alpha(const struct lora_peft *p, const char *module, int rank, float *alpha) {
    for (int part = 0; p->any && part < LORA_N_PARTS; part++) {
        const char *name = lora_part_name((enum lora_part)part);
        size_t n = strlen(name);
        const struct settings *s = &p->parts[part];
        if (strncmp(module, name, n) != 0 || module[n] != '.' || !s->given) continue;
        double value = s->alpha;
        for (size_t i = 0; i < s->n_patterns; i++)
            if (is_tail(module + n + 1, s->patterns[i].layer)) {
                value = s->patterns[i].alpha;
                break;
            }
        *alpha = (float)(s->rank_stabilised ? value * sqrt(rank) : value);
        return true;
    }
    return false;
}
