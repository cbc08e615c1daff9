#pragma once
/* The text tower's names in files, and the config of one that has none. */
#include "nn/bind.h"
#include "textenc/clip_config.h"

/* ctx: a prefix that lives as long as the naming. */
/* transformers' names, with or without "text_model.". */
struct nn_naming clip_hf_naming(const char *prefix);
/* OpenCLIP's: query, key and value in one tensor, the projection the other way round. */
struct nn_naming clip_open_naming(const char *prefix);

bool clip_hf_is(const struct st_file *f, const char *prefix);
bool clip_open_is(const struct st_file *f, const char *prefix);
/* Widths and layers by names and shapes. What they do not say is as in CLIP: heads of 64, quick GELU in transformers'
 * names and GELU in OpenCLIP's, the last two tokens begin and end, padding with the last. cfg->projection says whether
 * the file has one. */
bool clip_infer(struct clip_config *cfg, const struct st_file *f, const char *prefix, struct error *e);
