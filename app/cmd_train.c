/* Training: options, the printed plan, the progress line. */
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/common.h"
#include "app/distill_options.h"
#include "app/sampler_names.h"
#include "app/train_options.h"
#include "app/train_recipe.h"
#include "base/log.h"
#include "base/os.h"
#include "base/text.h"
#include "io/prompt_file.h"
#include "io/recipe.h"
#include "train/trainer.h"

/* What the parser fills; becomes struct train_params. */
struct train_options {
    const char *model, *data, *out, *caption, *targets, *lr_schedule, *checkpointing, *weighting, *dtype, *log;
    struct option_list sample_prompts;
    int steps, rank, batch, accumulate, resolution, sample_every, sample_steps, save_every, stop_after;
    double alpha, lr, warmup, weight_decay, max_grad_norm, snr_gamma, sample_cfg;
    uint64_t seed;
    bool text, resume, dry_run;
};
#define FIELD(name) offsetof(struct train_options, name)

static const struct option rows[] = {
    {"model", OPTION_TEXT, FIELD(model), "DIR", "Stable Diffusion folder in diffusers' layout", .required = true},
    {"data", OPTION_TEXT, FIELD(data), "DIR", "folder of JPEG, PNG or WebP pictures with captions", .required = true},
    {"out", OPTION_TEXT, FIELD(out), "FILE.safetensors", "the LoRA to write", .required = true},
    {"caption", OPTION_TEXT, FIELD(caption), "TEXT", "for pictures without a .txt beside them and without a 10_name folder"},
    {"steps", OPTION_INT, FIELD(steps), "N", "training steps", 1, 10000000},
    {"batch", OPTION_INT, FIELD(batch), "N", "pictures per step", 1, 64},
    {"accumulate", OPTION_INT, FIELD(accumulate), "N", "batches whose gradients are added up for one step", 1, 1024},
    {"rank", OPTION_INT, FIELD(rank), "N", "size of the LoRA; 0 leaves it to a recipe that knows", 0, 1024},
    {"alpha", OPTION_NUMBER, FIELD(alpha), "X", "scale: the LoRA counts alpha/rank; 0 means as much as rank", 0, 100000},
    {"targets", OPTION_CHOICE, FIELD(targets), "SET",
     "layers that learn: attn, attn-mlp, all, or cross-kv (what cross-attention\n"
     "makes of the text)", .choices = "attn|attn-mlp|all|cross-kv"},
    {"train-text-encoder", OPTION_FLAG, FIELD(text), NULL, "the text encoder learns too"},
    {"lr", OPTION_NUMBER, FIELD(lr), "X",
     "learning rate; 0 means the optimiser's own: 1 for prodigy, 0.0001 for\nlion, 0.001 for the others", 0, 10},
    {"lr-schedule", OPTION_CHOICE, FIELD(lr_schedule), "NAME",
     "the learning rate's course: constant, linear, cosine, cosine_with_restarts,\n"
     "polynomial, inverse_sqrt, cosine_with_min_lr or warmup_stable_decay",
     .choices = "constant|linear|cosine|cosine_with_restarts|polynomial|inverse_sqrt|cosine_with_min_lr|warmup_stable_decay"},
    {"warmup", OPTION_NUMBER, FIELD(warmup), "X",
     "steps over which the learning rate rises, or below 1 a part of the run (none)", 0, 10000000},
    {"weight-decay", OPTION_NUMBER, FIELD(weight_decay), "X",
     "weights shrink by this times the learning rate in a step", 0, 10},
    {"max-grad-norm", OPTION_NUMBER, FIELD(max_grad_norm), "X", "longer gradients are clipped; 0 never clips", 0, 1e9},
    {"weighting", OPTION_CHOICE, FIELD(weighting), "NAME", "how times count in the loss: none, min-snr or debiased",
     .choices = "none|min-snr|debiased"},
    {"snr-gamma", OPTION_NUMBER, FIELD(snr_gamma), "X", "cap of min-snr", 0, 1000},
    {"resolution", OPTION_INT, FIELD(resolution), "N", "pixels, a multiple of 8; the model's own if not given", 8, 16384},
    {"checkpointing", OPTION_CHOICE, FIELD(checkpointing), "WHEN",
     "recompute activations to save memory: on, off, auto when it\nwould not fit otherwise", .choices = "auto|on|off"},
    {"seed", OPTION_SEED, FIELD(seed), "N", "of the LoRA's start, the order of pictures, noise and times (1)"},
    {"dtype", OPTION_CHOICE, FIELD(dtype), "TYPE", "numbers in the file: f16 or f32", .choices = "f16|f32"},
    {"sample-prompt", OPTION_LIST, FIELD(sample_prompts), "TEXT",
     "drawn while training goes on; with kohya's options for this one: --n\n"
     "negative prompt, --w --h pixels, --d seed, --l guidance, --s steps, --ss sampler"},
    {"sample-every", OPTION_INT, FIELD(sample_every), "N", "steps between sample sheets (only the last step's)", 0, 10000000},
    {"sample-steps", OPTION_INT, FIELD(sample_steps), "N", "sampling steps of the samples", 1, 1000},
    {"sample-cfg", OPTION_NUMBER, FIELD(sample_cfg), "X", "guidance of the samples", 0, 100},
    {"save-every", OPTION_INT, FIELD(save_every), "N", "steps between copies of the LoRA (none)", 0, 10000000},
    {"resume", OPTION_FLAG, FIELD(resume), NULL, "go on where Ctrl-C or --stop-after ended"},
    {"stop-after", OPTION_INT, FIELD(stop_after), "N", "do this many steps now and leave the rest to --resume", 0, 10000000},
    {"log", OPTION_TEXT, FIELD(log), "FILE.jsonl", "one JSON line per step"},
    {"dry-run", OPTION_FLAG, FIELD(dry_run), NULL, "print what would happen and how much it would take"},
};

static struct train_options default_options(const struct train_params *d) {
    return (struct train_options){.targets = "attn-mlp", .lr_schedule = "cosine", .checkpointing = "auto", .weighting = "none",
                                  .dtype = d->half ? "f16" : "f32", .steps = d->steps, .rank = d->rank, .batch = d->batch,
                                  .accumulate = d->accumulate, .sample_steps = d->sample_steps,
                                  .weight_decay = d->optimiser.weight_decay, .max_grad_norm = d->optimiser.max_grad_norm,
                                  .snr_gamma = d->snr_gamma, .sample_cfg = d->sample_cfg, .seed = d->seed};
}

static bool params_from(const struct train_options *o, struct train_params *p, struct error *e) {
    p->data = o->data, p->out = o->out, p->caption = o->caption, p->log = o->log;
    p->steps = o->steps, p->rank = o->rank, p->batch = o->batch, p->accumulate = o->accumulate, p->resolution = o->resolution;
    p->alpha = (float)o->alpha, p->lr = (float)o->lr, p->optimiser.weight_decay = (float)o->weight_decay;
    p->optimiser.max_grad_norm = (float)o->max_grad_norm, p->snr_gamma = (float)o->snr_gamma,
    p->schedule.warmup = (float)o->warmup;
    p->train_text_encoder = o->text, p->seed = o->seed, p->resume = o->resume, p->stop_after = o->stop_after;
    p->sample_every = o->sample_every, p->sample_steps = o->sample_steps, p->sample_cfg = (float)o->sample_cfg;
    p->save_every = o->save_every, p->half = !strcmp(o->dtype, "f16");
    p->remat = !strcmp(o->checkpointing, "on")    ? TRAIN_REMAT_ON
               : !strcmp(o->checkpointing, "off") ? TRAIN_REMAT_OFF
                                                  : TRAIN_REMAT_AUTO;
    return train_schedule_parse(o->lr_schedule, &p->schedule.kind, e) && lora_selection_parse(o->targets, &p->targets, e) &&
           target_weighting_parse(o->weighting, &p->weighting, e) && common_check_out("out", o->out, "safetensors", e) &&
           (!o->log || common_check_out("log", o->log, "jsonl", e));
}

/* The file appears by rename: it would replace the model. */
static bool out_is_new(const struct train_options *o, struct arena *a, struct error *e) {
    return strcmp(os_path_real(a, o->out), os_path_real(a, o->model)) != 0 ||
           error_set(e, "--out %s is the model itself; give the LoRA a name of its own.", TEXT_SHOW(o->out));
}

static bool take_samples(const struct option_list *texts, struct train_params *p, struct arena *a, struct error *e) {
    struct prompt_line *lines = arena_alloc_n(a, (size_t)texts->n + 1, sizeof *lines);
    for (int i = 0; i < texts->n; i++) {
        struct recipe_lora *tags;
        size_t n_tags;
        if (!prompt_line_parse(a, texts->items[i], "--sample-prompt", &lines[i], e)) return false;
        recipe_cut_loras(a, lines[i].prompt, &tags, &n_tags);
        if (lines[i].n_loras || n_tags)
            return error_set(e, "--sample-prompt \"%.40s\" asks for another LoRA; samples show the one that is trained, alone.",
                             TEXT_SHOW(texts->items[i]));
        const char *asked = lines[i].sampler;
        if (asked && !(lines[i].sampler = sampler_name_kohya(a, asked)))
            return error_set(e, "--sample-prompt: there is no sampler \"%s\"; atelier generate --help lists those there are.",
                             TEXT_SHOW(asked));
    }
    p->samples = lines, p->n_samples = texts->n;
    return true;
}

/* What would be set for nothing: the option that it belongs to is missing. */
static bool options_count(const struct option_command *cmd, const struct option_result *given, const struct train_options *o,
                          const struct train_method_options *m, struct error *e) {
    if (option_given(cmd, given, "snr-gamma") && strcmp(o->weighting, "min-snr"))
        return error_set(e, "--snr-gamma is the cap of --weighting min-snr; give that too.");
    if (option_given(cmd, given, "pyramid-discount") && !m->pyramid_iterations)
        return error_set(e, "--pyramid-discount belongs to --pyramid-iterations; give that too, 6 to 10 are usual.");
    if (option_given(cmd, given, "token-vectors") && !m->tokens.n)
        return error_set(e, "--token-vectors says how many a new word has: name one with --token.");
    return true;
}

/* ---- The plan ---- */

static void print_bytes(const char *what, int64_t bytes, const char *more) {
    char text[COMMON_BYTES_TEXT];
    if (bytes) printf("  %-22s %s%s\n", what, common_bytes_text(bytes, text), more);
}

static void print_plan(const struct train_plan *p, const struct train_options *o) {
    printf("pictures    %zu in %s, an epoch shows %zu", p->n_pictures, TEXT_SHOW(o->data), p->n_per_epoch);
    printf("; steps are %.1f epochs\n", (double)o->steps * o->batch * o->accumulate / (double)p->n_per_epoch);
    printf("captions    %zu from .txt files, %zu from folder names, %zu from --caption\n", p->n_from[DATASET_CAPTION_FILE],
           p->n_from[DATASET_CAPTION_FOLDER], p->n_from[DATASET_CAPTION_DEFAULT]);
    printf("size        %dx%d, %d at a time%s\n", p->resolution, p->resolution, o->batch,
           p->remat ? ", recomputing activations" : "");
    for (int i = 0; i < p->n_buckets; i++)
        printf("%s%dx%d of %d", i ? ", " : "buckets     ", p->buckets[i].w, p->buckets[i].h, p->buckets[i].n_pictures);
    if (p->n_buckets) printf("\n");
    if (p->n_layers && !p->rank)
        printf("weights     all of %d layers (%s), %lld numbers\n", p->n_layers, o->targets, (long long)p->n_params);
    else if (p->n_layers)
        printf("LoRA        rank %d on %d layers (%s), %lld numbers\n", p->rank, p->n_layers, o->targets,
               (long long)p->n_params);
    char need[COMMON_BYTES_TEXT], have[COMMON_BYTES_TEXT];
    printf("memory      %s of the device's %s\n", common_bytes_text(p->peak_bytes, need),
           common_bytes_text(p->device_bytes, have));
    print_bytes("UNet", p->unet_bytes, "");
    print_bytes("room for more of it", p->ring_bytes, ": the rest comes in turn, which is slower");
    print_bytes("with the host", p->away_bytes, ", not counted");
    print_bytes("pictures' latents", p->latent_bytes, ", with the host, not counted");
    print_bytes("text encoder", p->text_bytes, o->text || p->text_stays ? "" : ", only while captions are read");
    print_bytes("VAE", p->vae_bytes, ", only while pictures are read");
    print_bytes("LoRA", p->adapter_bytes, "");
    print_bytes("gradients", p->gradient_bytes, "");
    print_bytes("optimiser's state", p->moment_bytes, "");
    print_bytes("moving average", p->average_bytes, "");
    print_bytes("teacher", p->teacher_bytes, "");
    print_bytes("activations", p->activation_bytes, "");
    print_bytes("inputs, outputs", p->io_bytes, "");
    print_bytes("prepared weights", p->prepared_bytes, "");
    char time[COMMON_BYTES_TEXT];
    printf("time        about %s: %d steps of %.1f GFLOP\n", common_seconds_text(o->steps * p->step_seconds, time), o->steps,
           p->flops_per_step * 1e-9);
}

/* ---- The run ---- */

struct watch {
    double last_line;
};

static void on_report(void *ctx, const struct train_report *r) {
    struct watch *w = ctx;
    double now = os_now_seconds();
    bool last = r->step == r->steps;
    if (!os_stderr_is_terminal() && !last && r->step > 1 && now - w->last_line < 10) return;
    w->last_line = now;
    char left[COMMON_BYTES_TEXT], bytes[COMMON_BYTES_TEXT];
    log_progress("step %d of %d, loss %.4f (mean %.4f), %.2f steps/s, %s left, %s", r->step, r->steps, (double)r->loss,
                 (double)r->loss_mean, r->steps_per_second, common_seconds_text(r->eta_seconds, left),
                 common_bytes_text(r->device_bytes, bytes));
}

static bool train(struct trainer *t, const struct train_options *o, double started, struct error *e) {
    struct watch w = {0};
    struct train_callbacks cb = {on_report, &w};
    bool finished;
    if (!trainer_run(t, &cb, &finished, e)) return false;
    char time[COMMON_BYTES_TEXT];
    common_seconds_text(os_now_seconds() - started, time);
    if (finished) {
        struct train_plan plan = trainer_plan(t);
        if (plan.n_layers && !plan.rank)
            printf("%s: the change of %d layers after %d steps, %s in all\n", o->out, plan.n_layers, o->steps, time);
        else if (plan.n_layers) printf("%s: a LoRA of rank %d after %d steps, %s in all\n", o->out, plan.rank, o->steps, time);
        else printf("%s: new words after %d steps, %s in all\n", o->out, o->steps, time);
        return true;
    }
    struct arena *a = arena_create(NULL);
    printf("stopped after %s; the same command with --resume goes on from %s\n", time, trainer_state_path(a, o->out));
    arena_destroy(&a);
    return true;
}

/* distill NULL: plain training. */
static bool run(int argc, char **argv, struct distill_options *distill, struct error *e) {
    struct arena *a = arena_create(NULL);
    struct common common = {0};
    struct train_params params = train_params_default();
    struct train_options o = default_options(&params);
    struct train_method_options method = train_method_defaults(&params);
    struct train_recipe_options recipe = train_recipe_defaults(&params);
    struct option_command cmd = {.usage = "train --model DIR --data DIR --out FILE.safetensors [options]",
                                 .about = "Trains a LoRA on a folder of pictures. Ctrl-C saves; --resume continues, to the "
                                          "same bytes.",
                                 .tables = {{OPTION_ROWS(rows), &o}, train_recipe_table(&recipe), train_method_table(&method),
                                            common_table(&common), common_files_table(&common.files)}, .n_tables = 5};
    if (distill) {
        cmd.usage = "distill --model DIR --data DIR --method lcm|cfg --out FILE.safetensors [options]";
        cmd.about = "Makes a LoRA with which the model draws in fewer evaluations; the model itself is the teacher. "
                    "Pictures and captions should be\n"
                    "like those it is to draw. Ctrl-C saves; --resume continues, to the same bytes. "
                    "With --method lcm the defaults are rank 64,\n"
                    "targets all, lr 0.0001 constant, loss pseudo-huber with c 0.001; with cfg the same, but loss l2.";
        cmd.tables[1] = distill_table(distill);
    }
    struct option_result given;
    struct engine *engine = NULL;
    struct trainer *t = NULL;
    double started = os_now_seconds();
    bool ok = option_parse(&cmd, argc, argv, a, &given, e);
    if (ok && given.help) option_print_help(&cmd);
    else if (ok) {
        common_apply(&common);
        ok = (distill ? distill_preset(distill, &cmd, &given, a, e) : train_recipe_preset(&recipe, &cmd, &given, a, e)) &&
             options_count(&cmd, &given, &o, &method, e) && params_from(&o, &params, e) && out_is_new(&o, a, e) &&
             take_samples(&o.sample_prompts, &params, a, e) &&
             train_recipe_apply(&recipe, &params, e) && train_method_apply(&method, &params, a, e) &&
             (!distill || distill_apply(distill, &params, e)) &&
             (engine = common_engine_for(&common, o.model, o.dry_run, e)) &&
             (t = trainer_create(engine, &params, o.dry_run, e)) && (o.dry_run || train(t, &o, started, e));
        if (ok && o.dry_run) {
            struct train_plan plan = trainer_plan(t);
            train_recipe_print(&recipe, &cmd, &given);
            print_plan(&plan, &o);
            train_recipe_print_class(&plan, &params);
            if (distill) distill_print(&params.distill);
            train_method_print(&params);
        }
    }
    trainer_destroy(&t);
    ok = common_close(&engine, ok, e);
    arena_destroy(&a);
    return ok;
}

bool cmd_train(int argc, char **argv, struct error *e) { return run(argc, argv, NULL, e); }

bool cmd_distill(int argc, char **argv, struct error *e) {
    struct distill_options distill = distill_defaults();
    return run(argc, argv, &distill, e);
}
