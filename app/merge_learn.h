/* `atelier merge` with methods that run the model: their options, plan and progress. */
#ifndef ATELIER_APP_MERGE_LEARN_H
#define ATELIER_APP_MERGE_LEARN_H

#include "app/common.h"
#include "train/merger.h"

struct merge_learn {
    struct option_list data, prompts;
    const char *caption, *captions;
    int resolution, pictures, draw_steps, steps, batch, times;
    double draw_cfg, lr, similarity;
    bool dry_run;
};
struct merge_learn merge_learn_defaults(void);
struct option_table merge_learn_table(struct merge_learn *o);
/* False with a sentence for options that the method does not know; method NULL: one that runs no model. */
bool merge_learn_check(const char *name, const struct train_merger *method, const struct option_command *cmd,
                       const struct option_result *given, struct error *e);
/* p has the method, the LoRAs and what the file shall be; the rest comes from the options. */
bool merge_learn_run(const struct merge_learn *o, const struct common *c, const char *model, struct train_merge_params *p,
                     struct lora_merge_result *r, struct error *e);

#endif
