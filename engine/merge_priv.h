#pragma once
/* Parts of merging: what happens to which tensor (merge.c), and where the result lies (merge_write.c). */
#include "engine/merge.h"
#include "lora/file.h"

/* What one module of one LoRA adds to one tensor. */
struct merge_edit {
    const struct lora_module *module;
    const struct nn_params *base;
    struct nn_place place;
    float strength;
    bool bias;
};
struct merge_tensor {
    const struct st_file *file; /* as the model has it open */
    const char *name;
    struct merge_edit *edits;
    int n, cap;
    const struct st_tensor *source; /* while its file is written */
};
struct merge {
    struct arena *arena;
    const struct model *model;
    struct merge_tensor *tensors;
    int n, cap;
};

/* st_fill of a changed tensor; ctx: struct merge_tensor with its source set. */
bool merge_fill(void *ctx, void *dst, size_t bytes, struct error *err);
bool merge_can_write(const struct st_tensor *t);

bool merge_write_single(struct merge *m, const char *out, struct error *err);
bool merge_write_folder(struct merge *m, const char *out, struct error *err);
