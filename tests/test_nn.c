/* Named parameters and configurations: what fits, and one clear sentence for what does not. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "base/rng.h"
#include "nn/bind.h"
#include "nn/layers.h"
#include "textenc/clip_build.h"
#include "unet/build.h"
#include "vae/build.h"

#define ASSERT_SAYS(e, word)                                                                                 \
    do {                                                                                                     \
        if (!strstr((e).text, word)) fail_msg("\"%s\" does not mention %s", (e).text, word);                 \
    } while (0)

/* --- parameters ------------------------------------------------------------------------------------- */

static struct nn_params *declared(struct arena *a) {
    struct error e = {0};
    struct nn_params *p = nn_params_create(a, "toy", TENSOR_F32, false, 0);
    assert_int_equal(nn_params_declare(p, "conv.weight", (struct shape){9, 1, 2, 3}, &e), 0);
    assert_int_equal(nn_params_declare(p, "conv.bias", (struct shape){1, 1, 1, 2}, &e), 1);
    assert_int_equal(nn_params_declare(p, "mid.to_q.weight", (struct shape){1, 1, 2, 4}, &e), 2);
    return p;
}

struct toy {
    enum st_dtype dtype;
    const char *skip, *q_name;
    bool q_4d, extra, wide;
};

static struct st_file *toy_file(const struct toy *toy, const char *name) {
    struct error e = {0};
    struct st_writer *w = st_writer_create();
    float conv[54], bias[2] = {0.5f, -2}, q[10];
    for (int i = 0; i < 54; i++) conv[i] = (float)i; /* exact in f16 and bf16 */
    for (int i = 0; i < 10; i++) q[i] = (float)(i - 4);
    const int64_t conv_dims[] = {2, 3, 3, 3}, bias_dims[] = {2}, q_dims[] = {2, toy->wide ? 5 : 4, 1, 1};
    if (!toy->skip || strcmp(toy->skip, "conv.weight"))
        st_writer_add_f32(w, "conv.weight", toy->dtype, 4, conv_dims, conv);
    st_writer_add_f32(w, "conv.bias", toy->dtype, 1, bias_dims, bias);
    st_writer_add_f32(w, toy->q_name ? toy->q_name : "mid.to_q.weight", toy->dtype, toy->q_4d ? 4 : 2, q_dims,
                      q);
    if (toy->extra) {
        st_writer_add_f32(w, "text.position_ids", toy->dtype, 1, bias_dims, bias);
        st_writer_add_f32(w, "left.over", toy->dtype, 1, bias_dims, bias);
    }
    if (!st_writer_save(w, scratch_path(name), &e)) fail_msg("%s", e.text);
    st_writer_destroy(&w);
    struct st_file *f = st_open(scratch_path(name), &e);
    if (!f) fail_msg("%s", e.text);
    return f;
}

/* "mid.to_q.weight" is also called "mid.query.weight". */
static bool toy_place(const void *ctx, const char *path, int attempt, struct nn_place *out) {
    if (attempt == 0) return nn_place_set(out, "", path);
    return attempt == 1 && !strcmp(path, "mid.to_q.weight") && nn_place_set(out, "mid.", "query.weight");
}

static bool bind_toy(struct nn_params *p, const struct toy *toy, struct nn_bind_report *r, struct st_file **f,
                     struct error *e) {
    struct nn_naming naming = {toy_place, NULL};
    *f = toy_file(toy, "toy.safetensors");
    return nn_params_bind(p, *f, &naming, r, e);
}

static void test_read(void **state) {
    static const enum st_dtype dtypes[] = {ST_F32, ST_F16, ST_BF16};
    for (int d = 0; d < 3; d++) {
        struct arena *a = arena_create(NULL);
        struct error e = {0};
        struct nn_bind_report report;
        struct st_file *f;
        struct nn_params *p = declared(a);
        struct toy toy = {
            .dtype = dtypes[d], .q_name = d == 1 ? "mid.query.weight" : NULL, .q_4d = d == 2, .extra = true};
        if (!bind_toy(p, &toy, &report, &f, &e)) fail_msg("%s", e.text);
        assert_int_equal(report.n_used, 3);
        assert_int_equal(report.n_missing + report.n_misfit, 0);
        float conv[54], bias[2], q[8];
        nn_params_read_slot(p, 0, conv), nn_params_read_slot(p, 1, bias), nn_params_read_slot(p, 2, q);
        for (int tap = 0; tap < 9; tap++)
            for (int o = 0; o < 2; o++)
                for (int i = 0; i < 3; i++)
                    assert_float_equal(conv[(tap * 2 + o) * 3 + i], (o * 3 + i) * 9 + tap, 0);
        assert_float_equal(bias[1], -2, 0);
        for (int i = 0; i < 8; i++) assert_float_equal(q[i], i - 4, 0);
        st_close(&f);
        arena_destroy(&a);
    }
}

static void refuse_toy(const struct toy *toy, const char *word1, const char *word2) {
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct st_file *f;
    assert_false(bind_toy(declared(a), toy, NULL, &f, &e));
    ASSERT_SAYS(e, word1);
    ASSERT_SAYS(e, word2);
    ASSERT_SAYS(e, "toy.safetensors");
    st_close(&f);
    arena_destroy(&a);
}

static void test_bind_refusals(void **state) {
    refuse_toy(&(struct toy){.dtype = ST_F32, .skip = "conv.weight"}, "conv.weight", "[2, 3, 3, 3]");
    refuse_toy(&(struct toy){.dtype = ST_F32, .wide = true}, "[2, 5]", "[2, 4]");
    refuse_toy(&(struct toy){.dtype = ST_F32, .q_name = "mid.nothing.weight"}, "mid.to_q.weight", "[2, 4]");
}

static void test_declare(void **state) {
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct nn_params *p = declared(a);
    assert_int_equal(nn_params_declare(p, "conv.bias", (struct shape){1, 1, 1, 2}, &e), 1);
    assert_int_equal(nn_params_declare(p, "conv.bias", (struct shape){1, 1, 1, 3}, &e), -1);
    ASSERT_SAYS(e, "conv.bias");
    for (int i = 0; i < 2000; i++) /* the table grows */
        assert_int_equal(nn_params_declare(p, arena_printf(a, "layer.%d", i), (struct shape){1, 1, 1, 4}, &e),
                         3 + i);
    for (int i = 0; i < 2000; i++) assert_int_equal(nn_params_find(p, arena_printf(a, "layer.%d", i)), 3 + i);
    assert_int_equal(nn_params_find(p, "layer.2000"), -1);
    assert_int_equal(nn_params_count(p), 54 + 2 + 8 + 8000);
    nn_params_seal(p);
    assert_int_equal(nn_params_declare(p, "layer.2000", (struct shape){1, 1, 1, 4}, &e), -1);
    ASSERT_SAYS(e, "layer.2000");
    /* In a graph the same becomes the sticky error, with the label in front. */
    struct graph *g = graph_create(a, TENSOR_F32);
    struct nn_ctx c = nn_begin(g, p, NULL, "toy");
    int x = graph_io(g, "x", (struct shape){1, 4, 4, 3});
    x = nn_linear(&c, "unknown", x, 8, true, -1);
    x = nn_group_norm(&c, "later", x, 4, 1e-5f, true);
    nn_end(&c);
    assert_int_equal(x, -1);
    assert_false(graph_ok(g, &e));
    ASSERT_SAYS(e, "unknown.weight");
    assert_string_equal(g->prefix, "");
    arena_destroy(&a);
}

/* --- configurations ------------------------------------------------------------------------------------ */

static const char *write_text(const char *text) {
    return scratch_write("config.json", text, strlen(text));
}

#define UNET_HEAD                                                                                            \
    "{\"block_out_channels\": [16, 32], \"norm_num_groups\": 8, \"layers_per_block\": 1,"                    \
    "\"down_block_types\": [\"CrossAttnDownBlock2D\", \"DownBlock2D\"],"                                     \
    "\"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"], \"cross_attention_dim\": 24"

static void refuse_unet(const char *text, const char *word) {
    struct error e = {0};
    struct unet_config cfg;
    assert_false(unet_config_load(&cfg, write_text(text), &e));
    ASSERT_SAYS(e, word);
    ASSERT_SAYS(e, "config.json");
}

static void test_unet_refusals(void **state) {
    refuse_unet("{\"block_out_channels\": [16]}", "down_block_types");
    refuse_unet("{\"down_block_types\": [\"KDownBlock2D\"], \"up_block_types\": [\"UpBlock2D\"]}",
                "KDownBlock2D");
    refuse_unet("{\"down_block_types\": [\"DownBlock2D\"], \"up_block_types\": []}", "up_block_types");
    refuse_unet("{\"down_block_types\": [\"DownBlock2D\"], \"up_block_types\": [\"UpBlock2D\"]}",
                "block_out_channels");
    refuse_unet(UNET_HEAD ", \"attention_head_dim\": 3}", "attention_head_dim");
    refuse_unet(UNET_HEAD ", \"attention_head_dim\": [4, 4, 4]}", "attention_head_dim");
    refuse_unet(UNET_HEAD ", \"attention_head_dim\": \"many\"}", "attention_head_dim");
    refuse_unet(UNET_HEAD ", \"class_embed_type\": \"timestep\"}", "class_embed_type");
    refuse_unet(UNET_HEAD ", \"addition_embed_type\": \"image\"}", "addition_embed_type");
    refuse_unet(UNET_HEAD ", \"addition_embed_type\": \"text_time\"}",
                "projection_class_embeddings_input_dim");
    refuse_unet(UNET_HEAD ", \"mid_block_type\": \"UNetMidBlock2DSimpleCrossAttn\"}", "mid_block_type");
    refuse_unet(UNET_HEAD ", \"time_embedding_type\": \"fourier\"}", "time_embedding_type");
    refuse_unet(UNET_HEAD ", \"transformer_layers_per_block\": [[1], 1]}",
                "reverse_transformer_layers_per_block");
    refuse_unet(UNET_HEAD ", \"transformer_layers_per_block\": [1, 1, 1]}", "transformer_layers_per_block");
    refuse_unet(UNET_HEAD ", \"transformer_layers_per_block\": [-1, 1]}", "transformer_layers_per_block");
    refuse_unet(UNET_HEAD ", \"conv_in_kernel\": 2}", "conv_in_kernel");
    refuse_unet(UNET_HEAD ", \"act_fn\": \"mish\"}", "mish");
    refuse_unet("[1, 2]", "object");
}

static void test_unet_lists(void **state) {
    struct error e = {0};
    struct unet_config cfg;
    const char *text =
        UNET_HEAD ", \"attention_head_dim\": [2, 4], \"transformer_layers_per_block\": [[2], 3],"
                  "\"reverse_transformer_layers_per_block\": [5, [1, 4]], \"sample_size\": [12, 8]}";
    if (!unet_config_load(&cfg, write_text(text), &e)) fail_msg("%s", e.text);
    assert_int_equal(cfg.down[0].heads, 2); /* the number of heads, whatever the key is called */
    assert_int_equal(cfg.mid_stage.heads, 4);
    assert_int_equal(cfg.up[1].heads, 2);
    assert_int_equal(cfg.down[0].depth[0], 2);
    assert_int_equal(cfg.mid_stage.depth[0], 3);
    assert_int_equal(cfg.up[1].depth[0], 1);
    assert_int_equal(cfg.up[1].depth[1], 4);
    assert_int_equal(cfg.up[1].layers, 2);
    assert_int_equal(cfg.time_dim, 64);
    assert_int_equal(cfg.sample_h, 12);
    assert_int_equal(cfg.sample_w, 8);
    assert_int_equal(cfg.mid, UNET_MID_CROSS);
    if (!unet_config_load(&cfg, write_text(UNET_HEAD ", \"mid_block_type\": null}"), &e))
        fail_msg("%s", e.text);
    assert_int_equal(cfg.mid, UNET_MID_NONE);
}

static void test_unet_inputs(void **state) {
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    struct unet_config cfg;
    if (!unet_config_load(&cfg, write_text(UNET_HEAD "}"), &e)) fail_msg("%s", e.text);
    struct nn_params *p = nn_params_create(a, "unet", TENSOR_F32, false, 0);
    if (!unet_declare(p, &cfg, NULL, &e)) fail_msg("%s", e.text);
    nn_params_seal(p);
    struct graph *g = graph_create(a, TENSOR_F32);
    struct nn_ctx c = nn_begin(g, p, NULL, "unet");
    struct unet_inputs in = {.sample = graph_io(g, "x", (struct shape){1, 4, 4, 4}),
                             .timestep = graph_io(g, "t", (struct shape){1, 1, 1, 1}),
                             .context = graph_io(g, "c", (struct shape){1, 1, 7, 32}), /* 24 is right */
                             .added = -1,
                             .time_cond = -1};
    assert_int_equal(unet_build(&c, &cfg, &in), -1);
    assert_false(graph_ok(g, &e));
    ASSERT_SAYS(e, "24");
    arena_destroy(&a);
}

/* Odd sizes are rounded up where the downsampler pads, and down where it does not. */
static void test_level_sizes(void **state) {
    static const struct {
        int padding, level, w, h;
    } rows[] = {{1, 0, 9, 7}, {1, 1, 5, 4}, {1, 2, 3, 2}, {1, 3, 2, 1}, {0, 1, 4, 3}, {0, 2, 2, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int w = 9, h = 7;
        unet_level_size(&(struct unet_config){.downsample_padding = rows[i].padding}, rows[i].level, &w, &h);
        assert_true(w == rows[i].w && h == rows[i].h);
    }
}

static void test_added(void **state) {
    struct error e = {0};
    struct unet_config cfg = {.added_dim = 1280 + 6 * 256, .added_time_id_dim = 256, .flip_sin_to_cos = true};
    static float pooled[1280], dst[1280 + 6 * 256];
    const float ids[] = {1024, 1024, 0, 0, 1024, 1024};
    pooled[1279] = 7;
    assert_true(unet_added_fill(&cfg, pooled, 1280, ids, 6, dst, &e));
    assert_float_equal(dst[1279], 7, 0);
    assert_float_equal(dst[1280], 0.98735f, 1e-4);        /* cos 1024 */
    assert_float_equal(dst[1280 + 128], -0.15853f, 1e-4); /* sin 1024 */
    assert_float_equal(dst[1280 + 512], 1, 0);            /* cos 0 */
    struct unet_config shifted = {.added_dim = 4, .added_time_id_dim = 4, .freq_shift = 1};
    assert_true(unet_added_fill(&shifted, pooled, 0, (float[]){3000}, 1, dst, &e)); /* frequencies 1 and 1/10000; sines first */
    assert_float_equal(dst[1], 0.2955202, 1e-6);                                    /* sin 0.3 */
    assert_float_equal(dst[3], 0.9553365, 1e-6);                                    /* cos 0.3 */
    unet_guidance_fill(8.5f, 4, dst); /* of 1000 (cfg - 1) = 7500, at frequencies 1 and 1/10000 */
    assert_float_equal(dst[1], 0.6816388, 1e-6); /* sin 0.75 */
    assert_float_equal(dst[3], 0.7316889, 1e-6); /* cos 0.75 */
    assert_false(unet_added_fill(&cfg, pooled, 1280, ids, 5, dst, &e));
    ASSERT_SAYS(e, "2816");
}

/* Sizes that no device could hold end in a sentence, not in an allocation. */
static void test_unet_huge(void **state) {
    static const char *const texts[] = {
        "{\"block_out_channels\": [65536, 65536], \"down_block_types\": [\"DownBlock2D\", \"DownBlock2D\"],"
        "\"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\"]}",
        "{\"block_out_channels\": [4096], \"layers_per_block\": 8, \"transformer_layers_per_block\": 64,"
        "\"down_block_types\": [\"CrossAttnDownBlock2D\"], \"up_block_types\": [\"CrossAttnUpBlock2D\"]}"};
    for (int i = 0; i < 2; i++) {
        struct error e = {0};
        struct arena *a = arena_create(NULL);
        struct unet_config cfg;
        if (!unet_config_load(&cfg, write_text(texts[i]), &e)) fail_msg("%s", e.text);
        assert_false(unet_declare(nn_params_create(a, "unet", TENSOR_F32, false, 0), &cfg, NULL, &e));
        ASSERT_SAYS(e, "MiB");
        arena_destroy(&a);
    }
}

static void refuse_vae(const char *text, const char *word) {
    struct error e = {0};
    struct vae_config cfg;
    assert_false(vae_config_load(&cfg, write_text(text), &e));
    ASSERT_SAYS(e, word);
}

static void test_vae_refusals(void **state) {
    refuse_vae("{}", "block_out_channels");
    refuse_vae("{\"block_out_channels\": [32], \"down_block_types\": [\"AttnDownEncoderBlock2D\"],"
               "\"up_block_types\": [\"UpDecoderBlock2D\"]}",
               "AttnDownEncoderBlock2D");
    refuse_vae("{\"block_out_channels\": [33], \"down_block_types\": [\"DownEncoderBlock2D\"],"
               "\"up_block_types\": [\"UpDecoderBlock2D\"]}",
               "norm_num_groups");
    refuse_vae("{\"block_out_channels\": [32], \"scaling_factor\": 0}", "scaling_factor");
    refuse_vae("{\"block_out_channels\": [32], \"latents_mean\": [0.1]}", "latents_mean");
}

static void refuse_clip(const char *text, const char *word) {
    struct error e = {0};
    struct clip_config cfg;
    assert_false(clip_config_load(&cfg, write_text(text), &e));
    ASSERT_SAYS(e, word);
}

static void test_clip_refusals(void **state) {
    refuse_clip("{\"num_hidden_layers\": 2}", "hidden_size");
    refuse_clip("{\"hidden_size\": 32, \"num_hidden_layers\": 2, \"num_attention_heads\": 5}",
                "num_attention_heads");
    refuse_clip("{\"hidden_size\": 32, \"num_hidden_layers\": 2, \"hidden_act\": \"relu\"}", "relu");
    refuse_clip("{\"hidden_size\": 32, \"num_hidden_layers\": 2, \"architectures\": [\"T5EncoderModel\"]}",
                "T5EncoderModel");
}

static void test_clip_skip(void **state) {
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    struct clip_config cfg;
    const char *text = "{\"hidden_size\": 16, \"intermediate_size\": 32, \"num_hidden_layers\": 3,"
                       "\"num_attention_heads\": 2, \"vocab_size\": 50}";
    if (!clip_config_load(&cfg, write_text(text), &e)) fail_msg("%s", e.text);
    struct nn_params *p = nn_params_create(a, "text", TENSOR_F32, false, 0);
    if (!clip_declare(p, &cfg, NULL, &e)) fail_msg("%s", e.text);
    nn_params_seal(p);
    int nodes[3];
    for (int skip = 0; skip < 4; skip++) {
        struct graph *g = graph_create(a, TENSOR_F32);
        struct nn_ctx c = nn_begin(g, p, NULL, "");
        struct clip_inputs in = {.ids = graph_io(g, "ids", (struct shape){1, 1, 77, 1}), .eos = -1};
        struct clip_outputs out;
        bool ok = clip_build(&c, &cfg, &in, &(struct clip_params){.skip = skip}, &out);
        assert_int_equal(ok, skip < 3);
        if (skip < 3) nodes[skip] = g->n_nodes; /* what is skipped is not built */
    }
    assert_true(nodes[0] > nodes[1] && nodes[1] > nodes[2]);
    assert_int_equal(nodes[0] - nodes[1], nodes[1] - nodes[2]);
    arena_destroy(&a);
}

/* Damaged configurations never crash; what still loads must build or say why not. */
static void fuzz(const char *file, void (*declare)(const char *path)) {
    struct os_map map;
    struct error e = {0};
    struct arena *a = arena_create(NULL);
    if (!os_file_map(&map, golden_path(a, file), &e)) fail_msg("%s", e.text);
    char *text = arena_alloc(a, map.bytes);
    static const char bytes[] = "0123456789-.,[]{}\"nulltrue ";
    struct rng rng;
    rng_seed(&rng, 11);
    for (int round = 0; round < 100; round++) {
        memcpy(text, map.data, map.bytes);
        for (uint32_t n = 1 + rng_randint(&rng, 3); n > 0; n--)
            text[rng_randint(&rng, (uint32_t)map.bytes)] = bytes[rng_randint(&rng, sizeof bytes - 1)];
        declare(scratch_write("config.json", text, map.bytes));
    }
    os_file_unmap(&map);
    arena_destroy(&a);
}

static void declare_unet(const char *path) {
    struct error e = {0};
    struct unet_config cfg;
    struct arena *a = arena_create(NULL);
    bool ok = unet_config_load(&cfg, path, &e) &&
              unet_declare(nn_params_create(a, "unet", TENSOR_F32, false, 0), &cfg, NULL, &e);
    assert_true(ok || e.text[0]);
    arena_destroy(&a);
}

static void declare_vae(const char *path) {
    struct error e = {0};
    struct vae_config cfg;
    struct arena *a = arena_create(NULL);
    bool ok = vae_config_load(&cfg, path, &e) &&
              vae_declare(nn_params_create(a, "vae", TENSOR_F32, false, 0), &cfg, &e);
    assert_true(ok || e.text[0]);
    arena_destroy(&a);
}

static void declare_clip(const char *path) {
    struct error e = {0};
    struct clip_config cfg;
    struct arena *a = arena_create(NULL);
    bool ok = clip_config_load(&cfg, path, &e) &&
              clip_declare(nn_params_create(a, "text", TENSOR_F32, false, 0), &cfg, NULL, &e);
    assert_true(ok || e.text[0]);
    arena_destroy(&a);
}

static void test_damaged(void **state) {
    fuzz("mini-odd/unet/config.json", declare_unet);
    fuzz("xl-parts/unet/config.json", declare_unet);
    fuzz("mini-odd/vae/config.json", declare_vae);
    fuzz("mini-odd/text_encoder/config.json", declare_clip);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),         cmocka_unit_test(test_bind_refusals),
        cmocka_unit_test(test_declare),      cmocka_unit_test(test_unet_refusals),
        cmocka_unit_test(test_unet_lists),   cmocka_unit_test(test_unet_inputs),
        cmocka_unit_test(test_added),        cmocka_unit_test(test_unet_huge),
        cmocka_unit_test(test_vae_refusals), cmocka_unit_test(test_clip_refusals),
        cmocka_unit_test(test_clip_skip),    cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_level_sizes),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
