#pragma once
/* Opening a model: configs and what they mean (model_config.c), files and weights (model.c). */
#include "engine/model.h"

/* Fills everything of m that a folder's configs say: family, parts, schedule, tokenizers. */
bool model_configs_load(struct model *m, struct error *err);
/* Whether the parts belong together and this program can run them; wherever the configs came from. */
bool model_configs_check(const struct model *m, struct error *err);
/* False, and a sentence that says what it is, if the folder holds a model of another kind. */
bool model_index_check(struct model *m, struct error *err);

bool model_need_file(const char *path, const char *what, struct error *err);
