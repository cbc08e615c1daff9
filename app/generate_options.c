/* How pictures are drawn: options that `generate` and `stylize` share. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "app/generate.h"
#include "app/sampler_names.h"
#include "engine/generate.h"
#include "io/image.h"

#define FIELD(name) offsetof(struct generate_options, name)

static const struct option rows[] = {
    {"model", OPTION_TEXT, FIELD(model), "DIR", "Stable Diffusion folder in diffusers' layout", .required = true},
    {"negative", OPTION_TEXT, FIELD(negative), "TEXT", "what to stay away from"},
    {"lora", OPTION_LIST, FIELD(loras), "FILE[:STRENGTH[:BLOCKS]]",
     "LoRA file, strength 1 if not given; 0.2..1 over the steps, 0.8@0-40%\n"
     "in a part of them; BLOCKS: IN04=0.5,OUT=0 or A1111's numbers"},
    {"content", OPTION_TEXT, FIELD(content), "FILE[:STRENGTH]",
     "what a B-LoRA's picture shows, without how it is drawn (train --recipe b-lora)"},
    {"style", OPTION_TEXT, FIELD(style), "FILE[:STRENGTH]", "how a B-LoRA's picture is drawn, without what it shows"},
    {"compose", OPTION_CHOICE, FIELD(compose), "HOW", "several LoRAs: sum (all at once), switch (in turn, in the order given)\n"
     "or composite (mean of what each predicts; every LoRA costs as much\nas a picture)", .choices = "sum|switch|composite"},
    {"every", OPTION_INT, FIELD(every), "N", "steps after which --compose switch changes", 1, 1000},
    {"lora-dir", OPTION_TEXT, FIELD(lora_dir), "DIR", "where LoRAs named in prompts and recipes lie"},
    {"steps", OPTION_INT, FIELD(steps), "N", "sampling steps", 1, 1000},
    {"cfg", OPTION_NUMBER, FIELD(cfg), "X", "guidance: how closely to follow the prompt; 1 is none and twice as fast", 0, 100},
    {"sampler", OPTION_CHOICE, FIELD(sampler), "NAME", "ddim, euler, euler-a, heun, dpm2, dpm2-a, lms, dpmpp-2m, dpmpp-2s-a,\n"
     "dpmpp-sde, dpmpp-2m-sde, dpmpp-3m-sde, unipc, pndm, ddpm, lcm or tcd", .choices = SAMPLER_NAMES},
    {"schedule", OPTION_CHOICE, FIELD(schedule), "NAME", "default (what the model's folder says), karras, exponential, beta,\n"
     "normal, simple, sgm_uniform, trailing, leading, linspace;\nkarras_full and exponential_full span all times, as in A1111",
     .choices = SCHEDULE_NAMES},
    {"eta", OPTION_NUMBER, FIELD(eta), "X", "share of fresh noise per step; not given, the sampler's own:\n"
     "0 with ddim, 0.3 with tcd, 1 with euler-a and other noisy ones", 0, 1},
    {"noise", OPTION_CHOICE, FIELD(noise), "KIND", "torch (diffusers, ComfyUI), torch-f16 or torch1-f16 (their half\n"
     "precision on the CPU), philox (A1111's GPU and NV)", .choices = "torch|torch-f16|torch1-f16|philox"},
    {"ensd", OPTION_INT, FIELD(ensd), "N", "A1111's eta noise seed delta: noise of the steps from seed + N", 0, INT_MAX},
    {"rescale", OPTION_NUMBER, FIELD(rescale), "X", "guidance rescale, against washed-out pictures of v-models", 0, 1},
    {"seed", OPTION_SEED, FIELD(seed), "N", "noise of a prompt's first picture; --count goes on from it (0)"},
    {"width", OPTION_INT, FIELD(width), "N", "pixels, a multiple of 8; the model's own size if not given", 8, IMAGE_MAX_SIDE},
    {"height", OPTION_INT, FIELD(height), "N", "likewise", 8, IMAGE_MAX_SIDE},
    {"batch", OPTION_INT, FIELD(batch), "N",
     "pictures of equal size drawn at once, as far as memory allows\n(4 in stylize and with --prompts, else 1)", 1, 64},
    {"dry-run", OPTION_FLAG, FIELD(dry_run), NULL,
     "draw nothing; print how much memory it would take. With --class gpu\n"
     "and --memory also for a graphics card that is not here"},
};

struct option_table generate_draw_table(struct generate_options *o) { return (struct option_table){OPTION_ROWS(rows), o}; }

void generate_defaults(struct generate_options *o) {
    *o = (struct generate_options){.steps = 20, .cfg = 7.5, .count = 1, .compose = "sum", .every = 5, .sampler = "ddim",
                                   .schedule = "default", .noise = "torch", .eta = NAN};
    prompt_use_defaults(&o->prompt_use);
    start_use_defaults(&o->start);
    region_use_defaults(&o->regions);
}

bool generate_same_kind(const struct generate_line *a, const struct generate_line *b) {
    return a->w == b->w && a->h == b->h && a->steps == b->steps && a->cfg == b->cfg && !strcmp(a->sampler, b->sampler);
}

void generate_fill_size(const struct model *m, int *w, int *h) {
    int factor = vae_config_factor(&m->vae), other = m->vae.sample_size ? m->vae.sample_size : 512;
    if (!*w) *w = m->unet.sample_w ? m->unet.sample_w * factor : other;
    if (!*h) *h = m->unet.sample_h ? m->unet.sample_h * factor : other;
}

enum guide_compose generate_compose(const struct generate_options *o) {
    return !strcmp(o->compose, "switch") ? GUIDE_SWITCH : !strcmp(o->compose, "composite") ? GUIDE_COMPOSITE : GUIDE_SUM;
}

bool generate_params_of(const struct generate_options *o, const struct generate_line *l, const struct adapter *ad,
                        struct generate_params *out, struct error *e) {
    *out = (struct generate_params){.w = l->w, .h = l->h, .steps = l->steps, .cfg = (float)l->cfg, .rescale = (float)o->rescale,
                                    .sampler = l->sampler, .schedule = o->schedule, .adapter = ad,
                                    .prompt_style = prompt_use_style(&o->prompt_use), .clip_skip = o->prompt_use.clip_skip,
                                    .words = &o->prompt_use.words, .compose = generate_compose(o), .every = o->every,
                                    .regions_by = region_use_method(&o->regions), .n_regions = o->regions.n};
    out->has_eta = !isnan(o->eta);
    out->eta = out->has_eta ? (float)o->eta : 0;
    out->noise_delta = (uint64_t)o->ensd;
    return noise_source_parse(o->noise, &out->noise, e);
}
