#include "app/train_options.h"

#include <stdio.h>
#include <string.h>

#include "app/common.h"
#include "base/arena.h"
#include "base/text.h"

#define FIELD(name) offsetof(struct train_method_options, name)

static const struct option rows[] = {
    {"optimizer", OPTION_CHOICE, FIELD(optimizer), "NAME", "adamw, lion, adafactor, prodigy (finds its rate) or schedule-free",
     .choices = "adamw|lion|adafactor|prodigy|schedule-free"},
    {"lr-cycles", OPTION_INT, FIELD(lr_cycles), "N", "how often cosine_with_restarts falls to 0 (1)", 0, 10000},
    {"lr-power", OPTION_NUMBER, FIELD(lr_power), "X", "power of polynomial (1)", 0, 100},
    {"lr-end", OPTION_NUMBER, FIELD(lr_end), "X", "learning rate at polynomial's end (1e-07)", 0, 10},
    {"lr-min", OPTION_NUMBER, FIELD(lr_min), "X",
     "smallest part of the rate with cosine_with_min_lr and\nwarmup_stable_decay, 0 to 1 (0)", 0, 1},
    {"lr-timescale", OPTION_NUMBER, FIELD(lr_timescale), "X", "steps of inverse_sqrt (the warm-up, else 10000)", 0, 1e9},
    {"lr-decay", OPTION_NUMBER, FIELD(lr_decay), "X",
     "steps that warmup_stable_decay falls, or below 1 a part of the run (0.1)", 0, 1e9},
    {"blocks", OPTION_TEXT, FIELD(blocks), "LIST",
     "only layers in these blocks learn, such as IN04,M00,OUT03-05,BASE\nor up_blocks.1 (all)"},
    {"block-rank", OPTION_TEXT, FIELD(block_rank), "LIST", "other ranks in some blocks, such as IN04=8,OUT03-05=32"},
    {"rslora", OPTION_FLAG, FIELD(rslora), NULL, "the LoRA counts alpha/sqrt(rank) instead of alpha/rank"},
    {"lora-plus", OPTION_NUMBER, FIELD(lora_plus), "X",
     "LoRA+: rate of the up factors over that of the down factors\n(none; 16 is usual)", 0, 1000},
    {"text-lr", OPTION_NUMBER, FIELD(text_lr), "X", "learning rate of the text encoder's LoRA (as --lr)", 0, 10},
    {"kind", OPTION_CHOICE, FIELD(kind), "KIND",
     "what learns in the layers: lora, full (all of their weights, saved as the\n"
     "change), or none for --token alone", .choices = "lora|full|none"},
    {"token", OPTION_LIST, FIELD(tokens), "NAME[=WORDS]",
     "a new word that captions have, such as <new1>: its vector is learned, beginning as\n"
     "these words of the model; may be repeated"},
    {"token-vectors", OPTION_INT, FIELD(token_vectors), "N", "vectors of a new word (1)", 1, TRAIN_MAX_VECTORS},
    {"token-lr", OPTION_NUMBER, FIELD(token_lr), "X", "learning rate of new words (as --lr)", 0, 10},
    {"prodigy-d-coef", OPTION_NUMBER, FIELD(prodigy_d_coef), "X", "factor on the rate that Prodigy finds (1)", 0, 100},
    {"prodigy-growth", OPTION_NUMBER, FIELD(prodigy_growth), "X",
     "most that its rate may grow in a step, at least 1 (no limit)", 0, 1000},
    {"prodigy-bias-correction", OPTION_FLAG, FIELD(prodigy_bias_correction), NULL, "Prodigy corrects its moments as Adam does"},
    {"prodigy-safeguard", OPTION_FLAG, FIELD(prodigy_safeguard), NULL, "Prodigy's estimate leaves the warm-up out"},
    {"adafactor-relative", OPTION_FLAG, FIELD(adafactor_relative), NULL,
     "Adafactor's rate from the step: times min(0.01, 1/sqrt(step)), with --lr 1"},
    {"adafactor-scale", OPTION_FLAG, FIELD(adafactor_scale), NULL, "Adafactor's rate times the size of the weights"},
    {"loss", OPTION_CHOICE, FIELD(loss), "NAME",
     "l2 (squared error), l1, huber, smooth-l1 or pseudo-huber: pictures that\n"
     "stand out pull less", .choices = "l2|l1|huber|smooth-l1|pseudo-huber"},
    {"huber-c", OPTION_NUMBER, FIELD(huber_c), "X", "error from which on the Huber losses grow straight (0.1)", 0, 1000},
    {"huber-schedule", OPTION_CHOICE, FIELD(huber_schedule), "NAME",
     "how that c changes with the time: snr, exponential or constant (snr)", .choices = "snr|exponential|constant"},
    {"tensorboard", OPTION_TEXT, FIELD(tensorboard), "DIR", "write loss and learning rate for TensorBoard into this folder"},
    {"plot", OPTION_TEXT, FIELD(plot), "FILE.png", "draw loss and learning rate at the end (beside --log, if that is given)"},
    {"masks", OPTION_TEXT, FIELD(masks), "DIR",
     "a picture of the same name per picture: what is black there does not\ncount in the loss, what is white counts in full"},
    {"buckets", OPTION_FLAG, FIELD(buckets), NULL,
     "train pictures at sizes that fit their shape, with about the area of\n--resolution, instead of cutting squares"},
    {"bucket-min", OPTION_INT, FIELD(bucket_min), "N", "shortest side in pixels (256, or half of --resolution)", 8, 16384},
    {"bucket-max", OPTION_INT, FIELD(bucket_max), "N", "longest side in pixels (1024, or twice --resolution)", 8, 16384},
    {"bucket-step", OPTION_INT, FIELD(bucket_step), "N", "sides are multiples of this (64)", 8, 1024},
    {"bucket-no-upscale", OPTION_FLAG, FIELD(bucket_no_upscale), NULL, "small pictures are not enlarged"},
    {"min-timestep", OPTION_INT, FIELD(min_timestep), "N", "draw no times (0: hardly any noise) below this (0)", 0, 100000},
    {"max-timestep", OPTION_INT, FIELD(max_timestep), "N",
     "draw only times below this (1000, the model's number): a LoRA that learns\n"
     "late steps alone changes how things look, not where they are", 0, 100000},
    {"flip", OPTION_FLAG, FIELD(flip), NULL,
     "mirror half of the pictures, drawn anew each time; not where left and\nright or letters matter"},
    {"recolour", OPTION_INT, FIELD(recolour), "N",
     "learn the style from N versions of each picture in other colours, thin lines\ngone: for styles of lines, ink "
     "or flat colours, with --max-timestep 700 (0)", 0, 64},
    {"caption-dropout", OPTION_NUMBER, FIELD(caption_dropout), "X",
     "part of the captions left out, 0 to 1 (none; 0.1 is usual)", 0, 1},
    {"shuffle-captions", OPTION_FLAG, FIELD(shuffle_captions), NULL,
     "a caption's comma-separated tags in another order each time; the text\nencoder then stays on the device"},
    {"tag-dropout", OPTION_NUMBER, FIELD(tag_dropout), "X",
     "part of the tags left out each time, 0 to 1 (none); likewise", 0, 1},
    {"keep-tokens", OPTION_INT, FIELD(keep_tokens), "N", "so many tags stay in front and are never left out (none)", 0, 1000},
    {"network-dropout", OPTION_NUMBER, FIELD(network_dropout), "X",
     "part of the numbers inside the LoRA dropped, 0 to below 1 (none)", 0, 1},
    {"rank-dropout", OPTION_NUMBER, FIELD(rank_dropout), "X",
     "part of the ranks dropped per picture, 0 to below 1 (none)", 0, 1},
    {"module-dropout", OPTION_NUMBER, FIELD(module_dropout), "X",
     "part of the layers that go without LoRA in a step, 0 to below 1 (none)", 0, 1},
    {"scale-weight-norms", OPTION_NUMBER, FIELD(scale_weight_norms), "X",
     "shrink a layer's LoRA whenever its change is larger than this\n(none; 1 is usual)", 0, 1e9},
    {"noise-offset", OPTION_NUMBER, FIELD(noise_offset), "X",
     "shift the noise of each channel: darker darks, lighter lights\n(none; 0.03 to 0.1 are usual)", 0, 10},
    {"noise-offset-adaptive", OPTION_NUMBER, FIELD(noise_offset_adaptive), "X",
     "added to the offset, times the channel's absolute mean (none)", -10, 10},
    {"noise-offset-random", OPTION_FLAG, FIELD(noise_offset_random), NULL,
     "the offset times a number from 0 to 1, drawn per step"},
    {"pyramid-iterations", OPTION_INT, FIELD(pyramid_iterations), "N",
     "coarser and coarser noise on top of the plain one (none; 6 to 10)", 0, 32},
    {"pyramid-discount", OPTION_NUMBER, FIELD(pyramid_discount), "X",
     "strength of each coarser noise against the one before, 0 to 1", 0, 1},
    {"input-perturbation", OPTION_NUMBER, FIELD(input_perturbation), "X",
     "second noise that the model sees and the target lacks (none; 0.1)", 0, 10},
    {"input-perturbation-random", OPTION_FLAG, FIELD(input_perturbation_random), NULL,
     "its strength times a number from 0 to 1, drawn per step"},
    {"ema", OPTION_NUMBER, FIELD(ema), "X",
     "save and draw a moving average of the LoRA with this decay per step,\n0 to below 1 (none; 0.99 to 0.9999)", 0, 1},
};

struct train_method_options train_method_defaults(const struct train_params *p) {
    return (struct train_method_options){.pyramid_discount = (double)p->noise.pyramid_discount, .optimizer = "adamw",
                                         .loss = "l2", .kind = "lora", .token_vectors = 1};
}

struct option_table train_method_table(struct train_method_options *o) { return (struct option_table){OPTION_ROWS(rows), o}; }

/* NAME or NAME=WORDS; the first = ends the name. */
static void apply_words(const struct train_method_options *o, struct train_params *p, struct arena *a) {
    struct train_word *words = arena_alloc_n(a, (size_t)o->tokens.n + 1, sizeof *words);
    for (int i = 0; i < o->tokens.n; i++) {
        const char *text = o->tokens.items[i], *equals = strchr(text, '=');
        words[i] = (struct train_word){equals ? arena_strndup(a, text, (size_t)(equals - text)) : text,
                                       equals ? equals + 1 : NULL, o->token_vectors};
    }
    p->words = words, p->n_words = o->tokens.n, p->word_lr = (float)o->token_lr;
    p->kind = !strcmp(o->kind, "none") ? TRAIN_NONE : !strcmp(o->kind, "full") ? TRAIN_FULL : TRAIN_LORA;
}

bool train_method_apply(const struct train_method_options *o, struct train_params *p, struct arena *a, struct error *e) {
    p->masks = o->masks, p->tensorboard = o->tensorboard, p->plot = o->plot;
    if (o->plot && !common_check_out("plot", o->plot, "png", e)) return false;
    if (p->log && !p->plot) p->plot = arena_printf(a, "%.*s.png", (int)(strrchr(p->log, '.') - p->log), p->log);
    p->optimiser.name = o->optimizer, p->lora_plus = (float)o->lora_plus, p->text_lr = (float)o->text_lr;
    p->blocks = o->blocks, p->block_ranks = o->block_rank, p->rslora = o->rslora;
    p->schedule.cycles = o->lr_cycles, p->schedule.power = (float)o->lr_power, p->schedule.end = (float)o->lr_end;
    p->schedule.least = (float)o->lr_min, p->schedule.timescale = (float)o->lr_timescale,
    p->schedule.decay = (float)o->lr_decay;
    p->optimiser.d_coef = (float)o->prodigy_d_coef, p->optimiser.growth = (float)o->prodigy_growth;
    p->optimiser.bias_correction = o->prodigy_bias_correction, p->optimiser.safeguard = o->prodigy_safeguard;
    p->optimiser.relative_step = o->adafactor_relative, p->optimiser.scale_by_param = o->adafactor_scale;
    p->captions = (struct caption_params){o->shuffle_captions, o->keep_tokens, (float)o->tag_dropout};
    p->buckets = (struct bucket_params){.on = o->buckets, .min = o->bucket_min, .max = o->bucket_max, .step = o->bucket_step,
                                        .no_upscale = o->bucket_no_upscale};
    p->min_timestep = o->min_timestep, p->max_timestep = o->max_timestep;
    apply_words(o, p, a);
    p->max_weight_norm = (float)o->scale_weight_norms;
    p->recolour = o->recolour;
    p->flip = o->flip, p->caption_dropout = (float)o->caption_dropout, p->ema = (float)o->ema;
    p->dropout = (struct lora_dropout){(float)o->network_dropout, (float)o->rank_dropout, (float)o->module_dropout};
    p->noise = (struct noise_params){.offset = (float)o->noise_offset, .offset_adaptive = (float)o->noise_offset_adaptive,
                                     .offset_random = o->noise_offset_random, .pyramid_iterations = o->pyramid_iterations,
                                     .pyramid_discount = (float)o->pyramid_discount,
                                     .perturbation = (float)o->input_perturbation,
                                     .perturbation_random = o->input_perturbation_random};
    p->loss.c = (float)o->huber_c;
    if (o->huber_schedule && (!strcmp(o->loss, "l2") || !strcmp(o->loss, "l1")))
        return error_set(e, "--huber-schedule belongs to --loss huber, smooth-l1 or pseudo-huber.");
    return loss_kind_parse(o->loss, &p->loss.kind, e) &&
           (!o->huber_schedule || loss_c_schedule_parse(o->huber_schedule, &p->loss.c_schedule, e));
}

/* ---- The plan ---- */

static void print_noise(const struct noise_params *n) {
    if (n->offset > 0) {
        printf("noise       offset %g", (double)n->offset);
        if (n->offset_adaptive != 0) printf(" %+g times the channel's mean", (double)n->offset_adaptive);
        printf("%s\n", n->offset_random ? ", times 0 to 1" : "");
    }
    if (n->pyramid_iterations)
        printf("noise       %d scales, each times %g\n", n->pyramid_iterations, (double)n->pyramid_discount);
    if (n->perturbation > 0)
        printf("noise       input perturbed by %g%s\n", (double)n->perturbation,
               n->perturbation_random ? ", times 0 to 1" : "");
}

void train_method_print(const struct train_params *p) {
    printf("optimiser   %s", optimiser_find(p->optimiser.name)->title);
    if (p->lora_plus > 0) printf(", up factors %g times as fast", (double)p->lora_plus);
    if (p->text_lr > 0) printf(", text encoder at %g", (double)p->text_lr);
    printf("\n");
    printf("rate        %s", train_schedule_name(p->schedule.kind));
    if (p->schedule.warmup > 0) printf(", rising over %d steps", train_schedule_warmup(&p->schedule, p->steps));
    printf("\n");
    for (int i = 0; i < p->n_words; i++) {
        printf("new word    %s, %d vector%s", TEXT_SHOW(p->words[i].name), p->words[i].n, p->words[i].n == 1 ? "" : "s");
        if (p->words[i].init) printf(", from %s", TEXT_SHOW(p->words[i].init));
        if (p->word_lr > 0) printf(", at %g", (double)p->word_lr);
        printf("\n");
    }
    if (p->blocks) printf("blocks      %s\n", p->blocks);
    if (p->block_ranks) printf("ranks       %s, elsewhere %d\n", p->block_ranks, p->rank);
    if (p->rslora) printf("scale       alpha/sqrt(rank)\n");
    if (p->weighting == TARGET_WEIGHT_MIN_SNR) printf("loss        min-SNR, gamma %g\n", (double)p->snr_gamma);
    if (p->weighting == TARGET_WEIGHT_DEBIASED) printf("loss        debiased estimation\n");
    if (p->min_timestep || p->max_timestep) {
        printf("times       from %d", p->min_timestep);
        printf(p->max_timestep ? " to below %d\n" : "\n", p->max_timestep);
    }
    if (p->loss.kind == LOSS_L1) printf("loss        absolute error\n");
    if (loss_has_c(p->loss.kind))
        printf("loss        %s, c %g, %s\n", loss_kind_name(p->loss.kind), p->loss.c > 0 ? (double)p->loss.c : 0.1,
               loss_c_schedule_name(p->loss.c_schedule));
    print_noise(&p->noise);
    if (p->masks) printf("loss        masked by the pictures in %s\n", p->masks);
    if (p->flip) printf("pictures    half of them mirrored\n");
    if (p->recolour) printf("pictures    learned from %d versions of each in other colours\n", p->recolour);
    if (p->captions.shuffle) printf("captions    tags shuffled, the first %d kept\n", p->captions.keep);
    if (p->captions.tag_dropout > 0) printf("captions    %g%% of the tags left out\n", 100 * (double)p->captions.tag_dropout);
    if (p->caption_dropout > 0) printf("captions    %g%% left out\n", 100 * (double)p->caption_dropout);
    if (p->dropout.network > 0) printf("dropout     %g%% of the LoRA's inner numbers\n", 100 * (double)p->dropout.network);
    if (p->dropout.rank > 0) printf("dropout     %g%% of its ranks\n", 100 * (double)p->dropout.rank);
    if (p->dropout.module > 0) printf("dropout     %g%% of its layers\n", 100 * (double)p->dropout.module);
    if (p->max_weight_norm > 0) printf("weights     no layer's change larger than %g\n", (double)p->max_weight_norm);
    if (p->ema > 0) printf("saved       a moving average, decay %g\n", (double)p->ema);
}
