/* The line that says how far drawing has come: pictures, steps, rate, time left. */
#ifndef ATELIER_APP_DRAW_PROGRESS_H
#define ATELIER_APP_DRAW_PROGRESS_H

#include "engine/generate.h"

struct draw_progress {
    int done, now, total; /* pictures: finished, being drawn, all */
    double steps;         /* of the finished ones */
    int last_steps;       /* of the latest batch, per picture */
    double started, last_line;
};
void draw_progress_start(struct draw_progress *p, int total);
/* Around every batch of n pictures; what to hand to the generator. */
struct generate_progress draw_progress_begin(struct draw_progress *p, int n);
void draw_progress_end(struct draw_progress *p);

#endif
