#include "app/distill_options.h"

#include <stdio.h>
#include <string.h>

#include "train/recipe.h"

#define FIELD(name) offsetof(struct distill_options, name)

static const struct option rows[] = {
    {"method", OPTION_CHOICE, FIELD(method), "NAME",
     "lcm: pictures in 1 to 8 steps (LCM-LoRA); cfg: guided pictures without\n"
     "guidance, in half the work", .choices = "lcm|cfg", .required = true},
    {"guidance-min", OPTION_NUMBER, FIELD(guidance_min), "X",
     "the teacher's guidance, as --cfg counts it, is drawn between this", 1, 100},
    {"guidance-max", OPTION_NUMBER, FIELD(guidance_max), "X", "and this; the LoRA has no dial for it afterwards", 1, 100},
    {"skip", OPTION_INT, FIELD(skip), "N", "lcm: times that a step of the teacher's solver goes", 1, 1000000},
};

struct distill_options distill_defaults(void) {
    return (struct distill_options){.guidance_min = 3, .guidance_max = 8, .skip = 20};
}

struct option_table distill_table(struct distill_options *o) { return (struct option_table){OPTION_ROWS(rows), o}; }

/* Rank, layers, rate and loss of the published LCM-LoRAs and of diffusers' script; samples as they will be drawn. */
static const struct recipe_default lcm[] = {{"rank", "64"}, {"targets", "all"}, {"lr", "0.0001"}, {"lr-schedule", "constant"},
                                            {"loss", "pseudo-huber"}, {"sample-steps", "4"}, {"sample-cfg", "1"}, {0}};
static const struct recipe_default lcm_loss[] = {{"huber-c", "0.001"}, {"huber-schedule", "constant"}, {0}};
static const struct recipe_default cfg[] = {
    {"rank", "64"}, {"targets", "all"}, {"lr", "0.0001"}, {"lr-schedule", "constant"}, {"sample-cfg", "1"}, {0}};

static bool preset(const struct recipe_default *d, const struct option_command *cmd, const struct option_result *given,
                   struct arena *a, struct error *e) {
    for (; d->option; d++)
        if (!option_preset(cmd, given, d->option, d->value, a, e)) return false;
    return true;
}

bool distill_preset(const struct distill_options *o, const struct option_command *cmd, const struct option_result *given,
                    struct arena *a, struct error *e) {
    bool is_lcm = !strcmp(o->method, "lcm");
    if (!is_lcm && option_given(cmd, given, "skip")) return error_set(e, "--skip belongs to --method lcm.");
    return preset(is_lcm ? lcm : cfg, cmd, given, a, e) &&
           (!is_lcm || option_given(cmd, given, "loss") || preset(lcm_loss, cmd, given, a, e));
}

bool distill_apply(const struct distill_options *o, struct train_params *p, struct error *e) {
    p->distill = (struct distill_params){.guidance_min = (float)o->guidance_min, .guidance_max = (float)o->guidance_max,
                                         .skip = o->skip};
    return distill_method_parse(o->method, &p->distill.method, e);
}

void distill_print(const struct distill_params *d) {
    printf("teacher     the model itself, guidance %g", (double)d->guidance_min);
    if (d->guidance_max > d->guidance_min) printf(" to %g", (double)d->guidance_max);
    if (d->method == DISTILL_LCM) printf(", DDIM steps of %d times", d->skip);
    printf("\n");
}
