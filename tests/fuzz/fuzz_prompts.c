#include "base/arena.h"
#include "io/prompt_file.h"
#include "io/recipe.h"
#include "tests/fuzz/fuzz.h"

/* A file of prompts, and the LoRAs that its lines name. */
void fuzz_prompts(const uint8_t *data, size_t n) {
    struct error e;
    struct arena *a = arena_create(NULL);
    struct prompt_line *lines;
    int n_lines;
    if (prompt_file_parse(a, data, n, "prompts.txt", &lines, &n_lines, &e))
        for (int i = 0; i < n_lines; i++) {
            struct recipe_lora *loras;
            size_t n_loras;
            recipe_cut_loras(a, lines[i].prompt, &loras, &n_loras);
        }
    arena_destroy(&a);
}
