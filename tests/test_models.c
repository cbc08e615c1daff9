/* The builders against diffusers and transformers: miniature models through the double references, and the
 * full-size architectures by their parameter counts. */
#include "tests/support/cm.h"
#include "tests/support/evaluate.h"
#include "tests/support/model_checks.h"

#include <stdio.h>
#include <string.h>

#include "textenc/clip_build.h"
#include "unet/build.h"
#include "vae/build.h"

static void test_answers(void **state) {
    for (int i = 0; i < n_model_checks; i++) model_check_run(&model_checks[i], NULL);
}

/* --- full-size architectures ------------------------------------------------------------------------- */

struct size {
    const char *config;
    int64_t params;
    int tensors, targets; /* targets: layers in transformers (text: all) */
};

static int count_targets(const struct nn_target_list *list, const char *inside) {
    int n = 0;
    for (int i = 0; i < list->n; i++) n += strstr(list->items[i].path, inside) != NULL;
    return n;
}

static void check_size(const struct size *want, struct nn_params *params,
                       const struct nn_target_list *targets, const char *inside) {
    print_message("%s: %lld parameters, %d tensors, %d targets\n", want->config,
                  (long long)nn_params_count(params), params->set->n_slots, count_targets(targets, inside));
    assert_int_equal(nn_params_count(params), want->params);
    assert_int_equal(params->set->n_slots, want->tensors);
    if (want->targets) assert_int_equal(count_targets(targets, inside), want->targets);
}

static void test_unet_sizes(void **state) {
    static const struct size sizes[] = {
        {"sd1-unet", 859520964, 686, 192},   {"sd1-inpaint-unet", 859535364, 686, 192},
        {"sd2-unet", 865910724, 686, 192},   {"sdxl-unet", 2567463684, 1680, 722},
        {"ssd-1b-unet", 1331334404, 944, 0}, {"vega-unet", 745225604, 564, 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct error e = {0};
        struct arena *a = arena_create(NULL);
        struct unet_config cfg;
        struct nn_target_list targets = {.arena = a};
        struct nn_params *p = nn_params_create(a, "unet", TENSOR_F32, false, 0);
        if (!unet_config_load(&cfg, eval_data_path(a, arena_printf(a, "configs/%s.json", sizes[i].config)),
                              &e) ||
            !unet_declare(p, &cfg, &targets, &e))
            fail_msg("%s", e.text);
        check_size(&sizes[i], p, &targets, "attentions.");
        arena_destroy(&a);
    }
}

static void test_vae_size(void **state) {
    static const struct size size = {"kl-f8-vae", 83653863, 248, 0};
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    struct vae_config cfg;
    struct nn_target_list none = {.arena = a};
    struct nn_params *p = nn_params_create(a, "vae", TENSOR_F32, false, 0);
    if (!vae_config_load(&cfg, eval_data_path(a, "configs/kl-f8-vae.json"), &e) || !vae_declare(p, &cfg, &e))
        fail_msg("%s", e.text);
    check_size(&size, p, &none, "");
    arena_destroy(&a);
}

static void test_text_sizes(void **state) {
    static const struct size sizes[] = {{"clip-l", 123060480, 196, 72},
                                        {"openclip-h", 340387840, 372, 138},
                                        {"openclip-bigg", 694659840, 517, 192}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct error e = {0};
        struct arena *a = arena_create(NULL);
        struct clip_config cfg;
        struct nn_target_list targets = {.arena = a};
        struct nn_params *p = nn_params_create(a, "text", TENSOR_F32, false, 0);
        if (!clip_config_load(&cfg, eval_data_path(a, arena_printf(a, "configs/%s.json", sizes[i].config)),
                              &e) ||
            !clip_declare(p, &cfg, &targets, &e))
            fail_msg("%s", e.text);
        check_size(&sizes[i], p, &targets, "encoder.layers.");
        arena_destroy(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_unet_sizes),
        cmocka_unit_test(test_vae_size),
        cmocka_unit_test(test_text_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
