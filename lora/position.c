#include "lora/position.h"

#include "base/arena.h"
#include "io/json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_MODULES = 1 << 16, MAX_CLASSES = 32 };

struct walk {
    const struct nn_target **layers; /* in the file's order */
    int n;                           /* 0: the file does not follow the model */
    const char *why;
};

struct lora_positions {
    struct walk parts[LORA_N_PARTS];
};

/* What a walk may have met: libraries moved "ff" behind "attn2" later, and only some runs adapted convolutions. */
struct variant {
    bool ff_last, convolutions;
};

/* ---- The order of creation ---- */

/* Only the order of siblings counts. */
static int rank_of(const char *name, size_t bytes, bool ff_last) {
    static const char *const order[] = {
        "conv_in", "time_embedding", "add_embedding", "down_blocks", "up_blocks", "mid_block", "conv_out",
        "attentions", "resnets", "downsamplers", "upsamplers", "proj_in", "transformer_blocks", "proj_out",
        "attn1", "ff", "attn2", "to_q", "to_k", "to_v", "to_out", "net", "proj",
        "conv1", "time_emb_proj", "conv2", "conv_shortcut", "conv", "linear_1", "linear_2",
        "text_model", "encoder", "layers", "self_attn", "mlp", "k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"};
    for (int i = 0; i < (int)(sizeof order / sizeof *order); i++)
        if (strlen(order[i]) == bytes && memcmp(order[i], name, bytes) == 0)
            return ff_last && strcmp(order[i], "ff") == 0 ? 2 * i + 3 : 2 * i;
    return 1000;
}

static int compare_paths(const char *a, const char *b, bool ff_last) {
    while (*a && *b) {
        size_t n = strcspn(a, "."), m = strcspn(b, ".");
        if (n != m || memcmp(a, b, n) != 0) {
            bool numbers = *a >= '0' && *a <= '9' && *b >= '0' && *b <= '9';
            int x = numbers ? atoi(a) : rank_of(a, n, ff_last), y = numbers ? atoi(b) : rank_of(b, m, ff_last);
            return x != y ? x - y : strcmp(a, b);
        }
        a += n + (a[n] == '.'), b += m + (b[m] == '.');
    }
    return (*a != 0) - (*b != 0);
}

static int in_old_order(const void *a, const void *b) {
    const struct nn_target *x = *(const struct nn_target *const *)a, *y = *(const struct nn_target *const *)b;
    return compare_paths(x->path, y->path, false);
}

static int in_new_order(const void *a, const void *b) {
    const struct nn_target *x = *(const struct nn_target *const *)a, *y = *(const struct nn_target *const *)b;
    return compare_paths(x->path, y->path, true);
}

/* ---- Classes ---- */

static bool is_inside(const char *path, const char *class) {
    static const char *const rows[][2] = {{"CrossAttention", ".attn1."}, {"CrossAttention", ".attn2."},
                                          {"Attention", ".attn1."}, {"Attention", ".attn2."},
                                          {"GEGLU", ".ff.net.0."}, {"FeedForward", ".ff."},
                                          {"BasicTransformerBlock", ".transformer_blocks."},
                                          {"Transformer2DModel", ".attentions."}, {"ResnetBlock2D", ".resnets."},
                                          {"Downsample2D", ".downsamplers."}, {"Upsample2D", ".upsamplers."},
                                          {"CLIPAttention", ".self_attn."}, {"CLIPMLP", ".mlp."},
                                          {"CLIPEncoderLayer", ".layers."}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(class, rows[i][0]) == 0 && strstr(path, rows[i][1])) return true;
    return false;
}

static int read_classes(const struct st_file *file, enum lora_part part, const char **classes, json_t **root) {
    const char *text = st_meta_find(file, lora_part_name(part));
    *root = text ? json_loads(text, 0, NULL) : NULL;
    int n = 0;
    for (size_t i = 0; i < json_array_size(*root) && n < MAX_CLASSES; i++)
        if (json_is_string(json_array_get(*root, i))) classes[n++] = json_string_value(json_array_get(*root, i));
    if (n) return n;
    if (part != LORA_UNET) return classes[0] = "CLIPAttention", 1;
    classes[0] = "CrossAttention", classes[1] = "GEGLU";
    return 2;
}

/* ---- Following the file ---- */

static int walk_model(const struct nn_target_list *list, const char *const *classes, int n_classes, struct variant v,
                      const struct nn_target **layers) {
    int n = 0;
    for (int i = 0; i < list->n; i++)
        for (int c = 0; c < n_classes; c++) {
            if ((list->items[i].is_conv && !v.convolutions) || !is_inside(list->items[i].path, classes[c])) continue;
            layers[n++] = &list->items[i];
            break;
        }
    qsort(layers, (size_t)n, sizeof *layers, v.ff_last ? in_new_order : in_old_order);
    return n;
}

static bool layer_fits(const struct st_file *file, const char *part, bool list, int index,
                       const struct nn_target *t, struct arena *a) {
    const struct st_tensor *down = st_find(file, list ? arena_printf(a, "%d", 2 * index + 1)
                                                      : arena_printf(a, "%s:%d:down", part, index));
    const struct st_tensor *up =
        st_find(file, list ? arena_printf(a, "%d", 2 * index) : arena_printf(a, "%s:%d:up", part, index));
    if (!down || !up) return true; /* said of the module itself */
    return down->rank >= 2 && up->rank >= 2 && down->dims[1] == t->weight.c && up->dims[0] == t->weight.w;
}

/* The first layer whose factors have other sizes than the file's, or n. */
static int walk_length(const struct st_file *file, const char *part, const struct nn_target *const *layers, int n) {
    struct arena *a = arena_create(NULL);
    enum lora_part only;
    bool list = lora_position_list(file, &only);
    int i = 0;
    while (i < n && layer_fits(file, part, list, i, layers[i], a)) i++;
    arena_destroy(&a);
    return i;
}

static int count_modules(const struct st_file *file, enum lora_part wanted) {
    int n = 0;
    enum lora_part only;
    if (lora_position_list(file, &only)) return only == wanted ? (int)st_count(file) / 2 : 0;
    struct arena *a = arena_create(NULL);
    for (size_t i = 0; i < st_count(file); i++) {
        const char *name = st_at(file, i)->name, *end = strrchr(name, ':');
        enum lora_part part;
        int index;
        if (!end || strlen(name) > 64) continue;
        bool is = lora_position_parse(arena_strndup(a, name, (size_t)(end - name)), &part, &index);
        if (is && part == wanted && index >= n) n = index + 1;
    }
    arena_destroy(&a);
    return n;
}

static void follow(struct walk *w, const struct st_file *file, enum lora_part part, const struct nn_target_list *list,
                   struct arena *a) {
    static const struct variant variants[] = {{false, false}, {true, false}, {false, true}, {true, true}};
    int count = count_modules(file, part), n_layers = 0, best = 0;
    if (!count || !list) return;
    const char *classes[MAX_CLASSES], *name = lora_part_name(part);
    json_t *root;
    int n_classes = read_classes(file, part, classes, &root);
    w->layers = arena_alloc_n(a, (size_t)list->n + 1, sizeof *w->layers);
    for (size_t v = 0; v < sizeof variants / sizeof *variants && !w->n; v++) {
        int n = walk_model(list, classes, n_classes, variants[v], w->layers);
        if (n > n_layers) n_layers = n;
        if (n != count) continue;
        int length = walk_length(file, name, w->layers, n);
        if (length == n) w->n = n;
        if (length > best) best = length;
    }
    if (!w->n && best)
        w->why = arena_printf(
            a, "is numbered in an order that this model's layers do not have (number %d has another size)",
            best);
    else if (!w->n)
        w->why = arena_printf(a, "is one of %d numbered layers where this model has %d of those classes", count, n_layers);
    json_decref(root);
}

struct lora_positions *lora_positions_create(const struct st_file *file, const struct lora_keys *keys, struct arena *a) {
    struct lora_positions *p = arena_alloc(a, sizeof *p);
    for (int part = 0; part < LORA_N_PARTS; part++)
        follow(&p->parts[part], file, (enum lora_part)part, lora_keys_model(keys)->targets[part], a);
    return p;
}

bool lora_position_list(const struct st_file *file, enum lora_part *part) {
    size_t n = st_count(file);
    int64_t width = 0;
    *part = LORA_TEXT;
    if (n < 2 || n % 2 || n > 2 * MAX_MODULES) return false;
    for (size_t i = 0; i < n; i++) {
        const struct st_tensor *t = st_at(file, i);
        size_t digits = strspn(t->name, "0123456789");
        if (!digits || t->name[digits] || digits > 6 || (size_t)atoi(t->name) >= n || t->rank < 2) return false;
        int64_t wide = t->dims[atoi(t->name) % 2]; /* up [out,r], down [r,in] */
        if (width && wide != width) *part = LORA_UNET;
        width = wide;
    }
    return true;
}

bool lora_position_parse(const char *module, enum lora_part *part, int *index) {
    for (int p = 0; p < LORA_N_PARTS; p++) {
        const char *name = lora_part_name((enum lora_part)p);
        size_t n = strlen(name), digits = strlen(module) > n ? strspn(module + n + 1, "0123456789") : 0;
        if (strncmp(module, name, n) != 0 || module[n] != ':') continue;
        const char *number = module + n + 1;
        if (!digits || digits > 5 || number[digits] || (number[0] == '0' && digits > 1)) return false;
        *part = (enum lora_part)p;
        *index = atoi(number);
        return *index < MAX_MODULES;
    }
    return false;
}

bool lora_positions_find(const struct lora_positions *p, const char *module, struct lora_place *out) {
    enum lora_part part;
    int index;
    if (!lora_position_parse(module, &part, &index) || index >= p->parts[part].n) return false;
    *out = (struct lora_place){part, p->parts[part].layers[index]};
    return true;
}

const char *lora_positions_why(const struct lora_positions *p, const char *module) {
    enum lora_part part;
    int index;
    return lora_position_parse(module, &part, &index) ? p->parts[part].why : NULL;
}
