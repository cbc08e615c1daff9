/* What `atelier generate` is asked to make, from options, a recipe or both. */
#ifndef ATELIER_APP_GENERATE_H
#define ATELIER_APP_GENERATE_H

#include "app/common.h"
#include "app/lora_use.h"
#include "app/prompt_use.h"
#include "app/start_use.h"
#include "app/region_use.h"
#include "io/recipe.h"

struct model;
struct generate_options {
    const char *model, *negative, *lora_dir, *sampler, *schedule, *noise, *out, *from, *trace, *strengths, *compose,
        *prompt_file, *content, *style;
    struct option_list prompts, loras;
    int steps, width, height, count, every, ensd, batch;
    double cfg, rescale, eta; /* eta NAN: the sampler's own */
    uint64_t seed;
    bool grid, dry_run;
    struct prompt_use prompt_use;
    struct start_use start;
    struct region_use regions;
};

/* Options that say how pictures are drawn, for every command that draws; their defaults; what they mean for a generator. */
struct option_table generate_draw_table(struct generate_options *o);
void generate_defaults(struct generate_options *o);

/* A prompt and what it may say for itself; else the options' values. */
struct generate_line {
    const char *raw, *prompt; /* as typed; without <lora:...> */
    const char *negative, *sampler;
    int w, h; /* of the first pass; 0 until the model is known */
    int steps;
    double cfg;
    uint64_t seed;
    const struct start_use *start; /* NULL: the options' */
};
/* One prompt in every seed and LoRA factor. */
struct generate_plan {
    struct arena *arena;
    const struct generate_options *o;
    struct generate_line *lines;
    int n_prompts;
    struct lora_use loras;
    float *factors; /* of all LoRA strengths: --strengths, else 1 */
    int n_factors;
};
/* Reads --from into the options that were not given. `cmd` and `r` tell which were. */
bool generate_read_recipe(struct arena *a, const struct option_command *cmd, const struct option_result *r,
                          struct generate_options *o, struct lora_use *loras, const char **model_hash, struct error *e);
/* Everything that can be checked without a device, but for files to write. plan->loras may already hold a recipe's. */
bool generate_plan(struct generate_plan *plan, struct generate_options *o, struct error *e);

/* Pictures of one kind, which a generator can draw at once: equal size, steps, guidance and sampler. */
bool generate_same_kind(const struct generate_line *a, const struct generate_line *b);
/* Sizes that nobody gave become the model's. */
void generate_fill_size(const struct model *m, int *w, int *h);
struct adapter;
struct generate_params;
bool generate_params_of(const struct generate_options *o, const struct generate_line *l, const struct adapter *ad,
                        struct generate_params *out, struct error *e);
enum guide_compose generate_compose(const struct generate_options *o);
/* --dry-run: prints what drawing would take and how the device's memory is used. */
bool generate_print_memory(struct engine *engine, const struct generate_params *p, struct error *e);

static inline int generate_pictures(const struct generate_plan *p) { return p->n_prompts * p->o->count * p->n_factors; }
int generate_least_steps(const struct generate_plan *p);
static inline bool generate_is_sheet(const struct generate_plan *p) { return p->o->grid; }

struct generate_facts { /* known once the model is loaded */
    const char *model_name, *model_hash;
    const struct adapter *adapter; /* NULL: no LoRAs */
};
/* What a command draws with. */
struct generate_open {
    struct engine *engine;
    struct adapter *adapter; /* NULL: no LoRAs */
    char hash[65];
    struct generate_facts facts;
};
/* recipe_hash: of the model that --from was made with, or NULL. Close also after a failure. */
bool generate_open(struct generate_open *s, const struct common *c, struct generate_options *o, const struct generate_plan *p,
                   const char *recipe_hash, struct error *e);
bool generate_close(struct generate_open *s, bool ok, struct error *e);

/* PNG text of one picture (prompt, seed number, factor), or of the whole sheet. */
const char *generate_recipe(const struct generate_plan *p, const struct generate_facts *f, int prompt, int k, float factor);
const char *generate_sheet_recipe(const struct generate_plan *p, const struct generate_facts *f);

/* SHA-256 of the UNet's weights, remembered in the cache folder by path, size and time. */
bool generate_model_hash(const struct model *m, char hex[65], struct error *e);

#endif
