/* A folder of pictures with captions. */
#ifndef ATELIER_TRAIN_DATASET_H
#define ATELIER_TRAIN_DATASET_H

#include "base/error.h"
#include "io/image.h"
#include "train/bucket.h"

#include <stdbool.h>
#include <stddef.h>

struct arena;

enum dataset_caption { DATASET_CAPTION_FILE, DATASET_CAPTION_FOLDER, DATASET_CAPTION_DEFAULT, DATASET_CAPTION_KINDS };

struct dataset_sample {
    const char *path;
    const char *caption; /* UTF-8, one line, may be empty */
    const char *folder;  /* name of the folder it lies in, without path */
    int repeats;         /* how often an epoch shows it, >= 1 */
    enum dataset_caption caption_from;
    int w, h; /* 0 until dataset_probe */
};

struct dataset {
    struct dataset_sample *samples; /* sorted by path within each folder, folders in order: the same on every machine */
    size_t n;
    size_t n_per_epoch; /* sum of repeats */
    size_t n_from[DATASET_CAPTION_KINDS];
    size_t n_ignored; /* files of other kinds */
};

struct dataset_params {
    const char *dir;
    const char *caption;         /* of every picture, whatever stands beside it; NULL = their own */
    const char *default_caption; /* for pictures without any other; NULL = that is an error */
    bool may_be_empty;           /* a folder without pictures, or none at all, is an empty dataset */
};

enum { DATASET_MIN_SIDE = 16 };

/* Looks for .jpg .jpeg .png .webp (any case) in dir and below, not in hidden folders. The caption is the first line
 * of NAME.txt (or NAME.caption) beside the picture, else the words of the nearest folder called like kohya's
 * `10_words` (which also sets repeats, 1..1000), else the default. Fails on an empty folder, a caption that is not
 * UTF-8, and pictures left without a caption. Memory from a. */
bool dataset_scan(struct arena *a, const struct dataset_params *p, struct dataset *out, struct error *e);

/* The pictures of the second behind those of the first, in one new list; counts add up. */
struct dataset dataset_join(struct arena *a, const struct dataset *first, const struct dataset *second);

/* Reads every picture's header and fills w and h; stops at the first damaged or unusable one. */
bool dataset_probe(struct dataset *d, struct error *e);

/* One picture, scaled and cut as chosen (train/bucket.h). Memory from a. */
bool dataset_load_cut(struct arena *a, const struct dataset_sample *s, const struct bucket_choice *c, struct image *out,
                      struct error *e);

/* One picture, scaled to cover w x h and cut in the middle. Memory from a. */
bool dataset_load(struct arena *a, const struct dataset_sample *s, int w, int h, struct image *out, struct error *e);

#endif
