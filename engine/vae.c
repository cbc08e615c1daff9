/* Pictures to latents and back: whole, or in tiles where the whole does not fit; in half precision, and again in f32
 * where that overflows. */
#include <math.h>

#include "base/log.h"
#include "engine/memory.h"
#include "engine/tile.h"

static const int LARGEST_TILE = 512, SMALLEST_TILE = 256; /* pixels */

struct vae_session {
    struct arena *arena, *program_arena;
    struct engine *e;
    bool encoder, f32;
    int tile; /* side of the tiles, in pixels of the input; 0: whole */
    struct gpu_program *prog; /* for pictures of the size of `at` */
    struct shape at, in, out; /* in, out: the whole */
    int input, output;
    float *in_rows, *out_rows;
};

static bool check_size(const struct vae_config *cfg, int w, int h, struct error *err) {
    int f = vae_config_factor(cfg);
    if (w > 0 && h > 0 && w % f == 0 && h % f == 0) return true;
    return error_set(err, "A picture of %dx%d does not fit this model: both sides must be multiples of %d.", w, h, f);
}

static struct shape out_shape(const struct engine *e, bool encoder, struct shape in) {
    const struct vae_config *cfg = &e->model->vae;
    int f = vae_config_factor(cfg);
    return encoder ? (struct shape){in.n, in.h / f, in.w / f, 2 * cfg->latent_channels}
                   : (struct shape){in.n, in.h * f, in.w * f, cfg->out_channels};
}

static struct graph *build(struct engine *e, bool encoder, bool f32, struct shape in, struct arena *a, int *input,
                           int *output) {
    const struct vae_config *cfg = &e->model->vae;
    struct graph *g = graph_create(a, f32 ? TENSOR_F32 : gpu_device_storage(e->dev));
    struct nn_ctx c = nn_begin(g, e->model->vae_params, NULL, "vae");
    *input = graph_io(g, encoder ? "image" : "latent", in);
    int result = encoder ? vae_build_encoder(&c, cfg, *input) : vae_build_decoder(&c, cfg, *input);
    nn_end(&c);
    *output = graph_output(g, encoder ? "moments" : "image", result);
    return g;
}

static const char vae_hint[] =
    "Make the picture smaller with --width and --height, set --vae-tiling on, or allow more with --memory.";

static bool plan(struct engine *e, bool encoder, bool f32, struct shape in, struct memory_choice *out, struct error *err) {
    struct arena *a = arena_create(NULL);
    int input, output;
    struct graph *g = build(e, encoder, f32, in, a, &input, &output);
    bool ok = engine_graph_ok(g, "The VAE", vae_hint, err);
    if (ok) graph_prune(g);
    ok = ok && memory_choose(e, g, ENGINE_VAE, memory_left(e, ENGINE_VAE), "The VAE", vae_hint, out, err);
    arena_destroy(&a);
    return ok;
}

static struct shape tile_shape(struct shape whole, int tile) {
    return (struct shape){whole.n, whole.h < tile ? whole.h : tile, whole.w < tile ? whole.w : tile, whole.c};
}

/* The whole where it fits with all of the VAE's weights, else the largest tiles that do. */
static bool choose_tile(struct engine *e, bool encoder, bool f32, struct shape in, int *tile, struct memory_choice *c,
                        struct error *err) {
    int unit = encoder ? 1 : vae_config_factor(&e->model->vae), side = in.h > in.w ? in.h : in.w;
    int largest = e->params.vae_tile ? e->params.vae_tile : LARGEST_TILE;
    int smallest = largest < SMALLEST_TILE ? largest : SMALLEST_TILE;
    struct error ignored;
    *tile = 0;
    if (e->params.vae_tiling != ENGINE_TILING_ON || in.n > 1 || side <= largest / unit) {
        bool fits = plan(e, encoder, f32, in, c, &ignored) && !c->streamed;
        if (fits || e->params.vae_tiling == ENGINE_TILING_OFF || in.n > 1 || side <= smallest / unit)
            return fits || plan(e, encoder, f32, in, c, err);
    }
    for (int pixels = largest; pixels >= smallest; pixels /= 2) {
        *tile = pixels / unit;
        if (plan(e, encoder, f32, tile_shape(in, *tile), c, &ignored) && !c->streamed) return true;
    }
    return plan(e, encoder, f32, tile_shape(in, *tile), c, err);
}

static struct shape whole_shape(const struct engine *e, bool encoder, int n, int w, int h) {
    const struct vae_config *cfg = &e->model->vae;
    int f = vae_config_factor(cfg);
    return encoder ? (struct shape){n, h, w, cfg->in_channels} : (struct shape){n, h / f, w / f, cfg->latent_channels};
}

bool vae_session_plan(struct engine *e, bool encoder, bool f32, int w, int h, struct memory_choice *out, int *tile_pixels,
                      struct error *err) {
    if (!check_size(&e->model->vae, w, h, err)) return false;
    bool ok = choose_tile(e, encoder, f32, whole_shape(e, encoder, 1, w, h), tile_pixels, out, err);
    if (!encoder) *tile_pixels *= vae_config_factor(&e->model->vae);
    return ok;
}

static void close_program(struct vae_session *s) {
    if (s->prog) memory_unpin(s->e, ENGINE_VAE);
    gpu_program_destroy(&s->prog);
    arena_destroy(&s->program_arena);
}

/* A program for inputs of that shape; the last one stays until another shape is asked for. */
static bool open_program(struct vae_session *s, struct shape in, struct error *err) {
    if (s->prog && shape_equal(s->at, in)) return true;
    close_program(s);
    s->program_arena = arena_create(s->arena);
    struct graph *g = build(s->e, s->encoder, s->f32, in, s->program_arena, &s->input, &s->output);
    s->prog =
        engine_program(s->e, g, s->encoder ? "Encoding pictures" : "Decoding the picture", ENGINE_VAE, NULL, 0, vae_hint, err);
    s->at = in;
    if (s->prog) memory_pin(s->e, ENGINE_VAE);
    return s->prog != NULL;
}

struct vae_session *vae_session_create(struct engine *e, bool encoder, int n, int w, int h, struct error *err) {
    if (!check_size(&e->model->vae, w, h, err)) return NULL;
    struct arena *a = arena_create(e->arena);
    struct vae_session *s = arena_alloc(a, sizeof *s);
    s->arena = a, s->e = e, s->encoder = encoder;
    s->in = whole_shape(e, encoder, n, w, h);
    s->out = out_shape(e, encoder, s->in);
    struct memory_choice c;
    if (!choose_tile(e, encoder, false, s->in, &s->tile, &c, err) ||
        !open_program(s, s->tile ? tile_shape(s->in, s->tile) : s->in, err)) {
        vae_session_destroy(&s);
        return NULL;
    }
    if (s->tile) log_debug("the VAE works in tiles of %d pixels", s->tile * (encoder ? 1 : vae_config_factor(&e->model->vae)));
    s->in_rows = arena_alloc(a, (size_t)shape_elems(s->in) * sizeof(float));
    s->out_rows = arena_alloc(a, (size_t)shape_elems(s->out) * sizeof(float));
    return s;
}

void vae_session_destroy(struct vae_session **p) {
    struct vae_session *s = *p;
    if (!s) return;
    *p = NULL;
    close_program(s);
    struct arena *a = s->arena;
    arena_destroy(&a);
}

static bool run_whole(struct vae_session *s, struct shape in, const float *rows, float *out, struct error *err) {
    if (!open_program(s, in, err)) return false;
    gpu_program_write(s->prog, s->input, rows);
    if (!gpu_program_run(s->prog, err)) return false;
    gpu_program_read(s->prog, s->output, out);
    return true;
}

static bool run_tile(void *ctx, int h, int w, const float *in, float *out, struct error *err) {
    struct vae_session *s = ctx;
    return run_whole(s, (struct shape){1, h, w, s->in.c}, in, out, err);
}

static bool run_once(struct vae_session *s, const float *rows, float *out, struct error *err) {
    if (!s->tile) return run_whole(s, s->in, rows, out, err);
    int f = vae_config_factor(&s->e->model->vae);
    struct tile_params tp = {.h = s->in.h, .w = s->in.w, .in_channels = s->in.c, .tile = s->tile, .out_channels = s->out.c,
                             .up = s->encoder ? 1 : f, .down = s->encoder ? f : 1};
    struct arena *a = arena_create(NULL);
    bool ok = tile_run(&tp, a, rows, out, run_tile, s, err);
    arena_destroy(&a);
    return ok;
}

static bool all_finite(const float *v, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i])) return false;
    return true;
}

/* Some VAEs (SDXL's) overflow in half precision: then everything from now on is done in f32. */
static bool run(struct vae_session *s, const float *rows, float *out, struct error *err) {
    if (!run_once(s, rows, out, err)) return false;
    if (s->f32 || gpu_device_storage(s->e->dev) == TENSOR_F32 || all_finite(out, shape_elems(s->out))) return true;
    log_info("The VAE overflows in half precision; %s again in f32.", s->encoder ? "encoding" : "decoding");
    close_program(s);
    s->f32 = true;
    struct memory_choice c;
    return choose_tile(s->e, s->encoder, true, s->in, &s->tile, &c, err) && run_once(s, rows, out, err);
}

bool vae_session_encode(struct vae_session *s, const uint8_t *rgb, float *moments, struct error *err) {
    int64_t n = shape_elems(s->in);
    for (int64_t i = 0; i < n; i++) s->in_rows[i] = (float)rgb[i] / 127.5f - 1.0f;
    return vae_session_encode_values(s, s->in_rows, moments, err);
}

bool vae_session_encode_values(struct vae_session *s, const float *values, float *moments, struct error *err) {
    int64_t m = shape_elems(s->out);
    int latent = s->e->model->vae.latent_channels;
    if (!run(s, values, moments, err)) return false;
    for (int64_t i = 0; i < m; i++)
        if (i % (2 * latent) >= latent) moments[i] = fminf(fmaxf(moments[i], -30.0f), 20.0f);
    return true;
}

bool vae_session_decode(struct vae_session *s, const float *latents, uint8_t *rgb, float *raw, struct error *err) {
    const struct vae_config *cfg = &s->e->model->vae;
    int64_t n = shape_elems(s->in), m = shape_elems(s->out);
    for (int64_t i = 0; i < n; i++)
        s->in_rows[i] = cfg->tiny ? 3 * tanhf(latents[i] / 3) : latents[i] / cfg->scaling_factor + cfg->shift_factor;
    float *out = raw ? raw : s->out_rows;
    if (!run(s, s->in_rows, out, err)) return false;
    for (int64_t i = 0; i < m; i++) {
        float v = cfg->tiny ? out[i] : out[i] * 0.5f + 0.5f;
        if (cfg->tiny) out[i] = 2 * v - 1; /* raw values like every VAE's */
        v = !(v > 0) ? 0 : v > 1 ? 1 : v; /* NaN becomes black */
        rgb[i] = (uint8_t)rintf(v * 255.0f);
    }
    return true;
}
