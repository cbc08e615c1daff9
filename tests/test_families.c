/* A miniature of every family beside diffusers: text, UNet and VAE, and pictures from the same seed; and models of other
 * families, which are named as what they are. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/part_checks.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "engine/generate.h"

static const struct mini {
    const char *name;
    enum nn_family family;
    const char *samplers[5], *extras[4]; /* pictures, and those with a LoRA or another negative prompt */
} minis[] = {
    {"mini-sdxl", NN_FAMILY_SDXL, {"ddim", "euler", "euler-a", "dpmpp-2m"},
     {"picture_lora", "picture_lora_te", "picture_none", "picture_empty"}},
    {"mini-ssd1b", NN_FAMILY_SSD_1B, {"ddim", "euler-a"}, {"picture_lora", "picture_none"}},
    {"mini-vega", NN_FAMILY_VEGA, {"ddim", "euler-a"}, {"picture_lora", "picture_empty"}},
    {"mini-tiny", NN_FAMILY_SD1, {"ddim", "euler-a"}, {"picture_lora"}},
    {"mini-inpaint", NN_FAMILY_SD1, {"ddim", "euler-a"}, {"picture_lora"}},
    {"mini-lcm", NN_FAMILY_SD1, {"ddim", "euler-a"}, {"picture_lora"}},
};
enum { N_FAMILIES = sizeof minis / sizeof *minis };
static const double part_tolerance = 1e-4, picture_psnr = 45;

static void test_parts(void **state) {
    for (int i = 0; i < N_FAMILIES; i++) {
        struct page p = page_open(minis[i].name, part_tolerance, ENGINE_WEIGHTS_AUTO);
        assert_int_equal(p.e->model->family, minis[i].family);
        page_check_text(&p);
        page_check_unet(&p);
        page_check_vae(&p);
        page_close(&p);
    }
}

struct picture {
    const char *name, *sampler, *negative, *lora;
};

static void check_picture(struct page *p, const struct picture *c) {
    int w, h;
    const char *name = arena_printf(p->a, "%s.%s.image", c->name, c->sampler);
    const uint8_t *want = golden_picture(p->golden, name, &h, &w);
    uint8_t *rgb = arena_alloc(p->a, (size_t)w * (size_t)h * 3);
    const char *file = c->lora ? golden_path(p->a, arena_printf(p->a, "%s.%s.safetensors", p->name, c->lora)) : NULL;
    struct adapter *ad = file ? adapter_open(p->e, &file, 1, &p->err) : NULL;
    if (file && !ad) fail_msg("%s", p->err.text);
    float strength = (float)golden_number(p->golden, "lora_strength");
    struct generate_params gp = {.w = w, .h = h, .steps = (int)golden_number(p->golden, "steps"),
                                 .cfg = (float)golden_number(p->golden, "guidance"), .sampler = c->sampler, .adapter = ad};
    struct generate_picture picture = {.prompt = golden_text(p->golden, "picture_prompt"), .negative = c->negative,
                                       .seed = (uint64_t)golden_number(p->golden, "seed"), .strength = &strength};
    struct generator *g = generator_create(p->e, &gp, &p->err);
    if (!g || !generator_run(g, &picture, NULL, rgb, &p->err)) fail_msg("%s", p->err.text);
    double psnr = golden_psnr(rgb, want, (size_t)w * (size_t)h * 3);
    print_message("%s %s: %.1f dB\n", p->name, name, psnr);
    if (!(psnr >= picture_psnr)) fail_msg("%s %s has only %.1f dB", p->name, name, psnr);
    generator_destroy(&g);
    adapter_close(&ad);
}

static void test_pictures(void **state) {
    for (int i = 0; i < N_FAMILIES; i++) {
        struct page p = page_open(minis[i].name, part_tolerance, ENGINE_WEIGHTS_AUTO);
        const char *negative = golden_text(p.golden, "picture_negative");
        for (int k = 0; minis[i].samplers[k]; k++)
            check_picture(&p, &(struct picture){"picture", minis[i].samplers[k], negative, NULL});
        for (int k = 0; k < 4 && minis[i].extras[k]; k++) {
            const char *name = minis[i].extras[k];
            bool none = !strcmp(name, "picture_none"), empty = !strcmp(name, "picture_empty");
            const char *lora = none || empty ? NULL : strcmp(name, "picture_lora_te") ? "lora" : "lora-te";
            check_picture(&p, &(struct picture){name, "ddim", none ? NULL : empty ? "" : negative, lora});
        }
        page_close(&p);
    }
}

/* The empty negative prompt and the one that is not given must not look alike, or the rule would go untested. */
static void test_empty_differs(void **state) {
    struct st_file *f = golden_open("mini-sdxl.golden");
    int w, h;
    const uint8_t *none = golden_picture(f, "picture_none.ddim.image", &h, &w),
                  *empty = golden_picture(f, "picture_empty.ddim.image", &h, &w);
    assert_true(golden_psnr(none, empty, (size_t)w * (size_t)h * 3) < 40);
    st_close(&f);
}

/* A trace holds what went in, for both text encoders. */
static void test_trace(void **state) {
    struct page p = page_open("mini-sdxl", part_tolerance, ENGINE_WEIGHTS_AUTO);
    const struct model *m = p.e->model;
    const char *text = "a photo of a red fox", *path = scratch_path("trace.safetensors");
    struct generate_params gp = {.w = 32, .h = 32, .steps = 1, .cfg = 5, .sampler = "ddim"};
    struct st_writer *w = st_writer_create();
    struct generate_picture picture = {.prompt = text, .negative = "", .seed = 1, .trace = w};
    struct generator *g = generator_create(p.e, &gp, &p.err);
    uint8_t *rgb = arena_alloc(p.a, 32 * 32 * 3);
    if (!g || !generator_run(g, &picture, NULL, rgb, &p.err) || !st_writer_save(w, path, &p.err)) fail_msg("%s", p.err.text);
    generator_destroy(&g);
    st_writer_destroy(&w);
    struct st_file *f = st_open(path, &p.err);
    if (!f) fail_msg("%s", p.err.text);
    for (int i = 0; i < m->n_texts; i++) {
        size_t window = (size_t)model_window(m);
        const struct st_tensor *ids = st_find(f, i ? "token_ids_2" : "token_ids");
        int32_t *want = arena_alloc_n(p.a, 2 * window, sizeof *want);
        tokenizer_encode_window(m->texts[i].tokenizer, "", want, NULL);
        tokenizer_encode_window(m->texts[i].tokenizer, text, want + window, NULL);
        assert_non_null(ids);
        assert_int_equal(ids->bytes, 2 * window * sizeof *want);
        assert_memory_equal(ids->data, want, ids->bytes);
    }
    assert_non_null(st_find(f, "pooled_embedding"));
    st_close(&f);
    page_close(&p);
}

/* ---- Refusals ---- */

static void expect_refused(const char *path, const char *word) {
    struct error e = {{0}};
    struct model *m = model_open(path, &(struct model_params){TENSOR_F32, 0}, &e);
    if (m) fail_msg("%s was opened", path);
    if (!strstr(e.text, word)) fail_msg("\"%s\" does not say %s", e.text, word);
}

static void test_other_families(void **state) {
    static const struct {
        const char *pipeline, *says;
    } others[] = {{"StableDiffusion3Pipeline", "Stable Diffusion 3"}, {"FluxPipeline", "is Flux "},
                  {"KandinskyV22CombinedPipeline", "Kandinsky 2.2"},  {"PixArtSigmaPipeline", "PixArt"},
                  {"StableCascadeDecoderPipeline", "Stable Cascade"}, {"HunyuanDiTPipeline", "Hunyuan-DiT"},
                  {"TotallyNewPipeline", "another family (TotallyNewPipeline)"}};
    struct arena *a = arena_create(NULL);
    struct error e = {{0}};
    const char *dir = arena_strdup(a, scratch_path("other"));
    assert_true(os_dir_make(dir, &e));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const char *index = arena_printf(a, "{\"_class_name\": \"%s\"}", others[i].pipeline);
        scratch_write("other/model_index.json", index, strlen(index));
        expect_refused(dir, others[i].says);
    }
    assert_true(os_file_remove(scratch_path("other/model_index.json"), &e));
    assert_true(os_dir_make(scratch_path("other/transformer"), &e));
    expect_refused(dir, "diffusion transformer");
    arena_destroy(&a);
}

/* Models that say StableDiffusion...Pipeline and are something else: their configs tell. */
static void test_other_parts(void **state) {
    static const struct {
        const char *mini, *edit, *says;
    } others[] = {
        {"mini-sdxl", "s/EulerDiscreteScheduler/EDMEulerScheduler/ scheduler/scheduler_config.json", "Playground 2.5"},
        {"mini-sdxl", "s/\"projection_class_embeddings_input_dim\": 80/\"projection_class_embeddings_input_dim\": 72/ "
                      "unet/config.json", "SDXL refiner"},
        {"mini-inpaint", "s/\"in_channels\": 9/\"in_channels\": 8/ unet/config.json", "instruct-pix2pix"},
        {"mini-inpaint", "s/\"in_channels\": 9/\"in_channels\": 5/ unet/config.json", "depth model"},
        {"mini-sdxl", "s/WithProjection// text_encoder_2/config.json", "no projection"},
    };
    struct arena *a = arena_create(NULL);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const char *split = strrchr(others[i].edit, ' '), *dir = arena_strdup(a, scratch_path(arena_printf(a, "part%zu", i)));
        assert_int_equal(system(arena_printf(a, "cp -r '%s' '%s' && chmod -R u+w '%s' && sed -i '%.*s' '%s/%s'",
                                             golden_path(a, others[i].mini), dir, dir, (int)(split - others[i].edit),
                                             others[i].edit, dir, split + 1)), 0);
        expect_refused(dir, others[i].says);
    }
    /* A refiner's folder has the second text encoder alone. */
    const char *dir = arena_strdup(a, scratch_path("refiner"));
    assert_int_equal(system(arena_printf(a, "cp -r '%s' '%s' && chmod -R u+w '%s' && rm -r '%s/text_encoder'",
                                         golden_path(a, "mini-sdxl"), dir, dir, dir)), 0);
    expect_refused(dir, "SDXL refiner");
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts),          cmocka_unit_test(test_pictures),
                                       cmocka_unit_test(test_empty_differs),  cmocka_unit_test(test_trace),
                                       cmocka_unit_test(test_other_families), cmocka_unit_test(test_other_parts)};
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
