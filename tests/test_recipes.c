/* Recipes: defaults that options override, what each asks for, and what its files hold. */
#include "tests/support/cm.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"
#include "tests/support/train_runs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/os.h"
#include "io/safetensors.h"
#include "train/recipe.h"

#define DATA ATELIER_SOURCE_DIR "/tests/data/"

/* ---- The program ---- */

static const char *said; /* by the last run */

static int atelier(const char *args) {
    const char *out = runs_path("said");
    int status = system(arena_printf(runs_arena, "'%s/atelier' %s >'%s' 2>&1", ATELIER_BINARY_DIR, args, out));
    struct os_map m;
    said = "";
    if (os_file_map(&m, out, NULL)) {
        said = arena_strndup(runs_arena, (const char *)m.data, m.bytes);
        os_file_unmap(&m);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void says(const char *words) {
    if (!strstr(said, words)) fail_msg("\"%s\" is not in: %s", words, said);
}

static const char *plan(const char *recipe, const char *more) {
    return arena_printf(runs_arena, "train --model " DATA "mini-sdxl --data '%s' --out '%s' --recipe %s --dry-run %s", runs_pictures(),
                        runs_path("never.safetensors"), recipe, more);
}

/* Every option that a recipe names is one, with a value that it takes; what is given wins. */
static void test_table(void **state) {
    for (int i = 0; recipe_at(i); i++) {
        const struct recipe *r = recipe_at(i);
        struct error e;
        assert_ptr_equal(recipe_find(r->name, &e), r);
        if (atelier(plan(r->name, "--class-prompt x"))) fail_msg("%s: %s", r->name, said);
        says(arena_printf(runs_arena, "recipe      %s: %s", r->name, r->title));
        for (const struct recipe_default *d = r->defaults; d->option; d++) says(d->option);
    }
    assert_int_equal(atelier(plan("style", "")), 0);
    says("steps 2000");
    says("rank 32 on");
    says("min-SNR");
    assert_int_equal(atelier(plan("style", "--steps 7 --rank 3 --weighting none")), 0);
    says("rank 3 on");
    says("7 steps of");
    assert_null(strstr(said, "steps 2000"));
    assert_null(strstr(said, "min-SNR"));
}

/* Beneath a file of options, too; the file may name the recipe. */
static void test_config(void **state) {
    const char *file = scratch_write("own.json", "{\"recipe\": \"style\", \"rank\": 5}", 30);
    assert_int_equal(atelier(arena_printf(runs_arena, "train --model " DATA "mini-sdxl --data '%s' --out '%s' --config '%s' --dry-run",
                                          runs_pictures(), runs_path("never.safetensors"), file)), 0);
    says("rank 5 on");
    says("steps 2000");
}

static void test_sentences(void **state) {
    assert_int_equal(atelier(plan("styl", "")), 1);
    says("There is no recipe \"styl\"; those there are: style");
    assert_int_equal(atelier(arena_printf(runs_arena, "train --model " DATA "mini-sd1 --data '%s' --out '%s' --recipe b-lora", runs_pictures(),
                                          runs_path("never.safetensors"))), 1);
    says("this model has no attention there");
    assert_int_equal(atelier(plan("style", "--rank 0")), 1);
    says("a rank of 1 to 1024");
}

/* ---- B-LoRA ---- */

/* The eight attention projections of each transformer block in the two places, nothing else. */
static void test_b_lora_blocks(void **state) {
    struct engine *e = session_open("mini-sdxl", session_default());
    struct train_params p = runs_params("b-lora");
    p.recipe = "b-lora", p.blocks = "OUT00,OUT01", p.targets = LORA_SELECT_ATTN, p.rank = 0, p.steps = 2, p.batch = 1;
    p.instance_prompt = "A [v]";
    struct runs_outcome o = runs_try_on(e, &p);
    if (!o.ok) fail_msg("%s", o.e.text);
    struct st_file *f = st_open(p.out, &o.e);
    assert_non_null(f);
    int content = 0, style = 0;
    for (size_t i = 0; i < st_count(f); i++) {
        const char *name = st_at(f, i)->name;
        bool c = !strncmp(name, "lora_unet_output_blocks_0_1_", 28), s = !strncmp(name, "lora_unet_output_blocks_1_1_", 28);
        if (!(c || s) || !strstr(name, "_attn")) fail_msg("%s should not be there", name);
        content += c, style += s;
    }
    assert_int_equal(content, 2 * 8 * 3); /* blocks, projections, tensors of each */
    assert_int_equal(style, 2 * 8 * 3);
    assert_string_equal(st_meta_find(f, "ss_recipe"), "b-lora");
    assert_string_equal(st_meta_find(f, "ss_network_dim"), "4"); /* 64 for 1280 channels; here are 32 */
    st_close(&f);
    session_close(&e);
}

/* The prompt stands for every caption, those beside the pictures too. */
static void test_instance_prompt(void **state) {
    struct train_params p = runs_params("prompted"), q = runs_params("captioned");
    struct error e;
    p.instance_prompt = "red fox", q.data = runs_path("red foxes");
    assert_true(os_dir_make(q.data, &e));
    for (int i = 0; i < 3; i++) {
        struct os_map m;
        assert_true(os_file_map(&m, arena_printf(runs_arena, "%s/%d.png", runs_pictures(), i), &e));
        assert_true(os_file_write_atomic(arena_printf(runs_arena, "%s/%d.png", q.data, i), m.data, m.bytes, &e));
        os_file_unmap(&m);
    }
    q.caption = "red fox";
    runs_well(&p);
    runs_well(&q);
    assert_string_equal(runs_tensors_hash(p.out), runs_tensors_hash(q.out));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),         cmocka_unit_test(test_config),          cmocka_unit_test(test_sentences),
        cmocka_unit_test(test_b_lora_blocks), cmocka_unit_test(test_instance_prompt),
    };
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
