/* A merged model's files. A folder is made beside its final place and renamed when it is complete. */
#include "engine/merge_priv.h"

#include <string.h>

#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "io/json.h"

enum { MAX_DEPTH = 4, MAX_SHARDS = 1000 };

/* ---- One file ---- */

static struct merge_tensor *find_edits(struct merge *m, const struct st_file *owner, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (m->tensors[i].file == owner && strcmp(m->tensors[i].name, name) == 0) return &m->tensors[i];
    return NULL;
}

/* from: what is copied, a shard perhaps; owner: the file as the model has it. */
static bool write_file(struct merge *m, const struct st_file *from, const struct st_file *owner,
                       const char *out, struct error *err) {
    struct st_writer *w = st_writer_create();
    for (size_t i = 0; i < st_count(from); i++) {
        const struct st_tensor *t = st_at(from, i);
        struct merge_tensor *edits = find_edits(m, owner, t->name);
        if (edits) {
            edits->source = t;
            st_writer_add_fill(w, t->name, t->dtype, t->rank, t->dims, merge_fill, edits);
        } else {
            st_writer_add(w, t->name, t->dtype, t->rank, t->dims, t->data);
        }
    }
    for (size_t i = 0; i < st_meta_count(from); i++) {
        const char *key = st_meta_key(from, i); /* hashes of what it was would be wrong */
        if (!strstr(key, "hash") && strcmp(key, "format") != 0) st_writer_meta(w, key, st_meta_value(from, i));
    }
    st_writer_meta(w, "format", "pt");
    bool ok = st_writer_save(w, out, err) && st_intact(from, err);
    st_writer_destroy(&w);
    return ok;
}

bool merge_write_single(struct merge *m, const char *out, struct error *err) {
    const struct st_file *file = m->model->unet_source.file;
    if (!path_has_ext(out, "safetensors"))
        return error_set(
            err, "The model is a single file, and so is what becomes of it: %s must end in .safetensors.",
            TEXT_SHOW(out));
    return write_file(m, file, file, out, err);
}

/* ---- Folders ---- */

/* What was made, for taking it back. */
struct made {
    const char *path;
    bool is_dir;
    struct made *next;
};
struct copier {
    struct merge *m;
    struct made *made; /* last first */
    struct error *err;
};

static void note(struct copier *c, const char *path, bool is_dir) {
    struct made *x = arena_alloc(c->m->arena, sizeof *x);
    *x = (struct made){arena_strdup(c->m->arena, path), is_dir, c->made};
    c->made = x;
}

static void take_back(struct copier *c) {
    for (struct made *x = c->made; x; x = x->next)
        if (x->is_dir) os_dir_remove(x->path, NULL);
        else os_file_remove(x->path, NULL);
}

static bool make_dir(struct copier *c, const char *path) {
    if (!os_dir_make(path, c->err)) return false;
    note(c, path, true);
    return true;
}

static bool copy_file(struct copier *c, const char *from, const char *to) {
    struct os_map map;
    if (!os_file_map(&map, from, c->err)) return false;
    note(c, to, false);
    bool ok = os_file_write_atomic(to, map.data, map.bytes, c->err);
    os_file_unmap(&map);
    return ok;
}

static bool is_weights(const char *name) {
    static const char *const endings[] = {"safetensors", "bin", "ckpt", "pt",        "pth",
                                          "msgpack",     "h5",  "onnx", "onnx_data", "pb"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (path_has_ext(name, endings[i])) return true;
    return strstr(name, ".index.") && path_has_ext(name, "json");
}

/* Shards keep their names and their index. */
static bool write_shards(struct copier *c, const struct st_file *owner, const char *to) {
    struct arena *a = c->m->arena;
    const char *index = st_path(owner), *folder = path_dir(a, index);
    json_t *root = json_file_load(index, 0, c->err), *name;
    const char *key, *done[MAX_SHARDS];
    int n = 0;
    bool ok = root && copy_file(c, index, path_join(a, to, path_base(index)));
    json_object_foreach(json_object_get(root, "weight_map"), key, name) {
        const char *shard = arena_strdup(a, json_string_value(name));
        int k = 0;
        while (k < n && strcmp(done[k], shard) != 0) k++;
        if (!ok || k < n) continue;
        if (n == MAX_SHARDS || !path_has_ext(shard, "safetensors")) {
            ok = error_set(c->err,
                           "%s lists shards that are no safetensors files, such as %s; save the model as "
                           "safetensors first.",
                           TEXT_SHOW(index), TEXT_SHOW(shard));
            continue;
        }
        done[n++] = shard;
        struct st_file *from = st_open(path_join(a, folder, shard), c->err);
        const char *out = path_join(a, to, path_base(shard));
        if (from) note(c, out, false);
        ok = from && write_file(c->m, from, owner, out, c->err);
        if (from) st_close(&from);
    }
    json_decref(root);
    return ok;
}

/* The weights of a part that changes; other copies of them that lie beside (fp16, .bin) would be stale and stay behind. */
static bool write_part(struct copier *c, const struct st_file *owner, const char *to) {
    struct arena *a = c->m->arena;
    const char *path = st_path(owner), *name = path_base(path);
    if (path_has_ext(name, "json")) return write_shards(c, owner, to);
    if (!path_has_ext(name, "safetensors")) /* torch's: model.bin would not be one any more */
        name = strstr(name, "pytorch_model") == name ? "model.safetensors"
                                                     : arena_printf(a, "%s.safetensors", path_stem(a, name));
    const char *out = path_join(a, to, name);
    note(c, out, false);
    return write_file(c->m, owner, owner, out, c->err);
}

static bool is_changed(const struct merge *m, const struct st_file *file) {
    for (int i = 0; i < m->n; i++)
        if (m->tensors[i].file == file) return true;
    return false;
}

/* The changed weights that belong into a folder of the model, or NULL. */
static const struct st_file *changed_part(const struct merge *m, const char *name) {
    if (strcmp(name, "unet") == 0 && is_changed(m, m->model->unet_source.file)) return m->model->unet_source.file;
    for (int i = 0; i < m->model->n_texts; i++)
        if (strcmp(name, m->model->texts[i].part) == 0 && is_changed(m, m->model->texts[i].source.file))
            return m->model->texts[i].source.file;
    return NULL;
}

static bool copy_tree(struct copier *c, const char *from, const char *to, const struct st_file *changed, int depth) {
    struct arena *a = c->m->arena;
    struct os_entry *list;
    size_t n;
    if (!make_dir(c, to) || !os_dir_list(a, from, &list, &n, c->err)) return false;
    for (size_t i = 0; i < n; i++) {
        const char *source = path_join(a, from, list[i].name), *target = path_join(a, to, list[i].name);
        if (list[i].name[0] == '.') continue;
        if (list[i].is_dir) {
            if (depth == MAX_DEPTH) continue;
            if (!copy_tree(c, source, target, depth ? NULL : changed_part(c->m, list[i].name), depth + 1)) return false;
        } else if (!(changed && is_weights(list[i].name)) && !(depth == 0 && is_weights(list[i].name)) &&
                   !copy_file(c, source, target)) {
            return false; /* whole models beside the parts (v1-5.ckpt) are not the merged one */
        }
    }
    return !changed || write_part(c, changed, to);
}

bool merge_write_folder(struct merge *m, const char *out, struct error *err) {
    struct copier c = {.m = m, .err = err};
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    const char *target = arena_strndup(m->arena, out, n), *part = arena_printf(m->arena, "%s.part", target);
    if (path_has_ext(target, "safetensors"))
        return error_set(
            err, "The model is a folder, and so is what becomes of it: %s should not end in .safetensors.",
            TEXT_SHOW(out));
    if (os_path_exists(target) || os_path_exists(part))
        return error_set(err, "%s exists already; give --out a folder that does not.",
                         TEXT_SHOW(os_path_exists(target) ? target : part));
    bool ok = copy_tree(&c, m->model->path, part, NULL, 0) && os_file_rename(part, target, err);
    if (!ok) take_back(&c);
    return ok;
}
