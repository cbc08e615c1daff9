#include "base/arena.h"
#include "io/png.h"
#include "io/recipe.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

/* An even first byte: the text of a recipe. Odd: a PNG. */
void fuzz_recipe(const uint8_t *data, size_t n) {
    if (!n) return;
    struct error e;
    struct arena *a = arena_create(NULL);
    struct recipe r;
    if (data[0] % 2 == 0) {
        if (recipe_parse(a, arena_strndup(a, (const char *)data + 1, n - 1), &r, &e)) {
            /* What was read can be written and read again. */
            char *text = recipe_format(a, &r);
            recipe_parse(a, text, &r, &e);
        }
    } else {
        struct png_text *texts;
        size_t n_texts;
        if (png_read_texts(a, fuzz_file(0, data + 1, n - 1), &texts, &n_texts, &e)) {
            const char *text = png_text_find(texts, n_texts, "parameters");
            if (text) recipe_parse(a, text, &r, &e);
        }
    }
    arena_destroy(&a);
}
