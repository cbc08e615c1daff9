#include "app/prompt_use.h"

#include <stdlib.h>
#include <string.h>

#include "app/common.h"
#include "base/arena.h"
#include "base/os.h"
#include "base/text.h"
#include "engine/adapter.h"

#define FIELD(name) offsetof(struct prompt_use, name)

static const struct option rows[] = {
    {"prompt-style", OPTION_CHOICE, FIELD(style), "STYLE",
     "diffusers: every character is text, 75 tokens count;\na1111: (x) [x] (x:1.3) BREAK AND [a:b:0.5] [a|b], any length;\n"
     "compel: x++ (x y)1.3 (\"a\", \"b\").blend(1, 1)",
     .choices = "diffusers|a1111|compel"},
    {"clip-skip", OPTION_INT, FIELD(clip_skip), "N",
     "layer of the text encoder that counts, from the end, as A1111 does;\nnot given, the model's own", 1, 100},
    {"embedding", OPTION_LIST, FIELD(embeddings), "[WORD=]FILE",
     "learnt word (textual inversion), called like the file if not said"},
};

void prompt_use_defaults(struct prompt_use *u) { u->style = "diffusers"; }

struct option_table prompt_use_table(struct prompt_use *u) { return (struct option_table){OPTION_ROWS(rows), u}; }

enum prompt_style prompt_use_style(const struct prompt_use *u) {
    enum prompt_style s = PROMPT_DIFFUSERS;
    prompt_style_find(u->style, &s);
    return s;
}

/* ---- Learnt words ---- */

static const char *file_of(const char *text) {
    const char *equals = strchr(text, '=');
    return equals && !os_path_is_file(text) ? equals + 1 : text;
}

bool prompt_use_load(struct prompt_use *u, const struct model *m, struct lora_file *const *loras, int n, struct arena *a,
                     struct error *e) {
    int widths[MODEL_MAX_TEXTS];
    for (int i = 0; i < m->n_texts; i++) widths[i] = m->texts[i].cfg.width;
    u->words.arena = a;
    for (int i = 0; i < u->embeddings.n; i++) {
        int before = u->words.n;
        if (!embedding_load(&u->words, u->embeddings.items[i], widths, m->n_texts, e)) return false;
        const char *hash = common_file_hash(a, file_of(u->embeddings.items[i]), e);
        if (!hash) return false;
        for (int k = before; k < u->words.n; k++)
            u->hashes =
                arena_printf(a, "%s%s%s: %s", u->hashes ? u->hashes : "", u->hashes ? ", " : "", u->words.items[k].word, hash);
    }
    return adapter_words_load(m, loras, n, &u->words, e);
}

/* ---- Recipes ---- */

void prompt_use_write(const struct prompt_use *u, struct arena *a, struct recipe *r) {
    if (prompt_use_style(u) != PROMPT_DIFFUSERS) recipe_add(a, r, "Prompt style", u->style);
    if (u->clip_skip) recipe_add(a, r, "Clip skip", arena_printf(a, "%d", u->clip_skip));
    if (u->hashes) recipe_add(a, r, "TI hashes", u->hashes);
}

/* WORD.safetensors, .pt or .bin in dir whose hash is the recipe's. */
static bool find_word(struct prompt_use *u, struct arena *a, const char *word, const char *hash, const char *dir,
                      struct error *e) {
    static const char *const endings[] = {"safetensors", "pt", "bin"};
    for (int i = 0; i < 3 && !strchr(word, '/'); i++) {
        const char *path = arena_printf(a, "%s/%s.%s", dir, word, endings[i]);
        struct error ignored;
        const char *own = os_path_is_file(path) ? common_file_hash(a, path, &ignored) : NULL;
        if (!own || strncmp(own, hash, strlen(own))) continue;
        u->embeddings.items =
            arena_grow(a, u->embeddings.items, (size_t)u->embeddings.n, (size_t)u->embeddings.n + 1, sizeof(char *));
        u->embeddings.items[u->embeddings.n++] = path;
        return true;
    }
    return error_set(e, "The picture was made with the learnt word \"%s\" (hash %s), which is not in %s; give its file with "
                        "--embedding.", TEXT_SHOW(word), TEXT_SHOW(hash), TEXT_SHOW(dir));
}

/* "word: hash, word: hash": words may hold colons, hashes not. */
static bool read_words(struct prompt_use *u, struct arena *a, const char *text, const char *dir, struct error *e) {
    while (*text) {
        size_t n = strcspn(text, ",");
        char *pair = arena_strndup(a, text, n), *colon = strrchr(pair, ':');
        if (!colon)
            return error_set(e, "The recipe's field TI hashes reads \"%s\", which is no list of words and hashes.",
                             TEXT_SHOW(text));
        *colon++ = 0;
        while (*colon == ' ') colon++;
        if (!find_word(u, a, pair, colon, dir, e)) return false;
        text += n;
        while (*text == ',' || *text == ' ') text++;
    }
    return true;
}

bool prompt_use_read(struct prompt_use *u, struct arena *a, const struct recipe *r, const struct prompt_use_given *given,
                     const char *dir, struct error *e) {
    bool foreign = !r->version || strncmp(r->version, "atelier", 7) != 0;
    const char *style = recipe_extra(r, "Prompt style"), *skip = recipe_extra(r, "Clip skip"),
               *words = recipe_extra(r, "TI hashes");
    enum prompt_style known;
    if (style && !prompt_style_find(style, &known))
        return error_set(e, "The recipe's prompt style \"%s\" is not here; choose one with --prompt-style.", TEXT_SHOW(style));
    if (!given->style) u->style = style ? prompt_style_name(known) : foreign ? "a1111" : "diffusers";
    char *end;
    long n = skip ? strtol(skip, &end, 10) : 0;
    if (skip && (*end || n < 1 || n > 100))
        return error_set(e, "The recipe's clip skip \"%s\" is no number of layers; give --clip-skip.", TEXT_SHOW(skip));
    if (skip && !given->clip_skip) u->clip_skip = (int)n;
    return !words || given->embeddings || read_words(u, a, words, dir, e);
}
