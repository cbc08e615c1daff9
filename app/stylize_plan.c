#include "app/stylize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/os.h"
#include "base/path.h"
#include "base/text.h"
#include "engine/model.h"
#include "io/png.h"
#include "train/dataset.h"

static const char own_words[] = "{caption}";

int stylize_count(const struct stylize *s, enum stylize_state state) {
    int n = 0;
    for (int i = 0; i < s->n; i++) n += s->items[i].state == state;
    return n;
}

bool stylize_bad(struct stylize *s, int item, struct error *e) {
    size_t n = strlen(e->text);
    if (n && e->text[n - 1] == '.') n--;
    if (!s->o->skip_bad) return error_set(e, "%s; --skip-bad leaves it out.", arena_strndup(s->arena, e->text, n));
    s->items[item].state = STYLIZE_BAD;
    s->items[item].why = arena_strdup(s->arena, e->text);
    return true;
}

/* ---- Folders ---- */

/* Path without links, also where its last parts do not exist yet. */
static const char *real_path(struct arena *a, const char *path) {
    if (os_path_exists(path)) return os_path_real(a, path);
    const char *dir = path_dir(a, path);
    return strcmp(dir, path) ? path_join(a, real_path(a, dir), path_base(path)) : path;
}

static bool check_folders(const struct stylize *s, struct error *e) {
    const char *data = s->o->data, *out = s->o->out;
    size_t end = strlen(out);
    while (end > 1 && out[end - 1] == '/') end--;
    out = arena_strndup(s->arena, out, end);
    if (os_path_exists(out) && !os_path_is_dir(out))
        return error_set(e, "--out %s is a file; a folder is needed.", TEXT_SHOW(out));
    if (!os_path_is_dir(data)) return error_set(e, "There is no folder %s for --data.", TEXT_SHOW(data));
    if (s->o->mask_dir && !os_path_is_dir(s->o->mask_dir))
        return error_set(e, "There is no folder %s for --mask-dir.", TEXT_SHOW(s->o->mask_dir));
    const char *from = real_path(s->arena, data), *to = real_path(s->arena, out);
    size_t n = strlen(from);
    if (strncmp(from, to, n) == 0 && (to[n] == '/' || !to[n] || from[n - 1] == '/'))
        return error_set(e, "--out %s lies in --data %s, so that results would be taken for pictures to restyle; choose "
                            "another folder.", TEXT_SHOW(s->o->out), TEXT_SHOW(data));
    return true;
}

static int by_out(const void *a, const void *b) {
    return strcmp((*(const struct stylize_item *const *)a)->out, (*(const struct stylize_item *const *)b)->out);
}

/* fox.jpg and fox.png would both become fox.png. */
static bool check_names(const struct stylize *s, struct error *e) {
    const struct stylize_item **sorted = arena_alloc_n(s->arena, (size_t)s->n, sizeof *sorted);
    for (int i = 0; i < s->n; i++) sorted[i] = &s->items[i];
    qsort(sorted, (size_t)s->n, sizeof *sorted, by_out);
    for (int i = 1; i < s->n; i++)
        if (!by_out(&sorted[i - 1], &sorted[i]))
            return error_set(e, "%s and %s would both become %s; rename one of them.", TEXT_SHOW(sorted[i - 1]->name),
                             TEXT_SHOW(sorted[i]->name), TEXT_SHOW(sorted[i]->out));
    return true;
}

/* ---- One picture ---- */

/* The mask of the same name, in any of the formats. */
static bool find_mask(const struct stylize *s, struct stylize_item *item, struct error *e) {
    static const char *const endings[] = {"png", "jpg", "jpeg", "webp"};
    const char *stem = path_join(s->arena, s->o->mask_dir, path_stem(s->arena, item->name));
    for (int i = 0; i < 4; i++) {
        item->start.mask_path = arena_printf(s->arena, "%s.%s", stem, endings[i]);
        if (os_path_is_file(item->start.mask_path)) return true;
    }
    return error_set(e, "There is no mask %s.png for %s; --mask-dir needs one for every picture.", TEXT_SHOW(stem),
                     TEXT_SHOW(item->name));
}

static bool look_at(struct stylize *s, int i, struct error *e) {
    struct stylize_item *item = &s->items[i];
    bool ok = image_probe(item->start.picture_path, &item->w, &item->h, e) && (!s->o->mask_dir || find_mask(s, item, e));
    return ok || stylize_bad(s, i, e);
}

/* --prompt, with the picture's own words where it asks for them. */
static const char *prompt_of(const struct stylize *s, const char *caption) {
    const char *prompt = s->o->prompt, *at = prompt ? strstr(prompt, own_words) : NULL;
    if (!prompt) return caption;
    return at ? arena_printf(s->arena, "%.*s%s%s", (int)(at - prompt), prompt, caption, at + strlen(own_words)) : prompt;
}

bool stylize_scan(struct stylize *s, struct generate_options *g, struct error *e) {
    const struct stylize_options *o = s->o;
    bool words = !o->prompt || strstr(o->prompt, own_words);
    struct dataset_params dp = {.dir = o->data, .caption = words ? NULL : "", .default_caption = o->caption};
    struct dataset d;
    if (!check_folders(s, e)) return false;
    if (o->caption && !words)
        return error_set(e, "--caption counts only where --prompt has %s in it, or is not given.", own_words);
    if (!dataset_scan(s->arena, &dp, &d, e)) return false;
    s->n = (int)d.n;
    s->items = arena_alloc_n(s->arena, d.n, sizeof *s->items);
    g->prompts.items = arena_alloc_n(s->arena, d.n, sizeof *g->prompts.items);
    g->prompts.n = s->n;
    size_t skip = strlen(o->data);
    for (int i = 0; i < s->n; i++) {
        const char *name = d.samples[i].path + skip;
        while (*name == '/') name++;
        s->items[i] = (struct stylize_item){.name = name, .start = g->start};
        s->items[i].out = path_join(s->arena, o->out, arena_printf(s->arena, "%s.png", path_stem(s->arena, name)));
        s->items[i].start.picture_path = d.samples[i].path;
        s->items[i].start.quiet = true;
        g->prompts.items[i] = prompt_of(s, d.samples[i].caption);
        if (!look_at(s, i, e)) return false;
    }
    return check_names(s, e);
}

/* ---- Sizes ---- */

static int round_to(double x, int step) {
    int n = (int)(x / step + 0.5) * step;
    return n < step ? step : n;
}

/* As many pixels as the model draws by itself, in the picture's shape; to --width or --height the other side follows. */
static void fit_to_model(const struct stylize_item *item, const struct model *m, struct generate_line *l) {
    int factor = vae_config_factor(&m->vae), w = 0, h = 0;
    generate_fill_size(m, &w, &h);
    double scale = l->w   ? (double)l->w / item->w
                   : l->h ? (double)l->h / item->h
                          : sqrt((double)w * h / ((double)item->w * item->h));
    if (!l->w) l->w = round_to(item->w * scale, factor);
    if (!l->h) l->h = round_to(item->h * scale, factor);
}

void stylize_fit(struct stylize *s, struct generate_plan *p, const struct model *m) {
    for (int i = 0; i < s->n; i++) {
        struct stylize_item *item = &s->items[i];
        struct generate_line *l = &p->lines[i];
        int factor = vae_config_factor(&m->vae);
        l->start = &item->start;
        if (item->state == STYLIZE_BAD) continue;
        if (s->o->own_size && item->w >= factor && item->h >= factor)
            l->w = item->w / factor * factor, l->h = item->h / factor * factor;
        else fit_to_model(item, m, l);
    }
}

/* ---- What is there ---- */

static const char *recipe_in(struct arena *a, const char *path) {
    struct png_text *texts;
    size_t n;
    struct error ignored;
    return png_read_texts(a, path, &texts, &n, &ignored) ? png_text_find(texts, n, "parameters") : NULL;
}

bool stylize_find_done(struct stylize *s, const struct generate_plan *p, const struct generate_facts *f, struct error *e) {
    bool ok = true;
    for (int i = 0; ok && i < s->n && !s->o->overwrite; i++) {
        struct stylize_item *item = &s->items[i];
        if (item->state == STYLIZE_BAD || !os_path_exists(item->out)) continue;
        struct arena *a = arena_create(NULL);
        const char *there = recipe_in(a, item->out);
        if (!start_use_hash(&item->start, s->arena, e)) ok = stylize_bad(s, i, e);
        else if (there && !strcmp(there, generate_recipe(p, f, i, 0, 1))) item->state = STYLIZE_THERE;
        else
            ok = error_set(e, "%s is there and was made otherwise%s; give another --out, or --overwrite to draw it anew.",
                           TEXT_SHOW(item->out), there ? " (`atelier inspect` shows how)" : " (it carries no recipe)");
        arena_destroy(&a);
    }
    return ok;
}
