#include "engine/skeleton.h"

#include "base/arena.h"
#include "base/text.h"
#include "engine/footprint.h"
#include "lora/file.h"

enum { FAMILIES = FOOTPRINT_FAMILIES + 1 };

/* Stable Diffusion 2's layers are 1's but for the text's width and linear projections. */
static void family(int i, struct footprint_family *out) {
    if (i < FOOTPRINT_FAMILIES) {
        footprint_family(i, out);
        return;
    }
    footprint_family(0, out);
    struct clip_config *text = &out->texts[0];
    out->name = "SD2", out->unet.context_dim = 1024, out->unet.linear_projection = true;
    text->width = 1024, text->mlp_width = 4096, text->layers = 23, text->heads = 16;
}

static struct nn_params *params(struct skeleton *s, const char *name) {
    return nn_params_create(s->arena, name, TENSOR_F32, false, 0);
}

static struct skeleton *create(int i, struct error *err) {
    struct arena *a = arena_create(NULL);
    struct skeleton *s = arena_alloc(a, sizeof *s);
    struct footprint_family f;
    family(i, &f);
    *s = (struct skeleton){.arena = a, .name = f.name, .unet = {.arena = a}, .texts = {{.arena = a}, {.arena = a}}};
    bool ok = unet_declare(params(s, "unet"), &f.unet, &s->unet, err);
    s->layers.targets[LORA_UNET] = &s->unet;
    for (int k = 0; ok && k < f.n_texts; k++) {
        ok = clip_declare(params(s, "text"), &f.texts[k], &s->texts[k], err);
        s->layers.targets[LORA_TEXT + k] = &s->texts[k];
    }
    if (!ok) skeleton_destroy(&s);
    return s;
}

void skeleton_destroy(struct skeleton **s) {
    if (!*s) return;
    struct arena *a = (*s)->arena;
    arena_destroy(&a);
    *s = NULL;
}

/* False without an error where a file does not fit; with one where it cannot be read. */
static bool fits(const struct skeleton *s, const char *const *paths, int n, bool *readable, struct error *err) {
    struct lora_keys *keys = lora_keys_create(&s->layers);
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        struct lora_file *f = lora_file_open(paths[i], keys, err);
        ok = f && lora_file_is_whole(f);
        if (f) lora_file_close(&f);
        else *readable = false;
    }
    lora_keys_destroy(&keys);
    return ok;
}

struct skeleton *skeleton_for_files(const char *const *paths, int n, struct error *err) {
    struct skeleton *found = NULL;
    bool readable = true;
    for (int i = 0; readable && i < FAMILIES; i++) {
        struct skeleton *s = create(i, err);
        if (!s || !fits(s, paths, n, &readable, err)) {
            readable &= s != NULL;
            skeleton_destroy(&s);
            continue;
        }
        if (found) {
            error_set(err, "%s fits %s and %s alike, whose layers have other names in files; say with --model which it is for.",
                      TEXT_SHOW(paths[0]), found->name, s->name);
            skeleton_destroy(&s);
            skeleton_destroy(&found);
            return NULL;
        }
        found = s;
    }
    if (!readable) skeleton_destroy(&found);
    else if (!found)
        error_set(err, "%s does not fit the usual layers of Stable Diffusion 1, 2 or SDXL; give a model of its family with "
                       "--model, which names them.", TEXT_SHOW(paths[0]));
    return found;
}
