#include "io/image.h"
#include "base/arena.h"

#include <assert.h>
#include <string.h>

enum { GAP = 6, MARGIN = 10, INK = 0x202020 };

/* Breaks a text at spaces so that lines have at most columns characters (longer words are cut). Returns the number
 * of lines; *widest gets the longest. */
static int wrap(char *s, int columns, int *widest) {
    int lines = 1, col = 0, last_space = -1;
    for (int i = 0; s[i]; i++) {
        if (((unsigned char)s[i] & 0xC0) == 0x80) continue;
        if (s[i] == '\n') s[i] = ' ';
        if (s[i] == ' ') last_space = i;
        if (++col > columns && last_space >= 0) {
            s[last_space] = '\n';
            lines++;
            col = 0;
            for (int k = last_space + 1; k <= i; k++) col += ((unsigned char)s[k] & 0xC0) != 0x80;
            last_space = -1;
        }
        int seen = col < columns ? col : columns;
        if (seen > *widest) *widest = seen;
    }
    return lines;
}

struct labels {
    char **text;
    int n, columns, lines; /* the widest line in characters, the most lines of any label */
};

static struct labels labels_make(struct arena *a, const char *const *text, int n, int columns) {
    struct labels l = {.n = text ? n : 0};
    l.text = arena_alloc_n(a, (size_t)n, sizeof *l.text);
    for (int i = 0; i < l.n; i++) {
        l.text[i] = arena_strdup(a, text[i] ? text[i] : "");
        int lines = wrap(l.text[i], columns, &l.columns);
        if (lines > l.lines) l.lines = lines;
    }
    return l;
}

static int count_lines(const char *s) {
    int n = 1;
    for (; *s; s++) n += *s == '\n';
    return n;
}

/* Draws line by line: centred in width, or flush right when right is set. */
static void draw(struct image *im, int x, int y, int width, bool right, int scale, char *text) {
    for (char *line = text; line;) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        int n = 0;
        for (const char *s = line; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
        int slack = width - n * IMAGE_GLYPH_W * scale;
        image_text(im, x + (slack > 0 ? (right ? slack : slack / 2) : 0), y, scale, INK, line);
        y += IMAGE_GLYPH_H * scale;
        line = end ? end + 1 : NULL;
    }
}

bool image_grid(struct arena *a, const struct image_grid_params *p, struct image *out, struct error *e) {
    assert(p->rows >= 1 && p->cols >= 1 && p->cells);
    int cw = 8, ch = 8;
    for (int i = 0; i < p->rows * p->cols; i++) {
        if (p->cells[i].w > cw) cw = p->cells[i].w;
        if (p->cells[i].h > ch) ch = p->cells[i].h;
    }
    int scale = cw >= 512 ? 3 : cw >= 192 ? 2 : 1, glyph_w = IMAGE_GLYPH_W * scale, glyph_h = IMAGE_GLYPH_H * scale;
    struct arena *scratch = arena_create(NULL);
    struct labels top = labels_make(scratch, p->col_labels, p->cols, cw / glyph_w);
    struct labels left = labels_make(scratch, p->row_labels, p->rows, cw / glyph_w > 20 ? cw / glyph_w : 20);
    int64_t body = (int64_t)p->cols * (cw + GAP) - GAP, label_w = left.n ? left.columns * glyph_w + GAP : 0;
    struct labels title = labels_make(scratch, p->title ? &p->title : NULL, 1, (int)((label_w + body) / glyph_w));
    int title_h = title.n ? title.lines * glyph_h + GAP : 0, label_h = top.n ? top.lines * glyph_h + GAP : 0;
    int row_h = left.n && left.lines * glyph_h > ch ? left.lines * glyph_h : ch;
    int64_t w = 2 * MARGIN + label_w + body, h = 2 * MARGIN + title_h + label_h + (int64_t)p->rows * (row_h + GAP) - GAP;
    bool fits = w <= IMAGE_MAX_SIDE && h <= IMAGE_MAX_SIDE && w * h <= IMAGE_MAX_PIXELS;
    if (fits) {
        *out = image_create(a, (int)w, (int)h);
        memset(out->rgb, 255, (size_t)w * (size_t)h * 3);
        int x0 = MARGIN + (int)label_w, y0 = MARGIN + title_h + label_h;
        if (title.n) draw(out, MARGIN, MARGIN, (int)(label_w + body), false, scale, title.text[0]);
        for (int c = 0; c < top.n; c++) draw(out, x0 + c * (cw + GAP), MARGIN + title_h, cw, false, scale, top.text[c]);
        for (int r = 0; r < p->rows; r++) {
            int y = y0 + r * (row_h + GAP);
            int block = left.n ? count_lines(left.text[r]) * glyph_h : 0;
            if (left.n) draw(out, MARGIN, y + (row_h - block) / 2, (int)label_w - GAP, true, scale, left.text[r]);
            for (int c = 0; c < p->cols; c++) {
                const struct image *cell = &p->cells[r * p->cols + c];
                if (cell->w) image_blit(out, cell, x0 + c * (cw + GAP) + (cw - cell->w) / 2, y + (row_h - cell->h) / 2);
            }
        }
    }
    arena_destroy(&scratch);
    return fits || error_set(e, "a sheet of %d x %d pictures would be %lld x %lld pixels, which is too large; ask for fewer",
                             p->cols, p->rows, (long long)w, (long long)h);
}
