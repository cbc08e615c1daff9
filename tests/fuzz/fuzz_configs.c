#include "base/arena.h"
#include "engine/model.h"
#include "tests/fuzz/fuzz.h"

/* The first byte says which config the rest is. Usable ones go on to the builders. */
void fuzz_configs(const uint8_t *data, size_t n) {
    if (!n) return;
    struct error e;
    struct arena *a = arena_create(NULL);
    const char *path = fuzz_file(0, data + 1, n - 1);
    struct nn_params *p = nn_params_create(a, "fuzz", TENSOR_F32, false, 0);
    struct nn_target_list targets = {.arena = a};
    struct unet_config unet;
    struct vae_config vae;
    struct clip_config clip;
    struct schedule_params schedule;
    switch (data[0] % 4) {
    case 0:
        if (unet_config_load(&unet, path, &e)) unet_declare(p, &unet, &targets, &e);
        break;
    case 1:
        if (vae_config_load(&vae, path, &e)) vae_declare(p, &vae, &e);
        break;
    case 2:
        if (clip_config_load(&clip, path, &e)) clip_declare(p, &clip, &targets, &e);
        break;
    default:
        if (model_schedule_load(&schedule, path, &e) && schedule.n_train <= 4096) {
            struct schedule *s = schedule_create(&schedule, &e);
            if (s) schedule_destroy(&s);
        }
    }
    arena_destroy(&a);
}
