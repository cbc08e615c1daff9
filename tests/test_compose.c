/* Several LoRAs beside diffusers with its adapters set by hand before every step (tests/reference/make_compose.py), on
 * mini-sd1. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"

#include <math.h>
#include <string.h>

#include "engine/lora_spec.h"
#include "engine/generate.h"

struct page {
    struct arena *a;
    struct engine *e;
    struct st_file *golden;
    const char *paths[2];
};

static struct page page_open(void) {
    struct page p = {.a = arena_create(NULL), .e = session_open("mini-sd1", session_default())};
    p.golden = golden_open("mini-sd1.compose");
    p.paths[0] = golden_path(p.a, "mini-sd1.lora.safetensors"), p.paths[1] = golden_path(p.a, "mini-sd1.lora-2.safetensors");
    return p;
}

static void page_close(struct page *p) {
    session_close(&p->e);
    st_close(&p->golden);
    arena_destroy(&p->a);
}

static struct lora_spec spec(struct page *p, const char *text) {
    struct lora_spec s;
    struct error e;
    if (!lora_spec_parse(text, p->a, &s, &e)) fail_msg("%s", e.text);
    return s;
}

/* The last latents of a picture as rows: what a trace holds. */
static float *last_latents(struct page *p, struct generator *g, const struct generate_picture *picture, uint8_t *rgb) {
    struct error e;
    struct generate_picture own = *picture;
    struct st_writer *w = own.trace = st_writer_create();
    if (!generator_run(g, &own, NULL, rgb, &e)) fail_msg("%s", e.text);
    const char *path = arena_strdup(p->a, scratch_path("trace.safetensors"));
    assert_true(st_writer_save(w, path, &e));
    st_writer_destroy(&w);
    struct st_file *f = st_open(path, &e);
    float *rows = golden_rows(f, "latents_008", p->a, NULL);
    st_close(&f);
    return rows;
}

static void check(struct page *p, const char *name, enum guide_compose compose, const char *first, const char *second) {
    struct error e;
    struct lora_spec s[2] = {spec(p, first), spec(p, second)};
    const struct lora_blocks *blocks[2] = {s[0].has_blocks ? &s[0].blocks : NULL, s[1].has_blocks ? &s[1].blocks : NULL};
    struct adapter *ad = adapter_open_blocks(p->e, p->paths, blocks, 2, &e);
    if (!ad) fail_msg("%s", e.text);
    struct generate_params gp = {.w = 128, .h = 64, .steps = 8, .cfg = (float)golden_number(p->golden, "guidance"),
                                 .adapter = ad, .compose = compose, .every = 3};
    struct generator *g = generator_create(p->e, &gp, &e);
    if (!g) fail_msg("%s", e.text);
    struct guide_course courses[2] = {s[0].course, s[1].course};
    float strength[2] = {s[0].strength, s[1].strength};
    struct generate_picture picture = {.prompt = golden_text(p->golden, "prompt"),
                                       .negative = golden_text(p->golden, "negative"),
                                       .seed = (uint64_t)golden_number(p->golden, "seed"), .strength = strength,
                                       .courses = courses};
    uint8_t *rgb = arena_alloc(p->a, 128 * 64 * 3);
    struct shape shape;
    float *want = golden_rows(p->golden, name, p->a, &shape), *got = last_latents(p, g, &picture, rgb);
    golden_near(name, got, want, (size_t)shape_elems(shape), 2e-5);
    generator_destroy(&g);
    adapter_close(&ad);
}

/* The first LoRA with the prompt, the second in a box with another one. */
static void check_region(struct page *p) {
    struct error e;
    struct adapter *ad = adapter_open(p->e, p->paths, 2, &e);
    if (!ad) fail_msg("%s", e.text);
    struct generate_params gp = {.w = 128, .h = 64, .steps = 8, .cfg = (float)golden_number(p->golden, "guidance"),
                                 .adapter = ad, .regions_by = GUIDE_PREDICTIONS};
    struct generator *g = generator_create(p->e, &gp, &e);
    if (!g) fail_msg("%s", e.text);
    float map[8 * 16] = {0}, all[2] = {0.7f, 0}, inside[2] = {0, 0.5f};
    for (int y = 2; y < 8; y++)
        for (int x = 8; x < 12; x++) map[y * 16 + x] = 1;
    struct guide_region region = {golden_text(p->golden, "region"), inside, map, 16, 8};
    struct generate_picture picture = {.prompt = golden_text(p->golden, "prompt"),
                                       .negative = golden_text(p->golden, "negative"),
                                       .seed = (uint64_t)golden_number(p->golden, "seed"), .strength = all, .regions = &region,
                                       .n_regions = 1};
    uint8_t *rgb = arena_alloc(p->a, 128 * 64 * 3);
    struct shape shape;
    float *want = golden_rows(p->golden, "region", p->a, &shape), *got = last_latents(p, g, &picture, rgb);
    golden_near("region", got, want, (size_t)shape_elems(shape), 2e-5);
    generator_destroy(&g);
    adapter_close(&ad);
}

static void test_beside_diffusers(void **state) {
    struct page p = page_open();
    check(&p, "sum", GUIDE_SUM, "0.7", "0.5");
    check(&p, "switch", GUIDE_SWITCH, "0.7", "0.5");
    check(&p, "composite", GUIDE_COMPOSITE, "0.7", "0.5");
    check(&p, "course", GUIDE_SUM, "0.2..1.0", "0.8@0-50%");
    check(&p, "blocks", GUIDE_SUM, "1:IN01=0.2,IN03=0.9,MID=0,OUT02=0.6,OUT03=0.3", "0.5");
    check_region(&p);
    page_close(&p);
}

/* Block factors are numbers in a buffer: set to 1 they give the plain picture in the same program, set anew the other one. */
static void test_blocks_are_sliders(void **state) {
    struct page p = page_open();
    struct error e;
    struct lora_spec s = spec(&p, "1:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1");
    const struct lora_blocks *blocks[1] = {&s.blocks};
    struct adapter *ad = adapter_open_blocks(p.e, p.paths, blocks, 1, &e), *plain = adapter_open(p.e, p.paths, 1, &e);
    if (!ad || !plain) fail_msg("%s", e.text);
    assert_true(plain->stack->n_adapters == 1 && ad->stack->n_adapters > 5);
    struct generate_params gp = {.w = 128, .h = 64, .steps = 8, .cfg = 1, .adapter = ad};
    struct generator *g = generator_create(p.e, &gp, &e);
    gp.adapter = plain;
    struct generator *h = generator_create(p.e, &gp, &e);
    struct generate_picture picture = {.prompt = "fox", .seed = 3};
    uint8_t *rgb = arena_alloc(p.a, 128 * 64 * 3);
    enum { N = 8 * 16 * 4 };
    float *want = last_latents(&p, h, &picture, rgb);
    golden_near("all blocks 1", last_latents(&p, g, &picture, rgb), want, N, 1e-6);
    for (int i = 0; i < LORA_N_BLOCKS; i++) ad->blocks[0].factor[i] = 0;
    float *off = last_latents(&p, g, &picture, rgb);
    assert_true(golden_range_error(off, want, N) > 1e-3);
    picture.strength = (float[]){0};
    golden_near("all blocks 0", off, last_latents(&p, h, &picture, rgb), N, 1e-6);
    generator_destroy(&g);
    generator_destroy(&h);
    adapter_close(&ad);
    adapter_close(&plain);
    page_close(&p);
}

static void test_specs(void **state) {
    static const struct {
        const char *text;
        float strength, from, to, begin, end;
        bool blocks;
    } good[] = {
        {"", 1, 1, 1, 0, 1},       {"0.8", 0.8f, 1, 1, 0, 1},         {"-1", -1, 1, 1, 0, 1},
        {"0..1", 1, 0, 1, 0, 1},   {"0.2..1.0", 1, 0.2f, 1, 0, 1},    {"1..0.5", 1, 1, 0.5f, 0, 1},
        {"-1..0", -1, 1, 0, 0, 1}, {"0..-0.5", -0.5f, 0, 1, 0, 1},
        {"2..1@50-100%", 2, 1, 0.5f, 0.5f, 1}, {"0.8@0-40%", 0.8f, 1, 1, 0, 0.4f}, {"@10-20%", 1, 1, 1, 0.1f, 0.2f},
        {"0.5:M00=0", 0.5f, 1, 1, 0, 1, true}, {":1,1,1,1,1,1,1,1,1,1,1,1", 1, 1, 1, 0, 1, true},
    };
    static const char *const bad[] = {"x",       "0.8@",     "0.8@40-0%", "0.8@0-140%", "0.8@0-40",     "1..", "1:",
                                      "1:1,2,3", "1:IN12=1", "1:IN01=x",  "1:IN01=1,2", "1:OUT08-03=1", "1e9", "nan"};
    struct page p = {.a = arena_create(NULL)};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct lora_spec s = spec(&p, good[i].text);
        if (s.strength != good[i].strength || fabsf(s.course.from - good[i].from) > 1e-7f ||
            fabsf(s.course.to - good[i].to) > 1e-7f || fabsf(s.course.begin - good[i].begin) > 1e-7f ||
            fabsf(s.course.end - good[i].end) > 1e-7f || s.has_blocks != good[i].blocks)
            fail_msg("\"%s\" is %g, %g..%g, %g-%g", good[i].text, s.strength, s.course.from, s.course.to, s.course.begin,
                     s.course.end);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct lora_spec s;
        struct error e = {{0}};
        if (lora_spec_parse(bad[i], p.a, &s, &e)) fail_msg("\"%s\" was taken", bad[i]);
        assert_true(strlen(e.text) > 20);
    }
    arena_destroy(&p.a);
}

/* A1111's four forms: which block each number is. */
static void test_block_forms(void **state) {
    static const int forms[][27] = {
        {17, 0, 2, 3, 5, 6, 8, 9, 13, 17, 18, 19, 20, 21, 22, 23, 24, 25},
        {12, 0, 5, 6, 8, 9, 13, 14, 15, 16, 17, 18, 19},
        {20, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22},
        {26, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25},
    };
    struct arena *a = arena_create(NULL);
    for (int f = 0; f < 4; f++) {
        char *text = "";
        struct lora_blocks b;
        struct error e;
        for (int i = 0; i < forms[f][0]; i++) text = arena_printf(a, "%s%s%d", text, i ? "," : "", i + 2);
        if (!lora_blocks_parse(text, &b, &e)) fail_msg("%s", e.text);
        for (int i = 0; i < forms[f][0]; i++) assert_true(b.factor[forms[f][i + 1]] == (float)(i + 2));
        bool xl = forms[f][0] == 12 || forms[f][0] == 20;
        assert_true(lora_blocks_fit(&b, xl, &e) && !lora_blocks_fit(&b, !xl, &e));
    }
    struct lora_blocks b; /* by name: all of a kind, both ends of a range, later ones win */
    struct error e;
    if (!lora_blocks_parse("IN=0.5,OUT=0.25,OUT03-05=2,MID=3", &b, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < LORA_N_BLOCKS; i++) {
        bool in = i >= LORA_BLOCK_IN && i < LORA_BLOCK_IN + 12, range = i >= LORA_BLOCK_OUT + 3 && i <= LORA_BLOCK_OUT + 5;
        float out = range ? 2 : i >= LORA_BLOCK_OUT ? 0.25f : 1;
        assert_true(b.factor[i] == (in ? 0.5f : i == LORA_BLOCK_MIDDLE ? 3 : out));
    }
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_beside_diffusers), cmocka_unit_test(test_blocks_are_sliders),
        cmocka_unit_test(test_specs),            cmocka_unit_test(test_block_forms),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
