/* What became of every tensor of a checkpoint's files, and what the model still lacks. */
#ifndef ATELIER_CHECKPOINT_REPORT_H
#define ATELIER_CHECKPOINT_REPORT_H

#include "nn/bind.h"

enum { CHECKPOINT_FILES = 8, CHECKPOINT_REASONS = 24 };

struct checkpoint_file_report {
    const char *path;
    size_t n_tensors, n_used;
    struct {
        const char *why, *example; /* name of one tensor */
        size_t n;
    } ignored[CHECKPOINT_REASONS];
    int n_reasons;
    const char **unknown; /* names of tensors that no layer asks for, without a known reason */
    size_t n_unknown;
    const struct st_file *file; /* as long as it is open; then dangling */
    bool *used;                 /* [n_tensors] */
};
struct checkpoint_report {
    struct arena *arena;
    struct checkpoint_file_report files[CHECKPOINT_FILES];
    int n_files;
    const char **missing, **misfit; /* as in nn_bind_report, of all parts */
    int n_missing, n_misfit;
};

struct checkpoint_report *checkpoint_report_create(void);
void checkpoint_report_destroy(struct checkpoint_report **r);
/* Notes what binding one part to a file has found. A file may serve several parts. */
void checkpoint_report_bind(struct checkpoint_report *r, const struct st_file *f, const struct nn_bind_report *b);
/* Sorts what is left over, once every part is bound and while the files are open. last_layer: as checkpoint_ignored. */
void checkpoint_report_end(struct checkpoint_report *r, int last_layer);
/* Tensors without a use or a reason, in all files. */
size_t checkpoint_report_unknown(const struct checkpoint_report *r);

#endif
