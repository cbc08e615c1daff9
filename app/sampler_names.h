/* Samplers and schedules as A1111 writes them into PNGs, and ours. */
#ifndef ATELIER_APP_SAMPLER_NAMES_H
#define ATELIER_APP_SAMPLER_NAMES_H

#include <stdbool.h>
#include <stddef.h>

struct arena;

/* For the option table. */
#define SAMPLER_NAMES \
    "ddim|euler|euler-a|heun|dpm2|dpm2-a|lms|dpmpp-2m|dpmpp-2s-a|dpmpp-sde|dpmpp-2m-sde|dpmpp-3m-sde|unipc|pndm|ddpm|lcm|tcd"
#define SCHEDULE_NAMES \
    "default|karras|exponential|karras_full|exponential_full|beta|normal|simple|sgm_uniform|trailing|leading|linspace"

/* A1111's title, or the name itself where A1111 has none. */
const char *sampler_name_title(const char *name);
const char *schedule_name_title(const char *name);

/* Our name for a title of n bytes, or for our own name, any case; NULL if there is none. `foreign`: another program
 * wrote it, so that its Karras spans the whole table. */
const char *sampler_name_find(const char *title, size_t n);
const char *schedule_name_find(const char *title, size_t n, bool foreign);

/* Our name for kohya's, where it is not ours with other dashes; NULL if there is none. */
const char *sampler_name_kohya(struct arena *a, const char *name);

/* What A1111 takes for "Automatic", and (`named` false) for files that name no schedule. */
const char *schedule_name_automatic(const char *sampler, bool named);

#endif
