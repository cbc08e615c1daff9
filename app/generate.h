/* What `atelier generate` is asked to make, from options, a recipe or both. */
#ifndef ATELIER_APP_GENERATE_H
#define ATELIER_APP_GENERATE_H

#include "app/common.h"
#include "app/lora_use.h"
#include "app/prompt_use.h"
#include "app/start_use.h"
#include "app/region_use.h"
#include "io/recipe.h"

struct generate_options {
    const char *model, *negative, *lora_dir, *sampler, *schedule, *noise, *out, *from, *trace, *strengths, *compose;
    struct option_list prompts, loras;
    int steps, width, height, count, every, ensd;
    double cfg, rescale, eta; /* eta NAN: the sampler's own */
    uint64_t seed;
    bool grid, dry_run;
    struct prompt_use prompt_use;
    struct start_use start;
    struct region_use regions;
};

/* One prompt in every seed and LoRA factor. */
struct generate_plan {
    struct arena *arena;
    const struct generate_options *o;
    const char **raw, **prompts; /* as typed; without <lora:...> */
    int n_prompts;
    struct lora_use loras;
    float *factors; /* of all LoRA strengths: --strengths, else 1 */
    int n_factors;
};
/* Reads --from into the options that were not given. `cmd` and `r` tell which were. */
bool generate_read_recipe(struct arena *a, const struct option_command *cmd, const struct option_result *r,
                          struct generate_options *o, struct lora_use *loras, const char **model_hash, struct error *e);
/* Everything that can be checked without a device. plan->loras may already hold a recipe's. */
bool generate_plan(struct generate_plan *plan, struct generate_options *o, struct error *e);

enum guide_compose generate_compose(const struct generate_options *o);
/* --dry-run: prints what drawing would take and how the device's memory is used. */
struct generate_params;
bool generate_print_memory(struct engine *engine, const struct generate_params *p, struct error *e);

static inline int generate_pictures(const struct generate_plan *p) { return p->n_prompts * p->o->count * p->n_factors; }
static inline bool generate_is_sheet(const struct generate_plan *p) { return p->o->grid; }

struct adapter;
struct model;
struct generate_facts { /* known once the model is loaded */
    int w, h;         /* of the first pass */
    int out_w, out_h; /* of the picture */
    const char *model_name, *model_hash;
    const struct adapter *adapter; /* NULL: no LoRAs */
};
/* PNG text of one picture (prompt, seed number, factor), or of the whole sheet. */
const char *generate_recipe(const struct generate_plan *p, const struct generate_facts *f, int prompt, int k, float factor);
const char *generate_sheet_recipe(const struct generate_plan *p, const struct generate_facts *f);

/* SHA-256 of the UNet's weights, remembered in the cache folder by path, size and time. */
bool generate_model_hash(const struct model *m, char hex[65], struct error *e);

#endif
