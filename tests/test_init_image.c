/* Pictures from pictures beside diffusers': img2img, inpainting with both kinds of UNet, a second pass. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"

#include <stdio.h>
#include <string.h>

#include "engine/hires.h"

struct page {
    struct arena *a;
    struct st_file *golden;
    struct engine *e;
    const char *mini;
    int w, h;
    const uint8_t *picture, *mask;
};

static struct page page_open(const char *mini) {
    struct page p = {.a = arena_create(NULL), .mini = mini};
    p.golden = golden_open(arena_printf(p.a, "%s.init", mini));
    p.picture = golden_picture(p.golden, "picture", &p.h, &p.w);
    const struct st_tensor *mask = st_find(p.golden, "mask");
    assert_true(mask && mask->dtype == ST_U8 && mask->dims[0] == p.h && mask->dims[1] == p.w);
    p.mask = mask->data;
    p.e = session_open(mini, SESSION_CPU);
    return p;
}

static void page_close(struct page *p) {
    session_close(&p->e);
    st_close(&p->golden);
    arena_destroy(&p->a);
}

static struct generate_params params(const struct page *p, const char *sampler) {
    return (struct generate_params){.w = p->w, .h = p->h, .steps = (int)golden_number(p->golden, "steps"),
                                    .cfg = (float)golden_number(p->golden, "guidance"), .sampler = sampler};
}

static struct generate_picture what(const struct page *p, const struct init_image *init) {
    return (struct generate_picture){.prompt = golden_text(p->golden, "picture_prompt"),
                                     .negative = golden_text(p->golden, "picture_negative"),
                                     .seed = (uint64_t)golden_number(p->golden, "seed"), .init = init};
}

static void compare(struct page *p, const char *name, const uint8_t *got) {
    int w, h;
    const uint8_t *want = golden_picture(p->golden, name, &h, &w);
    double psnr = golden_psnr(got, want, (size_t)w * (size_t)h * 3);
    print_message("%s %s %dx%d: %.1f dB\n", p->mini, name, w, h, psnr);
    if (!(psnr >= 45)) fail_msg("%s %s has only %.1f dB", p->mini, name, psnr);
}

static void check(struct page *p, const char *kind, const char *sampler, const uint8_t *mask, double strength) {
    struct error e = {{0}};
    struct generate_params gp = params(p, sampler);
    struct init_image init = {.rgb = p->picture, .mask = mask, .strength = strength};
    struct generate_picture picture = what(p, &init);
    uint8_t *rgb = arena_alloc(p->a, (size_t)p->w * (size_t)p->h * 3);
    struct generator *g = generator_create(p->e, &gp, &e);
    /* DDIM twice in one generator: the second time from the picture that is already encoded. */
    for (int i = 0; i < (strcmp(sampler, "ddim") ? 1 : 2); i++) {
        if (!g || !generator_run(g, &picture, NULL, rgb, &e)) fail_msg("%s", e.text);
        compare(p, arena_printf(p->a, "%s.%s.%g", kind, sampler, strength), rgb);
    }
    generator_destroy(&g);
}

static void test_img2img(void **state) {
    static const char *const samplers[] = {"ddim", "euler-a", "dpmpp-2m-sde", "heun", "pndm"};
    struct page p = page_open("mini-sd1");
    for (int i = 0; i < 5; i++) check(&p, "img2img", samplers[i], NULL, 0.65);
    check(&p, "img2img", "euler-a", NULL, 1);
    page_close(&p);
    p = page_open("mini-sd2");
    check(&p, "img2img", "dpmpp-2m-sde", NULL, 0.65);
    check(&p, "img2img", "ddim", NULL, 1);
    page_close(&p);
}

static void test_inpaint(void **state) {
    static const char *const minis[] = {"mini-sd1", "mini-sd2", "mini-inpaint"};
    for (int i = 0; i < 3; i++) {
        struct page p = page_open(minis[i]);
        check(&p, "inpaint", "ddim", p.mask, 0.65);
        check(&p, "inpaint", "euler-a", p.mask, 0.65);
        check(&p, "inpaint", "euler-a", p.mask, 1);
        page_close(&p);
    }
}

static void test_hires(void **state) {
    static const char *const names[] = {"hires.latent", "hires.lanczos"};
    struct page p = page_open("mini-sd1");
    for (int i = 0; i < 2; i++) {
        struct error e = {{0}};
        struct generate_params gp = params(&p, "euler-a");
        struct hires_params hp = {.scale = golden_number(p.golden, "scale"),
                                  .strength = golden_number(p.golden, "hires_strength"), .upscaler = (enum hires_upscaler)i};
        struct generate_picture picture = what(&p, NULL);
        int w, h;
        hires_size(p.e->model, &hp, p.w, p.h, &w, &h);
        uint8_t *rgb = arena_alloc(p.a, (size_t)w * (size_t)h * 3);
        struct hires *s = hires_create(p.e, &gp, &hp, &e);
        if (!s || !hires_run(s, &picture, NULL, rgb, &e)) fail_msg("%s", e.text);
        compare(&p, names[i], rgb);
        hires_destroy(&s);
        hp.strength = 0.01;
        assert_null(hires_create(p.e, &gp, &hp, &e));
        assert_non_null(strstr(e.text, "--hires-strength"));
    }
    page_close(&p);
}

struct seen {
    int last, all, calls;
};

static void on_step(void *ctx, int step, int n_steps) {
    struct seen *s = ctx;
    s->calls++, s->last = step, s->all = n_steps;
}

/* The second pass has its own number of steps, of which its strength does a part; its size is cut down to whole latents. */
static void test_hires_steps(void **state) {
    struct error e = {{0}};
    struct page p = page_open("mini-sd1");
    struct generate_params gp = params(&p, "ddim");
    gp.steps = 4;
    struct hires_params hp = {.scale = 1.3, .strength = 0.5, .steps = 6};
    int w, h, f = vae_config_factor(&p.e->model->vae);
    hires_size(p.e->model, &hp, 64, 48, &w, &h);
    assert_true(f == 8 && w == 80 && h == 56); /* of 83.2 and 62.4 */
    hires_size(p.e->model, &hp, p.w, p.h, &w, &h);
    uint8_t *rgb = arena_alloc(p.a, (size_t)w * (size_t)h * 3);
    struct seen seen = {0};
    struct generate_progress progress = {on_step, &seen};
    struct generate_picture picture = what(&p, NULL);
    struct hires *s = hires_create(p.e, &gp, &hp, &e);
    if (!s || !hires_run(s, &picture, &progress, rgb, &e)) fail_msg("%s", e.text);
    assert_true(seen.calls == 4 + 3 && seen.last == seen.all && seen.all == 4 + 3);
    hires_destroy(&s);
    page_close(&p);
}

static void test_refusals(void **state) {
    struct error e = {{0}};
    struct page p = page_open("mini-sd1");
    struct generate_params gp = params(&p, "ddim");
    struct generator *g = generator_create(p.e, &gp, &e);
    struct init_image init = {.rgb = p.picture, .strength = 0.05};
    struct generate_picture picture = what(&p, &init);
    uint8_t *rgb = arena_alloc(p.a, (size_t)p.w * (size_t)p.h * 3);
    assert_false(generator_run(g, &picture, NULL, rgb, &e));
    assert_non_null(strstr(e.text, "none of 10 steps"));
    generator_destroy(&g);
    page_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_img2img),
        cmocka_unit_test(test_inpaint),
        cmocka_unit_test(test_hires),
        cmocka_unit_test(test_hires_steps),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
