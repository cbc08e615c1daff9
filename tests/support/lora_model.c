#include "tests/support/lora_model.h"

#include <string.h>

#include "base/os.h"
#include "tests/support/cm.h"
#include "textenc/clip_build.h"
#include "unet/build.h"

static char *data_path(struct lora_test_model *m, const char *rest) {
    return arena_printf(m->arena, "%s/tests/data/%s", ATELIER_SOURCE_DIR, rest);
}

static void declare_text(struct lora_test_model *m, enum lora_part part, const char *config) {
    struct error e = {0};
    struct clip_config text;
    struct nn_params *params = nn_params_create(m->arena, lora_part_name(part), TENSOR_F32, false, 0);
    if (!clip_config_load(&text, data_path(m, config), &e) ||
        !clip_declare(params, &text, &m->lists[part], &e))
        fail_msg("%s", e.text);
}

void lora_test_model_open(struct lora_test_model *m, const char *unet, const char *text, const char *text_2) {
    struct error e = {0};
    struct unet_config config;
    *m = (struct lora_test_model){.arena = arena_create(NULL)};
    for (int p = 0; p < LORA_N_PARTS; p++) m->lists[p].arena = m->arena;
    struct nn_params *params = nn_params_create(m->arena, "unet", TENSOR_F32, false, 0);
    if (!unet_config_load(&config, data_path(m, unet), &e) || !unet_declare(params, &config, &m->lists[LORA_UNET], &e))
        fail_msg("%s", e.text);
    if (text) declare_text(m, LORA_TEXT, text);
    if (text_2) declare_text(m, LORA_TEXT_2, text_2);
    struct lora_model model = {{&m->lists[0], text ? &m->lists[1] : NULL, text_2 ? &m->lists[2] : NULL}};
    m->keys = lora_keys_create(&model);
}

void lora_test_model_mini(struct lora_test_model *m, const char *name) {
    struct arena *a = arena_create(NULL);
    const char *second = arena_printf(a, "%s/text_encoder_2/config.json", name);
    bool two = os_path_is_file(arena_printf(a, "%s/tests/data/%s", ATELIER_SOURCE_DIR, second));
    lora_test_model_open(m, arena_printf(a, "%s/unet/config.json", name), arena_printf(a, "%s/text_encoder/config.json", name),
                         two ? second : NULL);
    arena_destroy(&a);
}

void lora_test_model_close(struct lora_test_model *m) {
    lora_keys_destroy(&m->keys);
    arena_destroy(&m->arena);
}

const struct nn_target *lora_test_model_layer(const struct lora_test_model *m, enum lora_part part, const char *path) {
    const struct nn_target *t = nn_target_find(&m->lists[part], path);
    if (!t) fail_msg("the model has no layer %s", path);
    return t;
}
