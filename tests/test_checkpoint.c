/* Checkpoints in every form: single files, torch's, shards and variants hold the same model as the folder, number for
 * number; every tensor is accounted for; other kinds of files are named. */
#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/scratch.h"
#include "tests/support/single_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "engine/model.h"
#include "io/json.h"

static const char *const families[] = {"file-sd1", "file-sd2", "file-xl"};

static struct model *must_open(const char *path, const struct model_files *files, struct checkpoint_report **report) {
    struct model_params p = {.storage = TENSOR_F32, .report = report};
    if (files) p.files = *files;
    struct error e = {0};
    struct model *m = model_open(path, &p, &e);
    if (!m) fail_msg("%s: %s", path, e.text);
    return m;
}

static void must_fail(const char *path, const struct model_files *files, const char *says, const char *says_too) {
    struct model_params p = {.storage = TENSOR_F32};
    if (files) p.files = *files;
    struct error e = {0};
    struct model *m = model_open(path, &p, &e);
    if (m) fail_msg("%s opened", path);
    if (!strstr(e.text, says) || !strstr(e.text, says_too)) fail_msg("'%s' does not say '%s' and '%s'", e.text, says, says_too);
    assert_null(strchr(e.text, '\n'));
}

/* The miniatures know fewer words than CLIP. */
static struct model_files small_words(struct arena *a, const char *name) {
    return (struct model_files){.tokenizer = golden_path(a, arena_printf(a, "%s/tokenizer", name))};
}

static void same_params(const char *what, const struct nn_params *x, const struct nn_params *y) {
    assert_int_equal(x->set->n_slots, y->set->n_slots);
    for (int i = 0; i < x->set->n_slots; i++) {
        assert_string_equal(x->set->slots[i].name, y->set->slots[i].name);
        assert_true(shape_equal(x->set->slots[i].shape, y->set->slots[i].shape));
        size_t n = (size_t)shape_elems(x->set->slots[i].shape);
        float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
        nn_params_read_slot(x, i, a);
        nn_params_read_slot(y, i, b);
        if (memcmp(a, b, n * sizeof *a)) fail_msg("%s: %s differs", what, x->set->slots[i].name);
        free(a);
        free(b);
    }
}

static void same_model(const struct model *x, const struct model *y) {
    assert_int_equal(x->family, y->family);
    assert_memory_equal(&x->unet, &y->unet, sizeof x->unet);
    assert_int_equal(x->schedule.prediction, y->schedule.prediction);
    assert_int_equal(x->schedule.beta, y->schedule.beta);
    assert_true(x->schedule.beta_start == y->schedule.beta_start && x->schedule.beta_end == y->schedule.beta_end);
    assert_int_equal(x->schedule.spacing, y->schedule.spacing);
    assert_int_equal(x->schedule.steps_offset, y->schedule.steps_offset);
    assert_int_equal(x->schedule.final_alpha_first, y->schedule.final_alpha_first);
    assert_true(x->schedule.clip_range == y->schedule.clip_range);
    assert_true(x->vae.scaling_factor == y->vae.scaling_factor);
    assert_int_equal(x->zeros_for_empty, y->zeros_for_empty);
    same_params("UNet", x->unet_params, y->unet_params);
    same_params("VAE", x->vae_params, y->vae_params);
    assert_int_equal(x->n_texts, y->n_texts);
    for (int i = 0; i < x->n_texts; i++) {
        const struct clip_config *a = &x->texts[i].cfg, *b = &y->texts[i].cfg;
        assert_true(a->quick_gelu == b->quick_gelu && a->heads == b->heads && a->layers == b->layers &&
                    a->projection == b->projection);
        assert_int_equal(a->bos_id, b->bos_id);
        assert_int_equal(a->eos_id, b->eos_id);
        same_params("text encoder", x->texts[i].params, y->texts[i].params);
    }
}

static void check_report(const struct checkpoint_report *r, int n_reasons) {
    for (int i = 0; i < r->n_files; i++) {
        const struct checkpoint_file_report *f = &r->files[i];
        if (f->n_unknown) fail_msg("%s: %zu unknown, such as %s", f->path, f->n_unknown, f->unknown[0]);
        size_t ignored = 0;
        for (int k = 0; k < f->n_reasons; k++) ignored += f->ignored[k].n;
        assert_int_equal(f->n_used + ignored, f->n_tensors);
        assert_int_equal(f->n_reasons, n_reasons);
    }
    assert_int_equal(r->n_missing + r->n_misfit, 0);
}

static void single_files_are_the_folder(void **state) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct arena *a = arena_create(NULL);
        struct checkpoint_report *report;
        const char *path = scratch_path(arena_printf(a, "%s.safetensors", families[i]));
        single_file_write(families[i], path);
        struct model_files files = small_words(a, families[i]);
        struct model *folder = must_open(golden_path(a, families[i]), NULL, NULL), *single = must_open(path, &files, &report);
        same_model(folder, single);
        check_report(report, i == 1); /* SD2's last layer */
        assert_int_equal(single->prediction_guessed, i == 1);
        checkpoint_report_destroy(&report);
        model_close(&folder);
        model_close(&single);
        arena_destroy(&a);
    }
}

/* As Lightning saved Stable Diffusion: an EMA, schedules, position ids beside the weights. */
static void torch_files_are_the_folder(void **state) {
    struct arena *a = arena_create(NULL);
    struct checkpoint_report *report;
    struct model_files files = small_words(a, "file-sd1");
    struct model *folder = must_open(golden_path(a, "file-sd1"), NULL, NULL);
    struct model *ckpt = must_open(golden_path(a, "file-sd1.ckpt"), &files, &report);
    same_model(folder, ckpt);
    check_report(report, 3);
    checkpoint_report_destroy(&report);
    model_close(&folder);
    model_close(&ckpt);
    arena_destroy(&a);
}

/* Copies the folder's small files, and hands its weights to `write`. */
static const char *copy_folder(struct arena *a, const char *name, const char *target,
                               void (*write)(struct arena *a, const struct st_file *f, const char *folder, const char *stem)) {
    static const char *const parts[] = {"unet", "vae", "text_encoder"},
                      *const stems[] = {"diffusion_pytorch_model", "diffusion_pytorch_model", "model"};
    static const char *const small[] = {"model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
                                        "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
                                        "tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json"};
    struct error e = {0};
    const char *from = golden_path(a, name), *to = arena_strdup(a, scratch_path(target));
    for (int i = 0; i < 3; i++) assert_true(os_dir_make(arena_printf(a, "%s/%s", to, parts[i]), &e));
    assert_true(os_dir_make(arena_printf(a, "%s/scheduler", to), &e) && os_dir_make(arena_printf(a, "%s/tokenizer", to), &e));
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        struct os_map m;
        assert_true(os_file_map(&m, arena_printf(a, "%s/%s", from, small[i]), &e));
        assert_true(os_file_write_atomic(arena_printf(a, "%s/%s", to, small[i]), m.data, m.bytes, &e));
        os_file_unmap(&m);
    }
    for (int i = 0; i < 3; i++) {
        struct st_file *f = st_open(arena_printf(a, "%s/%s/%s.safetensors", from, parts[i], stems[i]), &e);
        assert_non_null(f);
        write(a, f, arena_printf(a, "%s/%s", to, parts[i]), stems[i]);
        st_close(&f);
    }
    return to;
}

/* Tensors first, first + step, ... as a file; factor other than 0 spoils them. */
static void write_some(const struct st_file *f, const char *path, size_t first, size_t step, bool zeros) {
    struct st_writer *w = st_writer_create();
    struct error e = {0};
    static const uint8_t nothing[1 << 20];
    for (size_t i = first; i < st_count(f); i += step) {
        const struct st_tensor *t = st_at(f, i);
        assert_true(t->bytes <= sizeof nothing);
        st_writer_add(w, t->name, t->dtype, t->rank, t->dims, zeros ? nothing : t->data);
    }
    if (!st_writer_save(w, path, &e)) fail_msg("%s", e.text);
    st_writer_destroy(&w);
}

static void write_shards(struct arena *a, const struct st_file *f, const char *folder, const char *stem) {
    struct error e = {0};
    json_t *map = json_object();
    for (size_t i = 0; i < st_count(f); i++)
        json_object_set_new(map, st_at(f, i)->name, json_string(i % 2 ? "part-2.safetensors" : "part-1.safetensors"));
    write_some(f, arena_printf(a, "%s/part-1.safetensors", folder), 0, 2, false);
    write_some(f, arena_printf(a, "%s/part-2.safetensors", folder), 1, 2, false);
    json_t *index = json_pack("{s:{}, s:o}", "metadata", "weight_map", map);
    assert_true(json_file_save(arena_printf(a, "%s/%s.safetensors.index.json", folder, stem), index, 0, &e));
    json_decref(index);
}

static void write_variant(struct arena *a, const struct st_file *f, const char *folder, const char *stem) {
    write_some(f, arena_printf(a, "%s/%s.fp16.safetensors", folder, stem), 0, 1, false);
}

/* The plain file is another model: the variant must be asked for. */
static void write_both(struct arena *a, const struct st_file *f, const char *folder, const char *stem) {
    write_variant(a, f, folder, stem);
    write_some(f, arena_printf(a, "%s/%s.safetensors", folder, stem), 0, 1, true);
}

static void shards_and_variants_are_the_folder(void **state) {
    struct arena *a = arena_create(NULL);
    struct model_files fp16 = {.variant = "fp16"};
    struct model *folder = must_open(golden_path(a, "file-sd1"), NULL, NULL);
    struct model *other = must_open(copy_folder(a, "file-sd1", "shards", write_shards), NULL, NULL);
    same_model(folder, other);
    model_close(&other);
    other = must_open(copy_folder(a, "file-sd1", "variant", write_variant), NULL, NULL);
    same_model(folder, other);
    model_close(&other);
    const char *both = copy_folder(a, "file-sd1", "both", write_both);
    other = must_open(both, &fp16, NULL);
    same_model(folder, other);
    model_close(&other);
    other = must_open(both, NULL, NULL);
    float first;
    st_read_f32(&(struct st_tensor){.name = "", .dtype = ST_F16, .data = other->unet_params->tensors[0]->data}, &first, 1,
                NULL);
    assert_float_equal(first, 0, 0);
    model_close(&other);
    model_close(&folder);
    arena_destroy(&a);
}

/* A VAE apart: as a file in both namings, as a folder; a checkpoint without one asks for it. */
static void vaes_apart(void **state) {
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct single_file s = single_file_begin("file-xl", "first_stage_model.");
    const char *without = arena_strdup(a, scratch_path("no-vae.safetensors"));
    assert_true(st_writer_save(s.writer, without, &e));
    single_file_end(&s);
    struct model_files files = small_words(a, "file-xl");
    must_fail(without, &files, "no VAE", "--vae");
    const char *folder = golden_path(a, "file-xl");
    const char *const vaes[] = {arena_printf(a, "%s/vae/diffusion_pytorch_model.safetensors", folder),
                                arena_printf(a, "%s/vae", folder), folder};
    struct model *whole = must_open(folder, NULL, NULL);
    for (int i = 0; i < 3; i++) {
        files.vae = vaes[i];
        struct model *m = must_open(without, &files, NULL);
        same_model(whole, m);
        model_close(&m);
    }
    model_close(&whole);
    files.vae = arena_printf(a, "%s/unet/diffusion_pytorch_model.safetensors", folder);
    must_fail(without, &files, "is no VAE", "");
    arena_destroy(&a);
}

static void prediction_is_found(void **state) {
    static const struct {
        const char *key, *value;
        enum schedule_prediction prediction;
    } cases[] = {{"modelspec.prediction_type", "v", SCHEDULE_PREDICT_V},
                 {"modelspec.prediction_type", "epsilon", SCHEDULE_PREDICT_EPSILON},
                 {"modelspec.architecture", "stable-diffusion-v2-768-v", SCHEDULE_PREDICT_V},
                 {"modelspec.architecture", "stable-diffusion-v2-512", SCHEDULE_PREDICT_EPSILON},
                 {"global_step", "875000", SCHEDULE_PREDICT_EPSILON},
                 {"global_step", "110000", SCHEDULE_PREDICT_V},
                 {NULL, NULL, SCHEDULE_PREDICT_V}};
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct model_files files = small_words(a, "file-sd2");
    const char *path = arena_strdup(a, scratch_path("prediction.safetensors"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct single_file s = single_file_begin("file-sd2", NULL);
        if (cases[i].key) st_writer_meta(s.writer, cases[i].key, cases[i].value);
        assert_true(st_writer_save(s.writer, path, &e));
        single_file_end(&s);
        struct model *m = must_open(path, &files, NULL);
        assert_int_equal(m->schedule.prediction, cases[i].prediction);
        assert_int_equal(m->prediction_guessed, !cases[i].key);
        model_close(&m);
    }
    files.prediction = "epsilon";
    struct model *m = must_open(path, &files, NULL);
    assert_int_equal(m->schedule.prediction, SCHEDULE_PREDICT_EPSILON);
    model_close(&m);
    struct single_file s = single_file_begin("file-xl", NULL);
    st_writer_add(s.writer, "v_pred", ST_F32, 1, (int64_t[]){0}, "");
    st_writer_add(s.writer, "ztsnr", ST_F32, 1, (int64_t[]){0}, "");
    assert_true(st_writer_save(s.writer, path, &e));
    single_file_end(&s);
    files = small_words(a, "file-xl");
    m = must_open(path, &files, NULL);
    assert_true(m->schedule.prediction == SCHEDULE_PREDICT_V && m->schedule.zero_terminal_snr);
    model_close(&m);
    arena_destroy(&a);
}

static void every_lack_is_told(void **state) {
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct checkpoint_report *report = NULL;
    struct single_file s = single_file_begin("file-sd1", "input_blocks.1.1.transformer_blocks.0.attn1");
    st_writer_add(s.writer, "something.else", ST_F16, 1, (int64_t[]){1}, "ab");
    const char *path = arena_strdup(a, scratch_path("lacks.safetensors"));
    assert_true(st_writer_save(s.writer, path, &e));
    single_file_end(&s);
    struct model_params p = {.storage = TENSOR_F32, .report = &report, .files = small_words(a, "file-sd1")};
    assert_null(model_open(path, &p, &e));
    assert_non_null(strstr(e.text, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"));
    assert_non_null(strstr(e.text, "4 more"));
    assert_int_equal(report->n_missing, 5);
    assert_int_equal(report->files[0].n_unknown, 1);
    assert_string_equal(report->files[0].unknown[0], "something.else");
    checkpoint_report_destroy(&report);
    /* Wrong shapes and types. */
    s = single_file_begin("file-sd1", "time_embed.0.bias");
    st_writer_add(s.writer, "model.diffusion_model.time_embed.0.bias", ST_F16, 1, (int64_t[]){0}, "");
    assert_true(st_writer_save(s.writer, path, &e));
    single_file_end(&s);
    must_fail(path, &p.files, "time_embed.0.bias", "[0]");
    s = single_file_begin("file-sd1", "time_embed.0.bias");
    static const int64_t ints[128];
    st_writer_add(s.writer, "model.diffusion_model.time_embed.0.bias", ST_I64, 1, (int64_t[]){128}, ints);
    assert_true(st_writer_save(s.writer, path, &e));
    single_file_end(&s);
    must_fail(path, &p.files, "time_embed.0.bias", "I64");
    arena_destroy(&a);
}

static void other_files_are_named(void **state) {
    static const char *const cases[][2] = {{"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
                                            "Stable Diffusion 3"},
                                           {"double_blocks.0.img_attn.qkv.weight", "Flux"},
                                           {"add_embedding.image_norm.weight", "Kandinsky"},
                                           {"blocks.0.cross_attn.q_linear.weight", "no Stable Diffusion"},
                                           {"t_block.1.weight", "PixArt"},
                                           {"mlp_t5.0.weight", "Hunyuan"},
                                           {"head.modulation", "Wan"},
                                           {"lora_unet_down_blocks_0.lora_up.weight", "--lora"},
                                           {"input_hint_block.0.weight", "ControlNet"},
                                           {"emb_params", "embedding"},
                                           {"down_blocks.0.resnets.0.norm1.weight", "give the folder"},
                                           {"whatever", "no Stable Diffusion checkpoint"}};
    struct error e = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct st_writer *w = st_writer_create();
        st_writer_add(w, cases[i][0], ST_F16, 1, (int64_t[]){1}, "ab");
        const char *path = scratch_path("other.safetensors");
        assert_true(st_writer_save(w, path, &e));
        st_writer_destroy(&w);
        must_fail(path, NULL, cases[i][1], path);
    }
    must_fail("no/such/model.safetensors", NULL, "There is no model", "--model");
}

/* The same at full size, where tools/make_checkpoint.py --single has made both forms: slow, run by name. */
static void full_size_forms_are_one(void **state) {
    const char *folder = getenv("ATELIER_FULL_FOLDER"), *file = getenv("ATELIER_FULL_FILE");
    if (!folder || !file) skip();
    struct checkpoint_report *report;
    double start = os_now_seconds();
    struct model *x = must_open(folder, NULL, NULL), *y = must_open(file, NULL, &report);
    print_message("both forms opened in %.2f s\n", os_now_seconds() - start);
    same_model(x, y);
    check_report(report, x->family == NN_FAMILY_SD2);
    print_message("%s: %zu tensors, %zu used; UNet %lld parameters in %d tensors\n", file, report->files[0].n_tensors,
                  report->files[0].n_used, (long long)nn_params_count(y->unet_params), y->unet_params->set->n_slots);
    checkpoint_report_destroy(&report);
    model_close(&x);
    model_close(&y);
}

int main(void) {
    log_set_level(LOG_QUIET);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_files_are_the_folder),
        cmocka_unit_test(torch_files_are_the_folder),
        cmocka_unit_test(shards_and_variants_are_the_folder),
        cmocka_unit_test(vaes_apart),
        cmocka_unit_test(prediction_is_found),
        cmocka_unit_test(every_lack_is_told),
        cmocka_unit_test(other_files_are_named),
        cmocka_unit_test(full_size_forms_are_one),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_drop);
}
