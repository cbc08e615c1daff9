/* What `atelier stylize` has before it: a folder's pictures, where each goes, and what is there already. */
#ifndef ATELIER_APP_STYLIZE_H
#define ATELIER_APP_STYLIZE_H

#include "app/generate.h"

struct stylize_options {
    const char *data, *out, *prompt, *caption, *mask_dir;
    bool own_size, overwrite, skip_bad;
};

enum stylize_state { STYLIZE_WAITING, STYLIZE_THERE, STYLIZE_DONE, STYLIZE_BAD };
struct stylize_item {
    const char *name, *out; /* below the folder of pictures; the file to write */
    int w, h;               /* its own size */
    enum stylize_state state;
    const char *why;        /* bad: a sentence */
    struct start_use start; /* what its line draws over */
};
/* Items and the plan's lines have the same order. */
struct stylize {
    struct arena *arena;
    const struct stylize_options *o;
    struct stylize_item *items;
    int n;
};
/* Lists the pictures, reads their headers, finds masks and names for results, and hands their prompts to `g`. Nothing is
 * written. */
bool stylize_scan(struct stylize *s, struct generate_options *g, struct error *e);
/* Gives every line its size and its picture; once the plan is made and the model known. */
void stylize_fit(struct stylize *s, struct generate_plan *p, const struct model *m);
/* Finds the results that are there. False, with a sentence, for one of another recipe, unless it is to be overwritten. */
bool stylize_find_done(struct stylize *s, const struct generate_plan *p, const struct generate_facts *f, struct error *e);

/* What went wrong with one picture stops the run, or with --skip-bad is kept for the end: then true. */
bool stylize_bad(struct stylize *s, int item, struct error *e);
int stylize_count(const struct stylize *s, enum stylize_state state);

#endif
