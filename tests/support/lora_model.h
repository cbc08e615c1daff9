/* A model's layers for tests of adapter files: names and shapes from configs, no weights. */
#pragma once
#include "lora/key.h"

struct lora_test_model {
    struct arena *arena; /* for the test's own use, too */
    struct nn_target_list lists[LORA_N_PARTS];
    struct lora_keys *keys;
};
/* Configs below tests/data; NULL for a part that the model lacks. Fails the test where one cannot be read. */
void lora_test_model_open(struct lora_test_model *m, const char *unet, const char *text, const char *text_2);
void lora_test_model_mini(struct lora_test_model *m, const char *name); /* a folder of tests/data, text towers as it has them */
void lora_test_model_close(struct lora_test_model *m);
const struct nn_target *lora_test_model_layer(const struct lora_test_model *m, enum lora_part part, const char *path);
