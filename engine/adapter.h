#pragma once
/* LoRA files on the device, or a fresh LoRA to train: a lora_stack and its device copy. */
#include "engine/engine.h"
#include "lora/stack.h"

struct adapter {
    struct arena *arena;
    struct lora_stack *stack;
    int unet_model, text_model; /* indices in the stack */
    struct gpu_set *data;
    int n;               /* LoRAs */
    const char **names;  /* per LoRA: file name without folder and extension */
    const char **hashes; /* per LoRA: SHA-256 of its tensors, hex, first 12 digits are shown */
    bool touches_text;
};
/* Loads n files. Every one must match the model; messages name what matched and what did not. NULL on error. */
struct adapter *adapter_open(struct engine *e, const char *const *paths, int n, struct error *err);
/* From a sealed stack that the caller made (training); takes the stack over. */
struct adapter *adapter_adopt(struct engine *e, struct lora_stack *stack, int unet_model, int text_model, struct error *err);
void adapter_close(struct adapter **a);
