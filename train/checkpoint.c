/* The LoRA file for others, and the state file from which a run goes on exactly. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/os.h"
#include "base/sha256.h"
#include "lora/save.h"
#include "train/metadata.h"
#include "train/trainer_priv.h"

char *trainer_state_path(struct arena *a, const char *out) { return arena_printf(a, "%s.state.safetensors", out); }

static void hash_model(const struct model *m, struct sha256 *s) {
    size_t left = 1 << 20;
    for (size_t i = 0; i < st_count(m->files[0]); i++) {
        const struct st_tensor *t = st_at(m->files[0], i);
        size_t n = t->bytes < left ? t->bytes : left;
        sha256_update(s, t->name, strlen(t->name) + 1);
        sha256_update(s, &t->bytes, sizeof t->bytes);
        sha256_update(s, t->data, n);
        left -= n;
    }
}

void train_model_hash(const struct model *m, char hex[65]) {
    struct sha256 s;
    sha256_begin(&s);
    hash_model(m, &s);
    sha256_end(&s, hex);
}

/* Where a folder's pictures stand within it: the folder itself may move. */
static const char *path_within(const char *path, const char *folder) {
    size_t n = folder ? strlen(folder) : 0;
    if (n && !strncmp(path, folder, n)) path += n;
    while (*path == '/') path++;
    return path;
}

/* What must be the same for a resumed run to be the same run. Steps may grow only where no schedule looks at them. */
static void fingerprint(const struct trainer *t, char hex[65]) {
    const struct train_params *p = &t->params;
    struct sha256 s;
    sha256_begin(&s);
    char text[512];
    int n = snprintf(text, sizeof text, "%d %d %d %d %d %.9g %.9g %.9g %.9g %.9g %d %d %d %d %d %.9g %llu %d %g", p->steps,
                     p->rank, p->batch, p->accumulate, t->plan.resolution, (double)p->alpha, (double)p->lr, p->optimiser.beta1,
                     p->optimiser.beta2, (double)p->optimiser.eps, train_schedule_warmup(&p->schedule, p->steps),
                     (int)p->schedule.kind, (int)p->targets, p->train_text_encoder, (int)p->weighting, (double)p->snr_gamma,
                     (unsigned long long)p->seed, t->adapter->stack->n_layers, (double)t->loss_scale);
    sha256_update(&s, text, (size_t)n);
    const struct metadata_pair *settings;
    struct arena *a = arena_create(NULL);
    for (int i = 0, n_settings = train_settings(p, a, &settings); i < n_settings; i++) {
        sha256_update(&s, settings[i].key, strlen(settings[i].key) + 1);
        sha256_update(&s, settings[i].value, strlen(settings[i].value) + 1);
    }
    arena_destroy(&a);
    for (size_t i = 0; i < t->data.n; i++) {
        const struct dataset_sample *d = &t->data.samples[i];
        struct os_stat st = {0};
        os_file_stat(d->path, &st, NULL);
        const char *path = path_within(d->path, i < t->feeds[TRAIN_OWN].data.n ? t->params.data : t->params.class_data);
        sha256_update(&s, path, strlen(path) + 1);
        sha256_update(&s, d->caption, strlen(d->caption) + 1);
        sha256_update(&s, &st.bytes, sizeof st.bytes);
    }
    if (t->masks) sha256_update(&s, t->masks, train_latent_pixels(t) * sizeof *t->masks);
    hash_model(t->e->model, &s);
    sha256_end(&s, hex);
}

enum { MAX_BANKS = OPTIMISER_MAX_BANKS + 2 };

static int banks(const struct trainer *t, struct optimiser_bank b[MAX_BANKS]) {
    int n_chunks = t->adapter->stack->set->n_chunks, n = 0;
    b[n++] = (struct optimiser_bank){"adapter", t->adapter->data, n_chunks};
    if (t->ema) b[n++] = (struct optimiser_bank){"ema", t->ema, n_chunks};
    return n + optimiser_banks(t->optimiser, b + n);
}

/* Where each feed stands. */
static const char *const epoch_keys[TRAIN_FEEDS] = {"epoch", "class_epoch"},
                  *const order_keys[TRAIN_FEEDS] = {"order_at", "class_order_at"};

static void add_numbers(const struct trainer *t, struct st_writer *w) {
    char text[64], hex[65];
    fingerprint(t, hex);
    st_writer_meta(w, "format", "atelier training state 1");
    st_writer_meta(w, "fingerprint", hex);
    snprintf(text, sizeof text, "%d", t->step), st_writer_meta(w, "step", text);
    for (int i = 0; i < t->n_feeds; i++) {
        snprintf(text, sizeof text, "%d", t->feeds[i].epoch), st_writer_meta(w, epoch_keys[i], text);
        snprintf(text, sizeof text, "%d", t->feeds[i].order_at), st_writer_meta(w, order_keys[i], text);
    }
    snprintf(text, sizeof text, "%a", (double)t->loss_mean), st_writer_meta(w, "loss_mean", text);
    st_writer_add(w, "rng", ST_U8, 1, (int64_t[]){sizeof t->rng}, &t->rng);
    st_writer_add(w, "optimiser", ST_U8, 1, (int64_t[]){OPTIMISER_NUMBERS * sizeof(double)}, optimiser_numbers(t->optimiser));
    st_writer_add(w, "history", ST_F32, 2, (int64_t[]){t->step, 3}, t->history);
    st_writer_add(w, "dice", ST_U8, 1, (int64_t[]){sizeof t->dice}, &t->dice);
}

bool train_state_save(struct trainer *t, struct error *err) {
    struct arena *a = arena_create(NULL);
    struct st_writer *w = st_writer_create();
    struct optimiser_bank b[MAX_BANKS];
    bool ok = true;
    add_numbers(t, w);
    for (int i = 0, n = banks(t, b); ok && i < n; i++)
        for (int c = 0; ok && c < b[i].n_chunks; c++) {
            int64_t bytes = gpu_set_chunk_bytes(b[i].set, c);
            void *data = arena_alloc(a, (size_t)bytes);
            ok = gpu_set_read_raw(b[i].set, c, data, err);
            st_writer_add(w, arena_printf(a, "%s.%d", b[i].name, c), ST_F32, 1, (int64_t[]){bytes / 4}, data);
        }
    ok = ok && st_writer_save(w, trainer_state_path(a, t->params.out), err);
    st_writer_destroy(&w);
    arena_destroy(&a);
    return ok;
}

static bool read_int(const struct st_file *f, const char *key, int *out) {
    const char *v = st_meta_find(f, key);
    char *end;
    if (!v) return false;
    long n = strtol(v, &end, 10);
    *out = (int)n;
    return *v && !*end && n >= 0 && n < 1 << 30;
}

static bool load_banks(struct trainer *t, const struct st_file *f, struct error *err) {
    struct arena *a = arena_create(NULL);
    struct optimiser_bank b[MAX_BANKS];
    bool ok = true;
    for (int i = 0, n = banks(t, b); ok && i < n; i++)
        for (int c = 0; ok && c < b[i].n_chunks; c++) {
            int64_t bytes = gpu_set_chunk_bytes(b[i].set, c);
            const struct st_tensor *s = st_find(f, arena_printf(a, "%s.%d", b[i].name, c));
            if (!s || s->dtype != ST_F32 || (int64_t)s->bytes != bytes)
                ok = error_set(err, "%s lacks %s.%d of %lld bytes; it cannot be resumed from.", st_path(f), b[i].name, c,
                               (long long)bytes);
            else ok = gpu_set_write_raw(b[i].set, c, s->data, err);
        }
    arena_destroy(&a);
    return ok;
}

/* Shuffles the epoch that the feed was in. */
static bool load_feed(struct trainer *t, int i, const struct st_file *f) {
    struct train_feed *feed = &t->feeds[i];
    int at;
    if (!read_int(f, epoch_keys[i], &feed->epoch) || !read_int(f, order_keys[i], &at)) return false;
    train_epoch_shuffle(t, feed);
    if ((size_t)at > (feed->batches ? (size_t)feed->n_batches : feed->data.n_per_epoch)) return false;
    feed->order_at = at;
    return true;
}

static bool load_numbers(struct trainer *t, const struct st_file *f, struct error *err) {
    char hex[65];
    fingerprint(t, hex);
    const char *theirs = st_meta_find(f, "fingerprint"), *loss = st_meta_find(f, "loss_mean");
    const struct st_tensor *rng = st_find(f, "rng"), *dice = st_find(f, "dice"), *own = st_find(f, "optimiser"),
                           *history = st_find(f, "history");
    if (!theirs || strcmp(theirs, hex))
        return error_set(err, "%s was made by a run with another model, other settings or pictures; resume with the same ones, "
                              "or start afresh without --resume.", st_path(f));
    if (!read_int(f, "step", &t->step) || !loss || !rng || !dice || !own || !history ||
        t->step > t->params.steps || history->dtype != ST_F32 || history->bytes != (size_t)t->step * 3 * sizeof(float) ||
        own->bytes != OPTIMISER_NUMBERS * sizeof(double) ||
        rng->bytes != sizeof t->rng || dice->bytes != sizeof t->dice)
        return error_set(err, "%s is damaged; start afresh without --resume.", st_path(f));
    memcpy(&t->rng, rng->data, sizeof t->rng);
    memcpy(t->history, history->data, history->bytes);
    memcpy(optimiser_numbers(t->optimiser), own->data, own->bytes);
    memcpy(&t->dice, dice->data, sizeof t->dice);
    if (t->rng.next > 624 || t->dice.next > 624)
        return error_set(err, "%s is damaged; start afresh without --resume.", st_path(f));
    t->loss_mean = strtof(loss, NULL);
    for (int i = 0; i < t->n_feeds; i++)
        if (!load_feed(t, i, f)) return error_set(err, "%s is damaged; start afresh without --resume.", st_path(f));
    return true;
}

bool train_state_load(struct trainer *t, struct error *err) {
    struct arena *a = arena_create(NULL);
    const char *path = trainer_state_path(a, t->params.out);
    struct st_file *f = st_open(path, err);
    bool ok = f && load_numbers(t, f, err) && load_banks(t, f, err);
    st_close(&f);
    arena_destroy(&a);
    return ok;
}

static void describe(const struct trainer *t, struct metadata_params *m, struct arena *a) {
    const struct train_params *p = &t->params;
    static const enum metadata_family families[NN_FAMILIES] = {
        [NN_FAMILY_SD2] = METADATA_SD2, [NN_FAMILY_SDXL] = METADATA_SDXL, [NN_FAMILY_SSD_1B] = METADATA_SDXL,
        [NN_FAMILY_VEGA] = METADATA_SDXL};
    const char *slash = strrchr(p->out, '/'), *name = slash ? slash + 1 : p->out, *dot = strrchr(name, '.');
    bool v = t->schedule->params.prediction == SCHEDULE_PREDICT_V;
    *m = (struct metadata_params){
        .family = families[t->e->model->family], .v_prediction = v, .model_name = t->e->model->name,
        .rank = p->rank, .alpha = (double)p->alpha, .comment = "trained with Atelier",
        .output_name = arena_strndup(a, name, dot ? (size_t)(dot - name) : strlen(name)),
        .optimizer = optimiser_find(p->optimiser.name)->title, .lr_scheduler = train_schedule_name(p->schedule.kind),
        .mixed_precision = gpu_device_storage(t->e->dev) == TENSOR_F16 ? "fp16" : "no",
        .lr = (double)p->lr, .unet_lr = (double)p->lr,
        .text_lr = !p->train_text_encoder ? 0 : (double)(p->text_lr ? p->text_lr : p->lr), .seed = (int64_t)p->seed,
        .steps = t->step, .max_steps = p->steps, .warmup_steps = train_schedule_warmup(&p->schedule, p->steps),
        .batch = p->batch, .grad_accumulation = p->accumulate, .w = t->plan.resolution,
        .h = t->plan.resolution, .max_grad_norm = (double)p->optimiser.max_grad_norm, .gradient_checkpointing = t->plan.remat,
        .cache_latents = true, .data = &t->feeds[TRAIN_OWN].data,
        .reg_data = &t->feeds[TRAIN_CLASS].data, .batches_per_epoch = t->feeds[TRAIN_OWN].n_batches};
    if (p->kind == TRAIN_FULL) m->network_module = "lycoris.kohya", m->network_args = "{\"algo\": \"full\"}", m->rank = -1;
    m->n_more = train_settings(p, a, &m->more);
    struct metadata_bucket *buckets;
    m->n_buckets = train_buckets_describe(t, a, &buckets, &m->bucket_error);
    m->buckets = buckets;
}

static enum lora_part part_of(const struct adapter *a, int model) {
    int p = LORA_UNET;
    while (p < LORA_N_PARTS - 1 && a->models[p] != model) p++;
    return (enum lora_part)p;
}

static float *read_rows(struct trainer *t, int slot, struct arena *a, struct error *err) {
    float *rows = arena_alloc_n(a, (size_t)shape_elems(t->adapter->stack->set->slots[slot].shape), sizeof *rows);
    return gpu_set_read(t->adapter->data, slot, rows, err) ? rows : NULL;
}

static bool gather_factors(struct trainer *t, const struct lora_stack_layer *l, struct arena *a, struct lora_save_module *m,
                           struct error *err) {
    const struct lora_stack_part *part = &l->parts[0];
    struct shape w = l->target->weight;
    const float *down_rows = read_rows(t, l->down, a, err), *up_rows = down_rows ? read_rows(t, l->up, a, err) : NULL;
    float *down = arena_alloc(a, (size_t)(w.n * part->rank) * (size_t)w.c * sizeof(float));
    float *up = arena_alloc(a, (size_t)part->rank * (size_t)w.w * sizeof(float));
    if (!up_rows) return false;
    lora_stack_extract(l, part, down_rows, up_rows, down, up);
    m->rank = part->rank, m->alpha = part->scale * (float)part->rank, m->down = down, m->up = up;
    return true;
}

/* Slots as the file wants them, one module per layer. */
static bool gather(struct trainer *t, struct arena *a, struct lora_save_module *modules, struct error *err) {
    struct lora_stack *stack = t->adapter->stack;
    for (int i = 0; i < stack->n_layers; i++) {
        const struct lora_stack_layer *l = &stack->layers[i];
        struct lora_save_module *m = &modules[i];
        *m = (struct lora_save_module){.place = {part_of(t->adapter, l->model), l->target}};
        if (l->n_parts ? !gather_factors(t, l, a, m, err) : !(m->diff = read_rows(t, l->dense[0].weight, a, err))) return false;
    }
    return true;
}

/* "hero.safetensors" -> "hero-words.safetensors" */
static char *words_path(struct arena *a, const char *path) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    int stem = dot && (!slash || dot > slash) ? (int)(dot - path) : (int)strlen(path);
    return arena_printf(a, "%.*s-words.safetensors", stem, path);
}

static bool save_words(struct trainer *t, const struct embedding_list *words, struct metadata_params *meta, const char *path,
                       struct error *err) {
    struct st_writer *w = st_writer_create();
    struct metadata_params own = *meta;
    own.words_alone = true;
    train_words_save(t, words, w);
    bool ok = metadata_add(w, &own, err) && st_writer_save(w, path, err);
    st_writer_destroy(&w);
    return ok;
}

static bool save_layers(struct trainer *t, const struct embedding_list *words, const struct lora_save_params *layers,
                        const struct metadata_params *meta, const char *path, struct error *err) {
    struct lora_model model = adapter_lora_model(t->e->model);
    struct lora_keys *keys = lora_keys_create(&model);
    struct st_writer *w = st_writer_create();
    lora_save_tensors(w, keys, layers);
    train_words_bundle(t, words, w);
    bool ok = metadata_add(w, meta, err) && st_writer_save(w, path, err);
    st_writer_destroy(&w);
    lora_keys_destroy(&keys);
    return ok;
}

bool train_lora_save(struct trainer *t, const char *path, struct error *err) {
    struct arena *a = arena_create(NULL);
    int n = t->adapter->stack->n_layers;
    struct lora_save_module *modules = arena_alloc_n(a, (size_t)n + 1, sizeof *modules);
    struct embedding_list words = {.arena = a};
    struct metadata_params meta;
    describe(t, &meta, a);
    for (int i = 0; i < t->words.n; i++)
        meta.trigger_phrase = arena_printf(a, "%s%s%s", i ? meta.trigger_phrase : "", i ? ", " : "", t->words.names[i].name);
    bool ok = train_weights_show(t, err) && gather(t, a, modules, err) && train_words_read(t, &words, err);
    ok = train_weights_hide(t, err) && ok;
    struct lora_save_params sp = {.modules = modules, .n_modules = n, .dtype = t->params.half ? ST_F16 : ST_F32};
    bool alone = t->params.kind == TRAIN_NONE;
    if (ok && !alone) ok = save_layers(t, &words, &sp, &meta, path, err);
    if (ok && words.n) ok = save_words(t, &words, &meta, alone ? path : words_path(a, path), err);
    arena_destroy(&a);
    return ok;
}
