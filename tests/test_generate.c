/* Pictures beside diffusers': the same seed, prompt and sampler, 20 steps, on the device; with and without LoRA. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/session.h"
#include "tests/support/test_device.h"

#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "engine/generate.h"

static const char *const samplers[] = {"ddim", "euler", "euler-a", "dpmpp-2m"};
enum { N_SAMPLERS = sizeof samplers / sizeof *samplers };

struct page {
    struct arena *a;
    struct st_file *golden;
    struct engine *e;
    struct adapter *adapter;
    const char *mini;
    int w, h;
};

static struct page page_open(const char *mini, int rig) {
    struct page p = {.a = arena_create(NULL), .mini = mini};
    p.golden = golden_open(arena_printf(p.a, "%s.golden", mini));
    golden_picture(p.golden, "picture.ddim.image", &p.h, &p.w);
    p.e = session_open(mini, rig);
    return p;
}

static void page_close(struct page *p) {
    adapter_close(&p->adapter);
    session_close(&p->e);
    st_close(&p->golden);
    arena_destroy(&p->a);
}

static struct generator *generator(struct page *p, const char *sampler) {
    struct error e = {{0}};
    struct generate_params gp = {.w = p->w, .h = p->h, .steps = (int)golden_number(p->golden, "steps"),
                                 .cfg = (float)golden_number(p->golden, "guidance"), .sampler = sampler, .adapter = p->adapter};
    struct generator *g = generator_create(p->e, &gp, &e);
    if (!g) fail_msg("%s", e.text);
    return g;
}

static uint8_t *draw(struct page *p, struct generator *g, float strength) {
    struct error e = {{0}};
    uint8_t *rgb = arena_alloc(p->a, (size_t)p->w * (size_t)p->h * 3);
    struct generate_picture gp = {.prompt = golden_text(p->golden, "picture_prompt"),
                                  .negative = golden_text(p->golden, "picture_negative"),
                                  .seed = (uint64_t)golden_number(p->golden, "seed"), .strength = &strength};
    if (!generator_run(g, &gp, NULL, rgb, &e)) fail_msg("%s", e.text);
    return rgb;
}

/* `name` is the golden picture's; the figure that counts is 45 dB. */
static void compare(struct page *p, const char *name, const uint8_t *got, double min_psnr) {
    int w, h;
    const uint8_t *want = golden_picture(p->golden, arena_printf(p->a, "%s.image", name), &h, &w);
    size_t n = (size_t)w * (size_t)h * 3, equal = 0;
    assert_true(w == p->w && h == p->h);
    for (size_t i = 0; i < n; i++) equal += got[i] == want[i];
    double psnr = golden_psnr(got, want, n);
    print_message("%s %s: %.1f dB, %zu of %zu bytes equal\n", p->mini, name, psnr, equal, n);
    if (!(psnr >= min_psnr)) fail_msg("%s %s has only %.1f dB", p->mini, name, psnr);
}

static void check_samplers(const char *mini, int rig, int n, double min_psnr) {
    struct page p = page_open(mini, rig);
    for (int i = 0; i < n; i++) {
        struct generator *g = generator(&p, samplers[i]);
        compare(&p, arena_printf(p.a, "picture.%s", samplers[i]), draw(&p, g, 0), min_psnr);
        generator_destroy(&g);
    }
    page_close(&p);
}

/* The LoRA's picture, then strength 0 in the same generator: the plain picture, byte for byte. */
static void check_lora(const char *mini, const char *file, const char *name, int rig, double min_psnr) {
    struct error e = {{0}};
    struct page p = page_open(mini, rig);
    struct generator *plain = generator(&p, "ddim");
    const char *path = golden_path(p.a, arena_printf(p.a, "%s.safetensors", file));
    if (!(p.adapter = adapter_open(p.e, &path, 1, &e))) fail_msg("%s", e.text);
    struct generator *g = generator(&p, "ddim");
    compare(&p, name, draw(&p, g, (float)golden_number(p.golden, "lora_strength")), min_psnr);
    compare(&p, "picture.ddim", draw(&p, g, 0), min_psnr);
    assert_memory_equal(draw(&p, g, 0), draw(&p, plain, 0), (size_t)p.w * (size_t)p.h * 3);
    generator_destroy(&plain);
    generator_destroy(&g);
    page_close(&p);
}

static void test_samplers(void **state) {
    for (int i = 0; i < N_MINIS; i++) check_samplers(session_minis[i], SESSION_CPU, N_SAMPLERS, 45);
}

static void test_lora(void **state) {
    struct arena *a = arena_create(NULL);
    for (int i = 0; i < N_MINIS; i++)
        check_lora(session_minis[i], arena_printf(a, "%s.lora", session_minis[i]), "picture_lora.ddim", SESSION_CPU, 45);
    check_lora("mini-sd1", "mini-sd1.lora-te", "picture_lora_te.ddim", SESSION_CPU, 45);
    arena_destroy(&a);
}

static void test_demo(void **state) {
    check_samplers("demo", SESSION_CPU, N_SAMPLERS, 45);
    check_lora("demo", "demo.lora", "picture_lora.ddim", SESSION_CPU, 45);
}

static void test_gpu_class(void **state) {
    bool slow = test_device_is_cpu();
    for (int i = slow ? N_MINIS - 1 : 0; i < N_MINIS; i++) {
        check_samplers(session_minis[i], SESSION_GPU_F32, slow ? 1 : N_SAMPLERS, 45);
        check_samplers(session_minis[i], SESSION_GPU_F16, 1, 30);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samplers),
        cmocka_unit_test(test_lora),
        cmocka_unit_test(test_demo),
        cmocka_unit_test(test_gpu_class),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
