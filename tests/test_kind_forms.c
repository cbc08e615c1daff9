/* What the files of make_kinds.py do not have: other forms of a kind against plain arithmetic or against each other,
 * modules that change only a bias, and tensors of every wrong shape. */
#include "tests/support/cm.h"
#include "tests/support/mini_unet.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "lora/delta.h"

#define TO_Q "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
#define CONV "down_blocks.2.resnets.0.conv1"
#define NORM "down_blocks.0.resnets.0.norm1"

/* A file written tensor by tensor, and its first module's change. */
struct bench {
    struct mini_unet m;
    struct lora_keys *keys;
    struct rng rng;
    struct st_writer *w;
    struct lora_file *f;
};

static void begin(struct bench *b) {
    mini_unet_open(&b->m, "mini-sd1", TENSOR_F32);
    struct lora_model model = {{&b->m.targets}};
    b->keys = lora_keys_create(&model);
    rng_seed(&b->rng, 3);
    b->w = NULL, b->f = NULL;
}

static void file_close(struct bench *b) {
    lora_file_close(&b->f);
    st_writer_destroy(&b->w);
}

static void end(struct bench *b) {
    file_close(b);
    lora_keys_destroy(&b->keys);
    mini_unet_close(&b->m);
}

static float *random_numbers(struct bench *b, size_t n) {
    float *v = arena_alloc_n(b->m.arena, n + 1, sizeof *v);
    rng_randn(&b->rng, v, n);
    for (size_t i = 0; i < n; i++) v[i] *= 0.1f;
    return v;
}

static void put(struct bench *b, const char *path, const char *ending, const float *v, int rank, const int64_t *dims) {
    if (!b->w) b->w = st_writer_create();
    st_writer_add_f32(b->w, arena_printf(b->m.arena, "unet.%s%s", path, ending), ST_F32, rank, dims, v);
}
#define DIMS(...) (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}

static struct lora_file *file_open(struct bench *b) {
    struct error e = {0};
    if (!st_writer_save(b->w, scratch_path("kind.safetensors"), &e)) fail_msg("%s", e.text);
    if (!(b->f = lora_file_open(scratch_path("kind.safetensors"), b->keys, &e))) fail_msg("%s", e.text);
    return b->f;
}

/* The change that the file's first module makes; the file is closed. */
static float *change(struct bench *b) {
    struct error e = {0};
    const struct lora_module *m = &file_open(b)->modules[0];
    if (m->status != LORA_MATCHED) fail_msg("%s is %s: %s", m->name, lora_status_name(m->status), m->why);
    float *dw = arena_alloc_n(b->m.arena, (size_t)shape_elems(m->target->weight), sizeof *dw);
    if (!lora_module_delta(m, b->m.params, dw, NULL, &e)) fail_msg("%s", e.text);
    file_close(b);
    return dw;
}

static float *base_rows(struct bench *b, const char *name) {
    int slot = nn_params_find(b->m.params, name);
    float *rows = arena_alloc_n(b->m.arena, (size_t)shape_elems(b->m.params->set->slots[slot].shape), sizeof *rows);
    nn_params_read_slot(b->m.params, slot, rows);
    return rows;
}

static void same(const char *what, const float *got, const double *want, size_t n) {
    double worst = 0, peak = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs(got[i] - want[i])), peak = fmax(peak, fabs(want[i]));
    print_message("%s: %.2g of the largest\n", what, worst / peak);
    assert_true(worst <= 1e-6 * peak);
}

/* alpha/r * (W a1 a2 + b1 b2), in both orders of naming; alpha other than the rank, so that the scale must enter once. */
static void test_glora(void **state) {
    enum { C = 16, R = 3 };
    struct bench b;
    begin(&b);
    float *a1 = random_numbers(&b, C * R), *a2 = random_numbers(&b, R * C), *b1 = random_numbers(&b, C * R),
          *b2 = random_numbers(&b, R * C), alpha = 1.5f;
    float *w = base_rows(&b, TO_Q ".weight");
    double *want = arena_alloc_n(b.m.arena, C * C, sizeof *want);
    for (int o = 0; o < C; o++)
        for (int i = 0; i < C; i++)
            for (int r = 0; r < R; r++) {
                double wa = 0;
                for (int k = 0; k < C; k++) wa += (double)w[o * C + k] * a1[k * R + r];
                want[o * C + i] += 0.5 * (wa * a2[r * C + i] + (double)b1[o * R + r] * b2[r * C + i]);
            }
    for (int old = 0; old < 2; old++) {
        put(&b, TO_Q, old ? ".a2.weight" : ".a1.weight", a1, DIMS(C, R));
        put(&b, TO_Q, old ? ".a1.weight" : ".a2.weight", a2, DIMS(R, C));
        put(&b, TO_Q, old ? ".b2.weight" : ".b1.weight", b1, DIMS(C, R));
        put(&b, TO_Q, old ? ".b1.weight" : ".b2.weight", b2, DIMS(R, C));
        put(&b, TO_Q, ".alpha", &alpha, 0, NULL);
        same(old ? "GLoRA, old names" : "GLoRA", change(&b), want, C * C);
    }
    end(&b);
}

/* GLoRA's core is LoCon's, where its other half is zero. */
static void test_glora_core(void **state) {
    enum { IN = 16, OUT = 32, R = 3 };
    struct bench b;
    begin(&b);
    float *zero = arena_alloc_n(b.m.arena, IN * R, sizeof *zero), *up = random_numbers(&b, OUT * R),
          *down = random_numbers(&b, R * IN), *mid = random_numbers(&b, R * R * 9);
    put(&b, CONV, ".lora_up.weight", up, DIMS(OUT, R, 1, 1));
    put(&b, CONV, ".lora_down.weight", down, DIMS(R, IN, 1, 1));
    put(&b, CONV, ".lora_mid.weight", mid, DIMS(R, R, 3, 3));
    float *locon = change(&b);
    double *want = arena_alloc_n(b.m.arena, OUT * IN * 9, sizeof *want);
    for (int i = 0; i < OUT * IN * 9; i++) want[i] = locon[i];
    put(&b, CONV, ".a1.weight", zero, DIMS(IN, R, 1, 1));
    put(&b, CONV, ".a2.weight", zero, DIMS(R, IN, 1, 1));
    put(&b, CONV, ".b1.weight", up, DIMS(OUT, R, 1, 1));
    put(&b, CONV, ".b2.weight", down, DIMS(R, IN, 1, 1));
    put(&b, CONV, ".bm.weight", mid, DIMS(R, R, 3, 3));
    same("GLoRA's core", change(&b), want, OUT * IN * 9);
    end(&b);
}

/* Square layers: [out,1] are lengths of rows, [1,in] of columns; a zero LoRA with the weight's own lengths changes nothing. */
static void test_dora_axes(void **state) {
    enum { C = 16 };
    struct bench b;
    begin(&b);
    float *w = base_rows(&b, TO_Q ".weight"), *zero = arena_alloc_n(b.m.arena, C, sizeof *zero), *ones = random_numbers(&b, C);
    for (int rows = 0; rows < 2; rows++) {
        float lengths[C];
        for (int i = 0; i < C; i++) {
            double sum = 0;
            for (int k = 0; k < C; k++) sum += pow(w[rows ? i * C + k : k * C + i], 2);
            lengths[i] = (float)sqrt(sum) * (i == 3 ? 2 : 1); /* the fourth doubles */
        }
        put(&b, TO_Q, ".lora_down.weight", ones, DIMS(1, C));
        put(&b, TO_Q, ".lora_up.weight", zero, DIMS(C, 1));
        put(&b, TO_Q, ".dora_scale", lengths, 2, rows ? (const int64_t[]){C, 1} : (const int64_t[]){1, C});
        double want[C * C] = {0};
        for (int k = 0; k < C; k++) {
            int at = rows ? 3 * C + k : k * C + 3;
            want[at] = w[at];
        }
        same(rows ? "lengths of rows" : "lengths of columns", change(&b), want, C * C);
    }
    end(&b);
}

static void test_replacement(void **state) {
    struct bench b;
    begin(&b);
    size_t n = 32 * 16 * 9;
    float *set = random_numbers(&b, n), *w = base_rows(&b, CONV ".weight");
    double *want = arena_alloc_n(b.m.arena, n, sizeof *want);
    for (size_t o = 0; o < 32; o++)
        for (size_t i = 0; i < 16; i++)
            for (size_t t = 0; t < 9; t++) {
                size_t row = (t * 32 + o) * 16 + i;
                want[row] = (double)set[(o * 16 + i) * 9 + t] - w[row];
            }
    put(&b, CONV, ".set_weight", set, DIMS(32, 16, 3, 3));
    same("replacement", change(&b), want, n);
    end(&b);
}

/* Norms by LDM's numbers; ComfyUI calls a norm's difference diff. */
static void test_norm_names(void **state) {
    static const struct { const char *name, *path;
    } rows[] = {{"lora_unet_input_blocks_1_0_in_layers_0.w_norm", NORM},
                {"lora_unet_down_blocks_0_resnets_0_norm1.diff", NORM},
                {"lora_unet_input_blocks_1_0_out_layers_0.w_norm", "down_blocks.0.resnets.0.norm2"},
                {"lora_unet_input_blocks_1_1_transformer_blocks_0_norm3.w_norm",
                 "down_blocks.0.attentions.0.transformer_blocks.0.norm3"},
                {"diffusion_model.input_blocks.1.1.norm.diff", "down_blocks.0.attentions.0.norm"},
                {"lora_unet_out_0.w_norm", "conv_norm_out"}};
    struct bench b;
    struct error e = {0};
    begin(&b);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float *v = random_numbers(&b, 16), got[16];
        b.w = st_writer_create();
        st_writer_add_f32(b.w, rows[i].name, ST_F32, 1, (const int64_t[]){16}, v);
        const struct lora_module *m = &file_open(&b)->modules[0];
        if (m->status != LORA_MATCHED) fail_msg("%s: %s", rows[i].name, m->why);
        assert_string_equal(m->target->path, rows[i].path);
        assert_true(m->target->is_norm && lora_module_delta(m, b.m.params, got, NULL, &e));
        assert_memory_equal(got, v, sizeof got);
        file_close(&b);
    }
    end(&b);
}

/* A bias beside factors, alone, and a norm's alone; PEFT's on the up factor takes the scale along. */
static void test_biases(void **state) {
    static const struct { const char *path, *ending; int n; float scale; bool factors; } rows[] = {
        {CONV, ".diff_b", 32, 1, true}, {CONV, ".diff_b", 32, 1, false}, {NORM, ".b_norm", 16, 1, false},
        {CONV, ".lora_B.bias", 32, 0.5f, true}};
    struct bench b;
    begin(&b);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct error e = {0};
        float *bias = random_numbers(&b, (size_t)rows[i].n), got[32], alpha = 0.5f;
        bool peft = strstr(rows[i].ending, "lora_B");
        put(&b, rows[i].path, rows[i].ending, bias, DIMS(rows[i].n));
        if (rows[i].factors) {
            put(&b, CONV, peft ? ".lora_A.weight" : ".lora_down.weight", random_numbers(&b, 16 * 9), DIMS(1, 16, 3, 3));
            put(&b, CONV, peft ? ".lora_B.weight" : ".lora_up.weight", random_numbers(&b, 32), DIMS(32, 1, 1, 1));
            put(&b, CONV, ".alpha", &alpha, 0, NULL);
        }
        const struct lora_module *m = &file_open(&b)->modules[0];
        if (m->status != LORA_MATCHED) fail_msg("%s: %s", m->name, m->why);
        assert_true(lora_module_has_bias(m, b.m.params) && lora_module_has_weight(m) == rows[i].factors);
        assert_true(lora_module_is_low_rank(m) == rows[i].factors);
        assert_true(lora_module_delta(m, b.m.params, NULL, got, &e));
        for (int k = 0; k < rows[i].n; k++) assert_true(got[k] == bias[k] * rows[i].scale);
        file_close(&b);
    }
    end(&b);
}

static uint32_t draw(struct bench *b, uint32_t n) {
    float v;
    rng_rand(&b->rng, &v, 1);
    uint32_t k = (uint32_t)((double)v * n);
    return k < n ? k : n - 1;
}

/* One tensor of a sound module, perhaps with another shape, perhaps not at all. */
static void put_mutated(struct bench *b, const struct st_tensor *t) {
    static const int64_t sizes[] = {0, 1, 2, 3, 4, 8, 9, 16, 32, 36, 144};
    int64_t dims[ST_MAX_RANK] = {0};
    int rank = t->rank;
    size_t n = 1;
    memcpy(dims, t->dims, sizeof dims);
    switch (draw(b, 12)) {
    case 0: return;
    case 1: if (rank) dims[draw(b, (uint32_t)rank)] = sizes[draw(b, sizeof sizes / sizeof *sizes)]; break;
    case 2: if (rank < 5) dims[rank++] = 1 + draw(b, 2); break;
    case 3: if (rank) rank--; break;
    }
    for (int d = 0; d < rank; d++) n *= (size_t)dims[d];
    if (!b->w) b->w = st_writer_create();
    st_writer_add_f32(b->w, t->name, ST_F32, rank, dims, random_numbers(b, n));
}

/* Whatever shapes come together, what is taken gives numbers, and what is not says why. */
static void test_wrong_shapes(void **state) {
    static const char *const names[] = {"locon", "dora-rows", "dora-columns", "loha", "loha-tucker-dora", "lokr",
                                        "lokr-tucker-dora", "glora", "ia3", "oft", "boft", "full", "norm", "peft-dora",
                                        "peft-ia3", "peft-oft", "peft-boft"};
    enum { FILES = sizeof names / sizeof *names, ROUNDS = 680 };
    struct bench b;
    struct error e = {0};
    struct lora_file *sound[FILES];
    begin(&b);
    for (int i = 0; i < FILES; i++) {
        const char *form = strncmp(names[i], "peft", 4) ? "kinds/%s.safetensors" : "kinds/%s/adapter_model.safetensors";
        sound[i] = lora_file_open(eval_data_path(b.m.arena, arena_printf(b.m.arena, form, names[i])), NULL, &e);
        if (!sound[i]) fail_msg("%s", e.text);
    }
    int taken = 0, refused = 0;
    for (int round = 0; round < ROUNDS; round++) {
        const struct lora_file *from = sound[round % FILES];
        const struct lora_module *origin = &from->modules[draw(&b, (uint32_t)from->n_modules)];
        for (int k = 0; k < LORA_MAX_SLOTS; k++)
            if (origin->tensors[k]) put_mutated(&b, origin->tensors[k]);
        if (!b.w) continue;
        assert_true(st_writer_save(b.w, scratch_path("kind.safetensors"), &e));
        b.f = lora_file_open(scratch_path("kind.safetensors"), round % 8 ? b.keys : NULL, &e);
        const struct lora_module *m = b.f ? &b.f->modules[0] : NULL;
        if (m && m->status == LORA_MATCHED) {
            size_t n = (size_t)shape_elems(m->target->weight);
            float *dw = arena_alloc_n(b.m.arena, n, sizeof *dw);
            if (!lora_module_delta(m, b.m.params, lora_module_has_weight(m) ? dw : NULL, NULL, &e)) fail_msg("%s", e.text);
            for (size_t i = 0; i < n; i++) assert_true(isfinite(dw[i]));
            taken++;
        } else {
            if (m && m->status != LORA_UNMATCHED) assert_true(m->why && m->why[0]);
            refused++;
        }
        file_close(&b);
    }
    print_message("%d taken, %d refused\n", taken, refused);
    assert_true(taken > 100 && refused > 100);
    for (int i = 0; i < FILES; i++) lora_file_close(&sound[i]);
    end(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_glora),       cmocka_unit_test(test_glora_core),
                                       cmocka_unit_test(test_dora_axes),   cmocka_unit_test(test_replacement),
                                       cmocka_unit_test(test_norm_names),
                                       cmocka_unit_test(test_biases),      cmocka_unit_test(test_wrong_shapes)};
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
