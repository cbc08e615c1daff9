#pragma once
/* LoRA files on the device, or a fresh LoRA to train: a lora_stack and its device copy. */
#include "engine/engine.h"
#include "lora/blocks.h"
#include "lora/stack.h"

/* What the stack knows as one adapter: a file, or a file's layers in one block, so that blocks are strengths like others. */
struct adapter_unit {
    int file, block; /* block -1: all */
};
struct adapter {
    struct arena *arena;
    struct lora_stack *stack;
    int models[LORA_N_PARTS]; /* indices in the stack; -1: the model has no such part, or it stays as it is */
    struct lora_file **files; /* n, open; NULL in training */
    struct gpu_set *data;
    int n;               /* LoRAs */
    const char **names;  /* per LoRA: file name without folder and extension */
    const char **hashes; /* per LoRA: SHA-256 of its tensors, hex, first 12 digits are shown */
    bool touches[LORA_N_PARTS]; /* layers of that part are changed */
    struct adapter_unit *units; /* [stack->n_adapters] */
    struct lora_blocks *blocks; /* [n], factors per block; those of a file opened without blocks count nothing */
};
/* Loads n files. Every one must match the model; messages name what matched and what did not. NULL on error. */
struct adapter *adapter_open(struct engine *e, const char *const *paths, int n, struct error *err);
/* The same, with block strengths for some files; blocks[i] NULL: none. They may be changed later in ad->blocks. */
struct adapter *adapter_open_blocks(struct engine *e, const char *const *paths, const struct lora_blocks *const *blocks, int n,
                                    struct error *err);
/* strength [images][n] -> columns [images][stack->n_columns], the strength input of a program. */
void adapter_fill(const struct adapter *a, int images, const float *strength, float *columns);
/* From a sealed stack that the caller made (training); takes the stack over. models: as in struct adapter. */
struct adapter *adapter_adopt(struct engine *e, struct lora_stack *stack, const int models[LORA_N_PARTS], struct error *err);
/* The words that LoRA files carry along, for the model's text encoders; list->arena is the caller's. */
struct embedding_list;
bool adapter_words_load(const struct model *m, struct lora_file *const *files, int n, struct embedding_list *list,
                        struct error *err);
bool adapter_touches_text(const struct adapter *a);
/* The model's layers for lora/. */
struct lora_model adapter_lora_model(const struct model *m);
void adapter_close(struct adapter **a);
