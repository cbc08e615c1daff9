#include "train/schedule.h"

#include <math.h>
#include <string.h>

#include "base/arena.h"

static const double PI = 3.14159265358979323846;

static const char *const names[TRAIN_SCHEDULES] = {"constant", "cosine", "linear", "cosine_with_restarts", "polynomial",
                                                   "inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay"};

bool train_schedule_parse(const char *text, enum train_schedule *out, struct error *err) {
    struct arena *a = arena_create(NULL);
    const char *list = names[0];
    bool found = false;
    for (int i = 0; i < TRAIN_SCHEDULES && !found; i++) {
        found = !strcmp(text, names[i]);
        if (found) *out = (enum train_schedule)i;
        if (i) list = arena_printf(a, "%s, %s", list, names[i]);
    }
    if (!found) error_set(err, "There is no learning-rate schedule \"%.40s\"; known are %s.", text, list);
    arena_destroy(&a);
    return found;
}

const char *train_schedule_name(enum train_schedule kind) { return names[kind]; }

bool train_schedule_check(const struct train_schedule_params *p, struct error *err) {
    const struct {
        bool given, fits;
        const char *option, *of;
    } rows[] = {{p->cycles, p->kind == TRAIN_COSINE_RESTARTS, "--lr-cycles", "cosine_with_restarts"},
                {p->power != 0, p->kind == TRAIN_POLYNOMIAL, "--lr-power", "polynomial"},
                {p->end != 0, p->kind == TRAIN_POLYNOMIAL, "--lr-end", "polynomial"},
                {p->least != 0, p->kind == TRAIN_COSINE_MIN || p->kind == TRAIN_STABLE_DECAY, "--lr-min",
                 "cosine_with_min_lr or warmup_stable_decay"},
                {p->timescale != 0, p->kind == TRAIN_INVERSE_SQRT, "--lr-timescale", "inverse_sqrt"},
                {p->decay != 0, p->kind == TRAIN_STABLE_DECAY, "--lr-decay", "warmup_stable_decay"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].given && !rows[i].fits)
            return error_set(err, "%s belongs to --lr-schedule %s.", rows[i].option, rows[i].of);
    if (!(p->warmup >= 0) || p->cycles < 0 || !(p->power >= 0) || !(p->end >= 0) || !(p->least >= 0 && p->least <= 1) ||
        !(p->timescale >= 0) || !(p->decay >= 0))
        return error_set(err, "The numbers of the learning rate's course must not be negative, and --lr-min not above 1.");
    return true;
}

static int steps_of(float x, int total) { return x < 1 ? (int)((double)x * total) : (int)x; }

int train_schedule_warmup(const struct train_schedule_params *p, int total) { return steps_of(p->warmup, total); }

static double stable_decay(const struct train_schedule_params *p, int k, int warmup, int total) {
    int decay = p->decay > 0 ? steps_of(p->decay, total) : total / 10, stable = total - warmup - decay;
    double least = (double)p->least;
    if (k < warmup + stable) return 1;
    if (k >= warmup + stable + decay) return least;
    return least + (1 - least) * 0.5 * (1 + cos(PI * (k - warmup - stable) / decay));
}

static double after_warmup(const struct train_schedule_params *p, int k, int warmup, int total, double lr) {
    double q = total > warmup ? (double)(k - warmup) / (total - warmup) : 0, wave = 0.5 * (1 + cos(PI * q));
    double end = p->end > 0 ? (double)p->end : 1e-7, timescale;
    switch (p->kind) {
    case TRAIN_LINEAR: return 1 - q;
    case TRAIN_COSINE: return wave;
    case TRAIN_COSINE_RESTARTS: return q >= 1 ? 0 : 0.5 * (1 + cos(PI * fmod((p->cycles ? p->cycles : 1) * q, 1)));
    case TRAIN_POLYNOMIAL:
        return lr > end ? ((lr - end) * pow(fmax(0, 1 - q), p->power > 0 ? (double)p->power : 1) + end) / lr : 1;
    case TRAIN_INVERSE_SQRT:
        timescale = p->timescale > 0 ? (double)p->timescale : warmup ? warmup : 10000;
        return 1 / sqrt((k + timescale - warmup) / timescale);
    case TRAIN_COSINE_MIN: return (double)p->least + (1 - (double)p->least) * wave;
    case TRAIN_STABLE_DECAY: return stable_decay(p, k, warmup, total);
    default: return 1;
    }
}

float train_schedule_factor(const struct train_schedule_params *p, int k, int total, float lr) {
    int warmup = train_schedule_warmup(p, total);
    if (k < warmup) {
        double rise = (double)(k + p->early) / warmup;
        return (float)(p->kind == TRAIN_STABLE_DECAY ? (double)p->least + (1 - (double)p->least) * rise : rise);
    }
    return (float)fmax(0, after_warmup(p, k, warmup, total, (double)lr));
}
