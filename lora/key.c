#include "lora/key.h"

#include "base/arena.h"
#include "lora/ldm.h"

#include <stdint.h>
#include <string.h>

struct slot {
    const char *name; /* NULL = free */
    struct lora_place place;
};

struct lora_keys {
    struct arena *arena;
    struct lora_model model;
    struct unet_ldm ldm;
    struct slot *slots;
    size_t mask;
};

enum { NAMES_PER_TARGET = 14 };

const char *lora_part_name(enum lora_part part) {
    static const char *const names[LORA_N_PARTS] = {"unet", "text_encoder", "text_encoder_2"};
    return names[part];
}

static size_t hash(const char *s) {
    uint64_t h = 14695981039346656037ull;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 1099511628211ull;
    return (size_t)(h ^ h >> 32);
}

static struct slot *find(const struct lora_keys *k, const char *name) {
    size_t i = hash(name) & k->mask;
    while (k->slots[i].name && strcmp(k->slots[i].name, name) != 0) i = (i + 1) & k->mask;
    return &k->slots[i];
}

/* Where two layers share a name, the one listed first keeps it. */
static void add(struct lora_keys *k, const char *name, struct lora_place place) {
    struct slot *s = find(k, name);
    if (!s->name) *s = (struct slot){name, place};
}

static char *flat(char *path) {
    for (char *p = path; *p; p++)
        if (*p == '.') *p = '_';
    return path;
}

/* SD1 and SD2 files say lora_te, those for two towers lora_te1 and lora_te2. */
static const char *kohya_prefix(const struct lora_model *model, enum lora_part part) {
    switch (part) {
    case LORA_UNET: return "lora_unet";
    case LORA_TEXT: return model->targets[LORA_TEXT_2] ? "lora_te1" : "lora_te";
    default: return "lora_te2";
    }
}

static void add_path(struct lora_keys *k, const char *path, struct lora_place place) {
    struct arena *a = k->arena;
    add(k, arena_printf(a, "%s.%s", lora_part_name(place.part), path), place);
    add(k, flat(arena_printf(a, "%s_%s", kohya_prefix(&k->model, place.part), path)), place);
    add(k, flat(arena_printf(a, "lycoris_%s", path)), place);
    if (place.part == LORA_TEXT_2) add(k, arena_printf(a, "text_encoders.clip_g.transformer.%s", path), place);
    if (place.part != LORA_TEXT) return;
    add(k, arena_printf(a, "text_encoders.clip_l.transformer.%s", path), place); /* SD1 and SDXL, as ComfyUI names them */
    add(k, arena_printf(a, "text_encoders.clip_h.transformer.%s", path), place); /* SD2 */
    add(k, flat(arena_printf(a, "lora_te_%s", path)), place);
    add(k, flat(arena_printf(a, "lora_te1_%s", path)), place);
}

static void add_target(struct lora_keys *k, struct lora_place place) {
    static const char tower[] = "text_model.";
    const char *path = place.target->path;
    add_path(k, path, place);
    if (place.part == LORA_UNET) {
        char *ldm = lora_ldm_path(&k->ldm, path, k->arena);
        if (!ldm) return;
        add(k, arena_printf(k->arena, "diffusion_model.%s", ldm), place);
        add(k, flat(arena_printf(k->arena, "lora_unet_%s", ldm)), place);
    } else if (strncmp(path, tower, sizeof tower - 1) == 0) {
        add_path(k, path + sizeof tower - 1, place); /* some towers are saved without it */
    }
}

struct lora_keys *lora_keys_create(const struct lora_model *model) {
    struct arena *arena = arena_create(NULL);
    struct lora_keys *k = arena_alloc(arena, sizeof *k);
    k->arena = arena;
    k->model = *model;
    size_t n = 0, slots = 16;
    for (int p = 0; p < LORA_N_PARTS; p++)
        n += model->targets[p] ? (size_t)(model->targets[p]->n + model->targets[p]->n_norms) : 0;
    while (slots < 2 * NAMES_PER_TARGET * n) slots *= 2;
    k->slots = arena_alloc_n(arena, slots, sizeof *k->slots);
    k->mask = slots - 1;
    if (model->targets[LORA_UNET]) lora_ldm_measure(&k->ldm, model->targets[LORA_UNET]);
    for (int p = 0; p < LORA_N_PARTS; p++)
        for (int i = 0; model->targets[p] && i < model->targets[p]->n + model->targets[p]->n_norms; i++)
            add_target(k, (struct lora_place){(enum lora_part)p, nn_target_at(model->targets[p], i)});
    return k;
}

void lora_keys_destroy(struct lora_keys **k) {
    if (!*k) return;
    struct arena *arena = (*k)->arena;
    arena_destroy(&arena);
    *k = NULL;
}

bool lora_keys_find(const struct lora_keys *k, const char *name, struct lora_place *out) {
    const struct slot *s = find(k, name);
    if (!s->name) return false;
    *out = s->place;
    return true;
}

char *lora_keys_kohya(const struct lora_keys *k, enum lora_part part, const char *path, struct arena *a) {
    const char *ldm = part == LORA_UNET && k->model.targets[LORA_TEXT_2] ? lora_ldm_path(&k->ldm, path, a) : NULL;
    if (ldm) path = ldm;
    return flat(arena_printf(a, "%s_%s", kohya_prefix(&k->model, part), path));
}

const struct lora_model *lora_keys_model(const struct lora_keys *k) { return &k->model; }
