/* What the fuzzers have found interesting or broken, replayed (tests/fuzz/fuzz.h). */
#include "tests/fuzz/fuzz.h"
#include "tests/support/cm.h"

#include <stdio.h>

#include "base/arena.h"
#include "base/log.h"
#include "base/os.h"

static const struct {
    const char *name;
    void (*run)(const uint8_t *data, size_t n);
} targets[] = {{"safetensors", fuzz_safetensors}, {"configs", fuzz_configs}, {"tokenizer", fuzz_tokenizer},
               {"adapter", fuzz_adapter},         {"recipe", fuzz_recipe},   {"torch", fuzz_torch},
               {"prompts", fuzz_prompts}};

static void corpora_replay(void **state) {
    for (size_t t = 0; t < sizeof targets / sizeof *targets; t++) {
        struct arena *a = arena_create(NULL);
        struct error e = {0};
        struct os_entry *list;
        size_t n;
        const char *dir = arena_printf(a, "%s/tests/fuzz/corpus/%s", ATELIER_SOURCE_DIR, targets[t].name);
        if (!os_dir_list(a, dir, &list, &n, &e)) fail_msg("%s", e.text);
        assert_true(n > 0);
        for (size_t i = 0; i < n; i++) {
            struct os_map m;
            if (!os_file_map(&m, arena_printf(a, "%s/%s", dir, list[i].name), &e)) fail_msg("%s", e.text);
            targets[t].run(m.data, m.bytes);
            os_file_unmap(&m);
        }
        print_message("%s: %zu inputs\n", targets[t].name, n);
        arena_destroy(&a);
    }
}

int main(void) {
    log_set_level(LOG_QUIET);
    const struct CMUnitTest tests[] = {cmocka_unit_test(corpora_replay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
