/* AMD's shader compiler without the card: Mesa's RADV compiles for a made-up device of a family named in
 * RADV_FORCE_FAMILY, and tells what became of each pipeline. Nothing runs on it. */
#ifndef ATELIER_TESTS_RADV_PROBE_H
#define ATELIER_TESTS_RADV_PROBE_H

#include <stdbool.h>
#include <stdint.h>

enum { RADV_MAX_SPEC = 16 };
struct radv_pipeline {
    char shader[64]; /* without "_gpu" */
    uint32_t spec[RADV_MAX_SPEC];
    int n_spec;
};
struct radv_figures {
    uint64_t vgprs, sgprs, spilled_vgprs, spilled_sgprs, scratch_bytes, lds_bytes, code_bytes, waves;
};

/* The driver's manifest, or NULL where it is not installed. */
const char *radv_manifest(void);
/* Sets the environment for a family. Before the process's first Vulkan instance, and once. */
void radv_choose(const char *family);
/* Opens the made-up device by itself, apart from gpu/. False with a sentence on stderr. */
bool radv_open(char name[256]);
/* Its subgroup width: spec constant 0. */
uint32_t radv_subgroup(void);
/* Compiles one pipeline. */
bool radv_compile(const struct radv_pipeline *p, struct radv_figures *out);
void radv_close(void);

#endif
