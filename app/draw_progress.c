#include "app/draw_progress.h"

#include "app/common.h"
#include "base/log.h"
#include "base/os.h"

#include <stdio.h>

void draw_progress_start(struct draw_progress *p, int total) {
    *p = (struct draw_progress){.total = total, .started = os_now_seconds()};
}

/* On a terminal every step shows; elsewhere a line every ten seconds is enough. */
static void on_step(void *ctx, int step, int n_steps) {
    struct draw_progress *p = ctx;
    double now = os_now_seconds(), spent = now - p->started;
    p->last_steps = n_steps;
    if (!os_stderr_is_terminal() && now - p->last_line < 10) return;
    p->last_line = now;
    double pictures = p->done + (double)p->now * step / n_steps;
    char left[COMMON_BYTES_TEXT], which[48];
    if (p->now == 1) snprintf(which, sizeof which, "picture %d", p->done + 1);
    else snprintf(which, sizeof which, "pictures %d to %d", p->done + 1, p->done + p->now);
    log_progress("%s of %d, step %d of %d, %.1f steps/s, %s left", which, p->total, step, n_steps,
                 (p->steps + (double)p->now * step) / spent,
                 common_seconds_text(spent * (p->total - pictures) / pictures, left));
}

struct generate_progress draw_progress_begin(struct draw_progress *p, int n) {
    p->now = n;
    return (struct generate_progress){on_step, p};
}

void draw_progress_end(struct draw_progress *p) {
    p->done += p->now;
    p->steps += (double)p->now * p->last_steps;
    p->now = 0;
}
