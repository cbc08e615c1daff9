#include "app/merge_learn.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "base/text.h"

#define FIELD(name) offsetof(struct merge_learn, name)
static const struct option rows[] = {
    {"data", OPTION_LIST, FIELD(data), "DIR",
     "what a LoRA is about: a folder of pictures with captions, one for every\n--lora, in their order; or"},
    {"prompt", OPTION_LIST, FIELD(prompts), "TEXT", "a prompt that makes the LoRA draw it, one for every --lora"},
    {"captions", OPTION_TEXT, FIELD(captions), "FILE",
     "kv-closed-form: captions, a line each, that the model goes on drawing\nas it does"},
    {"caption", OPTION_TEXT, FIELD(caption), "TEXT", "for pictures in --data without one"},
    {"pictures", OPTION_INT, FIELD(pictures), "N", "drawn for each --prompt", 1, 4096},
    {"sample-steps", OPTION_INT, FIELD(draw_steps), "N", "sampling steps of those", 1, 1000},
    {"cfg", OPTION_NUMBER, FIELD(draw_cfg), "X", "guidance of those", 0, 100},
    {"resolution", OPTION_INT, FIELD(resolution), "N", "pixels, a multiple of 8 (0: the model's own)", 0, 16384},
    {"steps", OPTION_INT, FIELD(steps), "N", "ziplora: steps of learning", 1, 1000000},
    {"batch", OPTION_INT, FIELD(batch), "N", "ziplora: pictures of each LoRA in a step", 1, 32},
    {"lr", OPTION_NUMBER, FIELD(lr), "X", "ziplora: learning rate", 0, 10},
    {"similarity", OPTION_NUMBER, FIELD(similarity), "X", "ziplora: how much it costs that LoRAs use the same inputs", 0, 1000},
    {"times", OPTION_INT, FIELD(times), "N", "gradient-fusion: noise levels at which a picture is looked at", 1, 1000},
    {"dry-run", OPTION_FLAG, FIELD(dry_run), NULL, "print how much a method that runs the model would take"},
};

struct merge_learn merge_learn_defaults(void) {
    struct train_merge_params p = train_merge_params_default();
    return (struct merge_learn){.pictures = p.pictures, .draw_steps = p.draw_steps, .steps = p.steps, .batch = p.batch,
                                .times = p.times, .draw_cfg = (double)p.draw_cfg, .lr = 0.01, .similarity = 0.01};
}

struct option_table merge_learn_table(struct merge_learn *o) { return (struct option_table){OPTION_ROWS(rows), o}; }

static unsigned option_bit(const char *name) {
    static const struct { const char *name; unsigned bit; } some[] = {
        {"steps", TRAIN_MERGE_STEPS}, {"batch", TRAIN_MERGE_BATCH}, {"lr", TRAIN_MERGE_LR},
        {"similarity", TRAIN_MERGE_SIMILARITY}, {"times", TRAIN_MERGE_TIMES}, {"data", TRAIN_MERGE_CONCEPTS},
        {"prompt", TRAIN_MERGE_CONCEPTS | TRAIN_MERGE_PROMPTS}, {"captions", TRAIN_MERGE_CAPTIONS},
        {"caption", TRAIN_MERGE_CONCEPTS},
        {"pictures", TRAIN_MERGE_CONCEPTS}, {"sample-steps", TRAIN_MERGE_CONCEPTS}, {"cfg", TRAIN_MERGE_CONCEPTS},
        {"resolution", TRAIN_MERGE_CONCEPTS}};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        if (!strcmp(some[i].name, name)) return some[i].bit;
    return ~0u; /* every method that runs the model: --dry-run, and how it runs */
}

/* What every command knows, device or not. */
static bool is_general(const char *name) {
    return !strcmp(name, "config") || !strcmp(name, "quiet") || !strcmp(name, "debug") || !strcmp(name, "threads");
}

bool merge_learn_check(const char *name, const struct train_merger *method, const struct option_command *cmd,
                       const struct option_result *given, struct error *e) {
    for (int t = 1; t < cmd->n_tables; t++)
        for (int i = 0; i < cmd->tables[t].n; i++) {
            const char *option = cmd->tables[t].rows[i].name;
            bool taken = is_general(option) || (method && method->takes & option_bit(option));
            if (taken || !option_given(cmd, given, option)) continue;
            if (method) return error_set(e, "--method %s takes no --%s (atelier merge --help says which do).", name, option);
            return error_set(e, "--method %s runs no model and takes no --%s (atelier merge --help says which do).", name,
                             option);
        }
    return true;
}

/* ---- Running ---- */

static void report(void *ctx, const struct train_merge_progress *p) {
    double *last = ctx, now = os_now_seconds();
    bool end = p->done == p->of;
    if (!os_stderr_is_terminal() && !end && p->done > 1 && now - *last < 10) return;
    *last = now;
    char left[COMMON_BYTES_TEXT];
    if (p->loss < 0) log_progress("%s: %d of %d", p->what, p->done, p->of);
    else
        log_progress("%s: %d of %d, distance %.5f, %s left", p->what, p->done, p->of, p->loss,
                     common_seconds_text(p->seconds_left, left));
}

static bool print_plan(const struct train_merge_params *p, struct error *e) {
    struct train_merge_plan plan;
    char need[COMMON_BYTES_TEXT], have[COMMON_BYTES_TEXT];
    if (!train_merge_plan(p, &plan, e)) return false;
    printf("layers      %d learn, in %d run%s over the pictures\n", plan.n_layers, plan.passes, plan.passes == 1 ? "" : "s");
    printf("memory      %s of the device's %s\n", common_bytes_text(plan.device_bytes, need),
           common_bytes_text(plan.total, have));
    printf("on the host %s\n", common_bytes_text(plan.host_bytes, need));
    return true;
}

/* One for each LoRA, or none at all. */
static bool check_count(const char *option, const struct option_list *l, int n, struct error *e) {
    return !l->n || l->n == n ||
           error_set(e, "There are %d --lora and %d --%s: give one for every LoRA, in the same order.", n, l->n, option);
}

bool merge_learn_run(const struct merge_learn *o, const struct common *c, const char *model, struct train_merge_params *p,
                     struct lora_merge_result *r, struct error *e) {
    double last = 0;
    if (!check_count("data", &o->data, p->n, e) || !check_count("prompt", &o->prompts, p->n, e)) return false;
    p->data = o->data.n ? o->data.items : NULL, p->prompts = o->prompts.n ? o->prompts.items : NULL, p->caption = o->caption,
    p->captions = o->captions;
    p->pictures = o->pictures, p->draw_steps = o->draw_steps, p->draw_cfg = (float)o->draw_cfg, p->resolution = o->resolution;
    p->steps = o->steps, p->batch = o->batch, p->times = o->times, p->lr = (float)o->lr, p->similarity = (float)o->similarity;
    p->report = report, p->ctx = &last;
    struct engine *engine = common_engine_for(c, model, o->dry_run, e);
    p->e = engine;
    bool ok = engine && (o->dry_run ? print_plan(p, e) : train_merge(p, r, e));
    return common_close(&engine, ok, e);
}
