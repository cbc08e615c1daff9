/* The adapter hook: gradients of a training step against peft's, stacks against merged weights, and the way
 * of numbers into slots and back. By the double references. */
#include "tests/support/cm.h"
#include "tests/support/lora_checks.h"
#include "tests/support/mini_unet.h"

#include <math.h>
#include <string.h>

#include "lora/blocks.h"
#include "lora/select.h"
#include "lora/select_blocks.h"

static void test_gradients(void **state) {
    lora_check_gradients(NULL);
}
static void test_mixtures(void **state) {
    lora_check_mixtures(NULL);
}

static void test_round_trip(void **state) {
    struct mini_unet m;
    mini_unet_open(&m, "mini-odd", TENSOR_F32);
    struct lora_stack *stack = mini_unet_random_stack(&m, true);
    for (int l = 0; l < stack->n_layers; l++) {
        const struct lora_stack_layer *layer = &stack->layers[l];
        float *rows[2];
        for (int i = 0; i < 2; i++) {
            int slot = i ? layer->up : layer->down;
            rows[i] =
                arena_alloc_n(m.arena, (size_t)shape_elems(stack->set->slots[slot].shape), sizeof **rows);
            assert_true(lora_stack_read_slot(stack, slot, rows[i], NULL));
        }
        for (int p = 0; p < layer->n_parts; p++) {
            const struct lora_stack_part *part = &layer->parts[p];
            struct shape w = layer->target->weight;
            size_t n_down = (size_t)part->rank * w.c * w.n, n_up = (size_t)part->rank * w.w;
            float *down = arena_alloc_n(m.arena, n_down, sizeof *down),
                  *up = arena_alloc_n(m.arena, n_up, sizeof *up);
            lora_stack_extract(layer, part, rows[0], rows[1], down, up);
            assert_memory_equal(down, part->down, n_down * sizeof *down);
            assert_memory_equal(up, part->up, n_up * sizeof *up);
        }
    }
    mini_unet_close(&m);
}

static void test_refusals(void **state) {
    struct error e = {0};
    struct mini_unet m;
    mini_unet_open(&m, "mini-sd1", TENSOR_F32);
    struct lora_stack *s = lora_stack_create(m.arena, "lora", TENSOR_F32, false, 0);
    lora_stack_model(s, "unet", &m.targets), lora_stack_adapter(s);
    float numbers[16 * 32] = {0};
    struct lora_factors f = {
        .rank = 1, .alpha = 1, .in = 16, .out = 16, .k = 1, .down = numbers, .up = numbers};
    const char *path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    assert_false(lora_stack_add(s, 0, 0, "down_blocks.9.to_q", &f, &e));
    assert_non_null(strstr(e.text, "down_blocks.9.to_q"));
    assert_true(lora_stack_add(s, 0, 0, path, &f, &e));
    assert_false(lora_stack_add(s, 0, 0, path, &f, &e));
    assert_non_null(strstr(e.text, "twice"));
    f.in = 24;
    assert_false(
        lora_stack_add(s, 0, 0, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k", &f, &e));
    assert_non_null(strstr(e.text, "24"));
    f.in = 16, f.rank = 0;
    assert_false(
        lora_stack_add(s, 0, 0, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k", &f, &e));
    struct lora_stack *small = lora_stack_create(m.arena, "lora", TENSOR_F32, false, 512);
    lora_stack_model(small, "unet", &m.targets), lora_stack_adapter(small);
    f.rank = 1;
    assert_true(lora_stack_add(small, 0, 0, path, &f, &e));
    assert_false(lora_stack_seal(small, &e)); /* 16x16 numbers do not go into 512 bytes */
    assert_non_null(strstr(e.text, path));
    enum lora_selection selection;
    assert_false(lora_selection_parse("everything", &selection, &e));
    mini_unet_close(&m);
}

/* A layer starts as peft and kohya start it: down uniform between plus and minus 1/sqrt(inputs * taps), which is torch's
 * kaiming_uniform_ with a = sqrt(5), and up zero. */
static void test_start(void **state) {
    static const struct {
        const char *path;
        int fan_in;
    } rows[] = {{"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", 16}, {"down_blocks.0.resnets.0.conv1", 16 * 9}};
    enum { RANK = 8 };
    struct error e = {0};
    struct mini_unet m;
    mini_unet_open(&m, "mini-sd1", TENSOR_F32);
    for (int i = 0; i < 2; i++) {
        struct lora_stack *s = lora_stack_create(m.arena, "lora", TENSOR_F32, true, 0);
        lora_stack_model(s, "unet", &m.targets), lora_stack_adapter(s);
        struct rng rng, same;
        rng_seed(&rng, 11);
        same = rng;
        if (!lora_stack_add_new(s, 0, 0, rows[i].path, RANK, 4, &rng, &e)) fail_msg("%s", e.text);
        const struct lora_stack_part *part = &s->layers[0].parts[0];
        float u[RANK * 16 * 9];
        rng_rand(&same, u, (size_t)(RANK * rows[i].fan_in));
        for (int k = 0; k < RANK * rows[i].fan_in; k++)
            assert_float_equal(part->down[k], (2 * (double)u[k] - 1) / sqrt(rows[i].fan_in), 1e-6);
        for (int k = 0; k < RANK * 16; k++) assert_true(part->up[k] == 0);
        assert_true(part->rank == RANK && part->scale == 0.5f);
    }
    mini_unet_close(&m);
}

static void test_selections(void **state) {
    static const struct {
        const char *path;
        bool attn, attn_mlp, all, cross_kv;
    } rows[] = {
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k", true, true, true, false},
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q", true, true, true, false},
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", true, true, true, true},
        {"mid_block.attentions.0.transformer_blocks.0.attn2.to_v", true, true, true, true},
        {"mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0", true, true, true, false},
        {"up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2", false, true, true, false},
        {"up_blocks.1.attentions.0.proj_in", false, true, true, false},
        {"up_blocks.1.resnets.0.conv1", false, false, true, false},
        {"up_blocks.1.resnets.0.time_emb_proj", false, false, true, false},
        {"down_blocks.0.downsamplers.0.conv", false, false, true, false},
        {"up_blocks.0.upsamplers.0.conv", false, false, true, false},
        {"text_model.encoder.layers.0.self_attn.q_proj", true, true, true, false},
        {"text_model.encoder.layers.0.mlp.fc1", false, true, true, false},
        {"conv_in", false, false, false, false},
        {"time_embedding.linear_1", false, false, false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const bool want[] = {rows[i].attn, rows[i].attn_mlp, rows[i].all, rows[i].cross_kv};
        for (enum lora_selection s = LORA_SELECT_ATTN; s <= LORA_SELECT_CROSS_KV; s++)
            if (lora_selection_has(s, rows[i].path) != want[s]) fail_msg("%s in selection %d", rows[i].path, (int)s);
    }
}

/* Both ends of a range count; the first item that names the layer decides. */
static void test_block_lists(void **state) {
    static const char list[] = "OUT03-05=32, IN04=8, out=2,mid_block=5,base=3";
    static const struct {
        int block;
        const char *path;
        int value; /* 0: not named */
    } rows[] = {{LORA_BLOCK_OUT + 3, "x", 32}, {LORA_BLOCK_OUT + 4, "x", 32},  {LORA_BLOCK_OUT + 5, "x", 32},
                {LORA_BLOCK_OUT + 2, "x", 2},  {LORA_BLOCK_OUT + 6, "x", 2},   {LORA_BLOCK_IN + 4, "x", 8},
                {LORA_BLOCK_IN + 3, "x", 0},   {LORA_BLOCK_IN + 5, "x", 0},    {LORA_BLOCK_MIDDLE, "mid_block.resnets.0", 5},
                {LORA_BLOCK_MIDDLE, "mid_blocks", 0}, {LORA_BLOCK_BASE, "x", 3}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int value = -1;
        bool named = lora_select_block(list, rows[i].block, rows[i].path, &value);
        if (named != (rows[i].value != 0) || (named && value != rows[i].value))
            fail_msg("block %d %s: %d", rows[i].block, rows[i].path, value);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_mixtures),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_selections),
        cmocka_unit_test(test_block_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
