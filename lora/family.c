#include "lora/family.h"

#include "base/arena.h"
#include "base/text.h"
#include "lora/position.h"

#include <string.h>

enum { SD1 = 768, SD2 = 1024, REFINER = 1280, SDXL = 2048 };

const char *lora_family_name(int64_t text_width) {
    switch (text_width) {
    case SD1: return "Stable Diffusion 1";
    case SD2: return "Stable Diffusion 2";
    case REFINER: return "the SDXL refiner";
    case SDXL: return "SDXL";
    default: return NULL;
    }
}

/* Families that this program does not run, by words in the names of their layers. */
static const char *foreign_family(const struct lora_file *f) {
    static const char *const words[][2] = {{"single_transformer_blocks", "Flux"}, {"single_blocks", "Flux"},
                                           {"double_blocks", "Flux"}, {"joint_blocks", "Stable Diffusion 3"},
                                           {"add_q_proj", "Stable Diffusion 3"}, {"prior_", "a Kandinsky prior"}};
    for (int i = 0; i < f->n_modules; i++)
        for (size_t w = 0; w < sizeof words / sizeof *words; w++)
            if (f->modules[i].status == LORA_UNMATCHED && strstr(f->modules[i].name, words[w][0])) return words[w][1];
    return NULL;
}

/* Width of a module's input, where its kind keeps that as a dimension. */
static int64_t input_width(const struct lora_module *m) {
    static const char *const slots[] = {"down", "w1_b", "diff"};
    for (int i = 0; m->kind && i < m->kind->n_slots; i++)
        for (int s = 0; s < 3; s++) {
            const struct st_tensor *t = m->tensors[i];
            if (t && t->rank >= 2 && strcmp(m->kind->slots[i], slots[s]) == 0) return t->dims[1];
        }
    return 0;
}

static bool ends_in(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static bool reads_text(const char *name) {
    static const char *const ends[] = {"attn2.to_k", "attn2_to_k", "attn2.to_v", "attn2_to_v"};
    for (int i = 0; i < 4; i++)
        if (ends_in(name, ends[i])) return true;
    return false;
}

/* Numbered layers (lora/position.h) say nothing by name: the widest that is no width of a UNet level must be text. */
static int64_t numbered_width(const struct lora_module *m) {
    enum lora_part part;
    int index;
    int64_t in = input_width(m);
    bool unet = lora_position_parse(m->name, &part, &index) && part == LORA_UNET;
    return unet && (in == SD1 || in == SD2 || in == SDXL) ? in : 0;
}

static int64_t file_width(const struct lora_file *f) {
    for (int i = 0; i < f->n_modules; i++) {
        const struct lora_module *m = &f->modules[i];
        int64_t width = reads_text(m->name) ? input_width(m) : numbered_width(m);
        if (width) return width;
    }
    return 0;
}

static int64_t meta_width(const struct lora_file *f) {
    const char *base = st_meta_find(f->file, "ss_base_model_version");
    const char *architecture = st_meta_find(f->file, "modelspec.architecture");
    if (base && strncmp(base, "sdxl", 4) == 0) return SDXL;
    if (base && strncmp(base, "sd_v2", 5) == 0) return SD2;
    if (base && strncmp(base, "sd_v1", 5) == 0) return SD1;
    if (!architecture) return 0;
    if (strncmp(architecture, "stable-diffusion-xl", 19) == 0) return SDXL;
    if (strncmp(architecture, "stable-diffusion-v2", 19) == 0) return SD2;
    return strncmp(architecture, "stable-diffusion-v1", 19) == 0 ? SD1 : 0;
}

static int64_t model_width(const struct lora_model *model) {
    const struct nn_target_list *unet = model->targets[LORA_UNET];
    for (int i = 0; unet && i < unet->n; i++)
        if (strstr(unet->items[i].path, "attn2.to_k")) return unet->items[i].weight.c;
    return 0;
}

static const char *describe(int64_t width, struct arena *a) {
    const char *name = lora_family_name(width);
    return name ? arena_printf(a, "%s (text of width %lld)", name, (long long)width)
                : arena_printf(a, "a model with text of width %lld", (long long)width);
}

const char *lora_family_of_file(const struct lora_file *f, struct arena *a) {
    int64_t width = file_width(f);
    const char *foreign = width ? NULL : foreign_family(f);
    if (!width) width = meta_width(f);
    return foreign ? foreign : width ? describe(width, a) : NULL;
}

bool lora_family_check(const struct lora_file *f, const struct lora_keys *keys, struct error *e) {
    struct arena *a = arena_create(NULL);
    int64_t theirs = file_width(f), ours = model_width(lora_keys_model(keys));
    const char *foreign = theirs || f->n_by_status[LORA_MATCHED] ? NULL : foreign_family(f);
    bool by_metadata = !theirs && lora_family_name(ours) != NULL;
    if (by_metadata) theirs = meta_width(f);
    bool same = !foreign && (!theirs || !ours || theirs == ours);
    if (!same)
        error_set(e, "%s does not fit this model: it was made for %s%s, and this is %s.", TEXT_SHOW(f->path),
                  foreign ? foreign : describe(theirs, a),
                  by_metadata && !foreign ? ", as its metadata says" : "", describe(ours, a));
    arena_destroy(&a);
    return same;
}
