#include "tests/support/train_runs.h"
#include "tests/support/cm.h"
#include "tests/support/scratch.h"
#include "tests/support/session.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "io/png.h"
#include "io/safetensors.h"

struct arena *runs_arena;
struct engine *runs_engine;

int runs_setup(void **state) {
    runs_arena = arena_create(NULL);
    runs_engine = session_open("mini-odd", session_default());
    log_set_level(0);
    return scratch_make(state);
}

int runs_teardown(void **state) {
    session_close(&runs_engine);
    arena_destroy(&runs_arena);
    return scratch_drop(state);
}

const char *runs_path(const char *name) { return arena_strdup(runs_arena, scratch_path(name)); }

const char *runs_pictures(void) {
    static const char *const captions[] = {"red fox", "small house", "blue car"};
    struct error e = {{0}};
    const char *folder = runs_path("pictures");
    if (os_path_is_dir(folder)) return folder;
    assert_true(os_dir_make(folder, &e));
    for (int i = 0; i < 3; i++) {
        struct image im = image_create(runs_arena, RUNS_SIDE, RUNS_SIDE);
        for (int p = 0; p < RUNS_SIDE * RUNS_SIDE * 3; p++)
            im.rgb[p] = (uint8_t)(127 + 120 * sin(p / 3 % RUNS_SIDE * 0.1 * (i + 1) + p / 3 / RUNS_SIDE * 0.07 + p % 3));
        assert_true(png_write(arena_printf(runs_arena, "%s/%d.png", folder, i), &im, NULL, 0, &e));
        assert_true(os_file_write_atomic(arena_printf(runs_arena, "%s/%d.txt", folder, i), captions[i], strlen(captions[i]),
                                         &e));
    }
    return folder;
}

struct train_params runs_params(const char *name) {
    struct error e = {{0}};
    struct train_params p = train_params_default();
    p.data = runs_pictures();
    p.out = arena_printf(runs_arena, "%s/lora.safetensors", runs_path(name));
    if (!os_dir_make(runs_path(name), &e)) fail_msg("%s", e.text);
    p.steps = RUNS_STEPS, p.rank = 4, p.batch = 2, p.lr = 0.01f, p.resolution = RUNS_SIDE, p.half = false;
    return p;
}

static void on_report(void *ctx, const struct train_report *r) {
    struct runs_outcome *o = ctx;
    if (!o->steps++) o->first_loss = r->loss;
    o->last_loss = r->loss;
}

struct runs_outcome runs_try_on(struct engine *e, const struct train_params *p) {
    struct runs_outcome o = {0};
    struct trainer *t = trainer_create(e, p, false, &o.e);
    o.ok = t && trainer_run(t, &(struct train_callbacks){on_report, &o}, &o.finished, &o.e);
    trainer_destroy(&t);
    return o;
}

struct runs_outcome runs_try(const struct train_params *p) { return runs_try_on(runs_engine, p); }

void runs_well(const struct train_params *p) {
    struct runs_outcome o = runs_try(p);
    if (!o.ok) fail_msg("%s", o.e.text);
    assert_true(o.finished == !p->stop_after);
}

void runs_same_file(const char *x, const char *y) {
    struct error e = {{0}};
    struct os_map m, n;
    if (!os_file_map(&m, x, &e) || !os_file_map(&n, y, &e)) fail_msg("%s", e.text);
    if (m.bytes != n.bytes || memcmp(m.data, n.data, m.bytes)) fail_msg("%s and %s differ", x, y);
    os_file_unmap(&m);
    os_file_unmap(&n);
}

const char *runs_tensors_hash(const char *path) {
    struct error e = {{0}};
    char hex[65];
    struct st_file *f = st_open(path, &e);
    if (!f) fail_msg("%s", e.text);
    st_data_sha256(f, hex);
    st_close(&f);
    return arena_strdup(runs_arena, hex);
}

const char *runs_files(const struct train_params *p) {
    struct error e = {{0}};
    struct os_entry *entries;
    size_t n;
    const char *list = "", *folder = arena_strndup(runs_arena, p->out, (size_t)(strrchr(p->out, '/') - p->out));
    if (!os_dir_list(runs_arena, folder, &entries, &n, &e)) fail_msg("%s", e.text);
    for (size_t i = 0; i < n; i++) list = arena_printf(runs_arena, "%s%s ", list, entries[i].name);
    return list;
}

void runs_refused(const struct train_params *p, const char *words) {
    struct runs_outcome o = runs_try(p);
    assert_false(o.ok);
    print_message("%s\n", o.e.text);
    if (!strstr(o.e.text, words)) fail_msg("the message lacks \"%s\"", words);
}
