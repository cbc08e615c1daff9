#include "train/words.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "io/safetensors.h"
#include "textenc/prompt.h"
#include "train/trainer_priv.h"

enum { MAX_NAME_BYTES = 64 };

/* ---- Names ---- */

static bool check_name(const struct trainer *t, const char *name, struct error *err) {
    size_t n = strlen(name);
    if (!n || n > MAX_NAME_BYTES || !text_utf8_valid(name, n) || strpbrk(name, " \t\n./\\=,:"))
        return error_set(
            err, "--token %s: a new word has 1 to %d bytes without spaces and . / \\ = , : as in <new1>.",
            TEXT_SHOW(name), MAX_NAME_BYTES);
    for (int i = 0; i < t->e->model->n_texts; i++) {
        int32_t id;
        size_t tokens = tokenizer_encode(t->e->model->texts[i].tokenizer, name, &id, 1);
        if (tokens == 1)
            return error_set(err,
                             "--token %s: the model already has this word (token %d); choose one that is not "
                             "in its vocabulary, such "
                             "as <%s>.",
                             TEXT_SHOW(name), (int)id, TEXT_SHOW(name));
        if (!tokens)
            return error_set(err, "--token %s: the tokenizer sees nothing in this word; choose another.",
                             TEXT_SHOW(name));
    }
    return true;
}

static bool check_words(const struct trainer *t, struct error *err) {
    const struct train_params *p = &t->params;
    if (p->n_words > TRAIN_MAX_WORDS)
        return error_set(err, "At most %d new words can be learned at once, not %d.", TRAIN_MAX_WORDS,
                         p->n_words);
    for (int i = 0; i < p->n_words; i++) {
        if (p->words[i].n < 1 || p->words[i].n > TRAIN_MAX_VECTORS || p->words[i].n > t->tokens - 2)
            return error_set(err, "--token-vectors must be from 1 to %d.",
                             t->tokens - 2 < TRAIN_MAX_VECTORS ? t->tokens - 2 : TRAIN_MAX_VECTORS);
        if (!check_name(t, p->words[i].name, err)) return false;
        for (int k = 0; k < i; k++)
            if (!strcmp(p->words[i].name, p->words[k].name))
                return error_set(err, "--token %s is given twice.", TEXT_SHOW(p->words[i].name));
    }
    return true;
}

/* ---- Captions ---- */

static struct prompt_chunk *cut_caption(const struct trainer *t, int which, const char *caption,
                                        struct arena *a, struct prompt_chunks *chunks) {
    struct prompt_run run = {caption, 1, false};
    struct prompt_runs runs = {&run, 1};
    struct prompt_chunk_params cp = {
        .tokenizer = t->e->model->texts[which].tokenizer, .words = t->words.names, .n_words = t->words.n};
    prompt_chunk(a, &runs, &cp, chunks);
    return chunks->items;
}

void train_words_encode(const struct trainer *t, int which, const char *caption, int32_t *ids, struct tokenizer_cut *cut) {
    const struct model_text *text = &t->e->model->texts[which];
    if (!t->words.n) {
        tokenizer_encode_window(text->tokenizer, caption, ids, cut);
        return;
    }
    struct arena *a = arena_create(NULL);
    struct prompt_chunks chunks;
    const struct prompt_chunk *c = cut_caption(t, which, caption, a, &chunks);
    memcpy(ids, c->ids, (size_t)t->tokens * sizeof *ids);
    for (int i = 0; i < c->n_splices; i++)
        ids[c->splices[i].at] = text->cfg.vocabulary + t->words.first[c->splices[i].word] + c->splices[i].vector;
    *cut = (struct tokenizer_cut){.n_tokens = chunks.n_tokens, .n_dropped = chunks.n_dropped};
    strncpy(cut->text, chunks.dropped, sizeof cut->text - 1);
    arena_destroy(&a);
}

static bool caption_has(const struct trainer *t, const char *caption, int word) {
    struct arena *a = arena_create(NULL);
    struct prompt_chunks chunks;
    const struct prompt_chunk *c = cut_caption(t, 0, caption, a, &chunks);
    bool has = false;
    for (int i = 0; i < c->n_splices; i++) has |= c->splices[i].word == word;
    arena_destroy(&a);
    return has;
}

/* A word that no caption has would never see a gradient. */
static bool check_captions(const struct trainer *t, struct error *err) {
    const struct dataset *own = &t->feeds[TRAIN_OWN].data;
    for (int w = 0; own->n && w < t->words.n; w++) {
        size_t i = 0;
        while (i < own->n && !caption_has(t, own->samples[i].caption, w)) i++;
        if (i < own->n) continue;
        const char *name = t->params.words[w].name;
        return error_set(err,
                         "No caption has the new word %s: put it into them, for example with --caption 'a "
                         "%s' for pictures without one.",
                         TEXT_SHOW(name), TEXT_SHOW(name));
    }
    return true;
}

/* ---- The start ---- */

static bool init_ids(const struct trainer *t, int which, const struct train_word *word,
                     int32_t ids[TRAIN_MAX_VECTORS], int *n, struct error *err) {
    struct arena *a = arena_create(NULL);
    char *copy = arena_strdup(a, word->init), *rest = NULL;
    bool ok = true;
    *n = 0;
    for (char *w = strtok_r(copy, " \t", &rest); ok && w; w = strtok_r(NULL, " \t", &rest)) {
        int32_t id = 0;
        size_t tokens = tokenizer_encode(t->e->model->texts[which].tokenizer, w, &id, 1);
        if (tokens != 1)
            ok = error_set(err,
                           "--token %s=%s: \"%s\" is %zu tokens to the model; begin with words that are one, "
                           "such as a class: cat, person, "
                           "toy.",
                           TEXT_SHOW(word->name), TEXT_SHOW(word->init), TEXT_SHOW(w), tokens);
        else if (*n == word->n)
            ok = error_set(err, "--token %s=%s: that is more words than the %d vector%s of --token-vectors.",
                           TEXT_SHOW(word->name), TEXT_SHOW(word->init), word->n, word->n == 1 ? "" : "s");
        else ids[(*n)++] = id;
    }
    if (ok && !*n)
        ok = error_set(err, "--token %s= names no word to begin with; leave the = away to begin by chance.",
                       TEXT_SHOW(word->name));
    arena_destroy(&a);
    return ok;
}

/* As diffusers' pivotal tuning draws them. */
static double spread(const float *table, size_t n) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += (double)table[i], squares += (double)table[i] * (double)table[i];
    double mean = sum / (double)n;
    return sqrt(fmax(0, squares / (double)n - mean * mean));
}

/* rows: {1,1,width,total}, a vector per column. */
static void place_start(float *rows, const float *vector, int width, int total, int column) {
    for (int c = 0; c < width; c++) rows[(size_t)c * (size_t)total + (size_t)column] = vector[c];
}

static bool start_word(const struct trainer *t, int which, int w, const float *table, struct rng *rng,
                       float *rows, struct error *err) {
    const struct clip_config *cfg = &t->e->model->texts[which].cfg;
    const struct train_word *word = &t->params.words[w];
    size_t width = (size_t)cfg->width;
    int32_t ids[TRAIN_MAX_VECTORS];
    int n = 0;
    if (word->init && !init_ids(t, which, word, ids, &n, err)) return false;
    float scale = word->init ? 0 : (float)spread(table, (size_t)cfg->vocabulary * width);
    struct arena *a = arena_create(NULL);
    float *drawn = arena_alloc_n(a, width, sizeof *drawn);
    for (int v = 0; v < word->n; v++) {
        const float *from = drawn;
        if (word->init) from = table + (size_t)ids[v * n / word->n] * width;
        else {
            rng_randn(rng, drawn, width);
            for (size_t c = 0; c < width; c++) drawn[c] *= scale;
        }
        place_start(rows, from, cfg->width, t->words.total, t->words.first[w] + v);
    }
    arena_destroy(&a);
    return true;
}

static bool start_tower(struct trainer *t, int which, struct lora_stack *stack, struct error *err) {
    const struct model_text *text = &t->e->model->texts[which];
    size_t width = (size_t)text->cfg.width, numbers = (size_t)text->cfg.vocabulary * width;
    int slot = nn_params_find(text->params, "text_model.embeddings.token_embedding.weight");
    float *rows = arena_alloc_n(stack->arena, width, (size_t)t->words.total * sizeof *rows),
          *table = malloc(numbers * sizeof *table);
    struct rng rng; /* its own: the LoRA's start is the same with and without new words */
    rng_seed(&rng, t->params.seed ^ 0x40000000u);
    bool ok = table != NULL || error_set(err, "The host has no memory left for the table of words.");
    if (ok) nn_params_read_slot(text->params, slot, table);
    for (int w = 0; ok && w < t->words.n; w++) ok = start_word(t, which, w, table, &rng, rows, err);
    free(table);
    if (!ok) return false;
    struct shape shape = {1, 1, text->cfg.width, t->words.total};
    t->words.own[which] = lora_stack_add_own(stack, arena_printf(stack->arena, "%s.new words", text->part), shape, rows);
    return true;
}

bool train_words_create(struct trainer *t, struct lora_stack *stack, struct error *err) {
    struct train_words *words = &t->words;
    const struct train_params *p = &t->params;
    if (!p->n_words) return true;
    if (!check_words(t, err)) return false;
    words->names = arena_alloc_n(t->arena, (size_t)p->n_words, sizeof *words->names);
    words->first = arena_alloc_n(t->arena, (size_t)p->n_words, sizeof *words->first);
    for (int i = 0; i < p->n_words; i++) {
        words->names[i] = (struct prompt_word){p->words[i].name, p->words[i].n};
        words->first[i] = words->total;
        words->total += p->words[i].n;
    }
    words->n = p->n_words;
    if (!check_captions(t, err)) return false;
    for (int i = 0; i < t->e->model->n_texts; i++)
        if (!start_tower(t, i, stack, err)) return false;
    return true;
}

/* ---- On the tape ---- */

void train_words_allocate(struct trainer *t) {
    struct train_words *words = &t->words;
    size_t rows = (size_t)t->params.batch * (size_t)t->tokens;
    if (!words->n) return;
    words->places = arena_alloc_n(t->arena, rows, sizeof(float));
    for (size_t i = 0; i < rows; i++) words->places[i] = (float)(i % (size_t)t->tokens);
    for (int i = 0; i < t->e->model->n_texts; i++) {
        words->one_hot[i] = arena_alloc_n(t->arena, rows, (size_t)words->total * sizeof(float));
        words->keep[i] = arena_alloc_n(t->arena, rows, (size_t)t->e->model->texts[i].cfg.width * sizeof(float));
    }
}

/* The vectors come in as a product, so that their gradient is a linear layer's: zero for what stands elsewhere. */
void train_words_build(struct trainer *t, struct graph *g, int which, struct clip_extras *x) {
    struct train_words_inputs *in = &t->tape->words[which];
    const struct lora_stack *stack = t->adapter->stack;
    struct shape s = {t->params.batch, 1, t->tokens, 1};
    *x = (struct clip_extras){-1, -1, -1, -1, -1};
    *in = (struct train_words_inputs){-1, -1, -1};
    if (!t->words.n) return;
    size_t mark = graph_push(g, "%s.new words", t->e->model->texts[which].part);
    in->places = graph_io(g, "places", s);
    s.c = t->e->model->texts[which].cfg.width;
    in->keep = graph_io(g, "keep", s);
    s.c = t->words.total;
    in->one_hot = graph_io(g, "one hot", s);
    x->keep = in->keep, x->places = in->places;
    x->own = graph_linear(g, in->one_hot, graph_slot(g, stack->set, SET_DATA, stack->own[t->words.own[which]].slot), -1, -1);
    graph_pop(g, mark);
}

void train_words_place(struct trainer *t, int which, int b, const int32_t *ids, float *dst) {
    const struct clip_config *cfg = &t->e->model->texts[which].cfg;
    struct train_words *words = &t->words;
    size_t width = (size_t)cfg->width, tokens = (size_t)t->tokens;
    for (size_t i = 0; i < tokens; i++) {
        int vector = ids[i] - cfg->vocabulary;
        dst[i] = vector < 0 ? (float)ids[i] : 0;
        if (!words->n) continue;
        float *hot = words->one_hot[which] + ((size_t)b * tokens + i) * (size_t)words->total;
        float *keep = words->keep[which] + ((size_t)b * tokens + i) * width;
        for (int v = 0; v < words->total; v++) hot[v] = v == vector;
        for (size_t c = 0; c < width; c++) keep[c] = vector < 0;
    }
}

void train_words_write(struct trainer *t) {
    for (int i = 0; t->words.n && i < t->e->model->n_texts; i++) {
        const struct train_words_inputs *in = &t->tape->words[i];
        gpu_program_write(t->tape->prog, in->one_hot, t->words.one_hot[i]);
        gpu_program_write(t->tape->prog, in->keep, t->words.keep[i]);
        gpu_program_write(t->tape->prog, in->places, t->words.places);
    }
}

/* ---- Out again ---- */

bool train_words_read(struct trainer *t, struct embedding_list *list, struct error *err) {
    const struct lora_stack *stack = t->adapter->stack;
    struct train_words *words = &t->words;
    struct arena *a = list->arena;
    list->items = arena_alloc_n(a, (size_t)words->n + 1, sizeof *list->items);
    list->n = list->cap = words->n;
    for (int w = 0; w < words->n; w++)
        list->items[w] = (struct embedding){.word = words->names[w].name, .n = words->names[w].n};
    for (int i = 0; words->n && i < t->e->model->n_texts; i++) {
        size_t width = (size_t)t->e->model->texts[i].cfg.width, total = (size_t)words->total;
        float *rows = arena_alloc_n(a, width, total * sizeof *rows);
        if (!gpu_set_read(t->adapter->data, stack->own[words->own[i]].slot, rows, err)) return false;
        for (int w = 0; w < words->n; w++) {
            float *vectors = arena_alloc_n(a, width, (size_t)words->names[w].n * sizeof *vectors);
            for (size_t v = 0; v < (size_t)words->names[w].n; v++)
                for (size_t c = 0; c < width; c++) vectors[v * width + c] = rows[c * total + (size_t)words->first[w] + v];
            list->items[w].vectors[i] = vectors;
        }
    }
    return true;
}

static void add_vectors(const struct trainer *t, const struct embedding *word,
                        const char *const names[EMBEDDING_TOWERS], struct st_writer *w) {
    for (int i = 0; i < t->e->model->n_texts; i++)
        st_writer_add_f32(w, names[i], ST_F32, 2, (const int64_t[]){word->n, t->e->model->texts[i].cfg.width},
                          word->vectors[i]);
}

void train_words_bundle(const struct trainer *t, const struct embedding_list *list, struct st_writer *w) {
    static const char *const one[] = {"string_to_param.*"}, *const two[] = {"clip_l", "clip_g"};
    const char *const *tails = t->e->model->n_texts > 1 ? two : one, *names[EMBEDDING_TOWERS] = {0};
    struct arena *a = arena_create(NULL);
    for (int k = 0; k < list->n; k++) {
        for (int i = 0; i < t->e->model->n_texts; i++)
            names[i] = arena_printf(a, "bundle_emb.%s.%s", list->items[k].word, tails[i]);
        add_vectors(t, &list->items[k], names, w);
    }
    arena_destroy(&a);
}

void train_words_save(const struct trainer *t, const struct embedding_list *list, struct st_writer *w) {
    bool two = t->e->model->n_texts > 1;
    if (two && list->n > 1) {
        train_words_bundle(t, list, w);
        return;
    }
    for (int k = 0; k < list->n; k++)
        add_vectors(t, &list->items[k],
                    two ? (const char *const[]){"clip_l", "clip_g"}
                        : (const char *const[]){list->items[k].word, NULL},
                    w);
}
