/* Textual-inversion files in every program's form. */
#include "tests/support/cm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/os.h"
#include "io/safetensors.h"
#include "textenc/embedding.h"

enum { WIDTH = 32, WIDTH_2 = 48 };
static char folder[] = "/tmp/atelier-embedding-XXXXXX";
static const int widths[] = {WIDTH, WIDTH_2};

static const char *data(struct arena *a, const char *name) {
    return arena_printf(a, "%s/tests/data/embeddings/%s", ATELIER_SOURCE_DIR, name);
}

struct tensor {
    const char *name;
    int rank, rows, width;
    float from; /* element i is from + i */
};
/* A safetensors file; meta: a key marked "<embed>", or NULL. */
static const char *make(struct arena *a, const char *name, const struct tensor *t, int n, const char *meta) {
    struct st_writer *w = st_writer_create();
    struct error e;
    const char *path = arena_printf(a, "%s/%s", folder, name);
    for (int i = 0; i < n; i++) {
        int elements = t[i].rows * t[i].width;
        float *v = arena_alloc_n(a, (size_t)elements + 1, sizeof *v);
        for (int k = 0; k < elements; k++) v[k] = t[i].from + (float)k;
        const int64_t both[] = {t[i].rows, t[i].width}, one[] = {t[i].width};
        st_writer_add_f32(w, t[i].name, ST_F32, t[i].rank, t[i].rank == 1 ? one : both, v);
    }
    if (meta) st_writer_meta(w, meta, "<embed>");
    if (!st_writer_save(w, path, &e)) fail_msg("%s", e.text);
    st_writer_destroy(&w);
    return path;
}

static struct embedding_list load(struct arena *a, const char *text, int towers) {
    struct embedding_list list = {.arena = a};
    struct error e = {0};
    if (!embedding_load(&list, text, widths, towers, &e)) fail_msg("%s", e.text);
    return list;
}

static void expect(const struct embedding_list *list, const char *word, int n, int tower, float first) {
    const struct embedding *m = embedding_find(list, word);
    if (!m) fail_msg("no word %s", word);
    assert_int_equal(m->n, n);
    assert_non_null(m->vectors[tower]);
    for (int i = 0; i < n * widths[tower]; i++) assert_true(m->vectors[tower][i] == first + (float)i);
}

static void test_safetensors(void **state) {
    struct arena *a = arena_create(NULL);
    const struct tensor own[] = {{"emb_params", 2, 3, WIDTH, 1}},
                        sdxl[] = {{"clip_l", 2, 2, WIDTH, 1}, {"clip_g", 2, 2, WIDTH_2, 500}};
    const struct tensor named[] = {{"<cat>", 1, 1, WIDTH, 7}, {"<dog>", 2, 4, WIDTH, 9}};
    const struct tensor pivotal[] = {{"text_encoders_0", 2, 2, WIDTH, 1}, {"text_encoders_1", 2, 2, WIDTH_2, 500}};
    const struct tensor simo[] = {{"<s1>", 1, 1, WIDTH, 3}, {"unet:0:up", 2, 8, 4, 0}, {"unet:0:down", 2, 4, 8, 0}};
    const struct tensor bundle[] = {{"bundle_emb.my.cat.string_to_param.*", 2, 2, WIDTH, 4},
                                    {"lora_unet_x.lora_down.weight", 2, 2, 2, 0}};
    struct embedding_list list = load(a, make(a, "smooth style.safetensors", own, 1, NULL), 1);
    assert_int_equal(list.n, 1);
    expect(&list, "smooth style", 3, 0, 1);
    list = load(a, arena_printf(a, "neat=%s/smooth style.safetensors", folder), 1);
    expect(&list, "neat", 3, 0, 1);
    list = load(a, make(a, "xl.safetensors", sdxl, 2, NULL), 2);
    expect(&list, "xl", 2, 0, 1);
    expect(&list, "xl", 2, 1, 500);
    list = load(a, make(a, "named.safetensors", named, 2, NULL), 1);
    assert_int_equal(list.n, 2);
    expect(&list, "<cat>", 1, 0, 7);
    expect(&list, "<dog>", 4, 0, 9);
    list = load(a, make(a, "pivotal.safetensors", pivotal, 2, NULL), 2);
    expect(&list, "pivotal", 2, 1, 500);
    expect(&list, "<s0>", 1, 0, 1);
    expect(&list, "<s1>", 1, 1, 500 + WIDTH_2);
    list = load(a, make(a, "simo.safetensors", simo, 3, "<s1>"), 1);
    assert_int_equal(list.n, 1);
    expect(&list, "<s1>", 1, 0, 3);
    list = load(a, make(a, "bundle.safetensors", bundle, 2, NULL), 1);
    assert_int_equal(list.n, 1);
    expect(&list, "my.cat", 2, 0, 4);
    arena_destroy(&a);
}

/* What torch.save wrote, beside the same vectors as safetensors. */
static void test_torch(void **state) {
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    struct st_file *want = st_open(data(a, "vectors.safetensors"), &e);
    if (!want) fail_msg("%s", e.text);
    float v[2 * WIDTH];
    assert_true(st_read_f32(st_at(want, 0), v, 2 * WIDTH, &e));
    static const struct { const char *file, *word; int n; } rows[] = {
        {"webui.pt", "webui", 2}, {"original.pt", "original", 2}, {"learned_embeds.bin", "<gold>", 1}};
    for (int i = 0; i < 3; i++) {
        struct embedding_list list = load(a, data(a, rows[i].file), 1);
        assert_int_equal(list.n, 1);
        const struct embedding *m = embedding_find(&list, rows[i].word);
        assert_non_null(m);
        assert_int_equal(m->n, rows[i].n);
        assert_memory_equal(m->vectors[0], v, (size_t)(rows[i].n * WIDTH) * sizeof *v);
    }
    st_close(&want);
    arena_destroy(&a);
}

static void expect_refusal(struct arena *a, const char *text, int towers, const char *words) {
    struct embedding_list list = {.arena = a};
    struct error e = {0};
    assert_false(embedding_load(&list, text, widths, towers, &e));
    if (!strstr(e.text, words)) fail_msg("'%s' does not say '%s'", e.text, words);
    assert_int_equal(list.n, 0);
}

/* A LoRA file's own words; what else lies there is none, and words that are there stay. */
static void test_bundled(void **state) {
    struct arena *a = arena_create(NULL);
    struct error e = {0};
    const struct tensor tensors[] = {{"bundle_emb.<new1>.string_to_param.*", 2, 2, widths[0], 5},
                                     {"bundle_emb.here.string_to_param.*", 2, 1, widths[0], 7},
                                     {"something", 2, 2, widths[0], 9}};
    const char *path = make(a, "bundle.safetensors", tensors, 3, NULL),
               *plain = make(a, "plain.safetensors", tensors + 2, 1, NULL);
    struct embedding_list list = {.arena = a};
    const char *here = make(a, "here.safetensors", (const struct tensor[]){{"emb_params", 2, 1, widths[0], 3}}, 1, NULL);
    assert_true(embedding_load(&list, here, widths, 1, &e));
    assert_true(embedding_load_bundled(&list, path, widths, 1, &e));
    assert_true(embedding_load_bundled(&list, plain, widths, 1, &e));
    assert_int_equal(list.n, 2);
    expect(&list, "here", 1, 0, 3);
    expect(&list, "<new1>", 2, 0, 5);
    assert_false(embedding_load_bundled(&list,
                                        make(a, "wide.safetensors",
                                             (const struct tensor[]){{"bundle_emb.w.emb_params", 2, 1, 9, 3}}, 1, NULL), widths,
                                             1, &e));
    assert_non_null(strstr(e.text, "width 9"));
    arena_destroy(&a);
}

static void test_refusals(void **state) {
    struct arena *a = arena_create(NULL);
    const struct tensor wide[] = {{"emb_params", 2, 1, 768, 0}}, own[] = {{"emb_params", 2, 3, WIDTH, 1}},
                        cube[] = {{"emb_params", 2, 0, WIDTH, 1}};
    const struct tensor uneven[] = {{"clip_l", 2, 2, WIDTH, 1}, {"clip_g", 2, 3, WIDTH_2, 1}},
                        huge[] = {{"<x>", 2, 2, WIDTH, INFINITY}};
    const struct tensor lora[] = {{"lora_unet_x.lora_down.weight", 2, 2, 2, 0}},
                        two[] = {{"<a>", 1, 1, WIDTH, 0}, {"<b>", 1, 1, WIDTH, 0}};
    const struct tensor twice[] = {{"emb_params", 2, 1, WIDTH, 0}, {"string_to_param.*", 2, 1, WIDTH, 0}};
    expect_refusal(a, "/nowhere/x.safetensors", 1, "There is no embedding /nowhere/x.safetensors");
    expect_refusal(a, make(a, "wide.safetensors", wide, 1, NULL), 1, "width 768 (Stable Diffusion 1");
    expect_refusal(a, make(a, "own.safetensors", own, 1, NULL), 2, "one text encoder, and this model has 2");
    expect_refusal(a, make(a, "none.safetensors", cube, 1, NULL), 1, "[0, 32]");
    expect_refusal(a, make(a, "uneven.safetensors", uneven, 2, NULL), 2, "2 vectors for one text encoder and 3");
    expect_refusal(a, arena_printf(a, "%s/uneven.safetensors", folder), 1, "two text encoders");
    expect_refusal(a, make(a, "huge.safetensors", huge, 1, NULL), 1, "not finite");
    expect_refusal(a, make(a, "lora.safetensors", lora, 1, NULL), 1, "holds no textual-inversion vectors");
    expect_refusal(a, make(a, "twice.safetensors", twice, 2, NULL), 1, "twice");
    make(a, "two.safetensors", two, 2, NULL);
    expect_refusal(a, arena_printf(a, "z=%s/two.safetensors", folder), 1, "holds 2 words");
    struct embedding_list list = load(a, arena_printf(a, "<b>=%s/own.safetensors", folder), 1);
    struct error e = {0};
    assert_false(embedding_load(&list, arena_printf(a, "%s/two.safetensors", folder), widths, 1, &e));
    assert_non_null(strstr(e.text, "\"<b>\" is taken"));
    assert_int_equal(list.n, 1);
    arena_destroy(&a);
}

static int make_folder(void **state) { return mkdtemp(folder) ? 0 : 1; }
static int remove_folder(void **state) {
    struct arena *a = arena_create(NULL);
    struct os_entry *list;
    size_t n;
    struct error e;
    bool ok = os_dir_list(a, folder, &list, &n, &e);
    for (size_t i = 0; ok && i < n; i++) unlink(arena_printf(a, "%s/%s", folder, list[i].name));
    arena_destroy(&a);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_safetensors), cmocka_unit_test(test_torch),
                                       cmocka_unit_test(test_bundled), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
