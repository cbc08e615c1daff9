/* Adapter files: names in every spelling, reading, the report, writing. */
#include "tests/support/cm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/os.h"
#include "base/rng.h"
#include "lora/file.h"
#include "lora/save.h"
#include "textenc/clip_build.h"
#include "unet/build.h"

static char folder[] = "/tmp/atelier-lora-XXXXXX";

static const char *temp(struct arena *a, const char *name) { return arena_printf(a, "%s/%s", folder, name); }

/* ---- Models ---- */

struct model {
    struct arena *arena;
    struct nn_target_list unet, text;
    struct lora_model parts;
    struct lora_keys *keys;
};

static struct model model_open(const char *unet_config, const char *text_config) {
    struct error e = {0};
    struct model m = {.arena = arena_create(NULL)};
    m.unet.arena = m.text.arena = m.arena;
    struct unet_config unet;
    struct nn_params *params = nn_params_create(m.arena, "unet", TENSOR_F32, false, 0);
    if (!unet_config_load(&unet, arena_printf(m.arena, "%s/tests/data/%s", ATELIER_SOURCE_DIR, unet_config), &e) ||
        !unet_declare(params, &unet, &m.unet, &e))
        fail_msg("%s", e.text);
    if (text_config) {
        struct clip_config text;
        params = nn_params_create(m.arena, "text", TENSOR_F32, false, 0);
        if (!clip_config_load(&text, arena_printf(m.arena, "%s/tests/data/%s", ATELIER_SOURCE_DIR, text_config), &e) ||
            !clip_declare(params, &text, &m.text, &e))
            fail_msg("%s", e.text);
    }
    m.parts.targets[LORA_UNET] = &m.unet;
    m.parts.targets[LORA_TEXT] = text_config ? &m.text : NULL;
    return m;
}

static struct model *model_ready(struct model *m) { /* once its address is final */
    m->parts.targets[LORA_UNET] = &m->unet;
    if (m->parts.targets[LORA_TEXT]) m->parts.targets[LORA_TEXT] = &m->text;
    m->keys = lora_keys_create(&m->parts);
    return m;
}

static void model_close(struct model *m) {
    lora_keys_destroy(&m->keys);
    assert_null(m->keys);
    arena_destroy(&m->arena);
}

static void mini(struct model *m, const char *name) {
    char unet[128], text[128];
    snprintf(unet, sizeof unet, "%s/unet/config.json", name);
    snprintf(text, sizeof text, "%s/text_encoder/config.json", name);
    *m = model_open(unet, text);
    model_ready(m);
}

static void expect_place(const struct model *m, const char *name, const char *path) {
    struct lora_place place;
    if (!lora_keys_find(m->keys, name, &place)) fail_msg("%s is not found", name);
    assert_string_equal(place.target->path, path);
}

/* ---- Names ---- */

static void test_names(void **state) {
    struct model m;
    mini(&m, "mini-sd1");
    static const char attn[] = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    expect_place(&m, "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", attn);
    expect_place(&m, "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", attn);
    expect_place(&m, "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", attn);
    expect_place(&m, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", attn);
    expect_place(&m, "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q", attn);
    static const char *const text[] = {"lora_te_text_model_encoder_layers_0_mlp_fc1",
                                       "lora_te1_text_model_encoder_layers_0_mlp_fc1",
                                       "lora_te_encoder_layers_0_mlp_fc1",
                                       "text_encoder.text_model.encoder.layers.0.mlp.fc1"};
    for (int i = 0; i < 4; i++) expect_place(&m, text[i], "text_model.encoder.layers.0.mlp.fc1");
    struct lora_place place;
    assert_false(lora_keys_find(m.keys, "lora_unet_down_blocks_9_attentions_0_proj_in", &place));
    assert_false(lora_keys_find(m.keys, "", &place));
    struct arena *a = arena_create(NULL);
    assert_string_equal(lora_keys_kohya(m.keys, LORA_TEXT, "text_model.a.b", a), "lora_te_text_model_a_b");
    arena_destroy(&a);
    model_close(&m);
}

/* Block numbers of the full-size models as published. */
static void test_ldm_names(void **state) {
    struct model m = model_open("configs/sdxl-unet.json", NULL);
    model_ready(&m);
    expect_place(&m, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
                 "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q");
    expect_place(&m, "lora_unet_middle_block_1_proj_in", "mid_block.attentions.0.proj_in");
    expect_place(&m, "lora_unet_middle_block_2_in_layers_2", "mid_block.resnets.1.conv1");
    expect_place(&m, "lora_unet_output_blocks_0_1_transformer_blocks_9_attn2_to_k",
                 "up_blocks.0.attentions.0.transformer_blocks.9.attn2.to_k");
    expect_place(&m, "lora_unet_output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv");
    expect_place(&m, "lora_unet_output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv");
    expect_place(&m, "lora_unet_input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv");
    expect_place(&m, "lora_unet_label_emb_0_2", "add_embedding.linear_2");
    model_close(&m);
    m = model_open("configs/sd1-unet.json", NULL);
    model_ready(&m);
    expect_place(&m, "lora_unet_input_blocks_8_1_proj_out", "down_blocks.2.attentions.1.proj_out");
    expect_place(&m, "lora_unet_output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv");
    expect_place(&m, "lora_unet_output_blocks_11_1_proj_in", "up_blocks.3.attentions.2.proj_in");
    expect_place(&m, "lora_unet_output_blocks_11_0_skip_connection", "up_blocks.3.resnets.2.conv_shortcut");
    model_close(&m);
}

/* ---- Reading ---- */

static void test_reference_files(void **state) {
    static const char *const names[][2] = {{"mini-sd1", "mini-sd1.lora"},
                                           {"mini-sd1", "mini-sd1.lora-te"},
                                           {"mini-sd2", "mini-sd2.lora"},
                                           {"mini-xl", "mini-xl.lora"},
                                           {"mini-odd", "mini-odd.lora"}};
    for (int i = 0; i < 5; i++) {
        struct error e = {0};
        struct model m;
        mini(&m, names[i][0]);
        struct lora_file *f = lora_file_open(
            arena_printf(m.arena, "%s/tests/data/%s.safetensors", ATELIER_SOURCE_DIR, names[i][1]), m.keys, &e);
        if (!f) fail_msg("%s", e.text);
        if (f->n_by_status[LORA_MATCHED] != f->n_modules || f->n_foreign)
            fail_msg("%s: %s", names[i][1], lora_file_report(f, m.arena));
        assert_true(f->n_modules >= 32);
        assert_int_equal(f->n_rank_min, 4);
        assert_int_equal(f->n_rank_max, 4);
        assert_string_equal(f->dialect, "kohya");
        assert_true(f->modules[0].scale == 0.5f);
        assert_true(lora_file_require_match(f, m.keys, &e));
        lora_file_close(&f);
        model_close(&m);
    }
}

/* A file put together by hand: tensors of ascending values. */
struct handmade {
    struct arena *arena;
    struct st_writer *w;
    const char *path;
};

static struct handmade handmade_begin(void) {
    struct handmade h = {.arena = arena_create(NULL), .w = st_writer_create()};
    h.path = temp(h.arena, "handmade.safetensors");
    return h;
}

static void put(struct handmade *h, const char *name, int rank, const int64_t *dims) {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    float *v = arena_alloc_n(h->arena, (size_t)n + 1, sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = 0.01f * (float)(i % 97) + 0.1f;
    st_writer_add_f32(h->w, name, ST_F32, rank, dims, v);
}
#define PUT(h, name, ...)                                                                    \
    put(h, name, (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
        (const int64_t[]){__VA_ARGS__})

static struct lora_file *handmade_open(struct handmade *h, const struct lora_keys *keys) {
    struct error e = {0};
    if (!st_writer_save(h->w, h->path, &e)) fail_msg("%s", e.text);
    struct lora_file *f = lora_file_open(h->path, keys, &e);
    if (!f) fail_msg("%s", e.text);
    return f;
}

static void handmade_end(struct handmade *h, struct lora_file **f) {
    lora_file_close(f);
    assert_null(*f);
    st_writer_destroy(&h->w);
    unlink(h->path);
    arena_destroy(&h->arena);
}

static void test_dialects(void **state) {
    static const struct { const char *down, *up, *path; } rows[] = {
        {"unet.Q.lora_A.weight", "unet.Q.lora_B.weight", "to_q"},
        {"base_model.model.Q.lora_A.weight", "base_model.model.Q.lora_B.weight", "to_q"},
        {"unet.Q.lora_A.default.weight", "unet.Q.lora_B.default.weight", "to_q"},
        {"unet.unet.Q.lora.down.weight", "unet.unet.Q.lora.up.weight", "to_q"},
        {"P.attn1.processor.to_q_lora.down.weight", "P.attn1.processor.to_q_lora.up.weight", "to_q"},
        {"unet.P.attn1.processor.to_out_lora.down.weight", "unet.P.attn1.processor.to_out_lora.up.weight", "to_out.0"},
        {"text_encoder.T.self_attn.q_proj.lora_linear_layer.down.weight",
         "text_encoder.T.self_attn.q_proj.lora_linear_layer.up.weight", "q_proj"},
        {"text_encoder.T.self_attn.to_out_lora.down.weight", "text_encoder.T.self_attn.to_out_lora.up.weight",
         "out_proj"},
        {"T.mlp.fc1.lora_A.weight", "T.mlp.fc1.lora_B.weight", "fc1"},
    };
    struct model m;
    mini(&m, "mini-sd1");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct handmade h = handmade_begin();
        const char *names[] = {rows[i].down, rows[i].up};
        static const char block[] = "down_blocks.0.attentions.0.transformer_blocks.0", layer[] = "text_model.encoder.layers.0";
        char full[2][256];
        for (int k = 0; k < 2; k++) {
            const char *hit = strpbrk(names[k], "QPT"), *with = *hit == 'T' ? layer : block;
            snprintf(full[k], sizeof full[k], "%.*s%s%s%s", (int)(hit - names[k]), names[k], with,
                     *hit == 'Q' ? ".attn1.to_q" : "", hit + 1);
        }
        const char *prefix = strstr(full[0], layer) ? layer : block;
        char path[256];
        snprintf(path, sizeof path, "%s.%s%s", prefix,
                 prefix == block ? "attn1." : strncmp(rows[i].path, "fc", 2) ? "self_attn." : "mlp.", rows[i].path);
        const struct nn_target *t = nn_target_find(prefix == layer ? &m.text : &m.unet, path);
        assert_non_null(t);
        PUT(&h, full[0], 2, t->weight.c);
        PUT(&h, full[1], t->weight.w, 2);
        struct lora_file *f = handmade_open(&h, m.keys);
        if (f->n_modules != 1 || f->n_by_status[LORA_MATCHED] != 1 || f->n_foreign)
            fail_msg("%s: %s", full[0], lora_file_report(f, h.arena));
        assert_ptr_equal(f->modules[0].target, t);
        assert_true(f->modules[0].alpha == 2 && f->modules[0].scale == 1); /* no alpha: the rank */
        handmade_end(&h, &f);
    }
    model_close(&m);
}

static const struct lora_module *module_named(const struct lora_file *f, const char *end) {
    for (int i = 0; i < f->n_modules; i++)
        if (strstr(f->modules[i].name, end)) return &f->modules[i];
    fail_msg("no module %s", end);
    return NULL;
}

#define U "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
static void test_statuses(void **state) {
    struct model m;
    mini(&m, "mini-sd1");
    struct handmade h = handmade_begin();
    int64_t c = nn_target_find(&m.unet, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")->weight.c;
    PUT(&h, U "attn1_to_q.lora_down.weight", 4, c);
    PUT(&h, U "attn1_to_q.lora_up.weight", c, 4);
    PUT(&h, U "attn1_to_k.lora_down.weight", 4, c);       /* no up */
    PUT(&h, U "attn1_to_v.lora_down.weight", 4, c + 1);   /* another width */
    PUT(&h, U "attn1_to_v.lora_up.weight", c, 4);
    PUT(&h, U "attn1_to_out_0.lora_down.weight", 4, c);   /* ranks differ */
    PUT(&h, U "attn1_to_out_0.lora_up.weight", c, 3);
    PUT(&h, U "attn2_to_q.lora_down.weight", 4, c);       /* two alphas */
    PUT(&h, U "attn2_to_q.lora_up.weight", c, 4);
    PUT(&h, U "attn2_to_q.alpha", 2);
    PUT(&h, U "attn2_to_out_0.hada_w1_a", c, 4);
    PUT(&h, U "ff_net_0_proj.alpha", 1);                  /* nothing else */
    PUT(&h, "lora_unet_elsewhere.lora_down.weight", 4, 8);
    PUT(&h, "lora_unet_elsewhere.lora_up.weight", 8, 4);
    PUT(&h, "lora_unet_down_blocks_0_attentions_0_proj_out.lora_down.weight", 4, c, 1, 1);
    PUT(&h, "lora_unet_down_blocks_0_attentions_0_proj_out.lora_up.weight", c, 4, 1, 1);
    PUT(&h, "unet.down_blocks.0.attentions.0.proj_out.lora_A.weight", 4, c);
    PUT(&h, "unet.down_blocks.0.attentions.0.proj_out.lora_B.weight", c, 4);
    PUT(&h, U "ff_net_2.lora_down.weight", 4, 0);
    PUT(&h, U "ff_net_2.lora_up.weight", c, 4);
    PUT(&h, U "attn2_to_v.lora_down.weight", 4);
    PUT(&h, U "attn2_to_v.lora_up.weight", c, 4);
    PUT(&h, U "attn2_to_k.lora_down.weight", 4, c);
    PUT(&h, U "attn2_to_k.lora_up.weight", c, 4);
    PUT(&h, U "attn2_to_k.dora_scale", c + 1, 1);
    PUT(&h, "something.else", 3);
    struct lora_file *f = handmade_open(&h, m.keys);
    static const struct { const char *name; enum lora_status status; } want[] = {
        {"attn1_to_q", LORA_MATCHED},       {"attn1_to_k", LORA_INCOMPLETE},     {"attn1_to_v", LORA_MISSHAPED},
        {"attn1_to_out_0", LORA_MISSHAPED}, {"attn2_to_q", LORA_INCOMPLETE},     {"attn2_to_out_0", LORA_INCOMPLETE},
        {"ff_net_0_proj", LORA_INCOMPLETE}, {"elsewhere", LORA_UNMATCHED},       {"0_proj_out", LORA_INCOMPLETE},
        {"0.proj_out", LORA_INCOMPLETE},    {"ff_net_2", LORA_MISSHAPED},        {"attn2_to_v", LORA_MISSHAPED},
        {"attn2_to_k", LORA_MISSHAPED},
    };
    assert_int_equal(f->n_modules, sizeof want / sizeof *want);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const struct lora_module *module = module_named(f, want[i].name);
        if (module->status != want[i].status)
            fail_msg("%s is %s (%s)", module->name, lora_status_name(module->status), module->why ? module->why : "");
        if (module->status != LORA_MATCHED) assert_non_null(module->why);
    }
    assert_int_equal(f->n_foreign, 1);
    char *report = lora_file_report(f, h.arena);
    static const char *const words[] = {"1 of 13 modules", "5 misshaped", "elsewhere", "its w1_b", "something.else"};
    for (int i = 0; i < 5; i++)
        if (!strstr(report, words[i])) fail_msg("'%s' does not say '%s'", report, words[i]);
    handmade_end(&h, &f);
    model_close(&m);
}

static void test_nothing_matches(void **state) {
    struct model sd1;
    mini(&sd1, "mini-sd1");
    struct handmade h = handmade_begin();
    PUT(&h, "lora_unet_input_blocks_4_1_transformer_blocks_7_attn2_to_k.lora_down.weight", 4, 2048);
    PUT(&h, "lora_unet_input_blocks_4_1_transformer_blocks_7_attn2_to_k.lora_up.weight", 640, 4);
    struct lora_file *f = handmade_open(&h, sd1.keys);
    struct error e = {0};
    assert_false(lora_file_require_match(f, sd1.keys, &e));
    static const char *const words[] = {"was made for SDXL", "width 2048", "and this is a model with text of width 32"};
    for (int i = 0; i < 3; i++)
        if (!strstr(e.text, words[i])) fail_msg("'%s' does not say '%s'", e.text, words[i]);
    lora_file_close(&f);
    f = lora_file_open(h.path, NULL, &e); /* without a model it is only described */
    assert_non_null(f);
    assert_int_equal(f->modules[0].rank, 4);
    assert_int_equal(f->n_by_status[LORA_UNMATCHED], 1);
    handmade_end(&h, &f);
    h = handmade_begin();
    PUT(&h, "down_blocks.0.resnets.0.conv1.weight", 4, 4, 3, 3);
    assert_true(st_writer_save(h.w, h.path, &e));
    assert_null(lora_file_open(h.path, sd1.keys, &e));
    assert_non_null(strstr(e.text, "no adapter"));
    assert_null(lora_file_open(temp(h.arena, "absent.safetensors"), sd1.keys, &e));
    f = NULL;
    handmade_end(&h, &f);
    model_close(&sd1);
}

/* mid is folded: checked against the double sum over both ranks. */
static void test_tucker(void **state) {
    struct model m;
    mini(&m, "mini-sd1");
    const struct nn_target *t = nn_target_find(&m.unet, "down_blocks.0.resnets.0.conv1");
    assert_non_null(t);
    int in = t->weight.c, out = t->weight.w;
    struct handmade h = handmade_begin();
    PUT(&h, "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight", 2, in, 1, 1);
    PUT(&h, "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight", out, 2, 1, 1);
    PUT(&h, "lora_unet_down_blocks_0_resnets_0_conv1.lora_mid.weight", 2, 2, 3, 3);
    struct lora_file *f = handmade_open(&h, m.keys);
    if (f->n_by_status[LORA_MATCHED] != 1) fail_msg("%s", lora_file_report(f, h.arena));
    float *down = arena_alloc_n(h.arena, (size_t)(9 * 2 * in), sizeof *down);
    float *up = arena_alloc_n(h.arena, (size_t)(out * 2), sizeof *up);
    struct error e;
    assert_true(lora_module_read(&f->modules[0], down, up, &e));
    const float *raw_down = f->modules[0].tensors[0]->data, *mid = f->modules[0].tensors[2]->data;
    for (int tap = 0; tap < 9; tap++)
        for (int p = 0; p < 2; p++)
            for (int i = 0; i < in; i++) {
                double want = 0;
                for (int q = 0; q < 2; q++) want += (double)mid[(p * 2 + q) * 9 + tap] * raw_down[q * in + i];
                assert_float_equal(down[(tap * 2 + p) * in + i], want, 1e-6);
            }
    handmade_end(&h, &f);
    model_close(&m);
}

static void test_peft_settings(void **state) {
    struct model m;
    mini(&m, "mini-sd1");
    static const char path[] = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.";
    int64_t c = nn_target_find(&m.unet, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")->weight.c;
    static const char settings[] = "{\"unet.r\": 4, \"unet.lora_alpha\": 6, \"unet.use_rslora\": true,"
                                   "\"unet.alpha_pattern\": {\"attn1.to_k\": 3}}";
    struct handmade h = handmade_begin();
    static const char *const names[] = {"to_q", "to_k", "to_v"};
    for (int i = 0; i < 3; i++) {
        PUT(&h, arena_printf(h.arena, "%s%s.lora_A.weight", path, names[i]), 4, c);
        PUT(&h, arena_printf(h.arena, "%s%s.lora_B.weight", path, names[i]), c, 4);
    }
    st_writer_meta(h.w, "lora_adapter_metadata", settings);
    struct lora_file *f = handmade_open(&h, m.keys);
    assert_string_equal(f->dialect, "peft");
    assert_float_equal(module_named(f, "to_q")->scale, 6 / sqrt(4), 1e-6);
    assert_float_equal(module_named(f, "to_k")->scale, 3 / sqrt(4), 1e-6);
    handmade_end(&h, &f);
    model_close(&m);
}

/* ---- Writing ---- */

static bool adaptable(const struct nn_target *t) {
    return strstr(t->path, "to_") || strstr(t->path, "conv") || strstr(t->path, "ff.") || strstr(t->path, "fc1");
}

/* What is written comes back bit for bit, and writing that again gives the same file. */
static void test_round_trip(void **state) {
    struct model m;
    mini(&m, "mini-xl");
    struct error e = {0};
    struct rng rng;
    rng_seed(&rng, 11);
    struct lora_save_module *modules = arena_alloc_n(m.arena, (size_t)(m.unet.n + m.text.n), sizeof *modules);
    int n = 0;
    for (int part = 0; part < 2; part++)
        for (int i = 0; i < m.parts.targets[part]->n; i++) {
            const struct nn_target *t = &m.parts.targets[part]->items[i];
            if (!adaptable(t)) continue;
            size_t n_down = (size_t)t->weight.n * 3 * (size_t)t->weight.c, n_up = (size_t)t->weight.w * 3;
            float *down = arena_alloc_n(m.arena, n_down, sizeof *down), *up = arena_alloc_n(m.arena, n_up, sizeof *up);
            rng_randn(&rng, down, n_down);
            rng_randn(&rng, up, n_up);
            modules[n++] = (struct lora_save_module){{(enum lora_part)part, t}, 3, 1.5f, down, up};
        }
    assert_true(n > 50);
    const struct lora_save_meta meta[] = {{"ss_output_name", "test"}, {"modelspec.title", "Test"}};
    struct lora_save_params p = {modules, n, ST_F32, meta, 2};
    const char *path = temp(m.arena, "round.safetensors"), *again = temp(m.arena, "again.safetensors");
    if (!lora_save(path, m.keys, &p, &e)) fail_msg("%s", e.text);
    struct lora_file *f = lora_file_open(path, m.keys, &e);
    assert_non_null(f);
    assert_int_equal(f->n_by_status[LORA_MATCHED], n);
    assert_string_equal(st_meta_find(f->file, "ss_network_dim"), "3");
    assert_string_equal(st_meta_find(f->file, "ss_network_alpha"), "1.5");
    assert_string_equal(st_meta_find(f->file, "modelspec.title"), "Test");
    char hash[65];
    st_data_sha256(f->file, hash);
    assert_int_equal(strlen(st_meta_find(f->file, "sshs_model_hash")), 64);
    for (int i = 0; i < n; i++) {
        const struct lora_module *got = NULL;
        for (int j = 0; j < f->n_modules; j++)
            if (f->modules[j].target == modules[i].place.target) got = &f->modules[j];
        assert_non_null(got);
        assert_true(got->scale == 0.5f);
        const struct shape w = got->target->weight;
        size_t n_down = (size_t)w.n * 3 * (size_t)w.c, n_up = (size_t)w.w * 3;
        float *down = arena_alloc_n(m.arena, n_down, sizeof *down), *up = arena_alloc_n(m.arena, n_up, sizeof *up);
        if (!lora_module_read(got, down, up, &e)) fail_msg("%s", e.text);
        assert_memory_equal(down, modules[i].down, n_down * sizeof *down);
        assert_memory_equal(up, modules[i].up, n_up * sizeof *up);
    }
    lora_file_close(&f);
    assert_true(lora_save(again, m.keys, &p, &e));
    struct os_map a, b;
    assert_true(os_file_map(&a, path, &e) && os_file_map(&b, again, &e));
    assert_int_equal(a.bytes, b.bytes);
    assert_memory_equal(a.data, b.data, a.bytes);
    os_file_unmap(&a);
    os_file_unmap(&b);
    unlink(path);
    unlink(again);
    assert_false(lora_save(temp(m.arena, "no/such/folder.safetensors"), m.keys, &p, &e));
    model_close(&m);
}

static int make_folder(void **state) { return mkdtemp(folder) ? 0 : 1; }
static int remove_folder(void **state) { return rmdir(folder); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),           cmocka_unit_test(test_ldm_names),
        cmocka_unit_test(test_reference_files), cmocka_unit_test(test_dialects),
        cmocka_unit_test(test_statuses),        cmocka_unit_test(test_nothing_matches),
        cmocka_unit_test(test_tucker),          cmocka_unit_test(test_peft_settings),
        cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
