/* More of the program as a person runs it: files of prompts, folders of pictures, models that become LoRAs. */
#include "tests/support/cli.h"
#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include "base/path.h"
#include "io/png.h"
#include "io/prompt_file.h"

#include <stdlib.h>
#include <string.h>

#define MINI "--model $M/mini-sd1 "
#define SMALL "--width 32 --height 32 --steps 2 "

static void write_text(const char *name, const char *text) { scratch_write(name, text, strlen(text)); }

static const char *recipe(const char *name) {
    struct error e;
    struct png_text *texts;
    size_t n;
    if (!png_read_texts(cli.a, scratch_path(name), &texts, &n, &e)) fail_msg("%s", e.text);
    const char *text = png_text_find(texts, n, "parameters");
    return text ? text : "";
}

#define TRAIN "train " MINI "--data learnt --resolution 32 --batch 1 --rank 2 --steps 3 --dtype f32 "

static void draw_source(const char *name, int w, int h, int seed) {
    struct error e;
    struct image im = image_create(cli.a, w, h);
    for (int i = 0; i < w * h * 3; i++) im.rgb[i] = (uint8_t)(i * (3 + 2 * seed) / 5 + 40 * seed);
    if (!png_write(scratch_path(name), &im, NULL, 0, &e)) fail_msg("%s", e.text);
}

/* ---- Files of prompts ---- */

static void prompt_lines(void **s) {
    static const char text[] = "\xef\xbb\xbf# a comment\r\n\r\n  a fox -- in snow --n blurry, dark --w 64 --h 32 --d "
                               "18446744073709551615 --l 3.5 --s 4 --ss euler_a\r\n"
                               "plain, well--known\n  # another\na cup --lora a.safetensors:0.5 --lora b.safetensors --n";
    struct prompt_line *l;
    struct error e;
    int n;
    if (!prompt_file_parse(cli.a, text, sizeof text - 1, "p.txt", &l, &n, &e)) fail_msg("%s", e.text);
    assert_int_equal(n, 3);
    assert_string_equal(l[0].prompt, "a fox -- in snow");
    assert_string_equal(l[0].negative, "blurry, dark");
    assert_string_equal(l[0].sampler, "euler_a");
    assert_true(l[0].w == 64 && l[0].h == 32 && l[0].seed == UINT64_MAX && l[0].has_seed && l[0].has_cfg && l[0].cfg == 3.5 &&
                l[0].steps == 4);
    assert_true(l[1].number == 4 && !l[1].negative && !l[1].w && !l[1].has_seed && !l[1].has_cfg && !l[1].n_loras);
    assert_string_equal(l[1].prompt, "plain, well--known");
    assert_true(l[2].n_loras == 2);
    assert_string_equal(l[2].loras[0], "a.safetensors:0.5");
    assert_string_equal(l[2].negative, "");
    static const char *const wrong[][2] = {
        {"", "no prompts"},          {"# only\n", "no prompts"},      {"a --w 7", "--w takes"},
        {"ok\na --w", "line 2"},     {"a --q 1", "--q is not known"}, {"--n bad", "no prompt before"},
        {"a --d -1", "--d takes"},   {"a --l x", "--l takes"},        {"a --l nan", "--l takes"},
        {"a --s 0", "--s takes"},    {"a --s 5x", "--s takes"},       {"\xff\xfe", "UTF-8"},
        {"a --lora", "says nothing"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        if (prompt_file_parse(cli.a, wrong[i][0], strlen(wrong[i][0]), "p.txt", &l, &n, &e)) fail_msg("taken: %s", wrong[i][0]);
        if (!strstr(e.text, wrong[i][1])) fail_msg("%s: %s", wrong[i][0], e.text);
    }
}

/* Every line's picture is the one that its settings alone give, and its recipe repeats it. */
static void prompts_from_a_file(void **s) {
    write_text("p.txt", "a fox <lora:mini-sd1.lora:0.8> --d 3 --n blurry\n# none\n"
                        "cups --lora ../lora.safetensors:0.5 --d 4\nsnow\n"
                        "a tall tower --h 64 --s 3 --l 2 --ss euler_a <lora:mini-sd1.lora:0.8>\n"
                        "two <lora:mini-sd1.lora:0.3> --lora lora.safetensors\n");
    assert_int_equal(cli_shell(arena_printf(cli.a, "cd '%s' && cp '%smini-sd1.lora-2.safetensors' lora.safetensors", cli.dir,
                                            CLI_DATA)), 0);
    cli_expect_failure("", "generate " MINI SMALL "--prompts p.txt --lora-dir $M --out out/x.png",
                       "line 3: There is no LoRA file ../lora.safetensors");
    write_text("p.txt", "a fox <lora:mini-sd1.lora:0.8> --d 3 --n blurry\n# none\n"
                        "cups --lora lora.safetensors:0.5 --d 4\nsnow\n"
                        "a tall tower <lora:mini-sd1.lora:0.8> --h 64 --s 3 --l 2 --ss euler_a\n"
                        "two <lora:mini-sd1.lora:0.3> --lora lora.safetensors\n");
    CLI_OK("generate " MINI SMALL "--prompts p.txt --lora-dir $M --out f.png");
    assert_non_null(strstr(cli.out, "5 pictures;"));
    CLI_OK("generate " MINI SMALL
           "--prompt 'a fox' --negative blurry --seed 3 --lora $M/mini-sd1.lora.safetensors:0.8 --out one.png");
    assert_true(cli_same_bytes("f-001.png", "one.png"));
    CLI_OK("generate " MINI SMALL "--prompt cups --seed 4 --lora lora.safetensors:0.5 --out one.png");
    assert_true(cli_same_bytes("f-002.png", "one.png"));
    CLI_OK("generate " MINI SMALL "--prompt snow --out one.png");
    assert_true(cli_same_bytes("f-003.png", "one.png"));
    CLI_OK("generate " MINI "--width 32 --height 64 --steps 3 --cfg 2 --sampler euler-a --prompt 'a tall tower' --lora "
                            "$M/mini-sd1.lora.safetensors:0.8 --out one.png");
    assert_true(cli_same_bytes("f-004.png", "one.png"));
    CLI_OK("generate " MINI SMALL "--prompt two --lora $M/mini-sd1.lora.safetensors:0.3 --lora lora.safetensors --out one.png");
    assert_true(cli_same_bytes("f-005.png", "one.png"));
    assert_int_equal(cli_shell(arena_printf(cli.a, "cd '%s' && cp '%smini-sd1.lora.safetensors' .", cli.dir, CLI_DATA)), 0);
    for (int i = 1; i <= 5; i++) { /* LoRAs beside the picture are found */
        CLI_OK("generate " MINI "--from f-00%d.png --out again.png", i);
        if (!cli_same_bytes(arena_printf(cli.a, "f-00%d.png", i), "again.png"))
            fail_msg("%s\n%s", recipe(arena_printf(cli.a, "f-00%d.png", i)), recipe("again.png"));
    }
    CLI_OK("generate " MINI SMALL "--prompts p.txt --lora-dir $M --batch 1 --out g.png");
    for (int i = 1; i <= 5; i++)
        assert_true(cli_same_bytes(arena_printf(cli.a, "f-00%d.png", i), arena_printf(cli.a, "g-00%d.png", i)));
    CLI_OK("generate " MINI SMALL "--prompt cat --count 3 --batch 2 --seed 5 --out h.png");
    CLI_OK("generate " MINI SMALL "--prompt cat --seed 7 --out one.png");
    assert_true(cli_same_bytes("h-003.png", "one.png"));
}

static void prompt_files_that_make_no_sense(void **s) {
    write_text("p.txt", "a --w 36\n");
    cli_expect_failure("", "generate " MINI SMALL "--prompts p.txt --out out/x.png", "multiples of 8");
    cli_expect_failure("", "generate " MINI SMALL "--prompts p.txt --prompt x --out out/x.png", "do not go together");
    cli_expect_failure("", "generate " MINI SMALL "--prompts p.txt --grid --out out/x.png", "--grid and --prompts");
    cli_expect_failure("", "generate " MINI SMALL "--prompts nowhere.txt --out out/x.png", "nowhere.txt");
    write_text("p.txt", "ok\na --ss magic\n");
    cli_expect_failure("", "generate " MINI SMALL "--prompts p.txt --out out/x.png", "line 2: there is no sampler \"magic\"");
}

/* The one cell of a training's sheet is the picture that the same settings give with the LoRA it was drawn with. */
static void samples_of_a_training(void **s) {
    struct error e;
    assert_true(os_dir_make(scratch_path("learnt"), NULL));
    draw_source("learnt/a.png", 32, 32, 1);
    write_text("learnt/a.txt", "a fox\n");
    CLI_OK(TRAIN "--out l.safetensors --sample-every 3 --sample-prompt 'cat -- big --n dog, blurry --w 40 --h 64 --d 9 --l 2 "
                 "--s 3 --ss euler_a'");
    CLI_OK("generate " MINI "--prompt 'cat -- big' --negative 'dog, blurry' --width 40 --height 64 --seed 9 --cfg 2 --steps 3 "
                            "--sampler euler-a --lora l.safetensors --out one.png");
    struct image one, sheet;
    if (!image_load(cli.a, scratch_path("one.png"), 16, &one, &e) ||
        !image_load(cli.a, scratch_path("l-sample-000003.png"), 16, &sheet, &e)) fail_msg("%s", e.text);
    int margin = 10;
    for (int y = 0; y < one.h; y++)
        assert_memory_equal(sheet.rgb + ((sheet.h - margin - one.h + y) * sheet.w + margin) * 3, one.rgb + y * one.w * 3,
                            (size_t)one.w * 3);
    CLI_OK(TRAIN "--out m.safetensors --sample-prompt 'cat --s 2' --sample-prompt 'cat --s 2 --w 64'");
    if (!image_load(cli.a, scratch_path("m-sample-000003.png"), 16, &sheet, &e)) fail_msg("%s", e.text);
    assert_true(sheet.w >= 2 * 64);
    static const char *const wrong[][2] = {
        {"cat --w 7", "--sample-prompt: --w takes"}, {"cat --w 36", "multiples of 8"}, {"--n dog", "no prompt before"},
        {"cat --ss magic", "no sampler \"magic\""}, {"cat --lora x.safetensors", "another LoRA"},
        {"cat <lora:x:1>", "another LoRA"},
        {"cat --w 8192 --h 8192", "A sample of 8192x8192 (--w and --h in --sample-prompt): The UNet"},
        {"cat --w 1024 --h 512", "A sample of 1024x512 (--w and --h in --sample-prompt): The UNet"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cli_expect_failure("", arena_printf(cli.a, TRAIN "--memory 18MB --vae-tiling on --out out/x.safetensors --dry-run "
                                                         "--sample-every 3 --sample-prompt '%s'", wrong[i][0]), wrong[i][1]);
    /* Enough for the training, not for a sheet beside it: said before the first step. */
    CLI_OK(TRAIN "--memory 5MB --out out/x.safetensors --dry-run");
    cli_expect_failure("", TRAIN "--memory 5MB --out out/x.safetensors --sample-prompt cat", "A sample of 32x32 (--w and --h");
    CLI_OK(TRAIN "--memory 8MB --out n.safetensors --sample-every 1 --sample-prompt cat --sample-prompt 'a dog'");
}

/* ---- Folders of pictures ---- */

#define STYLIZE "stylize " MINI "--steps 3 --strength 0.7 --lora $M/mini-sd1.lora.safetensors:0.8 "

/* Three pictures of two sizes, one in a folder below, captions beside two of them. */
static void make_sources(void) {
    assert_true(os_dir_make(scratch_path("in/more"), NULL));
    draw_source("in/a.png", 64, 32, 1);
    draw_source("in/b.png", 64, 32, 2);
    draw_source("in/more/c.png", 40, 48, 3);
    write_text("in/a.txt", "a fox\n");
    write_text("in/b.txt", "two cups <lora:mini-sd1.lora-2:0.5>\n");
    write_text("in/more/c.txt", "a tower\n");
}

static void folders_are_restyled(void **s) {
    make_sources();
    CLI_OK(STYLIZE "--data in --out done --own-size --lora-dir $M");
    assert_non_null(strstr(cli.out, "done: 3 pictures drawn;"));
    assert_true(cli_exists("done/a.png") && cli_exists("done/b.png") && cli_exists("done/more/c.png"));
    /* Each is the picture of generate --init-image. */
#define ONE "generate " MINI "--steps 3 --strength 0.7 --lora $M/mini-sd1.lora.safetensors:0.8 --out one.png "
    CLI_OK(ONE "--prompt 'a fox' --init-image in/a.png");
    assert_true(cli_same_bytes("done/a.png", "one.png"));
    CLI_OK(ONE "--prompt 'two cups' --lora $M/mini-sd1.lora-2.safetensors:0.5 --init-image in/b.png");
    assert_true(cli_same_bytes("done/b.png", "one.png"));
    CLI_OK(ONE "--prompt 'a tower' --init-image in/more/c.png");
    assert_true(cli_same_bytes("done/more/c.png", "one.png"));
    /* Again: nothing to do. One taken away: drawn again, alone, to the same bytes. */
    CLI_OK("stylize " MINI
           "--steps 3 --strength 0.7 --lora $M/mini-sd1.lora.safetensors:0.8 --data in/ --out done/ --own-size --lora-dir $M");
    assert_non_null(strstr(cli.out, "0 pictures drawn, 3 were there already"));
    assert_int_equal(cli_shell(arena_printf(cli.a, "cd '%s' && mv done/b.png b.png", cli.dir)), 0);
    CLI_OK(STYLIZE "--data in --out done --own-size --lora-dir $M");
    assert_non_null(strstr(cli.out, "1 picture drawn, 2 were there already"));
    assert_true(cli_same_bytes("done/b.png", "b.png"));
    /* From the result back: its own name is its source's, which must not be taken for the source. */
    cli_expect_failure("", "generate " MINI "--from done/a.png --lora-dir $M --out out/x.png", "another \"a.png\"");
    CLI_OK("generate " MINI "--from done/a.png --init-image in/a.png --lora-dir $M --out one.png");
    assert_true(cli_same_bytes("done/a.png", "one.png"));
}

static void changed_recipes_are_refused(void **s) {
    assert_int_equal(cli_shell(arena_printf(cli.a, "cd '%s' && cp done/a.png before.png", cli.dir)), 0);
    cli_expect_failure("", STYLIZE "--data in --out done --own-size --lora-dir $M --seed 1",
                       "done/a.png is there and was made otherwise");
    cli_expect_failure("", STYLIZE "--data in --out done --lora-dir $M --own-size --cfg 3", "--overwrite");
    assert_true(cli_same_bytes("done/a.png", "before.png"));
    draw_source("in/b.png", 64, 32, 4); /* the source is part of the recipe */
    cli_expect_failure("", STYLIZE "--data in --out done --own-size --lora-dir $M",
                       "done/b.png is there and was made otherwise");
    CLI_OK(STYLIZE "--data in --out done --own-size --lora-dir $M --seed 1 --overwrite");
    assert_non_null(strstr(cli.out, "done: 3 pictures drawn;"));
    assert_false(cli_same_bytes("done/a.png", "before.png"));
    CLI_OK(STYLIZE "--data in --out alone --own-size --lora-dir $M --seed 1 --batch 1");
    assert_true(cli_same_bytes("done/a.png", "alone/a.png") && cli_same_bytes("done/b.png", "alone/b.png"));
}

static void damaged_pictures(void **s) {
    CLI_OK("inspect in/a.png");
    assert_int_equal(cli_shell(arena_printf(cli.a, "cd '%s' && cp -r in torn && head -c 90 in/b.png > torn/b.png && echo no "
                                                   "picture > torn/d.png && echo d > torn/d.txt", cli.dir)), 0);
    cli_expect_failure("", STYLIZE "--data torn --out out --own-size --lora-dir $M", "torn/");
    CLI_OK(STYLIZE "--data torn --out some --own-size --lora-dir $M --skip-bad");
    assert_non_null(strstr(cli.out, "2 pictures drawn;"));
    assert_non_null(strstr(cli.out, "left out      2"));
    assert_non_null(strstr(cli.out, "  b.png: "));
    assert_non_null(strstr(cli.out, "  d.png: "));
    assert_true(cli_exists("some/a.png") && !cli_exists("some/b.png") && cli_exists("some/more/c.png"));
}

static void masks_and_sizes(void **s) {
    struct error e;
    struct image white = image_create(cli.a, 64, 32);
    assert_true(os_dir_make(scratch_path("masks/more"), NULL));
    for (int i = 0; i < 32 * 64 * 3; i++) white.rgb[i] = i % 192 < 96 ? 255 : 0;
    if (!png_write(scratch_path("masks/a.png"), &white, NULL, 0, &e) ||
        !png_write(scratch_path("masks/b.png"), &white, NULL, 0, &e))
        fail_msg("%s", e.text);
    cli_expect_failure("", STYLIZE "--data in --mask-dir masks --out out --prompt x", "no mask masks/more/c.png");
    if (!png_write(scratch_path("masks/more/c.png"), &white, NULL, 0, &e)) fail_msg("%s", e.text);
    CLI_OK(STYLIZE "--data in --mask-dir masks --out masked --prompt 'ink, {caption}' --width 64 --lora-dir $M");
    CLI_OK(ONE "--prompt 'ink, a tower' --init-image in/more/c.png --mask masks/more/c.png --width 64 --height 80");
    assert_true(cli_same_bytes("masked/more/c.png", "one.png"));
    CLI_OK(STYLIZE "--data in --out plain --prompt x --dry-run");
    assert_non_null(strstr(cli.out, "3 are to be drawn"));
    assert_false(cli_exists("plain"));
    CLI_OK(STYLIZE "--data in --out plain --prompt x");
    int w, h;
    if (!image_probe(scratch_path("plain/a.png"), &w, &h, &e)) fail_msg("%s", e.text);
    print_message("64x32 becomes %dx%d\n", w, h);
    assert_true(w > 64 && abs(w - 2 * h) <= 8); /* the model's pixels in the picture's shape */
}

static void folders_that_make_no_sense(void **s) {
    cli_expect_failure("", STYLIZE "--data nowhere --out out --prompt x", "There is no folder nowhere");
    cli_expect_failure("", STYLIZE "--data in --out in --prompt x", "lies in --data");
    cli_expect_failure("", STYLIZE "--data in --out in/new/deep --prompt x", "lies in --data");
    cli_expect_failure("", STYLIZE "--data in --out before.png --prompt x", "is a file");
    cli_expect_failure("", STYLIZE "--data out --out done --prompt x", "no pictures");
    cli_expect_failure("", STYLIZE "--data in --out out/y --prompt x --strength 0.1", "--strength 0.1 does none");
    cli_expect_failure("", STYLIZE "--data in --out out/y --prompt x --caption y", "--caption counts only");
    cli_expect_failure("", STYLIZE "--data in --out out/y --prompt x --mask-dir nowhere", "for --mask-dir");
    assert_int_equal(cli_shell(arena_printf(cli.a, "cd '%s' && cp -r in twice && cp in/a.png twice/a.webp && cp -r in bare && "
                                                   "rm bare/a.txt", cli.dir)), 0);
    cli_expect_failure("", STYLIZE "--data twice --out out/y --prompt x", "would both become out/y/a.png");
    cli_expect_failure("", STYLIZE "--data bare --out out/y", "have no caption");
}

/* Ctrl-C between or in pictures: what is there is whole, and the same command finishes. --foreground: without it timeout sends
 * the signal twice, and the second one ends the program at once. */
static void interrupts_are_resumed(void **s) {
    assert_true(os_dir_make(scratch_path("many"), NULL));
    for (int i = 0; i < 60; i++) draw_source(arena_printf(cli.a, "many/%02d.png", i), 96, 96, i);
#define MANY "stylize " MINI "--steps 40 --strength 1 --prompt x --batch 1 --own-size --data many --out "
    assert_int_equal(cli_run("timeout --foreground --preserve-status -s INT 3", MANY "cut"), 0);
    assert_non_null(strstr(cli.out, " left: the same command goes on"));
    assert_false(cli_exists("cut/59.png"));
}

/* ---- Models and LoRAs ---- */

static void models_become_loras(void **s) {
#define EXTRACT "extract --base $M/mini-sd1 --tuned tuned "
    CLI_OK("merge-into --model $M/mini-sd1 --lora $M/mini-sd1.lora-te.safetensors --out tuned");
    CLI_OK(EXTRACT "--kept 0.99 --clamp 1 --out found.safetensors");
    assert_non_null(strstr(cli.out, "of the change's norm kept"));
    CLI_OK("inspect found.safetensors --model $M/mini-sd1");
    assert_non_null(strstr(cli.out, "132 of 132 modules can be applied"));
    CLI_OK(EXTRACT "--rank 4 --min-diff 100 --out found.safetensors --quiet");
    assert_non_null(strstr(cli.out, "the text_encoder, which changes by less than 100"));
    cli_expect_failure("", EXTRACT "--out out/x.safetensors", "--rank N, or --kept X");
    cli_expect_failure("", EXTRACT "--rank 4 --out out/x.png", ".safetensors");
    cli_expect_failure("", EXTRACT "--rank 4 --clamp 0 --out out/x.safetensors", "--clamp 0");
    cli_expect_failure("", "extract --base $M/mini-sd1 --tuned $M/mini-sd2 --rank 4 --out out/x.safetensors",
                       "one architecture");
    cli_expect_failure("", "extract --base $M/mini-sd1 --tuned $M/mini-inpaint --rank 4 --out out/x.safetensors",
                       "different architectures");
    cli_expect_failure("", "extract --base $M/mini-sd1 --tuned $M/mini-sd1 --rank 4 --out out/x.safetensors",
                       "nothing to extract");
    cli_expect_failure("", "extract --base $M/mini-sd1 --tuned nowhere --rank 4 --out out/x.safetensors", "nowhere");
}

/* Progress is what --quiet leaves out of a merge that runs the model; the result it tells. */
static void merges_can_be_quiet(void **s) {
    static const char *const how[] = {"", "--quiet "};
    for (int quiet = 0; quiet < 2; quiet++) {
        CLI_OK("merge --method gradient-fusion " MINI "%s--lora $M/mini-sd1.lora.safetensors --prompt cat --prompt dog "
               "--lora $M/mini-sd1.lora-2.safetensors --pictures 1 --sample-steps 1 --times 1 --resolution 32 --rank 2 "
               "--out fused-%d.safetensors", how[quiet], quiet);
        assert_true((*cli.err == 0) == (quiet == 1));
        assert_int_equal(cli_lines(cli.out), 1);
        assert_non_null(strstr(cli.out, " layers of rank "));
    }
    assert_true(cli_same_bytes("fused-0.safetensors", "fused-1.safetensors"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompt_lines),
        cmocka_unit_test(prompts_from_a_file),
        cmocka_unit_test(prompt_files_that_make_no_sense),
        cmocka_unit_test(samples_of_a_training),
        cmocka_unit_test(folders_are_restyled),
        cmocka_unit_test(changed_recipes_are_refused),
        cmocka_unit_test(damaged_pictures),
        cmocka_unit_test(masks_and_sizes),
        cmocka_unit_test(folders_that_make_no_sense),
        cmocka_unit_test(interrupts_are_resumed),
        cmocka_unit_test(models_become_loras),
        cmocka_unit_test(merges_can_be_quiet),
    };
    return cmocka_run_group_tests(tests, cli_setup, cli_teardown);
}
