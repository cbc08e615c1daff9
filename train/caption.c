#include "train/caption.h"

#include <ctype.h>
#include <string.h>

bool caption_params_check(const struct caption_params *p, struct error *err) {
    if (!(p->tag_dropout >= 0 && p->tag_dropout <= 1)) return error_set(err, "--tag-dropout must lie from 0 to 1.");
    if (p->keep < 0) return error_set(err, "--keep-tokens must not be negative.");
    if (p->keep && !caption_varies(p))
        return error_set(err, "--keep-tokens says what --shuffle-captions and --tag-dropout leave alone; give one of them.");
    return true;
}

bool caption_varies(const struct caption_params *p) { return p->shuffle || p->tag_dropout > 0; }

struct tag {
    const char *text;
    size_t n;
};

static int split(const char *s, struct tag tags[CAPTION_MAX_TAGS]) {
    int n = 0;
    for (; s && n < CAPTION_MAX_TAGS; s = strchr(s, ',') ? strchr(s, ',') + 1 : NULL) {
        const char *end = strchr(s, ','), *from = s;
        size_t length = end ? (size_t)(end - s) : strlen(s);
        while (length && isspace((unsigned char)*from)) from++, length--;
        while (length && isspace((unsigned char)from[length - 1])) length--;
        tags[n++] = (struct tag){from, length};
    }
    return n;
}

static size_t append(char *out, size_t at, const struct tag *t, bool first) {
    size_t comma = first ? 0 : 2;
    if (at + comma + t->n >= CAPTION_MAX_BYTES) return at;
    memcpy(out + at, ", ", comma);
    memcpy(out + at + comma, t->text, t->n);
    return at + comma + t->n;
}

void caption_vary(const struct caption_params *p, struct rng *dice, const char *caption, char out[CAPTION_MAX_BYTES]) {
    struct tag tags[CAPTION_MAX_TAGS];
    uint32_t order[CAPTION_MAX_TAGS];
    int n = split(caption, tags), kept = p->keep < n ? p->keep : n, written = 0;
    size_t at = 0, flexible = (size_t)(n - kept);
    for (int i = 0; i < kept; i++) at = append(out, at, &tags[i], written++ == 0);
    for (size_t i = 0; i < flexible; i++) order[i] = (uint32_t)i;
    if (p->shuffle && flexible) rng_randperm(dice, order, flexible);
    for (size_t i = 0; i < flexible; i++) {
        float u = 1;
        if (p->tag_dropout > 0) rng_rand(dice, &u, 1);
        if (p->tag_dropout > 0 && u < p->tag_dropout) continue;
        at = append(out, at, &tags[kept + (int)order[i]], written++ == 0);
    }
    out[at] = 0;
}
