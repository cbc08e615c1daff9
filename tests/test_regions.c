/* Regions inside the attention, and LoRAs by region, beside diffusers with a processor and hooks of the same meaning
 * (tests/reference/make_regions.py), on mini-sd1; and what must hold on every model. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"

#include <math.h>
#include <string.h>

#include "diffusion/area_resize.h"
#include "engine/generate.h"

enum { W = 128, H = 64, REGIONS = 3, FILES = 5 };
static const char *const files[FILES] = {"mini-sd1.lora", "mini-sd1.lora-2", "kinds/locon", "kinds/full", "kinds/norm"};

struct page {
    struct arena *a;
    struct engine *e;
    struct adapter *ad; /* NULL: none */
};

static struct page page_open(const char *model, int rig, bool adapters) {
    struct page p = {.a = arena_create(NULL), .e = session_open(model, rig)};
    const char *paths[FILES];
    struct error e;
    for (int i = 0; i < FILES; i++) paths[i] = golden_path(p.a, arena_printf(p.a, "%s.safetensors", files[i]));
    if (adapters && !(p.ad = adapter_open(p.e, paths, FILES, &e))) fail_msg("%s", e.text);
    return p;
}

static void page_close(struct page *p) {
    adapter_close(&p->ad);
    session_close(&p->e);
    arena_destroy(&p->a);
}

/* Draws one picture and returns its latents, [channels][h][w]. */
static float *draw(struct page *p, const struct generate_params *params, const struct generate_picture *picture) {
    struct error e;
    struct generator *g = generator_create(p->e, params, &e);
    if (!g || !generator_run(g, picture, NULL, NULL, &e)) fail_msg("%s", e.text);
    size_t n = (size_t)(params->w / 8) * (size_t)(params->h / 8) * 4;
    float *out = arena_alloc_n(p->a, n, sizeof *out);
    memcpy(out, generator_latents(g), n * sizeof *out);
    generator_destroy(&g);
    return out;
}

static void box(float *map, int x, int y, int w, int h) {
    for (int v = y; v < y + h; v++)
        for (int u = x; u < x + w; u++) map[v * W + u] = 1;
}

static float *chw(struct page *p, struct st_file *golden, const char *name) {
    struct shape s;
    float *rows = golden_rows(golden, name, p->a, &s), *out = arena_alloc_n(p->a, (size_t)shape_elems(s), sizeof *out);
    for (int c = 0; c < s.c; c++)
        for (int i = 0; i < s.h * s.w; i++) out[c * s.h * s.w + i] = rows[i * s.c + c];
    return out;
}

static void check(struct page *p, struct st_file *golden, const char *name, bool adapters) {
    static float maps[REGIONS][W * H];
    memset(maps, 0, sizeof maps);
    box(maps[0], 0, 0, 64, 64), box(maps[1], 32, 16, 64, 40);
    memcpy(maps[2], golden_rows(golden, "mask", p->a, NULL), sizeof maps[2]);
    const float *strengths = golden_rows(golden, arena_printf(p->a, "%s.strengths", name), p->a, NULL);
    struct guide_region regions[REGIONS];
    for (int k = 0; k < REGIONS; k++)
        regions[k] = (struct guide_region){golden_text(golden, arena_printf(p->a, "region_%d", k)), strengths + (k + 1) * FILES,
                                           maps[k], W, H};
    struct generate_params gp = {.w = W, .h = H, .steps = 8, .cfg = (float)golden_number(golden, "guidance"),
                                 .adapter = adapters ? p->ad : NULL};
    struct generate_picture picture = {.prompt = golden_text(golden, "prompt"), .negative = golden_text(golden, "negative"),
                                       .seed = (uint64_t)golden_number(golden, "seed"), .strength = strengths,
                                       .regions = regions, .n_regions = REGIONS};
    golden_near(name, draw(p, &gp, &picture), chw(p, golden, name), (size_t)(W / 8 * H / 8 * 4), 2e-5);
}

static void test_beside_diffusers(void **state) {
    struct page p = page_open("mini-sd1", session_default(), true);
    struct st_file *golden = golden_open("mini-sd1.regions");
    check(&p, golden, "prompts", false);
    check(&p, golden, "everywhere", true);
    check(&p, golden, "loras", true);
    check(&p, golden, "dense", true);
    st_close(&golden);
    page_close(&p);
}

/* The other kernels, which find strengths and shares in f32 beside weights of the set's type. */
static void test_on_the_gpu_class(void **state) {
    struct page p = page_open("mini-sd1", SESSION_GPU_F32, true);
    struct st_file *golden = golden_open("mini-sd1.regions");
    check(&p, golden, "dense", true);
    st_close(&golden);
    page_close(&p);
}

/* Sizes that halve to odd ones, so that levels' shares are fractions of pixels. */
enum { ODD_W = 72, ODD_H = 56 };
static float everywhere[1] = {1};

static void check_whole(const char *model) {
    struct page p = page_open(model, session_default(), false);
    struct generate_params gp = {.w = ODD_W, .h = ODD_H, .steps = 2, .cfg = 4};
    struct guide_region region = {"a black cat", NULL, everywhere, 1, 1};
    struct generate_picture plain = {.prompt = "a black cat", .negative = "rain", .seed = 3}, whole = plain;
    whole.prompt = "fox", whole.regions = &region, whole.n_regions = 1;
    size_t n = ODD_W / 8 * ODD_H / 8 * 4;
    float *want = draw(&p, &gp, &plain);
    if (!strcmp(model, "mini-sdxl")) region.prompt = whole.prompt = "a black cat"; /* the pooled text is the prompt's */
    golden_near(model, draw(&p, &gp, &whole), want, n, 2e-6);
    region.prompt = "fox";
    assert_true(golden_range_error(draw(&p, &gp, &whole), want, n) > 1e-4);
    page_close(&p);
}

static void test_a_region_that_is_everything(void **state) {
    check_whole("mini-sd1");
    check_whole("mini-sdxl");
}

/* Every kind: strength 0 in the region is none, a region of everything is the LoRA outright. */
static void test_loras_in_one_region(void **state) {
    struct page p = page_open("mini-sd1", session_default(), true);
    struct generate_params gp = {.w = ODD_W, .h = ODD_H, .steps = 2, .cfg = 4, .adapter = p.ad};
    size_t n = ODD_W / 8 * ODD_H / 8 * 4;
    float none[FILES] = {0}, half[6] = {1, 0, 1, 0, 1, 0};
    struct generate_picture plain = {.prompt = "fox", .negative = "rain", .seed = 3, .strength = none};
    float *without = draw(&p, &gp, &plain);
    for (int i = 0; i < FILES; i++) {
        float one[FILES] = {0};
        one[i] = 0.5f;
        struct generate_picture outright = plain, regional = plain;
        outright.strength = one;
        float *want = draw(&p, &gp, &outright);
        assert_true(golden_range_error(without, want, n) > 1e-3);
        struct guide_region region = {"fox", one, everywhere, 1, 1};
        regional.regions = &region, regional.n_regions = 1;
        golden_near(files[i], draw(&p, &gp, &regional), want, n, 2e-6);
        region.map = half, region.map_w = 6;
        float *part = draw(&p, &gp, &regional);
        assert_true(golden_range_error(part, want, n) > 1e-4 && golden_range_error(part, without, n) > 1e-4);
        one[i] = 0;
        golden_near("strength 0", draw(&p, &gp, &regional), without, n, 2e-6);
    }
    page_close(&p);
}

/* What moves between pictures of one session are numbers in buffers. */
static void test_boxes_move(void **state) {
    struct page p = page_open("mini-sd1", session_default(), false);
    struct error e;
    struct generate_params gp = {.w = W, .h = H, .steps = 2, .cfg = 4};
    float left[2] = {1, 0}, right[2] = {0, 1};
    struct guide_region region = {"cat", NULL, left, 2, 1}, other = region;
    other.map = right;
    struct generate_picture picture = {.prompt = "fox", .seed = 3, .regions = &region, .n_regions = 1}, moved = picture;
    moved.regions = &other;
    size_t n = W / 8 * H / 8 * 4;
    float *want = draw(&p, &gp, &moved), *before = draw(&p, &gp, &picture);
    assert_true(golden_range_error(before, want, n) > 1e-4);
    struct generator *g = generator_create(p.e, &gp, &e);
    assert_true(g && generator_run(g, &picture, NULL, NULL, &e));
    assert_memory_equal(generator_latents(g), before, n * sizeof(float));
    assert_true(generator_run(g, &moved, NULL, NULL, &e));
    assert_memory_equal(generator_latents(g), want, n * sizeof(float));
    generator_destroy(&g);
    page_close(&p);
}

/* Each picture of a batch is the one that is drawn alone: with another box, with another LoRA. */
static void test_batches(void **state) {
    enum { N = 4 };
    struct page p = page_open("mini-sd1", session_default(), true);
    struct error e;
    struct generate_params gp = {.w = ODD_W, .h = ODD_H, .steps = 2, .cfg = 4, .adapter = p.ad};
    float left[2] = {1, 0}, right[2] = {0, 1}, none[FILES] = {0}, one[FILES] = {0.7f}, other[FILES] = {0, 0, 0, 0.5f};
    struct guide_region regions[N] = {{"cat", one, left, 2, 1}, {"rain", one, right, 2, 1}, {"cat", other, left, 2, 1},
                                      {"cat", none, left, 2, 1}};
    struct generate_picture pictures[N];
    uint8_t *rgb[N], *alone = arena_alloc(p.a, ODD_W * ODD_H * 3);
    for (int i = 0; i < N; i++) {
        pictures[i] = (struct generate_picture){.prompt = "fox", .seed = (uint64_t)i, .strength = none, .regions = &regions[i],
                                                .n_regions = 1};
        rgb[i] = arena_alloc(p.a, ODD_W * ODD_H * 3);
    }
    struct generator *g = generator_create(p.e, &gp, &e);
    if (!g || !generator_run_batch(g, pictures, N, NULL, rgb, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < N; i++) {
        if (!generator_run(g, &pictures[i], NULL, alone, &e)) fail_msg("%s", e.text);
        assert_memory_equal(alone, rgb[i], ODD_W * ODD_H * 3);
    }
    generator_destroy(&g);
    page_close(&p);
}

static void test_and_has_no_place(void **state) {
    struct page p = page_open("mini-sd1", session_default(), false);
    struct error e = {{0}};
    struct generate_params gp = {.w = W, .h = H, .steps = 2, .cfg = 4, .prompt_style = PROMPT_A1111};
    struct guide_region region = {"cat AND rain", NULL, everywhere, 1, 1};
    struct generate_picture picture = {.prompt = "fox AND rain:0.5", .seed = 3, .regions = &region, .n_regions = 1};
    struct generator *g = generator_create(p.e, &gp, &e);
    assert_true(g && !generator_run(g, &picture, NULL, NULL, &e));
    assert_non_null(strstr(e.text, "--region-method predictions"));
    region.prompt = "[cat:rain:0.5]";
    if (!generator_run(g, &picture, NULL, NULL, &e)) fail_msg("%s", e.text);
    generator_destroy(&g);
    page_close(&p);
}

static void test_area_resize(void **state) {
    float src[5 * 7], other[5 * 7], dst[3 * 4], rest[3 * 4], back[5 * 7];
    double sum = 0;
    for (int i = 0; i < 35; i++) src[i] = (float)(i * 37 % 11) / 11, other[i] = 1 - src[i], sum += (double)src[i] / 35;
    area_resize(dst, 4, 3, src, 7, 5);
    area_resize(rest, 4, 3, other, 7, 5);
    for (int i = 0; i < 12; i++) assert_true(fabsf(dst[i] + rest[i] - 1) < 1e-6f);
    /* The first covers 7/4 x 5/3 of the source. */
    float first = (src[0] + 0.75f * src[1] + (src[7] + 0.75f * src[8]) * (2.0f / 3)) / (1.75f * 5 / 3);
    assert_true(fabsf(dst[0] - first) < 1e-6f);
    area_resize(dst, 1, 1, src, 7, 5);
    assert_true(fabs((double)dst[0] - sum) < 1e-6);
    area_resize(back, 7, 5, src, 7, 5);
    assert_memory_equal(back, src, sizeof src);
    area_resize(back, 7, 5, dst, 1, 1);
    for (int i = 0; i < 35; i++) assert_true(back[i] == dst[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_beside_diffusers),            cmocka_unit_test(test_on_the_gpu_class),
        cmocka_unit_test(test_a_region_that_is_everything), cmocka_unit_test(test_loras_in_one_region),
        cmocka_unit_test(test_boxes_move),                  cmocka_unit_test(test_batches),
        cmocka_unit_test(test_and_has_no_place),            cmocka_unit_test(test_area_resize),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
