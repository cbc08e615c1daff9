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
#include "io/png.h"
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
    return arena_printf(runs_arena, "train --model " DATA "mini-sdxl --data '%s' --out '%s' --recipe %s --dry-run %s",
                        runs_pictures(), runs_path("never.safetensors"), recipe, more);
}

/* Every option that a recipe names is one, with a value that it takes; what is given wins. */
static void test_table(void **state) {
    for (int i = 0; recipe_at(i); i++) {
        const struct recipe *r = recipe_at(i);
        struct error e;
        assert_ptr_equal(recipe_find(r->name, &e), r);
        bool words = strstr("textual-inversion pivotal custom-diffusion", r->name) != NULL;
        const char *asks = words ? "--token '<new1>=fox' --instance-prompt '<new1> fox' --prior-weight 0" : "--class-prompt x";
        if (atelier(plan(r->name, asks))) fail_msg("%s: %s", r->name, said);
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
    assert_int_equal(atelier(arena_printf(runs_arena, "train --model " DATA "mini-sdxl --data '%s' --out '%s' --dry-run "
                                          "--config '%s'", runs_pictures(), runs_path("never.safetensors"), file)), 0);
    says("rank 5 on");
    says("steps 2000");
}

static void test_sentences(void **state) {
    assert_int_equal(atelier(plan("styl", "")), 1);
    says("There is no recipe \"styl\"; those there are: style");
    assert_int_equal(atelier(arena_printf(runs_arena, "train --model " DATA "mini-sd1 --data '%s' --out '%s' --recipe b-lora",
                                          runs_pictures(), runs_path("never.safetensors"))), 1);
    says("this model has no attention there");
    assert_int_equal(atelier(plan("style", "--rank 0")), 1);
    says("a rank of 1 to 1024");
}

/* ---- B-LoRA ---- */

/* The eight attention projections of each transformer block in the two places, nothing else. */
static void test_b_lora_blocks(void **state) {
    struct engine *e = session_open("mini-sdxl", session_default());
    struct train_params p = runs_params("b-lora");
    p.recipe = "b-lora", p.targets = LORA_SELECT_ATTN, p.rank = 0, p.steps = 2, p.batch = 1;
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

/* ---- The parts by themselves ---- */

/* A file of the wild: diffusers' old names, no alphas. */
#define B_LORA DATA "dialects/b-lora.safetensors"

static const char *drawing(const char *name, const char *more) {
    return arena_printf(runs_arena, "generate --model " DATA "mini-sdxl --prompt 'red fox' --width 32 --height 32 --steps 2 "
                                                             "--out '%s' %s", runs_path(name), more);
}

static void draw(const char *name, const char *more) {
    if (atelier(drawing(name, more))) fail_msg("%s: %s", more, said);
}

/* Pixels, or also texts, of two pictures. */
static bool same(const char *x, const char *y, bool texts) {
    struct error e;
    struct image a, b;
    struct png_text *s, *t;
    size_t n, m;
    if (!image_load(runs_arena, runs_path(x), 16, &a, &e) || !image_load(runs_arena, runs_path(y), 16, &b, &e))
        fail_msg("%s", e.text);
    assert_true(png_read_texts(runs_arena, runs_path(x), &s, &n, &e) && png_read_texts(runs_arena, runs_path(y), &t, &m, &e));
    return !memcmp(a.rgb, b.rgb, 32 * 32 * 3) &&
           (!texts || !strcmp(png_text_find(s, n, "parameters"), png_text_find(t, m, "parameters")));
}

static void test_parts(void **state) {
    draw("base.png", "");
    draw("content.png", "--content " B_LORA ":0.8");
    draw("content-blocks.png", "--lora '" B_LORA ":0.8:*=0,OUT00=1'");
    draw("style.png", "--style " B_LORA);
    draw("style-blocks.png", "--lora '" B_LORA ":1:*=0,OUT01=1'");
    draw("both.png", "--content " B_LORA ":0.8 --style " B_LORA);
    draw("both-blocks.png", "--lora '" B_LORA ":1:*=0,OUT00=0.8,OUT01=1'");
    assert_true(same("content.png", "content-blocks.png", false));
    assert_true(same("style.png", "style-blocks.png", false));
    assert_true(same("both.png", "both-blocks.png", false));
    assert_false(same("content.png", "base.png", false));
    assert_false(same("style.png", "base.png", false));
    assert_false(same("both.png", "content.png", false));
    assert_int_equal(atelier(arena_printf(runs_arena, "generate --model " DATA "mini-sdxl --from '%s' --out '%s' "
                                          "--lora-dir " DATA "dialects",
                                          runs_path("both.png"), runs_path("again.png"))), 0);
    assert_true(same("both.png", "again.png", true));
}

/* Two files, one for each. */
static void test_two_files(void **state) {
    const char *copy = runs_path("other.safetensors");
    assert_int_equal(system(arena_printf(runs_arena, "cp " B_LORA " '%s'", copy)), 0);
    draw("two.png", arena_printf(runs_arena, "--content " B_LORA ":0.8 --style '%s'", copy));
    assert_true(same("two.png", "both-blocks.png", false));
}

static void test_part_sentences(void **state) {
    assert_int_equal(atelier(drawing("never.png", "--content nowhere.safetensors")), 1);
    says("There is no LoRA file nowhere.safetensors (--content FILE or --content FILE:STRENGTH)");
    assert_int_equal(atelier(drawing("never.png", "--style '" B_LORA ":1:IN04=1'")), 1);
    says("--style chooses the block itself");
    assert_int_equal(atelier(drawing("never.png", "--content " B_LORA ":0.2..1 --style " B_LORA)), 1);
    says("cannot have courses of their own");
    assert_int_equal(atelier(drawing("never.png", "--content " DATA "mini-sdxl.lora-te.safetensors --style " B_LORA
                                              " --lora '" B_LORA "'")), 1);
    says("is used twice");
    assert_int_equal(atelier(arena_printf(runs_arena, "generate --model " DATA "mini-sd1 --prompt x --out '%s' --style " DATA
                                          "mini-sd1.lora.safetensors", runs_path("never.png"))), 1);
    says("this model has no attention there");
    struct train_params p = runs_params("no style");
    struct engine *e = session_open("mini-sdxl", session_default());
    p.blocks = "OUT00", p.targets = LORA_SELECT_ATTN, p.steps = 1;
    struct runs_outcome o = runs_try_on(e, &p);
    if (!o.ok) fail_msg("%s", o.e.text);
    session_close(&e);
    assert_int_equal(atelier(drawing("never.png", arena_printf(runs_arena, "--style '%s'", p.out))), 1);
    says("has nothing in up_blocks.0.attentions.1, which decides about style");
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
        cmocka_unit_test(test_b_lora_blocks), cmocka_unit_test(test_instance_prompt), cmocka_unit_test(test_parts),
        cmocka_unit_test(test_two_files),     cmocka_unit_test(test_part_sentences),
    };
    return cmocka_run_group_tests(tests, runs_setup, runs_teardown);
}
