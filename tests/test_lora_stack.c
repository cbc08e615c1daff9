/* The adapter hook: gradients of a training step against peft's, stacks against merged weights, and the way
 * of numbers into slots and back. By the double references. */
#include "tests/support/cm.h"
#include "tests/support/lora_checks.h"
#include "tests/support/mini_unet.h"

#include <string.h>

#include "lora/select.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_mixtures),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
