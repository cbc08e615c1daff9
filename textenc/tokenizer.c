/* Loading a tokenizer folder, and the window around a text's ids. */
#include "textenc/tokenizer_priv.h"
#include "textenc/clip_merges.h"

#include "base/arena.h"
#include "base/os.h"
#include "io/json.h"

#include <assert.h>
#include <string.h>

enum {
    MAX_TOKENS = 1 << 20,
    MAX_MERGES = 49152 - 256 - 2, /* CLIP's merge list is longer in some files; the rest never counted */
    MAX_SPECIALS = 1024,
    MIN_WINDOW = 3,
    MAX_WINDOW = 4096,
    DEFAULT_WINDOW = 77,
};

static size_t slots_for(size_t n) {
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

static bool read_vocab(struct tokenizer *t, const char *path, struct error *e) {
    json_t *all = json_file_load(path, 0, e), *value;
    if (!all) return false;
    bool ok = true;
    const char *key;
    size_t n = json_object_size(all);
    t->vocab_mask = slots_for(n) - 1;
    t->vocab = arena_alloc_n(t->arena, t->vocab_mask + 1, sizeof *t->vocab);
    t->max_id = -1;
    json_object_foreach(all, key, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= MAX_TOKENS) {
            ok = error_set(e, "%s: the token '%.60s' has no id between 0 and %d", path, key, MAX_TOKENS - 1);
            break;
        }
        size_t bytes = strlen(key);
        tokenizer_vocab_add(t, arena_strndup(t->arena, key, bytes), bytes, (int32_t)id);
        if (id > t->max_id) t->max_id = (int32_t)id;
    }
    json_decref(all);
    if (ok && t->max_id < 0) return error_set(e, "%s: the vocabulary is empty", path);
    if (!ok) return false;
    t->token_of = arena_alloc_n(t->arena, (size_t)t->max_id + 1, sizeof *t->token_of);
    for (size_t i = 0; i <= t->vocab_mask; i++)
        if (t->vocab[i].text) t->token_of[t->vocab[i].id] = t->vocab[i].text;
    return true;
}

/* One "left right" line. Both and their concatenation must be tokens. */
static bool read_merge(struct tokenizer *t, const char *path, size_t number, const char *line, size_t bytes,
                       uint32_t rank, struct error *e) {
    const char *gap = memchr(line, ' ', bytes);
    size_t left = gap ? (size_t)(gap - line) : 0, right = gap ? bytes - left - 1 : 0;
    char joined[512];
    if (!left || !right || left + right > sizeof joined || memchr(gap + 1, ' ', right))
        return error_set(e, "%s: line %zu is not two tokens separated by a space", path, number);
    memcpy(joined, line, left);
    memcpy(joined + left, gap + 1, right);
    int32_t a = tokenizer_lookup(t, line, left), b = tokenizer_lookup(t, gap + 1, right);
    int32_t merged = tokenizer_lookup(t, joined, left + right);
    if (a < 0 || b < 0 || merged < 0)
        return error_set(e, "%s: line %zu merges tokens that vocab.json does not have; the two files must belong "
                            "together", path, number);
    tokenizer_merge_add(t, a, b, merged, rank);
    return true;
}

static bool parse_merges(struct tokenizer *t, const char *path, const char *s, size_t total, struct error *e) {
    const char *end = s + total;
    size_t n_lines = 1;
    for (const char *p = s; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++) n_lines++;
    if (n_lines > MAX_MERGES + 1) n_lines = MAX_MERGES + 1;
    t->merge_mask = slots_for(n_lines) - 1;
    t->merges = arena_alloc_n(t->arena, t->merge_mask + 1, sizeof *t->merges);
    for (size_t i = 0; i <= t->merge_mask; i++) t->merges[i].left = -1;
    bool ok = true;
    uint32_t rank = 0;
    for (size_t number = 1; ok && s < end && rank < MAX_MERGES; number++) {
        const char *stop = memchr(s, '\n', (size_t)(end - s));
        const char *next = stop ? stop + 1 : end;
        size_t bytes = (size_t)((stop ? stop : end) - s);
        if (bytes && s[bytes - 1] == '\r') bytes--;
        bool comment = number == 1 && bytes >= 8 && memcmp(s, "#version", 8) == 0;
        if (bytes && !comment) ok = read_merge(t, path, number, s, bytes, rank++, e);
        s = next;
    }
    if (ok && !rank) return error_set(e, "%s holds no merges; fetch the file again", path);
    return ok;
}

static bool read_merges(struct tokenizer *t, const char *path, struct error *e) {
    struct os_map map;
    if (!os_file_map(&map, path, e)) return false;
    bool ok = parse_merges(t, path, (const char *)map.data, map.bytes, e);
    os_file_unmap(&map);
    return ok;
}

/* ---- Special tokens ---- */

/* The files that name them; either may be missing. A config with added_tokens_decoder is of the newer sort and rules
 * alone; otherwise special_tokens_map.json goes before tokenizer_config.json. */
struct special_files {
    json_t *config, *map;
    const json_t *decoder;
};

static void add_special(struct tokenizer *t, const char *text, int32_t id, bool normalized) {
    for (size_t i = 0; i < t->n_specials; i++)
        if (strcmp(t->specials[i].text, text) == 0) {
            t->specials[i].normalized = normalized;
            return;
        }
    if (t->n_specials == MAX_SPECIALS || !*text) return;
    t->specials[t->n_specials++] =
        (struct special){arena_strdup(t->arena, text), strlen(text), id, normalized};
}

/* Newer configs list every special token under its id. */
static bool read_decoder(struct tokenizer *t, const struct special_files *files, const char *dir, struct error *e) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)files->decoder, key, value) {
        const char *text = json_string_value(json_object_get(value, "content"));
        int32_t id = text ? tokenizer_lookup(t, text, strlen(text)) : -1;
        if (!text || id < 0)
            return error_set(e, "%s/tokenizer_config.json: the added token %.20s ('%.60s') is not in vocab.json; "
                                "vocabularies extended that way are not supported", dir, key, text ? text : "");
        json_t *normalized = json_object_get(value, "normalized");
        add_special(t, text, id, normalized ? json_is_true(normalized) : !json_is_true(json_object_get(value, "special")));
    }
    return true;
}

static json_t *role_value(const struct special_files *files, const char *role) {
    json_t *first = json_object_get(files->decoder ? files->config : files->map, role);
    json_t *second = json_object_get(files->decoder ? files->map : files->config, role);
    return first && !json_is_null(first) ? first : second;
}

static bool read_role(struct tokenizer *t, const struct special_files *files, const char *dir, const char *role,
                      const char *otherwise, int32_t *id, struct error *e) {
    json_t *value = role_value(files, role);
    const char *text = json_is_object(value) ? json_string_value(json_object_get(value, "content"))
                                             : json_string_value(value);
    if (!text) text = otherwise;
    *id = tokenizer_lookup(t, text, strlen(text));
    if (*id < 0) return error_set(e, "%s: the %s '%.60s' is not in vocab.json", dir, role, text);
    bool normalized = json_is_object(value) && json_is_true(json_object_get(value, "normalized"));
    bool listed = false;
    for (size_t i = 0; files->decoder && i < t->n_specials; i++) listed |= strcmp(t->specials[i].text, text) == 0;
    if (!listed) add_special(t, text, *id, normalized);
    return true;
}

static bool read_window(struct tokenizer *t, const struct special_files *files, const char *dir, struct error *e) {
    json_t *length = json_object_get(files->config, "model_max_length");
    double n = json_is_number(length) ? json_number_value(length) : DEFAULT_WINDOW;
    if (n > 1e9) n = DEFAULT_WINDOW; /* transformers writes 1e30 for "not known" */
    if (!(n >= MIN_WINDOW && n <= MAX_WINDOW))
        return error_set(e, "%s/tokenizer_config.json: model_max_length is %g; %d to %d are possible", dir, n,
                         MIN_WINDOW, MAX_WINDOW);
    t->window = (size_t)n;
    return true;
}

static bool load_optional(struct arena *scratch, const char *dir, const char *name, json_t **out, struct error *e) {
    char *path = arena_printf(scratch, "%s/%s", dir, name);
    if (!os_path_exists(path)) return true;
    *out = json_file_load(path, 0, e);
    return *out != NULL;
}

static bool read_specials(struct tokenizer *t, struct arena *scratch, const char *dir, struct error *e) {
    static const char end[] = "<|endoftext|>";
    struct special_files files = {0};
    bool ok = load_optional(scratch, dir, "tokenizer_config.json", &files.config, e) &&
              load_optional(scratch, dir, "special_tokens_map.json", &files.map, e);
    files.decoder = json_object_get(files.config, "added_tokens_decoder");
    t->specials = arena_alloc_n(t->arena, MAX_SPECIALS, sizeof *t->specials);
    ok = ok && read_window(t, &files, dir, e) && read_decoder(t, &files, dir, e) &&
         read_role(t, &files, dir, "bos_token", "<|startoftext|>", &t->bos, e) &&
         read_role(t, &files, dir, "eos_token", end, &t->eos, e) &&
         read_role(t, &files, dir, "unk_token", end, &t->unk, e) &&
         read_role(t, &files, dir, "pad_token", end, &t->pad, e);
    json_decref(files.config);
    json_decref(files.map);
    return ok;
}

/* ---- Public ---- */

static void add_token(struct tokenizer *t, const char *text) {
    tokenizer_vocab_add(t, text, strlen(text), ++t->max_id);
    t->token_of[t->max_id] = text;
}

struct tokenizer *tokenizer_load(const char *dir, struct error *e) {
    struct arena *arena = arena_create(NULL), *scratch = arena_create(NULL);
    struct tokenizer *t = arena_alloc(arena, sizeof *t);
    t->arena = arena;
    bool ok = read_vocab(t, arena_printf(scratch, "%s/vocab.json", dir), e) &&
              read_merges(t, arena_printf(scratch, "%s/merges.txt", dir), e) && read_specials(t, scratch, dir, e);
    arena_destroy(&scratch);
    if (!ok) {
        tokenizer_destroy(&t);
        return NULL;
    }
    tokenizer_fill_bytes(t);
    return t;
}

/* CLIP's vocabulary follows from its merges: the bytes in a certain order, the same at the end of a word, what each merge
 * makes, begin and end. */
struct tokenizer *tokenizer_clip(bool pad_with_zero) {
    static const char begin[] = "<|startoftext|>", end[] = "<|endoftext|>", zero[] = "!";
    struct arena *arena = arena_create(NULL);
    struct tokenizer *t = arena_alloc(arena, sizeof *t);
    *t = (struct tokenizer){.arena = arena, .window = DEFAULT_WINDOW, .max_id = -1};
    enum { N = 512 + MAX_MERGES + 2 };
    t->vocab_mask = slots_for(N) - 1;
    t->vocab = arena_alloc_n(arena, t->vocab_mask + 1, sizeof *t->vocab);
    t->token_of = arena_alloc_n(arena, N, sizeof *t->token_of);
    for (int last = 0; last < 2; last++)
        for (int pass = 0; pass < 2; pass++) /* bytes that are characters of their own, then the others */
            for (int b = 0; b < 256; b++) {
                char text[2];
                size_t n = tokenizer_byte_text((uint8_t)b, text);
                bool own = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
                if (own == (pass == 0)) add_token(t, arena_printf(arena, "%.*s%s", (int)n, text, last ? "</w>" : ""));
            }
    size_t bytes;
    const char *merges = clip_merges(&bytes), *s = merges, *stop = merges + bytes;
    s = memchr(s, '\n', (size_t)(stop - s)) + 1; /* #version */
    for (const char *line; t->max_id + 1 < N - 2 && s < stop; s = line + 1) {
        line = memchr(s, '\n', (size_t)(stop - s));
        const char *gap = memchr(s, ' ', (size_t)(line - s));
        add_token(t, arena_printf(arena, "%.*s%.*s", (int)(gap - s), s, (int)(line - gap - 1), gap + 1));
    }
    add_token(t, begin);
    add_token(t, end);
    struct error e;
    bool ok = parse_merges(t, "merges.txt", merges, bytes, &e);
    assert(ok && t->max_id == N - 1);
    t->specials = arena_alloc_n(arena, MAX_SPECIALS, sizeof *t->specials);
    t->bos = t->max_id - 1, t->eos = t->unk = t->max_id, t->pad = pad_with_zero ? 0 : t->eos;
    add_special(t, begin, t->bos, false);
    add_special(t, end, t->eos, false);
    if (pad_with_zero) add_special(t, zero, 0, false);
    tokenizer_fill_bytes(t);
    return t;
}

void tokenizer_destroy(struct tokenizer **t) {
    if (!*t) return;
    struct arena *arena = (*t)->arena;
    arena_destroy(&arena);
    *t = NULL;
}

size_t tokenizer_window(const struct tokenizer *t) { return t->window; }
int32_t tokenizer_bos(const struct tokenizer *t) { return t->bos; }
int32_t tokenizer_eos(const struct tokenizer *t) { return t->eos; }
int32_t tokenizer_pad(const struct tokenizer *t) { return t->pad; }
int32_t tokenizer_max_id(const struct tokenizer *t) { return t->max_id; }
int32_t tokenizer_find(const struct tokenizer *t, const char *token) {
    return tokenizer_lookup(t, token, strlen(token));
}

size_t tokenizer_encode(const struct tokenizer *t, const char *text, int32_t *ids, size_t max) {
    struct id_list list = {.arena = arena_create(NULL)};
    tokenizer_encode_text(t, text, &list);
    size_t n = list.n;
    if (n && max) memcpy(ids, list.ids, (n < max ? n : max) * sizeof *ids);
    arena_destroy(&list.arena);
    return n;
}

/* Copies what fits, without cutting a character in two. */
static void copy_cut(char *dst, size_t size, const char *src) {
    size_t n = strlen(src);
    if (n >= size) {
        n = size - 1;
        while (n && ((uint8_t)src[n] & 0xc0) == 0x80) n--;
    }
    memcpy(dst, src, n);
    dst[n] = 0;
}

void tokenizer_encode_window(const struct tokenizer *t, const char *text, int32_t *ids, struct tokenizer_cut *cut) {
    struct id_list list = {.arena = arena_create(NULL)};
    tokenizer_encode_text(t, text, &list);
    size_t room = t->window - 2, n = list.n < room ? list.n : room;
    ids[0] = t->bos;
    if (n) memcpy(ids + 1, list.ids, n * sizeof *ids);
    ids[n + 1] = t->eos;
    for (size_t i = n + 2; i < t->window; i++) ids[i] = t->pad;
    if (cut) {
        *cut = (struct tokenizer_cut){.n_tokens = list.n, .n_dropped = list.n - n};
        size_t shown = cut->n_dropped < sizeof cut->text ? cut->n_dropped : sizeof cut->text;
        if (shown) copy_cut(cut->text, sizeof cut->text, tokenizer_decode(t, list.ids + n, shown, list.arena));
    }
    arena_destroy(&list.arena);
}

/* The byte behind a vocabulary character of one or two bytes, or -1. */
static int byte_of(const char *s, size_t bytes) {
    int code = bytes == 1 ? (uint8_t)s[0] : ((uint8_t)s[0] & 0x1f) << 6 | ((uint8_t)s[1] & 0x3f);
    for (int b = code < 0x100 ? code : 0; b < 256; b++) {
        char text[2];
        if (tokenizer_byte_text((uint8_t)b, text) == bytes && memcmp(text, s, bytes) == 0) return b;
        if (code < 0x100) break;
    }
    return -1;
}

char *tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, struct arena *a) {
    size_t bytes = 0, used = 0;
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= 0 && ids[i] <= t->max_id && t->token_of[ids[i]]) bytes += strlen(t->token_of[ids[i]]) + 1;
    char *out = arena_alloc(a, bytes + 1);
    for (size_t i = 0; i < n; i++) {
        const char *s = ids[i] >= 0 && ids[i] <= t->max_id ? t->token_of[ids[i]] : NULL;
        for (size_t step; s && *s; s += step) {
            if (strcmp(s, "</w>") == 0) {
                out[used++] = ' ';
                break;
            }
            step = (uint8_t)*s < 0x80 || !s[1] ? 1 : 2;
            int byte = byte_of(s, step);
            if (byte > 0) out[used++] = (char)byte;
        }
    }
    while (used && out[used - 1] == ' ') used--;
    out[used] = 0;
    return out;
}
