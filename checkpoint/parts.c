#include "checkpoint/parts.h"

#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "base/text.h"
#include "checkpoint/kind.h"
#include "vae/tiny.h"

/* Endings in the order they are tried; %s is the variant with its dot, or nothing. */
static const char *const endings[] = {"%s.safetensors", ".safetensors.index%s.json", "%s.safetensors.index.json", "%s.bin",
                                      ".bin.index%s.json"};

static struct st_file *open_variant(struct arena *a, const char *folder, const char *stem, const char *variant, bool *found,
                                    struct error *e) {
    const char *dotted = *variant ? arena_printf(a, ".%s", variant) : "";
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const char *at = strstr(endings[i], "%s");
        const char *path = arena_printf(a, "%s/%s%.*s%s%s", folder, stem, (int)(at - endings[i]), endings[i], dotted, at + 2);
        if (!os_path_is_file(path)) continue;
        *found = true;
        return st_open(path, e);
    }
    return NULL;
}

struct st_file *checkpoint_folder_open(const char *folder, const char *stem, const char *variant, struct error *e) {
    const char *const order[] = {variant ? variant : "", "", "fp16"};
    struct arena *a = arena_create(NULL);
    struct st_file *f = NULL;
    bool found = false;
    for (size_t i = 0; !found && i < sizeof order / sizeof *order; i++) f = open_variant(a, folder, stem, order[i], &found, e);
    if (!found)
        error_set(e, "There are no weights in %s: %s.safetensors is missing, and so are its fp16 variant and its shards.",
                  folder, stem);
    arena_destroy(&a);
    return f;
}

static bool open_folder(struct checkpoint_vae *v, struct arena *a, const char *folder, struct error *e) {
    const char *config = arena_printf(a, "%s/config.json", folder);
    if (!vae_config_load(&v->cfg, config, e) || !(v->file = checkpoint_folder_open(folder, "diffusion_pytorch_model", NULL, e)))
        return false;
    v->has_config = true;
    v->names = (struct vae_names){"", v->cfg.n_levels};
    return true;
}

static bool open_file(struct checkpoint_vae *v, const char *path, struct error *e) {
    static const char *const prefixes[] = {"", "first_stage_model.", "vae."};
    struct checkpoint_kind kind = {0};
    if (!(v->file = st_open(path, e))) return false;
    v->tiny = v->has_config = tiny_is(v->file); /* its latents need no scale */
    if (v->tiny) return tiny_infer(&v->cfg, v->file, e);
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        v->ldm = vae_ldm_is(v->file, prefixes[i]);
        if (!v->ldm && !vae_diffusers_is(v->file, prefixes[i])) continue;
        if (!vae_infer(&v->cfg, v->file, prefixes[i], e)) return false;
        v->names = (struct vae_names){prefixes[i], v->cfg.n_levels};
        return true;
    }
    bool known = checkpoint_foreign(v->file, &kind);
    return error_set(e, "%s is no VAE: it has neither LDM's nor diffusers' names of one%s%s.", TEXT_SHOW(path),
                     known ? "; it is " : "", known ? kind.name : "");
}

bool checkpoint_vae_open(struct checkpoint_vae *v, const char *path, struct error *e) {
    *v = (struct checkpoint_vae){0};
    struct arena *a = arena_create(NULL);
    const char *inner = arena_printf(a, "%s/vae", path);
    if (os_path_is_file(arena_printf(a, "%s/config.json", inner))) path = inner;
    bool ok = !os_path_exists(path)   ? error_set(e, "There is no file or folder %s for --vae.", TEXT_SHOW(path))
              : !os_path_is_dir(path) ? open_file(v, path, e)
                                      : open_folder(v, a, path, e);
    if (!ok) st_close(&v->file);
    arena_destroy(&a);
    return ok;
}
