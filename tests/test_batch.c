/* Pictures drawn at once, each with its own LoRA, prompt, seed and init image, beside the same pictures drawn alone with that
 * LoRA only: the same bytes on these models, whose kernels do not depend on the batch's size. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"
#include "tests/support/test_device.h"

#include <string.h>

#include "engine/generate.h"

enum { MOST = 4 };

/* What picture i is; lora: its only one, -1: none. */
struct wish {
    const char *prompt, *negative;
    int lora;
    float strength;
    uint64_t seed;
};
struct page {
    struct arena *a;
    struct engine *e;
    const char **paths;
    int n_paths, w, h;
};

static struct generator *generator(struct page *p, const struct adapter *ad, enum prompt_style style) {
    struct error e;
    struct generate_params gp = {.w = p->w, .h = p->h, .steps = 6, .cfg = 5, .sampler = "euler-a", .adapter = ad,
                                 .prompt_style = style};
    struct generator *g = generator_create(p->e, &gp, &e);
    if (!g) fail_msg("%s", e.text);
    return g;
}

static struct generate_picture picture(const struct wish *w, const float *strength, const struct init_image *init) {
    return (struct generate_picture){.prompt = w->prompt, .negative = w->negative, .seed = w->seed, .strength = strength,
                                     .init = init};
}

/* Alone, in a session that knows no other LoRA. */
static const uint8_t *alone(struct page *p, const struct wish *w, const struct init_image *init, enum prompt_style style) {
    struct error e;
    struct adapter *ad = NULL;
    if (w->lora >= 0 && !(ad = adapter_open(p->e, &p->paths[w->lora], 1, &e))) fail_msg("%s", e.text);
    struct generator *g = generator(p, ad, style);
    uint8_t *rgb = arena_alloc(p->a, (size_t)p->w * (size_t)p->h * 3);
    struct generate_picture gp = picture(w, &w->strength, init);
    if (!generator_run(g, &gp, NULL, rgb, &e)) fail_msg("%s", e.text);
    generator_destroy(&g);
    adapter_close(&ad);
    return rgb;
}

static void check(struct page *p, const struct wish *wishes, int n, const struct init_image *inits, enum prompt_style style) {
    struct error e;
    struct adapter *ad = adapter_open(p->e, p->paths, p->n_paths, &e);
    if (!ad) fail_msg("%s", e.text);
    struct generator *g = generator(p, ad, style);
    struct generate_picture pictures[MOST];
    uint8_t *rgb[MOST];
    size_t bytes = (size_t)p->w * (size_t)p->h * 3;
    for (int i = 0; i < n; i++) {
        float *strength = arena_alloc_n(p->a, (size_t)p->n_paths, sizeof *strength);
        if (wishes[i].lora >= 0) strength[wishes[i].lora] = wishes[i].strength;
        pictures[i] = picture(&wishes[i], strength, inits ? &inits[i] : NULL);
        rgb[i] = arena_alloc(p->a, bytes);
    }
    for (int again = 0; again < 2; again++) /* the second time without building anything */
        if (!generator_run_batch(g, pictures, n, NULL, rgb, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < n; i++) {
        const uint8_t *want = alone(p, &wishes[i], inits ? &inits[i] : NULL, style);
        size_t equal = 0;
        for (size_t k = 0; k < bytes; k++) equal += rgb[i][k] == want[k];
        double psnr = golden_psnr(rgb[i], want, bytes);
        print_message("picture %d: %.1f dB, %zu of %zu bytes equal\n", i, psnr, equal, bytes);
        if (test_device_is_cpu() ? equal < bytes : !(psnr >= 55)) fail_msg("picture %d has only %.1f dB", i, psnr);
        for (int k = 0; k < i; k++) assert_true(golden_psnr(rgb[k], rgb[i], bytes) < 40); /* they are different pictures */
    }
    generator_destroy(&g);
    adapter_close(&ad);
}

static struct page page_open(const char *mini, int rig, const char **paths, int n) {
    struct page p = {.a = arena_create(NULL), .e = session_open(mini, rig), .paths = paths, .n_paths = n, .w = 128, .h = 64};
    for (int i = 0; i < n; i++) paths[i] = golden_path(p.a, paths[i]);
    return p;
}

static void page_close(struct page *p) {
    session_close(&p->e);
    arena_destroy(&p->a);
}

static const struct wish sd1[MOST] = {{"a red fox", "blurry", 0, 0.8f, 3}, {"two green cups on a table", NULL, 2, 1, 4},
                                      {"a red fox", "blurry", 1, 0.7f, 3}, {"snow", "", -1, 0, 9}};

static void test_own_loras(void **state) {
    const char *paths[] = {"mini-sd1.lora.safetensors", "mini-sd1.lora-2.safetensors", "mini-sd1.lora-te.safetensors"};
    struct page p = page_open("mini-sd1", session_default(), paths, 3);
    check(&p, sd1, MOST, NULL, PROMPT_DIFFUSERS);
    page_close(&p);
}

/* Prompts of one and two windows: neighbours of equal length are drawn together. */
static void test_lengths(void **state) {
    const char *paths[] = {"mini-sd1.lora.safetensors", "mini-sd1.lora-2.safetensors"};
    struct page p = page_open("mini-sd1", session_default(), paths, 2);
    const struct wish wishes[] = {{"a fox", NULL, 0, 1, 1}, {"a fox BREAK in snow", NULL, 1, 0.5f, 2},
                                  {"cups BREAK on (a table:1.3)", NULL, -1, 0, 3}};
    check(&p, wishes, 3, NULL, PROMPT_A1111);
    page_close(&p);
}

static void test_added_condition(void **state) {
    const char *paths[] = {"mini-sdxl.lora.safetensors", "mini-sdxl.lora-te.safetensors"};
    struct page p = page_open("mini-sdxl", session_default(), paths, 2);
    const struct wish wishes[] = {{"a red fox", NULL, 0, 1, 1}, {"cups", "fox", 1, 0.8f, 2}, {"snow", NULL, -1, 0, 3}};
    check(&p, wishes, 3, NULL, PROMPT_DIFFUSERS);
    page_close(&p);
}

static void from_pictures(const char *mini, const char *lora) {
    const char *paths[] = {lora};
    struct page p = page_open(mini, session_default(), paths, 1);
    size_t pixels = (size_t)p.w * (size_t)p.h;
    struct init_image inits[3];
    for (int i = 0; i < 3; i++) {
        uint8_t *rgb = arena_alloc(p.a, pixels * 3), *mask = arena_alloc(p.a, pixels);
        for (size_t k = 0; k < pixels * 3; k++) rgb[k] = (uint8_t)(k * (size_t)(3 + 2 * i) / 7 + (size_t)(60 * i));
        for (size_t k = 0; k < pixels; k++) mask[k] = k % 128 < (size_t)(40 + 30 * i) ? 255 : 0;
        inits[i] = (struct init_image){.rgb = rgb, .mask = i == 1 ? NULL : mask, .strength = 0.6};
    }
    const struct wish wishes[] = {{"a red fox", NULL, 0, 1, 1}, {"cups", "fox", -1, 0, 2}, {"snow", NULL, 0, 0.5f, 3}};
    check(&p, wishes, 3, inits, PROMPT_DIFFUSERS);
    page_close(&p);
}

static void test_init_images(void **state) {
    from_pictures("mini-sd1", "mini-sd1.lora.safetensors");
    from_pictures("mini-inpaint", "mini-inpaint.lora.safetensors");
}

static void test_memory(void **state) {
    const char *paths[] = {"mini-sd1.lora.safetensors"};
    struct error e;
    struct page p = page_open("mini-sd1", session_default(), paths, 1);
    struct generate_params gp = {.w = 128, .h = 64, .steps = 6, .cfg = 5, .batch = 1};
    struct generate_memory one, three;
    assert_true(generate_memory_plan(p.e, &gp, &one, &e));
    gp.batch = 3;
    assert_true(generate_memory_plan(p.e, &gp, &three, &e));
    assert_true(three.unet.activation_bytes > 2 * one.unet.activation_bytes);
    assert_int_equal(generate_batch_fit(p.e, &gp, 3), 3);
    page_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_loras), cmocka_unit_test(test_lengths),     cmocka_unit_test(test_added_condition),
        cmocka_unit_test(test_init_images), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
