#pragma once
/* A device and a loaded model: weights on the device part by part, and the runs over them. One thread. */
#include "engine/model.h"
#include "gpu/program.h"

enum engine_part { ENGINE_UNET, ENGINE_VAE, ENGINE_TEXT, ENGINE_TEXT_2, ENGINE_PARTS };

/* How the UNet's matrices and convolutions lie on the device: as activations do there, or as said. */
enum engine_weights { ENGINE_WEIGHTS_AUTO, ENGINE_WEIGHTS_F32, ENGINE_WEIGHTS_F16, ENGINE_WEIGHTS_INT8, ENGINE_WEIGHTS_NF4 };

/* Whether the VAE works in tiles, which changes pictures a little: where the whole does not fit, for all pictures larger
 * than a tile, never. */
enum engine_tiling { ENGINE_TILING_AUTO, ENGINE_TILING_ON, ENGINE_TILING_OFF };

struct engine_params {
    struct gpu_params gpu;
    const char *model;
    enum engine_weights weights;
    struct model_files files;
    enum engine_tiling vae_tiling;
    int vae_tile; /* pixels, a multiple of 32; 0: 512, and 256 where that does not fit */
    bool step, nan, check; /* debugging of every program (gpu/program.h) */
    const char *force_kernel;
};
struct engine {
    struct arena *arena;
    struct engine_params params;
    struct gpu_device *dev;
    struct model *model;
    struct gpu_set *parts[ENGINE_PARTS];
    int pins[ENGINE_PARTS]; /* programs that use the part (engine/memory.h) */
    int64_t reserved_bytes; /* what plans leave free, for others that are not there yet; 0 but while they are made */
    double open_seconds, upload_seconds; /* reading configs and headers; weights onto the device */
};
enum tensor_dtype engine_weights_dtype(enum engine_weights w, enum tensor_dtype storage);
struct engine *engine_open(const struct engine_params *p, struct error *err);
void engine_close(struct engine **e);
/* Uploads a part unless it is there; frees it. */
bool engine_load(struct engine *e, enum engine_part part, struct error *err);
void engine_unload(struct engine *e, enum engine_part part);
/* Uploads a part of which only so much stays on the device (gpu_set_create_streamed). */
bool engine_load_streamed(struct engine *e, enum engine_part part, int64_t resident_bytes, struct error *err);
const struct nn_params *engine_part_params(const struct engine *e, enum engine_part part);
/* A program with the engine's debugging options and `part` bound (plus `extra` bindings), in the memory there is: what
 * nobody uses leaves the device, and weights that do not fit come in turn (engine/memory.h). Pin the part while the program
 * lives. */
struct gpu_program *engine_program(struct engine *e, struct graph *g, const char *name, enum engine_part part,
                                   const struct gpu_binding *extra, int n_extra, const char *hint, struct error *err);
/* graph_ok, with the hint where a size is impossible. */
bool engine_graph_ok(struct graph *g, const char *name, const char *hint, struct error *err);
struct gpu_program_params engine_program_params(const struct engine *e, const char *name, const char *hint);

/* Seconds that `flops` of products and convolutions take about here, from one timed product. 0 on error. */
double engine_estimate_seconds(struct engine *e, double flops);

/* --- text ------------------------------------------------------------------------------------------ */
struct lora_stack;
struct adapter; /* engine/adapter.h */
struct watch;   /* engine/watch.h */
/* A learnt word's vector in place of a token's. */
struct text_splice {
    int at;                                  /* window * tokens of a window + position */
    const float *vectors[MODEL_MAX_TEXTS];   /* [width] per text encoder */
};
struct text_params {
    int skip; /* clip skip minus one */
    const struct adapter *adapter; /* LoRAs on the text encoder; NULL: none */
    const float *strength;         /* [adapters], the same for every prompt */
    const bool *unseen;            /* [n][window]: tokens that no token looks at; NULL: none */
    const struct text_splice *splices;
    int n_splices;
    struct watch *watches[MODEL_MAX_TEXTS]; /* see what layers read; NULL: none */
};
/* Encodes n windows. ids: per text encoder [n][window]; out [n][window][model_context_dim], the encoders side by side;
 * pooled [n][model_pooled_dim], or NULL. Loads the text encoders if need be. */
bool engine_encode_text(struct engine *e, const int32_t *const ids[MODEL_MAX_TEXTS], int n, const struct text_params *p,
                        float *out, float *pooled, struct error *err);
/* Whether n windows could be encoded in the memory there is; nothing is loaded. */
bool engine_text_plan(struct engine *e, int n, const struct text_params *p, struct error *err);
/* How the family reads a text encoder: the layers left out beyond p's skip, and whether the final norm follows. */
struct clip_params engine_clip_params(const struct model *m, int skip);
/* Place of the end token in a window of ids: its first one. */
int engine_text_end(const struct model_text *t, const int32_t *ids);

/* --- pictures -------------------------------------------------------------------------------------- */
/* rgb [h][w][3] in 0..255 -> moments [h/f][w/f][2*latent]: mean, log variance (clamped to -30..20), not scaled. */
struct vae_session;
struct memory_choice; /* engine/memory.h */
/* Only plans for one picture: what a session takes, and its tiles' side in pixels (0: whole). f32: after an overflow. */
bool vae_session_plan(struct engine *e, bool encoder, bool f32, int w, int h, struct memory_choice *out, int *tile_pixels,
                      struct error *err);
struct vae_session *vae_session_create(struct engine *e, bool encoder, int n, int w, int h, struct error *err);
void vae_session_destroy(struct vae_session **s);
bool vae_session_encode(struct vae_session *s, const uint8_t *rgb, float *moments, struct error *err);
/* The same from numbers in -1..1. */
bool vae_session_encode_values(struct vae_session *s, const float *values, float *moments, struct error *err);
/* latents [h/f][w/f][latent] as the UNet knows them (scaled) -> rgb [h][w][3]; raw (may be NULL) gets the
 * decoder's own values, [h][w][3] about -1..1. */
bool vae_session_decode(struct vae_session *s, const float *latents, uint8_t *rgb, float *raw, struct error *err);

/* --- the UNet -------------------------------------------------------------------------------------- */
/* n pictures of latent size w x h at once. */
struct denoiser_params {
    int n, w, h, tokens;
    const struct adapter *adapter; /* NULL: none */
    /* Regions: contexts that every picture looks at, each in its part (unet/build.h). 0: one for all of it. */
    int n_parts;
    bool part_strengths; /* every part has strengths of its own (lora_stack_bind_regions) */
    struct gpu_set *adapter_data;  /* in place of the adapter's own numbers; NULL: those */
    struct watch *watch; /* sees what layers read (engine/watch.h); must outlive the denoiser; not with parts. NULL: none */
};
struct denoiser;
/* Only plans: what denoiser_create would take now. */
bool denoiser_plan(struct engine *e, const struct denoiser_params *p, struct memory_choice *out, struct error *err);
/* Of one evaluation; multiply-adds counted twice. */
double denoiser_flops(struct engine *e, const struct denoiser_params *p);
struct denoiser *denoiser_create(struct engine *e, const struct denoiser_params *p, struct error *err);
void denoiser_destroy(struct denoiser **d);
/* context [n][tokens][width], or [n_parts][n][tokens][width]; strength [n][adapters], or with part_strengths
 * [n_parts][adapters]. Kept until changed. */
void denoiser_set_context(struct denoiser *d, const float *context);
void denoiser_set_strength(struct denoiser *d, const float *strength);
/* With parts: how much of every pixel is whose, [n][n_parts][h][w], together 1. Needed before the first run; kept until
 * changed. */
void denoiser_set_shares(struct denoiser *d, const float *shares);
/* SDXL, else without effect: pooled [n][model_pooled_dim] and time_ids [n][6]: original height and width, crop top and left,
 * target height and width, in pixels. Needed before the first run; kept until changed. */
void denoiser_set_added(struct denoiser *d, const float *pooled, const float *time_ids);
/* The same as it goes into the UNet: [n][added_dim]. */
void denoiser_write_added(struct denoiser *d, const float *added);
/* Inpainting UNets, else without effect: [n][h][w][model_extra_channels], per pixel the mask (1: to be painted), then the
 * masked picture's latents, scaled. Needed before the first run; kept until changed. */
void denoiser_set_extra(struct denoiser *d, const float *extra);
/* Consistency models (LCM), else without effect: the guidance that the UNet itself applies. 1 until set. */
void denoiser_set_guidance(struct denoiser *d, float cfg);
/* x, out: [n][h][w][latent channels]; t per picture. */
bool denoiser_run(struct denoiser *d, const float *x, const float *t, float *out, struct error *err);
struct gpu_program *denoiser_program(struct denoiser *d);
