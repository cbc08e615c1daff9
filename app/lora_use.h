/* Which LoRA files a run uses and how strongly each prompt asks for them. */
#ifndef ATELIER_APP_LORA_USE_H
#define ATELIER_APP_LORA_USE_H

#include "engine/lora_spec.h"

struct arena;
struct recipe_lora;

struct lora_request {
    int file;   /* index in paths */
    int prompt; /* -1: every prompt */
    float strength;
};
struct lora_use {
    struct arena *arena; /* set by the caller */
    const char *dir;     /* where names are looked for; NULL: nowhere */
    const char **paths;  /* every file once */
    struct lora_spec *specs; /* per file: course and blocks; strengths are in the requests */
    int n;
    struct lora_request *requests;
    int n_requests;
};

/* --lora FILE[:STRENGTH[@STEPS][:BLOCKS]] for one prompt, or with -1 for every prompt. A file whose name ends like a strength
 * wins over the strength. */
bool lora_use_file(struct lora_use *u, const char *text, int prompt, struct error *e);
/* --content FILE[:STRENGTH[@STEPS]] and --style likewise, either NULL: that part of a B-LoRA alone; both may be one file. */
bool lora_use_split(struct lora_use *u, const char *content, const char *style, struct error *e);
/* A prompt's <lora:name:strength>: NAME.safetensors in dir. The error lists what is there. */
bool lora_use_tag(struct lora_use *u, const struct recipe_lora *l, int prompt, struct error *e);
/* A recipe's LoRA, for every prompt: by name in dir, checked against its hash; else by hash. */
bool lora_use_recipe(struct lora_use *u, const struct recipe_lora *l, struct error *e);

/* What adapter_open_blocks and generate_picture want: [n]; memory from the arena. NULL where no file has any. */
const struct lora_blocks **lora_use_blocks(const struct lora_use *u);
const struct guide_course *lora_use_courses(const struct lora_use *u);
/* Strength of every file for one prompt, times factor; dst[n]. */
void lora_use_strengths(const struct lora_use *u, int prompt, float factor, float *dst);

#endif
