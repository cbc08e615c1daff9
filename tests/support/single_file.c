#include "tests/support/single_file.h"
#include "tests/support/cm.h"
#include "tests/support/golden.h"

#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "io/json.h"

static const char *const part_names[4] = {"unet", "vae", "text_encoder", "text_encoder_2"};

static const struct st_tensor *find_source(const struct single_file *s, const char *part, const char *key) {
    for (int i = 0; i < 4; i++)
        if (!strcmp(part, part_names[i])) return s->parts[i] ? st_find(s->parts[i], key) : NULL;
    return NULL;
}

/* Rows of all keys below each other. */
static void stack(struct arena *a, struct st_tensor *t, const struct single_file *s, const char *part, const json_t *keys) {
    size_t n = json_array_size(keys);
    uint8_t *data = arena_alloc(a, t->bytes * n);
    for (size_t i = 0; i < n; i++)
        memcpy(data + i * t->bytes, find_source(s, part, json_string_value(json_array_get(keys, i)))->data, t->bytes);
    t->data = data;
    t->dims[0] *= (int64_t)n;
    t->bytes *= n;
}

static void turn(struct arena *a, struct st_tensor *t) {
    size_t rows = (size_t)t->dims[0], cols = (size_t)t->dims[1], size = t->bytes / rows / cols;
    uint8_t *data = arena_alloc(a, t->bytes);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            memcpy(data + (c * rows + r) * size, (const uint8_t *)t->data + (r * cols + c) * size, size);
    t->data = data;
    t->dims[0] = (int64_t)cols, t->dims[1] = (int64_t)rows;
}

static void add(struct single_file *s, const char *name, const json_t *from) {
    const char *part = json_string_value(json_object_get(from, "part")), *how = json_string_value(json_object_get(from, "how"));
    const json_t *keys = json_object_get(from, "keys");
    const struct st_tensor *source = find_source(s, part, json_string_value(json_array_get(keys, 0)));
    if (!source) fail_msg("%s: no source in %s", name, part);
    struct st_tensor t = *source;
    if (!strcmp(how, "stack")) stack(s->arena, &t, s, part, keys);
    if (!strcmp(how, "turn")) turn(s->arena, &t);
    if (!strcmp(how, "conv")) t.rank = 4, t.dims[2] = t.dims[3] = 1;
    st_writer_add(s->writer, name, t.dtype, t.rank, t.dims, t.data);
}

struct single_file single_file_begin(const char *name, const char *without) {
    static const char *const stems[4] = {"diffusion_pytorch_model", "diffusion_pytorch_model", "model", "model"};
    struct single_file s = {.arena = arena_create(NULL), .writer = st_writer_create()};
    struct error e = {0};
    const char *folder = golden_path(s.arena, name);
    for (int i = 0; i < 4; i++) {
        const char *path = arena_printf(s.arena, "%s/%s/%s.safetensors", folder, part_names[i], stems[i]);
        if (os_path_is_file(path) && !(s.parts[i] = st_open(path, &e))) fail_msg("%s", e.text);
    }
    json_t *names = json_file_load(arena_printf(s.arena, "%s.names.json", folder), 0, &e), *from;
    if (!names) fail_msg("%s", e.text);
    const char *key;
    json_object_foreach(names, key, from) if (!without || !strstr(key, without)) add(&s, arena_strdup(s.arena, key), from);
    json_decref(names);
    return s;
}

void single_file_end(struct single_file *s) {
    st_writer_destroy(&s->writer);
    for (int i = 0; i < 4; i++) st_close(&s->parts[i]);
    arena_destroy(&s->arena);
}

void single_file_write(const char *name, const char *path) {
    struct single_file s = single_file_begin(name, NULL);
    struct error e = {0};
    if (!st_writer_save(s.writer, path, &e)) fail_msg("%s", e.text);
    single_file_end(&s);
}
