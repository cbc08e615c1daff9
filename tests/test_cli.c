/* The program as a person runs it: what it makes, and that bad input gets one sentence, exit code 1 and no files. */
#define _GNU_SOURCE
#include "tests/support/cli.h"
#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include "diffusion/sampler.h"
#include "io/png.h"
#include "io/safetensors.h"

#include <stdio.h>
#include <string.h>

#define DATA CLI_DATA
#define SMALL "--width 32 --height 32 --steps 2"

/* Short names for what every line here uses. */
#define memory cli.a
#define base cli.dir
#define out_text cli.out
#define err_text cli.err
#define RUN_OK CLI_OK
#define run cli_run
#define shell cli_shell
#define slurp cli_slurp
#define exists cli_exists
#define lines cli_lines
#define same_bytes cli_same_bytes
#define expect_failure cli_expect_failure

/* ---- Broken models ---- */

static void copy_model(const char *name, const char *then) {
    assert_int_equal(shell(arena_printf(memory, "cd '%s' && cp -r '%smini-sd1' %s && chmod -R u+w %s && cd %s && %s", base,
                                        DATA, name, name, name, then)), 0);
}

/* Replaces text by text of the same length, once, also in binary files. */
static void patch(const char *file, const char *from, const char *to) {
    assert_int_equal(strlen(from), strlen(to));
    struct os_map m;
    assert_true(os_file_map(&m, scratch_path(file), NULL));
    char *copy = arena_alloc(memory, m.bytes);
    memcpy(copy, m.data, m.bytes);
    char *at = memmem(copy, m.bytes, from, strlen(from));
    if (!at) fail_msg("%s has no %s", file, from);
    memcpy(at, to, strlen(to));
    size_t bytes = m.bytes;
    os_file_unmap(&m);
    assert_true(os_file_write_atomic(scratch_path(file), copy, bytes, NULL));
}

static void models_that_do_not_hold_together(void **s) {
#define GENERATE(model) "generate --model " model " --prompt x " SMALL " --out out/x.png"
    expect_failure("", GENERATE("nowhere"), "There is no model nowhere");
    copy_model("no-unet", "rm unet/config.json");
    expect_failure("", GENERATE("no-unet"), "unet/config.json is missing");
    copy_model("no-weights", "rm vae/*.safetensors");
    expect_failure("", GENERATE("no-weights"), "no weights in no-weights/vae");
    copy_model("no-words", "rm tokenizer/merges.txt");
    expect_failure("", GENERATE("no-words"), "merges.txt");
    copy_model("no-schedule", "rm -r scheduler");
    expect_failure("", GENERATE("no-schedule"), "scheduler_config.json is missing");
    copy_model("shape", "true");
    patch("shape/unet/diffusion_pytorch_model.safetensors", "[16,4,3,3]", "[16,4,9,1]");
    expect_failure("", GENERATE("shape"), "conv_in.weight");
    copy_model("block", "true");
    patch("block/unet/config.json", "CrossAttnDownBlock2D", "CrossAttnDownBlock3D");
    expect_failure("", GENERATE("block"), "CrossAttnDownBlock3D");
    copy_model("cut", "truncate -s 100000 unet/*.safetensors");
    expect_failure("", GENERATE("cut"), "diffusion_pytorch_model.safetensors");
    copy_model("lie", "printf '\\377\\377\\377\\377\\377\\377\\377\\177' | dd of=vae/diffusion_pytorch_model.safetensors "
                      "conv=notrunc 2>/dev/null");
    expect_failure("", GENERATE("lie"), "vae/diffusion_pytorch_model.safetensors");
    copy_model("json", "echo '{' > unet/config.json");
    expect_failure("", GENERATE("json"), "unet/config.json");
    expect_failure("", "inspect cut", "diffusion_pytorch_model.safetensors");
}

static void options_that_make_no_sense(void **s) {
#define MINI "--model $M/mini-sd1 "
    expect_failure("", "genrate", "did you mean \"generate\"?");
    expect_failure("", "generate --modle x", "did you mean --model?");
    expect_failure("", "generate --out out/x.png --prompt x", "--model DIR is needed");
    expect_failure("", "generate " MINI "--out out/x.png", "--prompt TEXT is needed");
    expect_failure("", "generate " MINI "--prompt x --out out/x.jpg", "must end in .png");
    expect_failure("", "generate " MINI "--prompt x --out none/x.png", "no folder none");
    expect_failure("", "generate " MINI "--prompt x --out", "--out needs a value");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --steps 0", "from 1 to 1000");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --cfg=much", "must be a number");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --seed -1", "whole number");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --sampler best", "must be one of ddim|euler");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --grid=yes", "takes no value");
    expect_failure("", "generate " MINI "--prompt a cat --out out/x.png", "need quotes");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --width 100", "multiples of 8");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --count 2 --trace out/t.safetensors",
                   "records one picture");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --strengths 0,1", "add --lora");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --device nothing",
                   "No usable Vulkan device matches \"nothing\"");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png " SMALL " --memory 1", "MiB");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --kernel matmul=best", "matmul=best");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --kernel gemm=best", "names no operator");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --memory 1e-9", "--memory takes a size");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --width 16384 --height 16384", "--width and --height");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --strength 0.5", "--lora FILE:0.5");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --hires-steps 5", "--hires SCALE");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --every 2", "--compose switch");
    expect_failure("", "generate " MINI "--prompt 'x <lora:a:0,8> y' --out out/x.png",
                   "\"<lora:a:0,8>\", which is no LoRA's tag");
    expect_failure("VK_ICD_FILENAMES=/nonexistent VK_DRIVER_FILES=/nonexistent", "generate " MINI "--prompt x --out out/x.png",
                   "Vulkan");
    expect_failure("VK_ICD_FILENAMES=/nonexistent VK_DRIVER_FILES=/nonexistent", "devices", "Vulkan");
    scratch_write("bad.json", "{\"stepz\": 3}", 12);
    expect_failure("", "generate --config bad.json " MINI "--prompt x --out out/x.png", "did you mean --steps?");
    expect_failure("", "bench --no-unet --only nonsense", "called like \"nonsense\"");
    scratch_write("bad.json", "{\"config\": \"bad.json\"}", 22);
    expect_failure("", "generate --config bad.json " MINI "--prompt x --out out/x.png", "belongs on the command line");
}

static void loras_that_do_not_fit(void **s) {
    expect_failure("", "generate " MINI "--prompt x " SMALL " --out out/x.png --lora none.safetensors",
                   "no LoRA file none.safetensors");
    expect_failure("", "generate " MINI "--prompt x " SMALL " --out out/x.png --lora $M/mini-odd.lora.safetensors",
                   "does not fit this model");
    expect_failure("", "generate " MINI "--prompt x " SMALL " --out out/x.png --lora $M/mini-sd1.golden.safetensors",
                   "mini-sd1.golden");
    expect_failure("", "generate " MINI "--prompt '<lora:z:1>' " SMALL " --out out/x.png", "--lora-dir");
    expect_failure("", "generate " MINI "--prompt '<lora:z:1>' --lora-dir $M " SMALL " --out out/x.png", "mini-lcm.lora");
    assert_int_equal(shell(arena_printf(memory, "head -c 5000 '%smini-sd1.lora.safetensors' > '%s/cut.safetensors'", DATA,
                                        base)), 0);
    expect_failure("", "generate " MINI "--prompt x " SMALL " --out out/x.png --lora cut.safetensors", "cut.safetensors");
    expect_failure("", "inspect cut.safetensors", "cut.safetensors");
    assert_int_equal(shell(arena_printf(memory, "cd '%s' && { head -c -4 '%smini-sd1.lora.safetensors'; printf "
                                                "'\\377\\377\\377\\177'; } >nan.safetensors", base, DATA)), 0);
    expect_failure("", "generate " MINI "--prompt x " SMALL " --out out/x.png --lora nan.safetensors", "are not numbers");
    expect_failure("", "inspect nowhere", "no file or folder nowhere");
    expect_failure("", "inspect stdout", "none of what inspect knows");
}

static void loras_change_their_spelling(void **s) {
    RUN_OK("convert $M/dialects/kohya.safetensors --to diffusers " MINI "--out spelled.safetensors");
    assert_non_null(strstr(out_text, "12 modules in the spelling of diffusers"));
    RUN_OK("convert spelled.safetensors --to peft " MINI "--out spelled");
    assert_true(exists("spelled/unet/adapter_config.json") && exists("spelled/text_encoder/adapter_model.safetensors"));
    RUN_OK("inspect spelled/unet " MINI);
    assert_non_null(strstr(out_text, "9 of 9 modules can be applied"));
    expect_failure("", "convert $M/kinds/oft.safetensors --to peft " MINI "--out never", "is of the kind OFT");
    expect_failure("", "convert $M/dialects/b-lora.safetensors --to kohya " MINI "--out never.safetensors",
                   "does not fit this model");
    expect_failure("", "convert spelled.safetensors --to civitai " MINI "--out never.safetensors", "civitai");
    assert_false(exists("never") || exists("never.safetensors"));
}

static void loras_go_into_models(void **s) {
    RUN_OK("merge-into " MINI "--lora $M/dialects/peft-unet:0.5 --lora $M/mini-sd1.lora.safetensors --out baked");
    assert_non_null(strstr(out_text, "tensors changed by 2 LoRAs"));
    RUN_OK("inspect baked");
    expect_failure("", "merge-into " MINI "--lora $M/mini-sd1.lora.safetensors --out baked", "exists already");
    expect_failure("", "merge-into " MINI "--lora $M/mini-odd.lora.safetensors --out never", "does not fit this model");
    expect_failure("", "merge-into " MINI "--lora none.safetensors --out never", "no LoRA file");
    assert_false(exists("never") || exists("never.part"));
}

#define PAIR "--lora $M/mergers/first.safetensors:0.8 --lora $M/mergers/second.safetensors:-0.6 "
static void loras_become_one(void **s) {
    RUN_OK("merge --method svd --rank 3 " MINI PAIR "--out one.safetensors");
    assert_non_null(strstr(out_text, "6 layers of rank 3 to 3, 3 of them in more than one file"));
    RUN_OK("inspect one.safetensors " MINI);
    assert_non_null(strstr(out_text, "6 of 6 modules can be applied"));
    assert_non_null(strstr(out_text, "first:0.8, second:-0.6"));
    expect_failure("", "merge --method concat --rank 3 " MINI PAIR "--out never.safetensors", "takes no --rank");
    expect_failure("", "merge --method sum --steps 3 " MINI PAIR "--out never.safetensors", "runs no model");
    expect_failure("", "merge --method ziplora --partial " MINI PAIR "--out never.safetensors", "takes no --partial");
    expect_failure("", "merge --method ziplora --prompt fox " MINI PAIR "--out never.safetensors", "one for every LoRA");
    expect_failure("", "merge --method ziplora " MINI PAIR "--out never.safetensors", "--data folder for every --lora");
    RUN_OK("merge --method ziplora --dry-run --prompt fox --prompt ink --resolution 64 " MINI PAIR "--out never.safetensors");
    assert_non_null(strstr(out_text, "3 learn"));
    expect_failure("", "merge --method sum " MINI "--lora one.safetensors --out never.safetensors", "at least two");
    expect_failure("", "merge --method sum " MINI "--lora one.safetensors --lora $M/mini-xl.lora.safetensors --out "
                                                  "never.safetensors", "does not fit this model");
    assert_false(exists("never.safetensors"));
}

/* ---- Pictures ---- */

static void a_picture_carries_its_recipe(void **s) {
    RUN_OK("generate " MINI SMALL " --prompt 'a cat, <3' --negative dog --sampler euler-a --schedule karras --cfg 3.25 --seed "
                                  "18446744073709551615 --lora $M/mini-sd1.lora.safetensors:0.75 --out a.png");
    assert_non_null(strstr(out_text, "a.png: 1 picture of 32x32, 2 steps"));
    RUN_OK("generate " MINI "--from a.png --lora-dir $M --out b.png");
    assert_true(same_bytes("a.png", "b.png"));
    RUN_OK("generate " MINI "--from a.png --lora-dir $M --seed 3 --out c.png");
    assert_false(same_bytes("a.png", "c.png"));
    RUN_OK("inspect a.png");
    assert_non_null(strstr(out_text, "a cat, <3"));
    assert_non_null(strstr(out_text, "guidance 3.25, seed 18446744073709551615, 32x32"));
    expect_failure("", "generate " MINI "--from a.png --out out/d.png", "no LoRA \"mini-sd1.lora\"");
    RUN_OK("generate " MINI SMALL " --prompt \"$(printf 'red\\033[31m\\nfox')\" --out e.png");
    RUN_OK("inspect e.png"); /* shows a prompt's lines, but hands a terminal none of its commands */
    assert_non_null(strstr(out_text, "prompt        red?[31m\nfox\n"));
}

static const char *recipe_of(const char *name) {
    struct png_text *texts;
    size_t n;
    struct error e;
    if (!png_read_texts(memory, scratch_path(name), &texts, &n, &e)) fail_msg("%s", e.text);
    return png_text_find(texts, n, "parameters");
}

static void write_recipe(const char *name, const char *recipe) {
    struct error e;
    struct image im = image_create(memory, 8, 8);
    struct png_text text = {"parameters", recipe};
    if (!png_write(scratch_path(name), &im, &text, 1, &e)) fail_msg("%s", e.text);
}

static void every_sampler_has_a_name(void **s) {
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --sampler best", "must be one of ddim|euler");
    for (size_t i = 0; sampler_name(i); i++)
        if (!strstr(err_text, arena_printf(memory, "|%s", sampler_name(i))) && i) fail_msg("no --sampler %s", sampler_name(i));
    RUN_OK("generate " MINI SMALL
           " --prompt cat --sampler dpmpp-2s-a --schedule karras_full --eta 0.5 --noise torch-f16 --ensd 7 --out n.png");
    RUN_OK("generate " MINI "--from n.png --out n2.png");
    assert_true(same_bytes("n.png", "n2.png"));
    RUN_OK("generate " MINI "--from n.png --ensd 0 --out n3.png");
    assert_false(same_bytes("n.png", "n3.png"));
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --sampler euler --eta 0.5", "no eta");
    expect_failure("", "generate " MINI "--prompt x --out out/x.png --sampler lcm --schedule karras", "own times");
}

/* A1111's names become ours, its silence becomes what it does by default. */
static void recipes_of_a1111(void **s) {
    static const struct { const char *fields, *want; } cases[] = {
        {"Sampler: DPM++ SDE Karras, ", "Sampler: DPM++ SDE, Schedule type: Karras, "},
        {"Sampler: Euler a, Schedule type: Automatic, ", "Sampler: Euler a, Schedule type: Normal, "},
        {"Sampler: DPM++ 2M SDE, Schedule type: Automatic, ", "Sampler: DPM++ 2M SDE, Schedule type: Exponential, "},
        {"Sampler: PLMS, Schedule type: Automatic, ", "Sampler: PLMS, CFG"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_recipe("foreign.png", arena_printf(memory, "cat\n"
                                                         "Steps: 2, %sCFG scale: 3, Seed: 5, Size: 32x32, RNG: CPU, ENSD: "
                                                         "31337, Version: v1.9.4", cases[i].fields));
        RUN_OK("generate " MINI "--from foreign.png --out f.png");
        if (!strstr(recipe_of("f.png"), cases[i].want)) fail_msg("%s became %s", cases[i].fields, recipe_of("f.png"));
        assert_non_null(strstr(recipe_of("f.png"), "ENSD: 31337"));
        assert_null(strstr(recipe_of("f.png"), "RNG"));
    }
    write_recipe("foreign.png", "cat\nSteps: 2, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 32x32, Version: v1.6.0");
    RUN_OK("generate " MINI "--from foreign.png --out f.png");
    assert_non_null(strstr(recipe_of("f.png"), "RNG: NV"));
    RUN_OK("generate " MINI "--from f.png --out f2.png");
    assert_true(same_bytes("f.png", "f2.png"));
    write_recipe("foreign.png", "cat\nSteps: 2, Sampler: Restart, CFG scale: 3, Seed: 5, Size: 32x32, Version: v1.9.4");
    expect_failure("", "generate " MINI "--from foreign.png --out out/x.png", "\"Restart\", which is not here");
    write_recipe("foreign.png", "cat\nSteps: 2, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 99999x99999, Version: v1.6.0");
    expect_failure("", "generate " MINI "--from foreign.png --out out/x.png", "give --width and --height");
    write_recipe("foreign.png", "cat\nSteps: 2, Sampler: Euler, CFG scale: 500, Seed: 5, Size: 32x32, Version: v1.6.0");
    expect_failure("", "generate " MINI "--from foreign.png --out out/x.png", "give --cfg");
}

/* What several LoRAs do together is in the recipe. */
static void loras_together(void **state) {
    RUN_OK("generate " MINI SMALL " --steps 4 --prompt fox --lora $M/mini-sd1.lora.safetensors:0.2..1@0-50%%:IN=0.5,M00=0 "
           "--lora $M/mini-sd1.lora-2.safetensors:0.7 --compose switch --every 1 --out switch.png");
    RUN_OK("generate " MINI "--from switch.png --lora-dir $M --out switch2.png");
    assert_true(same_bytes("switch.png", "switch2.png"));
    RUN_OK("generate " MINI "--from switch.png --lora-dir $M --compose composite --out composite.png");
    assert_false(same_bytes("switch.png", "composite.png"));
    RUN_OK("generate " MINI SMALL " --prompt 'fox <lora:mini-sd1.lora:0.8:1,0,1,0,1,0,1,0,1,0,1,0,1,0,1,0,1> "
                                  "<lora:mini-sd1.lora-2:0..1>' --lora-dir $M --out tags.png");
    RUN_OK("generate " MINI "--from tags.png --lora-dir $M --out tags2.png");
    assert_true(same_bytes("tags.png", "tags2.png"));
    expect_failure("", "generate " MINI "--prompt x --lora $M/mini-sd1.lora.safetensors --compose switch --out out/x.png",
                   "two LoRAs or more");
    expect_failure("", "generate " MINI "--prompt x --lora $M/mini-sd1.lora.safetensors:1:1,2,3 --out out/x.png",
                   "17 or 26 numbers");
    expect_failure("", "generate " MINI "--prompt x --lora $M/mini-sd1.lora.safetensors:1:1,1,1,1,1,1,1,1,1,1,1,1 --out "
                                        "out/x.png", "no SDXL");
    expect_failure("", "generate " MINI "--prompt x --lora $M/mini-sd1.lora.safetensors:1@50-20%% --out out/x.png",
                   "0.8@0-40%");
    expect_failure("", "generate " MINI "--prompt x --lora $M/mini-sd1.lora.safetensors:1 --lora "
                                        "$M/mini-sd1.lora.safetensors:0..1 --out out/x.png", "used twice");
}

static void regions(void **state) {
    struct error e;
    struct image im = image_create(memory, 32, 32), small = image_create(memory, 8, 8);
    assert_true(png_write(scratch_path("black.png"), &im, NULL, 0, &e) &&
                png_write(scratch_path("small.png"), &small, NULL, 0, &e));
    memset(im.rgb, 255, 32 * 16 * 3);
    assert_true(png_write(scratch_path("upper.png"), &im, NULL, 0, &e));
#define BOTH "generate " MINI SMALL " --prompt fox --lora-dir $M "
    RUN_OK(BOTH "--region '0,0,32,16:cat <lora:mini-sd1.lora:0.8>' --out box.png");
    RUN_OK(BOTH "--region 'upper.png:cat <lora:mini-sd1.lora:0.8>' --out mask.png");
    RUN_OK("generate " MINI "--from box.png --lora-dir $M --out box2.png");
    assert_true(same_bytes("box.png", "box2.png") && strstr(recipe_of("box.png"), "Region method: attention"));
    RUN_OK(BOTH "--region '16,0,16,32:cat <lora:mini-sd1.lora:0.8>' --out right.png");
    assert_false(same_bytes("box.png", "right.png"));
    RUN_OK("generate " MINI "--from box.png --lora-dir $M --region-method predictions --out joined.png");
    RUN_OK("generate " MINI "--from joined.png --lora-dir $M --out joined2.png");
    assert_false(same_bytes("box.png", "joined.png"));
    assert_true(same_bytes("joined.png", "joined2.png"));
    char *old = arena_strdup(memory, recipe_of("joined.png")), *method = strstr(old, ", Region method: predictions");
    assert_non_null(method);
    memmove(method, method + strlen(", Region method: predictions"),
            strlen(method + strlen(", Region method: predictions")) + 1);
    write_recipe("old.png", old); /* from before there was a choice */
    RUN_OK("generate " MINI "--from old.png --lora-dir $M --out old2.png");
    assert_true(same_bytes("old2.png", "joined.png"));
    write_recipe("beside.png", "fox\nSteps: 2, Size: 32x32, Regions: \"[\\\"gone/upper.png:cat\\\"]\", Region method: "
                               "attention, Version: atelier 1");
    RUN_OK("generate " MINI "--from beside.png --out beside2.png");
    write_recipe("odd.png", "fox\nSteps: 2, Regions: \"[\\\"0,0,8,8:cat\\\"]\", Region method: odd, Version: atelier 1");
    expect_failure("", "generate " MINI "--from odd.png --out out/x.png",
                   "\"odd\", is not here; choose one with --region-method");
    RUN_OK(BOTH "--region '0,0,32,16:cat' --region '16,0,16,32:bird' --hires 2 --hires-steps 3 --count 2 --memory 300MB --out "
                "hires.png");
    RUN_OK(BOTH "--region '0,0,32,16:cat <lora:mini-sd1.lora:0.8>' --init-image box.png --strength 0.6 --out over.png");
    RUN_OK(BOTH "--region '0,0,32,16:cat <lora:mini-sd1.lora:0.8>' --dry-run --out dry.png");
    RUN_OK(BOTH "--lora $M/mini-sd1.lora-2.safetensors:0.5 --region '0,0,32,16:cat <lora:mini-sd1.lora:0.8>' --strengths 0,1 "
                "--cfg 1 --grid --out grid.png");
    expect_failure("", BOTH "--region '0,0,40,16:cat' --out out/x.png", "outside the picture of 32x32");
    expect_failure("", BOTH "--region '8,0,0,16:cat' --out out/x.png", "no area");
    expect_failure("", BOTH "--region 'black.png:cat' --out out/x.png", "black all over");
    expect_failure("", BOTH "--region 'small.png:cat' --out out/x.png", "8x8 pixels and the picture 32x32");
    expect_failure("", BOTH "--region 'cat' --out out/x.png", "does not say where");
    char *many = "";
    for (int i = 0; i < 17; i++) many = arena_printf(memory, "%s--region '0,0,8,8:cat' ", many);
    expect_failure("", arena_printf(memory, BOTH "%s --out out/x.png", many), "17 regions, and at most 16");
    expect_failure("", BOTH "--region '0,0,8,8:cat' --region-method best --out out/x.png", "attention|predictions");
}

/* Styles, clip skip and learnt words are in the recipe; another program's recipe is in A1111's style. */
static void prompts_in_styles(void **state) {
    float vectors[2 * 32];
    struct error e;
    for (int i = 0; i < 64; i++) vectors[i] = (float)(i % 7 - 3) / 10;
    struct st_writer *w = st_writer_create();
    st_writer_add_f32(w, "emb_params", ST_F32, 2, (int64_t[]){2, 32}, vectors);
    assert_true(st_writer_save(w, scratch_path("ink.safetensors"), &e));
    st_writer_destroy(&w);
    RUN_OK("generate " MINI SMALL " --prompt 'a (fox:1.3) [cat:dog:1] BREAK ink AND rain:0.5' --prompt-style a1111 --clip-skip "
                                  "2 --embedding ink.safetensors --out style.png");
    RUN_OK("generate " MINI "--from style.png --out style2.png");
    assert_true(same_bytes("style.png", "style2.png"));
    RUN_OK("generate " MINI "--from style.png --prompt-style diffusers --out style3.png");
    assert_false(same_bytes("style.png", "style3.png"));
    RUN_OK("generate " MINI SMALL
           " --prompt 'fox++ ink, (rain)0.5' --prompt-style compel --embedding dye=ink.safetensors --out compel.png");
    expect_failure("", "generate " MINI "--from compel.png --out out/x.png", "learnt word \"dye\"");
    RUN_OK("generate " MINI "--from compel.png --embedding dye=ink.safetensors --out compel2.png");
    assert_true(same_bytes("compel.png", "compel2.png"));
    RUN_OK("generate " MINI SMALL " --prompt 'a (fox:1.3)' --out plain.png");
    assert_non_null(strstr(err_text, "--prompt-style a1111"));
    expect_failure("", "generate " MINI "--prompt fox --clip-skip 9 --out out/x.png", "--clip-skip 9");
    expect_failure("", "generate " MINI "--prompt 'fox.swap(cat)' --prompt-style compel --out out/x.png", ".swap()");
    expect_failure("", "generate " MINI "--prompt fox --embedding $M/mini-sd1.lora.safetensors --out out/x.png",
                   "no textual-inversion");
}

static void pictures_from_pictures(void **s) {
    struct error e;
    struct image mask = image_create(memory, 48, 40);
    if (!png_write(scratch_path("black.png"), &mask, NULL, 0, &e)) fail_msg("%s", e.text);
    for (int i = 0; i < 40; i++) memset(mask.rgb + (i * 48 + 24) * 3, 255, 24 * 3);
    if (!png_write(scratch_path("right.png"), &mask, NULL, 0, &e)) fail_msg("%s", e.text);
    RUN_OK("generate " MINI SMALL " --prompt cat --seed 5 --out start.png");
    RUN_OK("generate " MINI "--prompt dog --steps 4 --init-image start.png --strength 0.5 --sampler euler-a --out again.png");
    assert_non_null(strstr(out_text, "1 picture of 32x32"));
    RUN_OK("generate " MINI "--from again.png --out again2.png");
    assert_true(same_bytes("again.png", "again2.png"));
    RUN_OK("generate " MINI "--prompt dog --steps 4 --init-image start.png --mask right.png --out part.png");
    assert_non_null(strstr(err_text, "right.png is 48x40 and is resized to 32x32"));
    RUN_OK("generate " MINI "--from part.png --out part2.png");
    assert_true(same_bytes("part.png", "part2.png"));
    for (int i = 0; i < 2; i++) {
        RUN_OK("generate " MINI SMALL " --prompt cat --hires 1.5 --hires-upscaler %s --out large.png",
               i ? "lanczos" : "latent");
        assert_non_null(strstr(out_text, "1 picture of 48x48"));
        RUN_OK("generate " MINI "--from large.png --out large2.png");
        assert_true(same_bytes("large.png", "large2.png"));
    }
    static const char *const wrong[][2] = {
        {"--init-image start.png --mask black.png", "black everywhere"},
        {"--mask right.png", "give the picture with --init-image"},
        {"--init-image none.png", "none.png"},
        {"--init-image stdout", "--init-image"},
        {"--init-image start.png --strength 1.5", "from 0 to 1"},
        {"--init-image start.png --strength 0.1", "none of 2 steps"},
        {"--hires 1", "above 1"},
        {"--hires 2 --hires-strength 0", "none of the second pass's"},
        {"--hires 2 --init-image start.png", "takes no --init-image"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_failure("", arena_printf(memory, "generate " MINI SMALL " --prompt x --out out/x.png %s", wrong[i][0]),
                       wrong[i][1]);
}

static void sheets_and_counts(void **s) {
    RUN_OK("generate " MINI SMALL " --prompt cat --prompt 'dog <lora:mini-sd1.lora:0.5>' --lora-dir $M --lora "
                                  "$M/mini-sd1.lora.safetensors --strengths 0,0.5,1 --grid --seed 5 --out sheet.png");
    RUN_OK("generate " MINI "--from sheet.png --lora-dir $M --out sheet2.png");
    assert_true(same_bytes("sheet.png", "sheet2.png"));
    RUN_OK("generate " MINI SMALL " --prompt cat --seed 5 --count 2 --out many.png");
    assert_true(exists("many-001.png") && exists("many-002.png") && !exists("many.png"));
    RUN_OK("generate " MINI SMALL " --prompt cat --seed 6 --out six.png");
    assert_true(same_bytes("six.png", "many-002.png"));
    static const char config[] = "{\"prompt\": [\"cat\"], \"steps\": 2, \"width\": 32, \"height\": 32, \"seed\": 9}";
    scratch_write("config.json", config, sizeof config - 1);
    RUN_OK("generate --config config.json " MINI "--seed=6 --out six2.png");
    assert_true(same_bytes("six.png", "six2.png"));
    RUN_OK("generate " MINI SMALL " --prompt cat --seed 6 --out six.png --trace t.safetensors");
    RUN_OK("inspect --all t.safetensors");
    assert_non_null(strstr(out_text, "latents_002 F32 [1, 4, 4, 4]"));
}

static void long_prompts_warn(void **s) {
    RUN_OK("generate " MINI SMALL " --out long.png --prompt \"$(yes cat | head -n 120 | tr '\\n' ' ')\"");
    assert_non_null(strstr(err_text, "warning: "));
    assert_non_null(strstr(err_text, "dropped"));
    assert_true(exists("long.png"));
}

static void interrupts_leave_nothing(void **s) {
    expect_failure("timeout --foreground --preserve-status -s INT 3",
                   "generate " MINI "--steps 1000 --count 1000 --grid --prompt x --out out/x.png", "nothing was written");
}

/* Pictures that are done stay, and the sentence does not say otherwise. */
static void interrupts_keep_what_is_done(void **s) {
    shell(arena_printf(memory, "cd '%s' && export M='%s' && { '%s/atelier' generate " MINI "--steps 50 --count 1000 --prompt x "
                               "--out halt.png >stdout 2>stderr & pid=$!; for i in $(seq 600); do [ -f halt-001.png ] && "
                               "break; sleep 0.1; done; kill -INT $pid; wait $pid; }", base, DATA, ATELIER_BINARY_DIR));
    assert_true(exists("halt-001.png"));
    const char *said = slurp(scratch_path("stderr"));
    if (!strstr(said, "of 1000 pictures, which are written")) fail_msg("%s", said);
}

/* A limit on file sizes stands in for a full disk; a real small one where we may mount. */
static void full_disks(void **s) {
    expect_failure("ulimit -f 1;", "generate " MINI "--prompt x --width 64 --height 64 --steps 1 --out out/x.png",
                   "x.png");
    if (shell(arena_printf(memory, "cd '%s' && mkdir tiny && mount -t tmpfs -o size=4k none tiny 2>/dev/null", base))) return;
    int code = run("", "generate " MINI "--prompt x --width 64 --height 64 --steps 1 --out tiny/x.png");
    bool left = exists("tiny/x.png");
    shell(arena_printf(memory, "umount '%s/tiny'", base));
    assert_int_equal(code, 1);
    assert_false(left);
    assert_non_null(strstr(err_text, "x.png"));
}

/* ---- Training ---- */

#define TRAIN "train " MINI "--resolution 32 --batch 2 --rank 2 --data "

static void make_pictures(void) {
    assert_int_equal(shell(arena_printf(memory, "cd '%s' && mkdir -p pictures && cp a.png pictures/a.png && cp c.png "
                                                "pictures/b.png && echo 'a cat' > pictures/a.txt && echo 'a dog' > "
                                                "pictures/b.txt", base)), 0);
}

static void training_resumes_to_the_same_bytes(void **s) {
    make_pictures();
    RUN_OK(TRAIN "pictures --steps 6 --warmup 2 --out whole.safetensors --log whole.jsonl --sample-prompt cat --sample-every 3 "
                 "--sample-steps 1");
    RUN_OK(TRAIN "pictures --steps 6 --warmup 2 --out parts.safetensors --log parts.jsonl --stop-after 3");
    assert_false(exists("parts.safetensors"));
    assert_non_null(strstr(out_text, "--resume"));
    RUN_OK(TRAIN "pictures --steps 2 --stop-after 1 --out twice.safetensors");
    RUN_OK(TRAIN "pictures --steps 2 --out twice.safetensors");
    assert_non_null(strstr(err_text, "with --resume it would go on"));
    RUN_OK(TRAIN "pictures --steps 6 --warmup 2 --out parts.safetensors --log parts.jsonl --resume");
    assert_null(strstr(err_text, "warning"));
    assert_true(exists("whole-sample-000003.png"));
    assert_string_equal(slurp(scratch_path("whole.jsonl")), slurp(scratch_path("parts.jsonl")));
    assert_int_equal(lines(slurp(scratch_path("whole.jsonl"))), 6);
    /* The names of the outputs stand in the metadata; the tensors must agree to the bit. */
    RUN_OK("inspect whole.safetensors --all");
    assert_non_null(strstr(out_text, "scale_parameter=0\n")); /* a long value's end */
    RUN_OK("inspect whole.safetensors --model $M/mini-sd1");
    const char *hash = strstr(out_text, "SHA-256 of the tensors ");
    assert_non_null(hash);
    char want[65];
    memcpy(want, hash + 23, 64), want[64] = 0;
    RUN_OK("inspect parts.safetensors --model $M/mini-sd1");
    assert_non_null(strstr(out_text, want));
    RUN_OK("generate " MINI SMALL " --prompt cat --lora whole.safetensors --out trained.png");
}

/* Ctrl-C while a sheet is drawn and nobody reads what is printed: the run is kept. --resume draws the sheet. */
static void training_survives(void **s) {
    make_pictures();
    const char *train = "'%s/atelier' " TRAIN "pictures --steps 4 --sample-every 2 --sample-prompt cat --log kept.jsonl "
                        "--out kept.safetensors --sample-steps";
    const char *script = arena_printf(memory, "cd '%s' && export M='%s' && { %s 1000 2>&1 & pid=$!; for i in $(seq 600); do "
                                              "[ -f kept.jsonl ] && [ $(wc -l <kept.jsonl) -ge 2 ] && break; sleep 0.1; "
                                              "done; kill -INT $pid; wait $pid; echo $? >kept.code; } | true", base, DATA,
                                      arena_printf(memory, train, ATELIER_BINARY_DIR));
    assert_int_equal(shell(script), 0);
    assert_string_equal(slurp(scratch_path("kept.code")), "0\n");
    assert_true(exists("kept.safetensors.state.safetensors"));
    assert_false(exists("kept-sample-000002.png"));
    RUN_OK(TRAIN "pictures --steps 4 --sample-every 2 --sample-prompt cat --log kept.jsonl --out kept.safetensors "
                 "--sample-steps 1 --resume");
    assert_true(exists("kept-sample-000002.png") && exists("kept-sample-000004.png") && exists("kept.safetensors"));
    assert_false(exists("kept.safetensors.state.safetensors"));
}

/* Where stderr is closed, its number must not become a file's. */
static void logs_hold_no_chatter(void **s) {
    make_pictures();
    assert_int_equal(run("sh -c 'exec \"$@\" 2>&-' x", TRAIN "pictures --steps 2 --out quiet.safetensors --log "
                                                       "quiet.jsonl"), 0);
    const char *log = slurp(scratch_path("quiet.jsonl"));
    assert_int_equal(lines(log), 2);
    assert_null(strstr(log, "steps/s"));
}

static void dry_runs_write_nothing(void **s) {
    make_pictures();
    RUN_OK(TRAIN "pictures --out out/x.safetensors --dry-run");
    assert_non_null(strstr(out_text, "pictures    2 in pictures"));
    assert_non_null(strstr(out_text, "activations"));
    expect_failure("", "generate", "is needed");
}

static void folders_that_cannot_be_learnt(void **s) {
    make_pictures();
    expect_failure("", TRAIN "nowhere --out out/x.safetensors", "nowhere");
    shell(arena_printf(memory, "cd '%s' && mkdir empty torn one silent && head -c 400 a.png > torn/a.png && echo x > "
                               "torn/a.txt && cp a.png silent/", base));
    expect_failure("", TRAIN "empty --out out/x.safetensors", "empty");
    expect_failure("", TRAIN "torn --out out/x.safetensors", "torn/a.png");
    expect_failure("", TRAIN "silent --out out/x.safetensors", "caption");
    static const unsigned char dot[] = {0x89, 'P',  'N',  'G',  13,   10,  26,  10,  0,   0,    0,    13,   'I',  'H',
                                        'D',  'R',  0,    0,    0,    1,   0,   0,   0,   1,    8,    2,    0,    0,
                                        0,    0x90, 0x77, 0x53, 0xde, 0,   0,   0,   12,  'I',  'D',  'A',  'T',  0x78,
                                        0x9c, 0x63, 0xf8, 0xcf, 0xc0, 0,   0,   3,   1,   1,    0,    0xc9, 0xfe, 0x92,
                                        0xef, 0,    0,    0,    0,    'I', 'E', 'N', 'D', 0xae, 0x42, 0x60, 0x82};
    scratch_write("one/dot.png", dot, sizeof dot);
    expect_failure("", TRAIN "one --caption x --out out/x.safetensors", "dot.png");
    expect_failure("", TRAIN "pictures --resolution 36 --out out/x.safetensors", "multiple of 8");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --resume", "resume");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --memory 1", "MiB");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --sample-every 3", "--sample-prompt");
    scratch_write("model.safetensors", "x", 1);
    expect_failure("", "train --model model.safetensors --data pictures --out ./model.safetensors", "is the model itself");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --snr-gamma 3", "--weighting min-snr");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --weighting min-snr --snr-gamma 0", "5 is usual");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --pyramid-discount 0.5", "--pyramid-iterations");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --token-vectors 2", "--token");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --masks none --dry-run", "has no mask");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --resume --dry-run", "nothing to resume");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --resolution 16384", "Lower --resolution");
    expect_failure("", TRAIN "pictures --out out/x.safetensors --lr 10 --max-grad-norm 0 --lr-schedule constant --steps 500",
                   "no longer a number at step");
}

static void everything_has_help(void **s) {
    static const char *const commands[] = {"", "train", "generate", "inspect", "devices", "bench"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        RUN_OK("%s --help", commands[i]);
        assert_non_null(strstr(out_text, "usage: atelier"));
    }
    RUN_OK("devices");
    RUN_OK("inspect $M/mini-sd1");
    RUN_OK("inspect $M/mini-sd1.lora.safetensors --model $M/mini-sd1");
    assert_non_null(strstr(out_text, "of 120 modules can be applied"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_has_help),              cmocka_unit_test(options_that_make_no_sense),
        cmocka_unit_test(models_that_do_not_hold_together), cmocka_unit_test(loras_that_do_not_fit),
        cmocka_unit_test(loras_change_their_spelling),      cmocka_unit_test(loras_go_into_models),
        cmocka_unit_test(pictures_from_pictures),           cmocka_unit_test(loras_become_one),
        cmocka_unit_test(every_sampler_has_a_name),         cmocka_unit_test(recipes_of_a1111),
        cmocka_unit_test(a_picture_carries_its_recipe),     cmocka_unit_test(sheets_and_counts),
        cmocka_unit_test(prompts_in_styles),                cmocka_unit_test(loras_together),
        cmocka_unit_test(regions),                          cmocka_unit_test(long_prompts_warn),
        cmocka_unit_test(interrupts_leave_nothing),         cmocka_unit_test(full_disks),
        cmocka_unit_test(interrupts_keep_what_is_done),
        cmocka_unit_test(training_resumes_to_the_same_bytes),
        cmocka_unit_test(training_survives),
        cmocka_unit_test(logs_hold_no_chatter),
        cmocka_unit_test(dry_runs_write_nothing),           cmocka_unit_test(folders_that_cannot_be_learnt),
    };
    return cmocka_run_group_tests(tests, cli_setup, cli_teardown);
}
