#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include "base/arena.h"
#include "base/os.h"
#include "base/path.h"
#include "io/png.h"
#include "io/safetensors.h"
#include "train/dataset.h"
#include "train/metadata.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct arena *a;

static int setup(void **s) {
    a = arena_create(NULL);
    return scratch_make(s);
}

static int teardown(void **s) {
    arena_destroy(&a);
    return scratch_drop(s);
}

static void picture(const char *name, int w, int h) {
    struct error e = {0};
    assert_true(os_dir_make(path_dir(a, scratch_path(name)), &e));
    struct image im = image_create(a, w, h);
    memset(im.rgb, 90, (size_t)w * (size_t)h * 3);
    assert_true(png_write(scratch_path(name), &im, NULL, 0, &e));
}

static void words(const char *name, const char *text) { scratch_write(name, text, strlen(text)); }

static bool scan(const char *dir, const char *fallback, struct dataset *d, struct error *e) {
    *e = (struct error){0};
    return dataset_scan(a, &(struct dataset_params){.dir = scratch_path(dir), .default_caption = fallback}, d, e);
}

static void captions_come_from_three_places(void **s) {
    picture("d/b.PNG", 40, 20);
    picture("d/a.png", 20, 40);
    picture("d/10_red fox/x.png", 20, 20);
    picture("d/10_red fox/y.jpeg", 20, 20); /* content decides, not the ending */
    picture("d/10_red fox/deep/z.webp", 20, 20);
    picture("d/3_/plain.jpg", 20, 20);
    picture("d/2024_trip/t.png", 20, 20); /* too many repeats to be meant */
    picture("d/.hidden/no.png", 20, 20);
    words("d/a.txt", "\xef\xbb\xbf\n  a caption, with tags \r\nsecond line\n");
    words("d/b.caption", "kohya's ending");
    words("d/10_red fox/y.txt", "");
    words("d/notes.md", "x");
    struct dataset d;
    struct error e;
    if (!scan("d", "default words", &d, &e)) fail_msg("%s", e.text);
    static const struct {
        const char *end, *caption;
        int repeats;
    } want[] = {
        {"d/10_red fox/deep/z.webp", "red fox", 10}, {"d/10_red fox/x.png", "red fox", 10}, {"d/10_red fox/y.jpeg", "", 10},
        {"d/2024_trip/t.png", "default words", 1},   {"d/3_/plain.jpg", "default words", 3},
        {"d/a.png", "a caption, with tags", 1},      {"d/b.PNG", "kohya's ending", 1},
    };
    assert_int_equal(d.n, 7);
    for (size_t i = 0; i < d.n; i++) {
        assert_string_equal(d.samples[i].path, scratch_path(want[i].end));
        assert_string_equal(d.samples[i].caption, want[i].caption);
        assert_int_equal(d.samples[i].repeats, want[i].repeats);
    }
    assert_int_equal(d.n_per_epoch, 36);
    assert_int_equal(d.n_ignored, 1);
    assert_int_equal(d.n_from[DATASET_CAPTION_FILE], 3);
    assert_int_equal(d.n_from[DATASET_CAPTION_FOLDER], 2);
    assert_int_equal(d.n_from[DATASET_CAPTION_DEFAULT], 2);
    assert_true(dataset_probe(&d, &e));
    assert_true(d.samples[5].w == 20 && d.samples[5].h == 40);
    struct image im;
    for (size_t i = 0; i < d.n; i++) {
        assert_true(dataset_load(a, &d.samples[i], 64, 64, &im, &e));
        assert_true(im.w == 64 && im.h == 64 && im.rgb[64 * 64 * 3 - 1] == 90);
    }
    assert_true(scan("d/10_red fox", NULL, &d, &e)); /* the folder itself may carry the words */
    assert_int_equal(d.samples[0].repeats, 10);
}

static void bad_folders_are_explained(void **s) {
    struct dataset d;
    struct error e;
    assert_false(scan("none", NULL, &d, &e));
    assert_non_null(strstr(e.text, "there is no folder"));
    words("file", "x");
    assert_false(scan("file", NULL, &d, &e));
    assert_non_null(strstr(e.text, "not a folder"));
    os_dir_make(scratch_path("empty/sub"), NULL);
    words("empty/readme.doc", "x");
    assert_false(scan("empty", "c", &d, &e));
    assert_non_null(strstr(e.text, "no pictures"));
    assert_non_null(strstr(e.text, "1 other"));
    picture("bare/p.png", 20, 20);
    assert_false(scan("bare", NULL, &d, &e));
    assert_non_null(strstr(e.text, "1 of 1 pictures"));
    assert_non_null(strstr(e.text, "p.png"));
    assert_false(scan("bare", "\xff", &d, &e));
    words("bare/p.txt", "caf\xe9");
    assert_false(scan("bare", NULL, &d, &e));
    assert_non_null(strstr(e.text, "UTF-8"));
    picture("bad/small.png", 1, 1);
    assert_true(scan("bad", "c", &d, &e));
    assert_false(dataset_probe(&d, &e));
    assert_non_null(strstr(e.text, "1 x 1"));
    struct image im;
    assert_false(dataset_load(a, &d.samples[0], 64, 64, &im, &e));
    assert_non_null(strstr(e.text, "too small"));
    words("bad/small.png", "not a picture");
    assert_false(dataset_load(a, &d.samples[0], 64, 64, &im, &e));
    assert_false(dataset_probe(&d, &e));
}

static void circles_end(void **s) {
    picture("loop/p.png", 20, 20);
    char *link = arena_strdup(a, scratch_path("loop/again"));
    char *command = arena_printf(a, "ln -s . '%s'", link);
    assert_int_equal(system(command), 0);
    struct dataset d;
    struct error e;
    assert_false(scan("loop", "c", &d, &e));
    assert_non_null(strstr(e.text, "circle"));
}

static void floats_look_like_python(void **s) {
    static const struct {
        double v;
        const char *text;
    } rows[] = {{16, "16.0"}, {1e-4, "0.0001"}, {1e-5, "1e-05"}, {0.1, "0.1"}, {100, "100.0"}, {1e16, "1e+16"},
                {123456789, "123456789.0"}, {1.0 / 3, "0.3333333333333333"}, {-2.5, "-2.5"}, {1e15, "1000000000000000.0"},
                {0, "0.0"}};
    char b[METADATA_FLOAT_BYTES];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(metadata_float_text(b, rows[i].v), rows[i].text);
}

static void metadata_is_complete(void **s) {
    struct dataset_sample samples[] = {{.path = "x/a.png", .caption = "Fox, red , ,snow", .folder = "10_fox", .repeats = 10},
                                       {.path = "x/b.png", .caption = "fox", .folder = "10_fox", .repeats = 10},
                                       {.path = "x/c.png", .caption = "cat", .folder = "pics", .repeats = 1}};
    struct dataset d = {.samples = samples, .n = 3, .n_per_epoch = 21};
    struct metadata_params p = {.family = METADATA_SD1, .model_name = "demo", .rank = 8, .alpha = 4, .output_name = "ink",
                                .optimizer = "AdamW", .lr_scheduler = "cosine", .lr = 1e-4, .unet_lr = 1e-4, .seed = 7,
                                .steps = 60, .max_steps = 60, .batch = 4, .grad_accumulation = 1, .w = 128, .h = 128,
                                .max_grad_norm = 1, .data = &d};
    struct st_writer *w = st_writer_create();
    float v[2] = {1, 2};
    st_writer_add(w, "t", ST_F32, 1, (int64_t[]){2}, v);
    struct error e = {0};
    assert_true(metadata_add(w, &p, &e));
    assert_true(st_writer_save(w, scratch_path("m.safetensors"), &e));
    st_writer_destroy(&w);
    struct st_file *f = st_open(scratch_path("m.safetensors"), &e);
    static const char *const want[][2] = {
        {"ss_base_model_version", "sd_v1"}, {"ss_v2", "False"}, {"ss_network_module", "networks.lora"}, {"ss_network_dim", "8"},
        {"ss_network_alpha", "4.0"}, {"ss_network_args", "{}"}, {"ss_learning_rate", "0.0001"}, {"ss_text_encoder_lr", "None"},
        {"ss_resolution", "(128, 128)"}, {"ss_num_train_images", "21"}, {"ss_num_batches_per_epoch", "6"},
        {"ss_num_epochs", "10"}, {"ss_dataset_dirs", "{\"10_fox\": {\"n_repeats\": 10, \"img_count\": 2}, \"pics\": "
                                                     "{\"n_repeats\": 1, \"img_count\": 1}}"},
        {"ss_tag_frequency", "{\"10_fox\": {\"fox\": 2, \"red\": 1, \"snow\": 1}, \"pics\": {\"cat\": 1}}"},
        {"modelspec.architecture", "stable-diffusion-v1/lora"}, {"modelspec.title", "ink"}, {"modelspec.resolution", "128x128"},
        {"modelspec.prediction_type", "epsilon"}, {"modelspec.sai_model_spec", "1.0.1"},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const char *got = st_meta_find(f, want[i][0]);
        if (!got || strcmp(got, want[i][1]) != 0) fail_msg("%s is %s, not %s", want[i][0], got, want[i][1]);
    }
    char hash[65];
    st_data_sha256(f, hash);
    assert_string_equal(st_meta_find(f, "sshs_model_hash"), hash);
    assert_string_equal(st_meta_find(f, "modelspec.hash_sha256") + 2, hash);
    assert_int_equal(strlen(st_meta_find(f, "sshs_legacy_hash")), 8);
    assert_null(st_meta_find(f, "ss_training_started_at"));
    st_close(&f);
    w = st_writer_create();
    p.comment = "\xff";
    assert_false(metadata_add(w, &p, &e));
    assert_non_null(strstr(e.text, "UTF-8"));
    st_writer_destroy(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        TEST(captions_come_from_three_places), TEST(bad_folders_are_explained), TEST(circles_end),
        TEST(floats_look_like_python),         TEST(metadata_is_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
