#include "lora/ldm.h"

#include "base/arena.h"

void lora_ldm_measure(struct unet_ldm *l, const struct nn_target_list *unet) {
    *l = (struct unet_ldm){0};
    for (int i = 0; i < unet->n; i++) unet_ldm_measure_path(l, unet->items[i].path);
}

char *lora_ldm_path(const struct unet_ldm *l, const char *path, struct arena *a) {
    char text[512];
    return unet_ldm_path(l, path, text, sizeof text) ? arena_strdup(a, text) : NULL;
}
