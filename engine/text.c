/* Prompts to embeddings. The program is built per call: it is small, and text leaves the device early. */
#include "engine/adapter.h"

bool engine_encode_text(struct engine *e, const int32_t *ids, int n, const struct text_params *p, float *out, struct error *err) {
    struct arena *a = arena_create(e->arena);
    struct graph *g = graph_create(a, gpu_device_storage(e->dev));
    int tokens = (int)tokenizer_window(e->model->tokenizer);
    const struct adapter *adapter = p->adapter && p->adapter->touches_text ? p->adapter : NULL;
    struct lora_binding binding = {.strength = -1};
    if (adapter) lora_stack_bind(adapter->stack, adapter->text_model, g, "adapter", n, &binding);
    struct nn_ctx c = nn_begin(g, e->model->text_params, adapter ? &binding.hook : NULL, "text_encoder");
    struct clip_inputs in = {graph_io(g, "ids", (struct shape){n, 1, tokens, 1}), -1};
    struct clip_params cp = {.skip = p->skip};
    struct clip_outputs result = {-1, -1};
    clip_build(&c, &e->model->text, &in, &cp, &result);
    nn_end(&c);
    int output = graph_output(g, "embedding", result.hidden);
    struct gpu_binding extra = {adapter ? adapter->stack->set : NULL, SET_DATA, adapter ? adapter->data : NULL};
    struct gpu_program *prog = engine_program(e, g, "Encoding the prompt", ENGINE_TEXT, &extra, adapter != NULL, NULL, err);
    bool ok = prog != NULL;
    if (ok) {
        float *rows = arena_alloc(a, (size_t)n * (size_t)tokens * sizeof *rows);
        for (int i = 0; i < n * tokens; i++) rows[i] = (float)ids[i];
        gpu_program_write(prog, in.ids, rows);
        if (adapter && binding.strength >= 0) {
            float *strength = arena_alloc(a, (size_t)n * (size_t)adapter->n * sizeof *strength);
            for (int i = 0; i < n * adapter->n; i++) strength[i] = p->strength[i % adapter->n];
            float *columns = arena_alloc(a, (size_t)n * (size_t)adapter->stack->n_columns * sizeof *columns);
            lora_stack_fill_strengths(adapter->stack, n, strength, columns);
            gpu_program_write(prog, binding.strength, columns);
        }
        ok = gpu_program_run(prog, err);
        if (ok) gpu_program_read(prog, output, out);
    }
    gpu_program_destroy(&prog);
    arena_destroy(&a);
    return ok;
}
