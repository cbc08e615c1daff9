/* Whole training runs of a few steps on a miniature model, each in a folder of its own. Failures fail the test. */
#ifndef ATELIER_TESTS_TRAIN_RUNS_H
#define ATELIER_TESTS_TRAIN_RUNS_H

#include "train/trainer.h"

enum { RUNS_STEPS = 4, RUNS_SIDE = 64 };
extern struct arena *runs_arena;
extern struct engine *runs_engine;

/* For cmocka_run_group_tests. */
int runs_setup(void **state);
int runs_teardown(void **state);

const char *runs_path(const char *name); /* in the scratch folder */
/* A folder with three pictures of coloured waves and their captions; made once. */
const char *runs_pictures(void);
/* RUNS_STEPS steps into lora.safetensors in a new folder, so that what a run leaves can be listed. */
struct train_params runs_params(const char *folder);

struct runs_outcome {
    bool ok, finished;
    int steps; /* reported */
    float first_loss, last_loss;
    struct error e;
};
struct runs_outcome runs_try_on(struct engine *e, const struct train_params *p);
struct runs_outcome runs_try(const struct train_params *p);
void runs_well(const struct train_params *p);
/* The run fails with a sentence that has these words. */
void runs_refused(const struct train_params *p, const char *words);

void runs_same_file(const char *x, const char *y);
const char *runs_tensors_hash(const char *path);
/* The files of a run's folder, sorted, each followed by a space. */
const char *runs_files(const struct train_params *p);

#endif
