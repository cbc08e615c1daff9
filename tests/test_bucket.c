/* Buckets: kohya's lists and choices. */
#include "tests/support/cm.h"

#include <string.h>

#include "base/arena.h"
#include "train/trainer_priv.h"

static int list_of(int resolution, int min, int max, int step, struct bucket_size *out) {
    struct error e = {{0}};
    struct bucket_params p = {.on = true, .min = min, .max = max, .step = step};
    assert_true(bucket_params_complete(&p, resolution, 8, &e));
    return bucket_list(&p, out);
}

static void test_lists(void **state) {
    static const struct bucket_size want[] = {{256, 832}, {256, 896}, {256, 960}, {256, 1024}, {320, 704}, {320, 768},
                                              {384, 640}, {448, 576}, {512, 512}, {576, 448},  {640, 384}, {704, 320},
                                              {768, 320}, {832, 256}, {896, 256}, {960, 256},  {1024, 256}};
    struct bucket_size list[BUCKET_MAX];
    assert_int_equal(list_of(512, 256, 1024, 64, list), 17);
    assert_memory_equal(list, want, sizeof want);
    assert_int_equal(list_of(512, 128, 1024, 64, list), 21); /* the narrowest end at the largest side */
    assert_true(list[0].w == 128 && list[0].h == 1024 && list[1].w == 192 && list[1].h == 1024 && list[2].h == 832);
    assert_int_equal(list_of(768, 256, 1024, 64, list), 19);
    assert_int_equal(list_of(1024, 256, 2048, 64, list), 41);
    assert_int_equal(list_of(512, 0, 0, 0, list), 17); /* the defaults */
}

static void expect(const struct bucket_choice *c, int bw, int bh, int w, int h, int left, int top) {
    if (c->bucket.w != bw || c->bucket.h != bh || c->w != w || c->h != h || c->left != left || c->top != top)
        fail_msg("%dx%d from %dx%d at %d,%d, not %dx%d from %dx%d at %d,%d", c->bucket.w, c->bucket.h, c->w, c->h, c->left,
                 c->top, bw, bh, w, h, left, top);
}

static void test_choices(void **state) {
    struct bucket_size list[BUCKET_MAX];
    struct bucket_params p = {.on = true};
    struct error e = {{0}};
    assert_true(bucket_params_complete(&p, 512, 8, &e));
    int n = bucket_list(&p, list);
    struct bucket_choice c = bucket_choose(&p, list, n, 640, 384);
    expect(&c, 640, 384, 640, 384, 0, 0);
    c = bucket_choose(&p, list, n, 1200, 1200);
    expect(&c, 512, 512, 512, 512, 0, 0);
    c = bucket_choose(&p, list, n, 1920, 1080); /* 1.78: 640x384 is nearest; wider than it, so by the height */
    expect(&c, 640, 384, 683, 384, 21, 0);
    c = bucket_choose(&p, list, n, 1000, 1500); /* 0.67 lies between 0.6 and 0.78 */
    expect(&c, 384, 640, 427, 640, 21, 0);
    c = bucket_choose(&p, list, n, 100, 5000);
    expect(&c, 256, 1024, 256, 12800, 0, 5888);
}

static void test_no_upscale(void **state) {
    struct bucket_params p = {.on = true, .no_upscale = true};
    struct error e = {{0}};
    assert_true(bucket_params_complete(&p, 512, 8, &e));
    struct bucket_size list[BUCKET_MAX];
    int n = bucket_list(&p, list);
    struct bucket_choice c = bucket_choose(&p, list, n, 500, 333);
    expect(&c, 448, 320, 500, 333, 26, 6);
    c = bucket_choose(&p, list, n, 1920, 1080); /* 682.7 x 384; buckets 640x320 and 640x384 */
    expect(&c, 640, 384, 683, 384, 21, 0);
    c = bucket_choose(&p, list, n, 20, 400); /* a side shorter than a step */
    expect(&c, 256, 1024, 256, 5120, 0, 2048);
}

/* Every picture as often as it repeats, every batch from one bucket, as many as the rule says; the seed decides. */
static void test_epoch(void **state) {
    static const int bucket_of[] = {0, 2, 0, 2, 0, 2, 2}, repeats[] = {1, 2, 3, 1, 1, 1, 1};
    uint32_t pictures[10], again[10];
    struct bucket_batch batches[10], same[10];
    int n = bucket_epoch(bucket_of, repeats, 7, 3, 2, 5, pictures, batches), seen[7] = {0};
    assert_int_equal(n, 3 + 3); /* 5 pictures in bucket 0, 5 in bucket 2 */
    for (int b = 0; b < n; b++)
        for (int i = 0; i < batches[b].n; i++) {
            uint32_t k = pictures[batches[b].first + i];
            assert_int_equal(bucket_of[k], batches[b].bucket);
            seen[k]++;
        }
    assert_memory_equal(seen, repeats, sizeof seen);
    assert_int_equal(bucket_epoch(bucket_of, repeats, 7, 3, 2, 5, again, same), n);
    assert_memory_equal(pictures, again, sizeof pictures);
    assert_memory_equal(batches, same, (size_t)n * sizeof *batches);
    bucket_epoch(bucket_of, repeats, 7, 3, 2, 6, again, same);
    assert_memory_not_equal(pictures, again, sizeof pictures);
}

/* Every epoch has an order of its own, torch.randperm's of the generator seeded with seed + epoch; the feed's pictures begin
 * behind another's. The orders are torch's. */
static void test_epochs(void **state) {
    static const uint32_t plain[3][6] = {{4, 2, 2, 4, 3, 4}, {4, 4, 2, 3, 4, 2}, {4, 2, 2, 4, 3, 4}},
                          bucketed[3][6] = {{3, 5, 5, 2, 2, 4}, {3, 5, 5, 2, 4, 2}, {5, 3, 5, 2, 4, 2}};
    static const struct bucket_batch batches[3][4] = {{{1, 5, 1}, {0, 2, 1}, {0, 0, 2}, {1, 3, 2}},
                                                      {{0, 2, 1}, {1, 3, 2}, {0, 0, 2}, {1, 5, 1}},
                                                      {{1, 3, 2}, {1, 5, 1}, {0, 2, 1}, {0, 0, 2}}};
    struct train_place places[6] = {[2] = {.bucket = 1}, [4] = {.bucket = 1}};
    struct dataset_sample three[] = {{.repeats = 2}, {.repeats = 1}, {.repeats = 3}},
                          four[] = {{.repeats = 2}, {.repeats = 1}, {.repeats = 1}, {.repeats = 2}};
    struct trainer t = {.arena = arena_create(NULL), .places = places, .n_buckets = 2};
    t.params.seed = 7, t.params.batch = 2;
    for (int on = 0; on < 2; on++) {
        struct train_feed f = {.data = {.samples = on ? four : three, .n = on ? 4 : 3, .n_per_epoch = 6}, .first = 2};
        t.params.buckets.on = on;
        for (f.epoch = 0; f.epoch < 3; f.epoch++) {
            train_epoch_shuffle(&t, &f);
            assert_memory_equal(f.order, on ? bucketed[f.epoch] : plain[f.epoch], sizeof plain[0]);
            assert_int_equal(f.order_at, 0);
            if (!on) continue;
            assert_int_equal(f.n_batches, 4);
            assert_memory_equal(f.batches, batches[f.epoch], sizeof batches[0]);
        }
    }
    arena_destroy(&t.arena);
}

static void test_refused(void **state) {
    struct error e = {{0}};
    struct bucket_params p = {.min = 256};
    assert_false(bucket_params_complete(&p, 512, 8, &e));
    assert_non_null(strstr(e.text, "--buckets"));
    p = (struct bucket_params){.on = true, .step = 12};
    assert_false(bucket_params_complete(&p, 512, 8, &e));
    assert_non_null(strstr(e.text, "multiple of 8"));
    p = (struct bucket_params){.on = true, .min = 1024};
    assert_false(bucket_params_complete(&p, 512, 8, &e));
    assert_non_null(strstr(e.text, "--bucket-min"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lists), cmocka_unit_test(test_choices),
                                       cmocka_unit_test(test_no_upscale), cmocka_unit_test(test_epoch),
                                       cmocka_unit_test(test_epochs), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
