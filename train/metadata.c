#include "train/metadata.h"
#include "base/arena.h"
#include "io/safetensors.h"
#include "train/dataset.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *version, *version_v, *architecture, *architecture_v, *implementation;
} families[] = {
    [METADATA_SD1] = {"sd_v1", "sd_v1_v", "stable-diffusion-v1/lora", "stable-diffusion-v1/lora", "diffusers"},
    [METADATA_SD2] = {"sd_v2", "sd_v2_v", "stable-diffusion-v2-512/lora", "stable-diffusion-v2-768-v/lora", "diffusers"},
    [METADATA_SDXL] = {"sdxl_base_v1-0", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora",
                       "stable-diffusion-xl-v1-base/lora", "https://github.com/Stability-AI/generative-models"},
};

char *metadata_float_text(char dst[METADATA_FLOAT_BYTES], double v) {
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(dst, METADATA_FLOAT_BYTES, "%.*g", digits, v);
        if (strtod(dst, NULL) == v) break;
    }
    const char *exponent = strchr(dst, 'e');
    if (exponent && atoi(exponent + 1) >= 0 && atoi(exponent + 1) < 16) snprintf(dst, METADATA_FLOAT_BYTES, "%.0f", v);
    if (!strpbrk(dst, ".en")) strcat(dst, ".0"); /* n: nan, inf */
    return dst;
}

/* ---- Small writers ---- */

static void text(struct st_writer *w, const char *key, const char *value) {
    if (value) st_writer_meta(w, key, value);
}

static void whole(struct st_writer *w, const char *key, int64_t v) {
    char s[32];
    snprintf(s, sizeof s, "%lld", (long long)v);
    if (v >= 0) st_writer_meta(w, key, s);
}

static void real(struct st_writer *w, const char *key, double v) {
    char s[METADATA_FLOAT_BYTES];
    st_writer_meta(w, key, v == 0 ? "None" : metadata_float_text(s, v));
}

static void flag(struct st_writer *w, const char *key, bool v) { st_writer_meta(w, key, v ? "True" : "False"); }

/* Takes over the reference. */
static void json(struct st_writer *w, const char *key, json_t *v) {
    char *s = json_dumps(v, 0);
    text(w, key, s);
    free(s);
    json_decref(v);
}

/* ---- Data ---- */

/* Counts comma-separated tags, trimmed and in lower case (ASCII), as kohya does. */
static void count_tags(json_t *counts, const char *caption) {
    char *copy = strdup(caption);
    for (char *tag = copy, *next; tag; tag = next) {
        if ((next = strchr(tag, ','))) *next++ = 0;
        while (isspace((unsigned char)*tag)) tag++;
        size_t n = strlen(tag);
        while (n && isspace((unsigned char)tag[n - 1])) tag[--n] = 0;
        for (size_t i = 0; i < n; i++) tag[i] = (char)tolower((unsigned char)tag[i]);
        if (n) json_object_set_new(counts, tag, json_integer(1 + json_integer_value(json_object_get(counts, tag))));
    }
    free(copy);
}

static json_t *child(json_t *parent, const char *key) {
    json_t *c = json_object_get(parent, key);
    if (!c && json_object_set_new(parent, key, json_object()) == 0) c = json_object_get(parent, key);
    return c;
}

/* Folders with repeats and counts of pictures; tags, unless NULL, get every folder's counts of tags. */
static json_t *folders(const struct dataset *d, json_t *tags) {
    json_t *dirs = json_object();
    for (size_t i = 0; i < d->n; i++) {
        const struct dataset_sample *s = &d->samples[i];
        json_t *dir = child(dirs, s->folder); /* NULL for a folder name that is not UTF-8 */
        json_object_set_new(dir, "n_repeats", json_integer(s->repeats));
        json_object_set_new(dir, "img_count", json_integer(1 + json_integer_value(json_object_get(dir, "img_count"))));
        if (dir && tags) count_tags(child(tags, s->folder), s->caption);
    }
    return dirs;
}

static void add_data(struct st_writer *w, const struct dataset *d, const struct dataset *reg) {
    json_t *tags = json_object(), *dirs = folders(d, tags);
    whole(w, "ss_num_train_images", (int64_t)d->n_per_epoch);
    whole(w, "ss_num_reg_images", reg ? (int64_t)reg->n_per_epoch : 0);
    json(w, "ss_dataset_dirs", dirs);
    json(w, "ss_reg_dataset_dirs", reg ? folders(reg, NULL) : json_object());
    json(w, "ss_tag_frequency", tags);
}

static void add_buckets(struct st_writer *w, const struct metadata_params *p) {
    if (!p->n_buckets) return;
    json_t *buckets = json_object();
    for (int i = 0; i < p->n_buckets; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i);
        json_object_set_new(buckets, number, json_pack("{s:[i,i],s:I}", "resolution", p->buckets[i].w, p->buckets[i].h, "count",
                                                       (json_int_t)p->buckets[i].count));
    }
    json(w, "ss_bucket_info", json_pack("{s:o,s:f}", "buckets", buckets, "mean_img_ar_error", p->bucket_error));
}

/* ---- Parts ---- */

static void add_model(struct st_writer *w, const struct metadata_params *p) {
    text(w, "ss_base_model_version", p->v_prediction ? families[p->family].version_v : families[p->family].version);
    flag(w, "ss_v2", p->family == METADATA_SD2);
    text(w, "ss_sd_model_name", p->model_name);
    text(w, "ss_new_sd_model_hash", p->model_hash);
    if (p->clip_skip > 0) whole(w, "ss_clip_skip", p->clip_skip);
    else text(w, "ss_clip_skip", "None");
}

static void add_network(struct st_writer *w, const struct metadata_params *p) {
    if (p->words_alone) return;
    text(w, "ss_network_module", p->network_module ? p->network_module : "networks.lora");
    char alpha[METADATA_FLOAT_BYTES];
    whole(w, "ss_network_dim", p->rank);
    if (p->rank >= 0) text(w, "ss_network_alpha", metadata_float_text(alpha, p->alpha));
    text(w, "ss_network_args", p->network_args ? p->network_args : "{}");
}

static void add_run(struct st_writer *w, const struct metadata_params *p) {
    text(w, "ss_output_name", p->output_name);
    text(w, "ss_training_comment", p->comment);
    text(w, "ss_training_started_at", p->started_at);
    text(w, "ss_training_finished_at", p->finished_at);
    whole(w, "ss_seed", p->seed);
    whole(w, "ss_steps", p->steps);
    whole(w, "ss_max_train_steps", p->max_steps);
    real(w, "ss_learning_rate", p->lr);
    real(w, "ss_unet_lr", p->unet_lr);
    real(w, "ss_text_encoder_lr", p->text_lr);
    text(w, "ss_optimizer", p->optimizer);
    text(w, "ss_lr_scheduler", p->lr_scheduler);
    whole(w, "ss_lr_warmup_steps", p->warmup_steps);
    whole(w, "ss_batch_size_per_device", p->batch);
    whole(w, "ss_total_batch_size", (int64_t)p->batch * (p->grad_accumulation > 0 ? p->grad_accumulation : 1));
    whole(w, "ss_gradient_accumulation_steps", p->grad_accumulation);
    flag(w, "ss_gradient_checkpointing", p->gradient_checkpointing);
    real(w, "ss_max_grad_norm", p->max_grad_norm);
    text(w, "ss_mixed_precision", p->mixed_precision);
    flag(w, "ss_cache_latents", p->cache_latents);
    for (int i = 0; i < p->n_more; i++) text(w, p->more[i].key, p->more[i].value);
    char size[64];
    snprintf(size, sizeof size, "(%d, %d)", p->w, p->h);
    text(w, "ss_resolution", p->w > 0 && p->h > 0 ? size : NULL);
    if (p->data && p->batch > 0) {
        int64_t batches =
            p->batches_per_epoch ? p->batches_per_epoch : ((int64_t)p->data->n_per_epoch + p->batch - 1) / p->batch;
        int64_t accumulation = p->grad_accumulation > 0 ? p->grad_accumulation : 1;
        whole(w, "ss_num_batches_per_epoch", batches);
        if (p->max_steps > 0) whole(w, "ss_num_epochs", (p->max_steps * accumulation + batches - 1) / batches);
    }
}

static void add_modelspec(struct st_writer *w, const struct metadata_params *p, const char *data_hash) {
    char s[80];
    text(w, "modelspec.sai_model_spec", "1.0.1");
    const char *architecture = p->v_prediction ? families[p->family].architecture_v : families[p->family].architecture;
    char words[80];
    snprintf(words, sizeof words, "%.*s/textual-inversion", (int)strcspn(architecture, "/"), architecture);
    text(w, "modelspec.architecture", p->words_alone ? words : architecture);
    text(w, "modelspec.implementation", families[p->family].implementation);
    text(w, "modelspec.title", p->output_name);
    snprintf(s, sizeof s, "%dx%d", p->w, p->h);
    text(w, "modelspec.resolution", p->w > 0 && p->h > 0 ? s : NULL);
    text(w, "modelspec.prediction_type", p->v_prediction ? "v" : "epsilon");
    if (p->clip_skip > 0) whole(w, "modelspec.encoder_layer", p->clip_skip);
    text(w, "modelspec.date", p->date);
    text(w, "modelspec.author", p->author);
    text(w, "modelspec.description", p->description);
    text(w, "modelspec.license", p->license);
    text(w, "modelspec.trigger_phrase", p->trigger_phrase);
    snprintf(s, sizeof s, "0x%s", data_hash);
    text(w, "modelspec.hash_sha256", s);
}

bool metadata_add(struct st_writer *w, const struct metadata_params *p, struct error *e) {
    char model_hash[65], legacy_hash[9];
    add_model(w, p);
    add_network(w, p);
    add_run(w, p);
    if (p->data) add_data(w, p->data, p->reg_data);
    add_buckets(w, p);
    if (!st_writer_hashes(w, model_hash, legacy_hash, e)) return false; /* over tensors and the ss_ keys alone */
    text(w, "sshs_model_hash", model_hash);
    text(w, "sshs_legacy_hash", legacy_hash);
    add_modelspec(w, p, model_hash);
    return true;
}
