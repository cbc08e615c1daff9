/* Which LoRA files a run uses and how strongly each prompt asks for them. */
#ifndef ATELIER_APP_LORA_USE_H
#define ATELIER_APP_LORA_USE_H

#include "base/error.h"

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
    int n;
    struct lora_request *requests;
    int n_requests;
};

/* --lora FILE[:STRENGTH], for every prompt. A file whose name ends like a strength wins over the strength. */
bool lora_use_file(struct lora_use *u, const char *text, struct error *e);
/* <lora:name:strength> of one prompt: NAME.safetensors in dir. The error lists what is there. */
bool lora_use_name(struct lora_use *u, const char *name, double strength, int prompt, struct error *e);
/* A recipe's LoRA, for every prompt: by name in dir, checked against its hash; else by hash. */
bool lora_use_recipe(struct lora_use *u, const struct recipe_lora *l, struct error *e);

/* Strength of every file for one prompt, times factor; dst[n]. */
void lora_use_strengths(const struct lora_use *u, int prompt, float factor, float *dst);

#endif
