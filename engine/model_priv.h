#pragma once
/* Opening a model: where its parts lie (model_source.c), configs and what they mean (model_config.c), weights (model.c). */
#include "engine/model.h"

/* Fills configs, tokenizers and sources of m->path; the VAE's config is the given one's where o has one. */
bool model_sources_open(struct model *m, const struct model_files *o, struct error *err);
/* Fills everything of m that a folder's configs say: family, parts, schedule, tokenizers. */
bool model_configs_load(struct model *m, const struct model_files *o, struct error *err);
/* Whether the parts belong together and this program can run them; wherever the configs came from. */
bool model_configs_check(const struct model *m, struct error *err);
/* False, and a sentence that says what it is, if the folder holds a model of another kind. */
bool model_index_check(struct model *m, struct error *err);

bool model_need_file(const char *path, const char *what, struct error *err);
