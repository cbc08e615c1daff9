/* Commands that draw many pictures, as a person runs them: files of prompts, folders of pictures. */
#include "tests/support/cli.h"
#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include "base/path.h"
#include "io/png.h"
#include "io/prompt_file.h"

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

/* ---- Files of prompts ---- */

static void prompt_lines(void **s) {
    static const char text[] = "\xef\xbb\xbf# a comment\r\n\r\n  a fox -- in snow --n blurry, dark --w 64 --h 32 --d 18446744073709551615 --l 3.5 --s 4 --ss euler_a\r\n"
                               "plain\n  # another\na cup --lora a.safetensors:0.5 --lora b.safetensors --n";
    struct prompt_line *l;
    struct error e;
    int n;
    if (!prompt_file_parse(cli.a, text, sizeof text - 1, "p.txt", &l, &n, &e)) fail_msg("%s", e.text);
    assert_int_equal(n, 3);
    assert_string_equal(l[0].prompt, "a fox -- in snow");
    assert_string_equal(l[0].negative, "blurry, dark");
    assert_string_equal(l[0].sampler, "euler_a");
    assert_true(l[0].w == 64 && l[0].h == 32 && l[0].seed == UINT64_MAX && l[0].has_seed && l[0].has_cfg && l[0].cfg == 3.5 && l[0].steps == 4);
    assert_true(l[1].number == 4 && !l[1].negative && !l[1].w && !l[1].has_seed && !l[1].has_cfg && !l[1].n_loras);
    assert_string_equal(l[1].prompt, "plain");
    assert_true(l[2].n_loras == 2);
    assert_string_equal(l[2].loras[0], "a.safetensors:0.5");
    assert_string_equal(l[2].negative, "");
    static const char *const wrong[][2] = {
        {"", "no prompts"}, {"# only\n", "no prompts"}, {"a --w 7", "--w takes"}, {"ok\na --w", "line 2"}, {"a --q 1", "--q is not known"},
        {"--n bad", "no prompt before"}, {"a --d -1", "--d takes"}, {"a --l x", "--l takes"}, {"a --l nan", "--l takes"}, {"a --s 0", "--s takes"},
        {"a --s 5x", "--s takes"}, {"\xff\xfe", "UTF-8"}, {"a --lora", "says nothing"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        if (prompt_file_parse(cli.a, wrong[i][0], strlen(wrong[i][0]), "p.txt", &l, &n, &e)) fail_msg("taken: %s", wrong[i][0]);
        if (!strstr(e.text, wrong[i][1])) fail_msg("%s: %s", wrong[i][0], e.text);
    }
}

/* Every line's picture is the one that its settings alone give, and its recipe repeats it. */
static void prompts_from_a_file(void **s) {
    write_text("p.txt", "a fox <lora:mini-sd1.lora:0.8> --d 3 --n blurry\n# none\ncups --lora ../lora.safetensors:0.5 --d 4\nsnow\n"
                        "a tall tower --h 64 --s 3 --l 2 --ss euler_a <lora:mini-sd1.lora:0.8>\ntwo <lora:mini-sd1.lora:0.3> --lora lora.safetensors\n");
    assert_int_equal(cli_shell(arena_printf(cli.a, "cd '%s' && cp '%smini-sd1.lora-2.safetensors' lora.safetensors", cli.dir, CLI_DATA)), 0);
    cli_expect_failure("", "generate " MINI SMALL "--prompts p.txt --lora-dir $M --out out/x.png", "line 3: There is no LoRA file ../lora.safetensors");
    write_text("p.txt", "a fox <lora:mini-sd1.lora:0.8> --d 3 --n blurry\n# none\ncups --lora lora.safetensors:0.5 --d 4\nsnow\n"
                        "a tall tower <lora:mini-sd1.lora:0.8> --h 64 --s 3 --l 2 --ss euler_a\ntwo <lora:mini-sd1.lora:0.3> --lora lora.safetensors\n");
    CLI_OK("generate " MINI SMALL "--prompts p.txt --lora-dir $M --out f.png");
    assert_non_null(strstr(cli.out, "5 pictures;"));
    CLI_OK("generate " MINI SMALL "--prompt 'a fox' --negative blurry --seed 3 --lora $M/mini-sd1.lora.safetensors:0.8 --out one.png");
    assert_true(cli_same_bytes("f-001.png", "one.png"));
    CLI_OK("generate " MINI SMALL "--prompt cups --seed 4 --lora lora.safetensors:0.5 --out one.png");
    assert_true(cli_same_bytes("f-002.png", "one.png"));
    CLI_OK("generate " MINI SMALL "--prompt snow --out one.png");
    assert_true(cli_same_bytes("f-003.png", "one.png"));
    CLI_OK("generate " MINI "--width 32 --height 64 --steps 3 --cfg 2 --sampler euler-a --prompt 'a tall tower' --lora $M/mini-sd1.lora.safetensors:0.8 --out one.png");
    assert_true(cli_same_bytes("f-004.png", "one.png"));
    CLI_OK("generate " MINI SMALL "--prompt two --lora $M/mini-sd1.lora.safetensors:0.3 --lora lora.safetensors --out one.png");
    assert_true(cli_same_bytes("f-005.png", "one.png"));
    assert_int_equal(cli_shell(arena_printf(cli.a, "cd '%s' && cp '%smini-sd1.lora.safetensors' .", cli.dir, CLI_DATA)), 0);
    for (int i = 1; i <= 5; i++) { /* LoRAs beside the picture are found */
        CLI_OK("generate " MINI "--from f-00%d.png --out again.png", i);
        if (!cli_same_bytes(arena_printf(cli.a, "f-00%d.png", i), "again.png")) fail_msg("%s\n%s", recipe(arena_printf(cli.a, "f-00%d.png", i)), recipe("again.png"));
    }
    CLI_OK("generate " MINI SMALL "--prompts p.txt --lora-dir $M --batch 1 --out g.png");
    for (int i = 1; i <= 5; i++) assert_true(cli_same_bytes(arena_printf(cli.a, "f-00%d.png", i), arena_printf(cli.a, "g-00%d.png", i)));
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompt_lines),
        cmocka_unit_test(prompts_from_a_file),
        cmocka_unit_test(prompt_files_that_make_no_sense),
    };
    return cmocka_run_group_tests(tests, cli_setup, cli_teardown);
}
