#pragma once
/* Pictures from prompts: text, sampling with guidance, decoding. One session serves many pictures of one
 * size; nothing is rebuilt between them, unless a prompt is longer or has more terms than the one before. */
#include "engine/guide.h"
#include "engine/init_image.h"
#include "engine/memory.h"
#include "io/safetensors.h"

struct generate_params {
    int w, h, steps;
    float cfg;          /* <= 1: no guidance, half the work */
    float rescale;      /* guidance rescale, 0: none */
    bool has_eta;       /* false: the sampler's own */
    float eta;
    enum noise_source noise;
    uint64_t noise_delta; /* added to the seed for all noise after the first (A1111's ENSD); 0: one stream */
    const char *sampler, *schedule; /* NULL: ddim, default */
    const struct adapter *adapter;  /* NULL: none */
    enum prompt_style prompt_style;
    int clip_skip;                      /* engine/prompt.h */
    const struct embedding_list *words; /* learnt words; NULL: none */
    enum guide_compose compose;
    int every;                          /* compose switch: steps between changes; 0: 5 */
    enum guide_regions regions_by;
    int batch, n_regions; /* for generate_memory_plan: pictures at once (0: 1), and regions that they will have */
};
struct generate_picture {
    const char *prompt, *negative; /* negative NULL: "", or zeros where the model wants that (SDXL) */
    uint64_t seed;
    const float *strength; /* [adapter->n]; NULL: all 1 */
    const struct guide_course *courses; /* [adapter->n]: strengths over the steps; NULL: constant */
    const struct guide_region *regions; /* parts of the picture with prompts of their own */
    int n_regions;
    const struct init_image *init; /* NULL: from noise */
    bool *broken; /* set where latents or pixels are not finite; NULL: that is an error */
    const char *trace_prefix;      /* before every name in the trace; NULL: none */
    struct st_writer *trace; /* NULL: none. Gets token_ids, text_embedding (negative and prompt, or the prompt
                              * alone without guidance), latents_NNN, image; SDXL: token_ids_2 and pooled_embedding too */
};
struct generate_progress { /* called after every step; n_steps: those that are done, fewer than asked for with an init image */
    void (*step)(void *ctx, int step, int n_steps);
    void *ctx;
};
struct generator;
struct generator *generator_create(struct engine *e, const struct generate_params *p, struct error *err);
void generator_destroy(struct generator **g);
/* Encodes prompts anew from now on: the adapter or the words changed. */
void generator_forget_prompts(struct generator *g);
/* rgb [h][w][3], or NULL: latents alone. What the prompt lost to the window is logged as a warning. False: error, or
 * os_interrupted. */
bool generator_run(struct generator *g, const struct generate_picture *p, const struct generate_progress *progress,
                   uint8_t *rgb, struct error *err);
/* n pictures at once, every one with its own prompts, seed and strengths; rgb[n], each as above. Their init images, if any, are
 * given to all, with one strength. Neighbours that cannot share a tape (guide_goes_with) are drawn in turn. Each picture is the
 * one that generator_run draws alone with only its LoRAs: the same bytes wherever kernels do not add in another order at
 * another size, else to the last bits (docs/compose.md). */
bool generator_run_batch(struct generator *g, const struct generate_picture *pictures, int n,
                         const struct generate_progress *progress, uint8_t *const *rgb, struct error *err);
/* Result of the last run, of a batch the last picture's, as the UNet knows latents, [channels][h/f][w/f]. */
const float *generator_latents(const struct generator *g);
int generator_steps(const struct generator *g);
/* Seconds from generator_create to the end of the first step. */
double generator_first_step_seconds(const struct generator *g);

/* What drawing p->batch pictures at once would take, phase by phase; nothing is loaded. */
struct generate_memory {
    int64_t text_bytes;  /* all text encoders; where they do not fit together, one after the other */
    int64_t adapter_bytes;
    struct memory_choice unet, vae, vae_f32; /* f32: only where the VAE overflows in half precision */
    int vae_tile, vae_tile_f32;              /* pixels, 0: whole */
    bool f32_possible, in_turn; /* in_turn: UNet and VAE are not there at the same time */
    int64_t peak_bytes, device_bytes;
};
/* The most pictures, up to `most`, whose UNet fits at once with all its weights on the device; at least 1. */
int generate_batch_fit(struct engine *e, const struct generate_params *p, int most);
bool generate_memory_plan(struct engine *e, const struct generate_params *p, struct generate_memory *out, struct error *err);
