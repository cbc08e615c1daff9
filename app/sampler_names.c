#include "app/sampler_names.h"

#include <ctype.h>
#include <string.h>

#include "base/arena.h"

struct row {
    const char *name, *title;
    const char *automatic; /* samplers: A1111's schedule if none is chosen; NULL: its own */
};
static const struct row samplers[] = {
    {"ddim", "DDIM", NULL},
    {"euler", "Euler", "normal"},
    {"euler-a", "Euler a", "normal"},
    {"heun", "Heun", "normal"},
    {"dpm2", "DPM2", "karras_full"},
    {"dpm2-a", "DPM2 a", "karras_full"},
    {"lms", "LMS", "normal"},
    {"dpmpp-2m", "DPM++ 2M", "karras_full"},
    {"dpmpp-2s-a", "DPM++ 2S a", "karras_full"},
    {"dpmpp-sde", "DPM++ SDE", "karras_full"},
    {"dpmpp-2m-sde", "DPM++ 2M SDE", "exponential_full"},
    {"dpmpp-3m-sde", "DPM++ 3M SDE", "exponential_full"},
    {"unipc", "UniPC", NULL},
    {"pndm", "PLMS", NULL},
    {"ddpm", "DDPM", NULL},
    {"lcm", "LCM", NULL},
    {"tcd", "TCD", NULL},
};
/* A title's first row is what this program means by it, its last row what others do. */
static const struct row schedules[] = {
    {"default", "Automatic", NULL},
    {"karras", "Karras", NULL},
    {"karras_full", "Karras", NULL},
    {"exponential", "Exponential", NULL},
    {"exponential_full", "Exponential", NULL},
    {"exponential_full", "Polyexponential", NULL}, /* with the exponent 1 that A1111 gives it */
    {"beta", "Beta", NULL},
    {"normal", "Normal", NULL},
    {"normal", "Uniform", NULL},
    {"simple", "Simple", NULL},
    {"sgm_uniform", "SGM Uniform", NULL},
    {"trailing", "Trailing", NULL},
    {"leading", "Leading", NULL},
    {"linspace", "Linspace", NULL},
};
enum { N_SAMPLERS = sizeof samplers / sizeof *samplers, N_SCHEDULES = sizeof schedules / sizeof *schedules };

static const struct row *by_name(const struct row *rows, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(rows[i].name, name)) return &rows[i];
    return NULL;
}

static bool same_nocase(const char *a, size_t n, const char *b) {
    if (strlen(b) != n) return false;
    for (size_t i = 0; i < n; i++)
        if (tolower((unsigned char)a[i]) != tolower((unsigned char)b[i])) return false;
    return true;
}

static const char *find(const struct row *rows, int n_rows, const char *title, size_t n, bool last) {
    const char *found = NULL;
    for (int i = 0; i < n_rows && (!found || last); i++)
        if (same_nocase(title, n, rows[i].title)) found = rows[i].name;
    for (int i = 0; i < n_rows && !found; i++)
        if (same_nocase(title, n, rows[i].name)) found = rows[i].name;
    return found;
}

const char *sampler_name_title(const char *name) {
    const struct row *r = by_name(samplers, N_SAMPLERS, name);
    return r ? r->title : name;
}

const char *schedule_name_title(const char *name) {
    const struct row *r = by_name(schedules, N_SCHEDULES, name);
    return r ? r->title : name;
}

const char *sampler_name_find(const char *title, size_t n) { return find(samplers, N_SAMPLERS, title, n, false); }

const char *schedule_name_find(const char *title, size_t n, bool foreign) {
    return find(schedules, N_SCHEDULES, title, n, foreign);
}

const char *schedule_name_automatic(const char *sampler, bool named) {
    const struct row *r = by_name(samplers, N_SAMPLERS, sampler);
    if (!r || !r->automatic) return "default";
    return named ? r->automatic : "normal";
}

const char *sampler_name_kohya(struct arena *a, const char *name) {
    static const char *const others[][2] = {{"dpm_2", "dpm2"}, {"dpm_2_a", "dpm2-a"}, {"dpmsolver++", "dpmpp-2m"}};
    if (!strncmp(name, "k_", 2)) name += 2;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(name, others[i][0])) return others[i][1];
    char *ours = arena_strdup(a, name);
    for (char *c = ours; *c; c++)
        if (*c == '_') *c = '-';
    const char *found = sampler_name_find(name, strlen(name));
    return found ? found : sampler_name_find(ours, strlen(ours));
}
