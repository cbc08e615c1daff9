#include "train/dataset.h"
#include "base/arena.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 16, MAX_SAMPLES = 1000000, MAX_REPEATS = 1000, MAX_CAPTION_BYTES = 1 << 16 };

/* What a folder hands down to the pictures in it. */
struct folder {
    const char *path, *name;
    const char *words; /* NULL = none */
    int repeats, depth;
};

struct scan {
    struct arena *a;
    struct dataset *d;
    const char *caption, *default_caption;
    size_t room, n_bare;
    const char *first_bare; /* a picture without a caption */
    struct error *e;
};

static bool is_picture(const char *name) {
    return path_has_ext(name, "jpg") || path_has_ext(name, "jpeg") || path_has_ext(name, "png") || path_has_ext(name, "webp");
}

/* `10_words`: digits, an underscore, words (which may be missing). */
static void read_folder_name(struct folder *f) {
    char *end;
    if (!isdigit((unsigned char)f->name[0])) return;
    long n = strtol(f->name, &end, 10);
    if (*end != '_' || n < 1 || n > MAX_REPEATS) return;
    f->repeats = (int)n;
    f->words = end[1] ? end + 1 : NULL;
}

/* First line with something on it, without white space at its ends. */
static bool first_line(struct arena *a, const char *path, const char **out, struct error *e) {
    struct os_map m;
    if (!os_file_map(&m, path, e)) return false;
    const char *s = (const char *)m.data, *end = s + m.bytes;
    bool ok = true;
    if (m.bytes > MAX_CAPTION_BYTES) ok = error_set(e, "the caption '%s' is too long: %zu bytes", TEXT_SHOW(path), m.bytes);
    else if (!text_utf8_valid(s, m.bytes) || memchr(s, 0, m.bytes))
        ok = error_set(e, "the caption '%s' is not UTF-8 text; save it as UTF-8", TEXT_SHOW(path));
    if (ok && m.bytes >= 3 && memcmp(s, "\xef\xbb\xbf", 3) == 0) s += 3; /* byte order mark */
    while (s < end && isspace((unsigned char)*s)) s++;
    const char *stop = s;
    while (stop < end && *stop != '\n') stop++;
    while (stop > s && isspace((unsigned char)stop[-1])) stop--;
    if (ok) *out = arena_strndup(a, s, (size_t)(stop - s));
    os_file_unmap(&m);
    return ok;
}

/* Finds NAME.txt beside the picture; *out stays NULL if there is none. */
static bool caption_file(struct arena *a, const char *picture, const char **out, struct error *e) {
    static const char *const endings[] = {"txt", "TXT", "caption"};
    const char *stem = path_stem(a, picture);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const char *path = arena_printf(a, "%s.%s", stem, endings[i]);
        if (os_path_is_file(path)) return first_line(a, path, out, e);
    }
    return true;
}

static bool add(struct scan *s, const struct folder *f, const char *path) {
    struct dataset *d = s->d;
    struct dataset_sample t = {.path = path, .folder = f->name, .repeats = f->repeats};
    if (s->caption) {
        t.caption = s->caption;
        t.caption_from = DATASET_CAPTION_DEFAULT;
    } else if (!caption_file(s->a, path, &t.caption, s->e)) return false;
    if (!t.caption && f->words) {
        t.caption = f->words;
        t.caption_from = DATASET_CAPTION_FOLDER;
    }
    if (!t.caption && s->default_caption) {
        t.caption = s->default_caption;
        t.caption_from = DATASET_CAPTION_DEFAULT;
    }
    if (!t.caption) {
        t.caption = "";
        if (s->n_bare++ == 0) s->first_bare = path;
    }
    if (d->n == MAX_SAMPLES) return error_set(s->e, "there are more than %d pictures in '%s'", MAX_SAMPLES, TEXT_SHOW(f->path));
    if (d->n == s->room) {
        size_t more = s->room ? 2 * s->room : 64;
        d->samples = arena_grow(s->a, d->samples, d->n, more, sizeof *d->samples);
        s->room = more;
    }
    d->samples[d->n++] = t;
    d->n_per_epoch += (size_t)t.repeats;
    d->n_from[t.caption_from]++;
    return true;
}

static bool walk(struct scan *s, const struct folder *f) {
    struct os_entry *list;
    size_t n;
    if (f->depth > MAX_DEPTH)
        return error_set(s->e, "folders below '%s' are nested too deeply; is there a link in a circle?", TEXT_SHOW(f->path));
    if (!os_dir_list(s->a, f->path, &list, &n, s->e)) return false;
    for (size_t i = 0; i < n; i++) {
        const char *path = path_join(s->a, f->path, list[i].name);
        if (list[i].name[0] == '.') continue;
        if (list[i].is_dir) {
            struct folder sub = *f;
            sub.path = path;
            sub.name = list[i].name;
            sub.depth++;
            read_folder_name(&sub);
            if (!walk(s, &sub)) return false;
        } else if (is_picture(list[i].name)) {
            if (!add(s, f, path)) return false;
        } else if (!path_has_ext(path, "txt") && !path_has_ext(path, "caption")) {
            s->d->n_ignored++;
        }
    }
    return true;
}

bool dataset_scan(struct arena *a, const struct dataset_params *p, struct dataset *out, struct error *e) {
    *out = (struct dataset){0};
    const char *dir = TEXT_SHOW(p->dir);
    if (p->may_be_empty && !os_path_exists(p->dir)) return true;
    if (!os_path_is_dir(p->dir))
        return error_set(e, os_path_exists(p->dir) ? "'%s' is not a folder; give the folder that holds the pictures"
                                                   : "there is no folder '%s'", dir);
    if (p->default_caption && !text_utf8_valid(p->default_caption, strlen(p->default_caption)))
        return error_set(e, "the default caption is not UTF-8 text");
    struct scan s = {.a = a, .d = out, .caption = p->caption, .default_caption = p->default_caption, .e = e};
    struct folder top = {.path = p->dir, .name = path_base(os_path_real(a, p->dir)), .repeats = 1};
    read_folder_name(&top);
    if (!walk(&s, &top)) return false;
    if (out->n == 0 && !p->may_be_empty)
        return error_set(e, "there are no pictures in '%s' (%zu other files): JPEG, PNG or WebP files are needed", dir,
                         out->n_ignored);
    if (s.n_bare)
        return error_set(e, "%zu of %zu pictures in '%s' have no caption, the first is '%s': put a .txt file beside each, "
                            "name the folder like 10_words, or give --caption", s.n_bare, out->n, dir, TEXT_SHOW(s.first_bare));
    return true;
}

struct dataset dataset_join(struct arena *a, const struct dataset *first, const struct dataset *second) {
    struct dataset d = {.n = first->n + second->n, .n_per_epoch = first->n_per_epoch + second->n_per_epoch,
                        .n_ignored = first->n_ignored + second->n_ignored};
    d.samples = arena_alloc_n(a, d.n + 1, sizeof *d.samples);
    for (size_t i = 0; i < d.n; i++) d.samples[i] = i < first->n ? first->samples[i] : second->samples[i - first->n];
    for (int k = 0; k < DATASET_CAPTION_KINDS; k++) d.n_from[k] = first->n_from[k] + second->n_from[k];
    return d;
}

bool dataset_probe(struct dataset *d, struct error *e) {
    for (size_t i = 0; i < d->n; i++) {
        struct dataset_sample *s = &d->samples[i];
        if (!image_probe(s->path, &s->w, &s->h, e)) return false;
        if (s->w < DATASET_MIN_SIDE || s->h < DATASET_MIN_SIDE)
            return error_set(e, "'%s' is too small: %d x %d pixels, at least %d a side are needed", TEXT_SHOW(s->path), s->w,
                             s->h, DATASET_MIN_SIDE);
    }
    return true;
}

bool dataset_load(struct arena *a, const struct dataset_sample *s, int w, int h, struct image *out, struct error *e) {
    struct arena *scratch = arena_create(NULL);
    struct image im;
    bool ok = image_load(scratch, s->path, DATASET_MIN_SIDE, &im, e);
    if (ok) *out = image_resize_cover(a, &im, w, h);
    arena_destroy(&scratch);
    return ok;
}

bool dataset_load_cut(struct arena *a, const struct dataset_sample *s, const struct bucket_choice *c, struct image *out,
                      struct error *e) {
    struct arena *scratch = arena_create(NULL);
    struct image im;
    bool ok = image_load(scratch, s->path, DATASET_MIN_SIDE, &im, e);
    /* A thin picture is cut before it is scaled: whole, it would be too large. */
    bool thin = c->w > IMAGE_MAX_SIDE || c->h > IMAGE_MAX_SIDE || (int64_t)c->w * c->h > IMAGE_MAX_PIXELS;
    if (ok && thin) *out = image_resize_cover(a, &im, c->bucket.w, c->bucket.h);
    else if (ok) {
        if (im.w != c->w || im.h != c->h) im = image_resize(scratch, &im, c->w, c->h);
        *out = image_crop(a, &im, c->left, c->top, c->bucket.w, c->bucket.h);
    }
    arena_destroy(&scratch);
    return ok;
}
