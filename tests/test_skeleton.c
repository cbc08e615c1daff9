/* LoRA files read without a model: against the usual layers of the family that they fit. */
#include "tests/support/cli.h"
#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include "engine/skeleton.h"

#include <string.h>

struct layer {
    const char *name;
    int out, in;
};
static const struct layer sd1[] = {{"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 1280, 768},
                                   {"lora_te_text_model_encoder_layers_3_mlp_fc1", 3072, 768}};
static const struct layer sd2[] = {{"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 1280, 1024},
                                   {"lora_te_text_model_encoder_layers_22_mlp_fc1", 4096, 1024}};
static const struct layer xl[] = {{"lora_unet_middle_block_1_transformer_blocks_9_attn2_to_k", 1280, 2048},
                                  {"lora_te2_text_model_encoder_layers_31_mlp_fc1", 5120, 1280}};
static const struct layer text[] = {{"lora_te_text_model_encoder_layers_3_mlp_fc1", 3072, 768}};
static const struct layer odd[] = {{"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 64, 32}};

static const char *write_lora(const char *name, const struct layer *layers, int n, int rank, float first) {
    struct error e;
    struct st_writer *w = st_writer_create();
    for (int i = 0; i < n; i++) {
        size_t down = (size_t)(rank * layers[i].in), up = (size_t)(layers[i].out * rank);
        float *x = arena_alloc_n(cli.a, down + up, sizeof *x), alpha = (float)rank;
        for (size_t k = 0; k < down + up; k++) x[k] = (float)((k * 37 + (size_t)i) % 19) / 19 - 0.5f + first;
        st_writer_add_f32(w, arena_printf(cli.a, "%s.lora_down.weight", layers[i].name), ST_F32, 2,
                          (int64_t[]){rank, layers[i].in}, x);
        st_writer_add_f32(w, arena_printf(cli.a, "%s.lora_up.weight", layers[i].name), ST_F32, 2,
                          (int64_t[]){layers[i].out, rank}, x + down);
        st_writer_add_f32(w, arena_printf(cli.a, "%s.alpha", layers[i].name), ST_F32, 0, NULL, &alpha);
    }
    const char *path = arena_strdup(cli.a, scratch_path(name));
    if (!st_writer_save(w, path, &e)) fail_msg("%s", e.text);
    st_writer_destroy(&w);
    return path;
}

static void families_by_file(void **s) {
    const struct { const char *name; const struct layer *layers; int n; const char *family, *says; } cases[] = {
        {"sd1.safetensors", sd1, 2, "SD1.5", NULL}, {"sd2.safetensors", sd2, 2, "SD2", NULL},
        {"xl.safetensors", xl, 2, "SDXL", NULL}, {"text.safetensors", text, 1, NULL, "alike"},
        {"odd.safetensors", odd, 1, NULL, "give a model of its family with --model"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error e = {0};
        const char *path = write_lora(cases[i].name, cases[i].layers, cases[i].n, 2, 0);
        struct skeleton *k = skeleton_for_files(&path, 1, &e);
        if (cases[i].family ? !k || strcmp(k->name, cases[i].family) : k || !strstr(e.text, cases[i].says))
            fail_msg("%s: %s %s", cases[i].name, k ? k->name : "nothing", e.text);
        skeleton_destroy(&k);
    }
    struct error e;
    const char *absent = scratch_path("absent.safetensors");
    assert_null(skeleton_for_files(&absent, 1, &e));
    assert_non_null(strstr(e.text, "absent.safetensors"));
}

static void commands_without_a_model(void **s) {
    write_lora("sd1-b.safetensors", sd1, 2, 3, 0.1f);
    CLI_OK("convert sd1.safetensors --to diffusers --out there.safetensors");
    CLI_OK("convert there.safetensors --to kohya --out back.safetensors");
    CLI_OK("inspect sd1.safetensors");
    const char *hash = strstr(cli.out, "hash ");
    hash = arena_strndup(cli.a, hash, strcspn(hash, "("));
    CLI_OK("inspect back.safetensors");
    assert_non_null(strstr(cli.out, hash));
    CLI_OK("resize --lora xl.safetensors --rank 1 --out small.safetensors");
    assert_non_null(strstr(cli.out, "2 layers of rank 1"));
    CLI_OK("merge --method sum --lora sd1.safetensors --lora sd1-b.safetensors:0.5 --out both.safetensors --quiet");
    assert_non_null(strstr(cli.out, "2 of them in more than one file"));
    cli_expect_failure("", "merge --method sum --lora sd1.safetensors --lora xl.safetensors --out out/x.safetensors",
                       "give a model of its family");
    cli_expect_failure("", "convert $M/mini-sd1.lora.safetensors --to peft --out out/x", "--model");
    cli_expect_failure("", "merge --method ziplora --lora sd1.safetensors --lora sd1-b.safetensors --out out/x.safetensors",
                       "--model");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(families_by_file), cmocka_unit_test(commands_without_a_model)};
    return cmocka_run_group_tests(tests, cli_setup, cli_teardown);
}
