/* Pictures to latents and back. */
#include <math.h>

#include "engine/engine.h"

struct vae_session {
    struct arena *arena;
    struct engine *e;
    struct gpu_program *prog;
    int input, output;
    struct shape in, out;
    float *in_rows, *out_rows;
};

static bool check_size(const struct vae_config *cfg, int w, int h, struct error *err) {
    int f = vae_config_factor(cfg);
    if (w > 0 && h > 0 && w % f == 0 && h % f == 0) return true;
    return error_set(err, "A picture of %dx%d does not fit this model: both sides must be multiples of %d.", w, h, f);
}

struct vae_session *vae_session_create(struct engine *e, bool encoder, int n, int w, int h, struct error *err) {
    const struct vae_config *cfg = &e->model->vae;
    if (!check_size(cfg, w, h, err)) return NULL;
    struct arena *a = arena_create(e->arena);
    struct vae_session *s = arena_alloc(a, sizeof *s);
    s->arena = a, s->e = e;
    int f = vae_config_factor(cfg);
    struct graph *g = graph_create(a, gpu_device_storage(e->dev));
    struct nn_ctx c = nn_begin(g, e->model->vae_params, NULL, "vae");
    s->in = encoder ? (struct shape){n, h, w, cfg->in_channels} : (struct shape){n, h / f, w / f, cfg->latent_channels};
    s->input = graph_io(g, encoder ? "image" : "latent", s->in);
    int result = encoder ? vae_build_encoder(&c, cfg, s->input) : vae_build_decoder(&c, cfg, s->input);
    nn_end(&c);
    s->output = graph_output(g, encoder ? "moments" : "image", result);
    if (s->output >= 0) s->out = graph_shape(g, s->output);
    s->prog = engine_program(e, g, encoder ? "Encoding pictures" : "Decoding the picture", ENGINE_VAE, NULL, 0,
                             "Make the picture smaller with --width and --height.", err);
    if (!s->prog) {
        vae_session_destroy(&s);
        return NULL;
    }
    s->in_rows = arena_alloc(a, (size_t)shape_elems(s->in) * sizeof(float));
    s->out_rows = arena_alloc(a, (size_t)shape_elems(s->out) * sizeof(float));
    return s;
}

void vae_session_destroy(struct vae_session **p) {
    struct vae_session *s = *p;
    if (!s) return;
    *p = NULL;
    gpu_program_destroy(&s->prog);
    struct arena *a = s->arena;
    arena_destroy(&a);
}

bool vae_session_encode(struct vae_session *s, const uint8_t *rgb, float *moments, struct error *err) {
    int64_t n = shape_elems(s->in);
    for (int64_t i = 0; i < n; i++) s->in_rows[i] = (float)rgb[i] / 127.5f - 1.0f;
    return vae_session_encode_values(s, s->in_rows, moments, err);
}

bool vae_session_encode_values(struct vae_session *s, const float *values, float *moments, struct error *err) {
    int64_t m = shape_elems(s->out);
    int latent = s->e->model->vae.latent_channels;
    gpu_program_write(s->prog, s->input, values);
    if (!gpu_program_run(s->prog, err)) return false;
    gpu_program_read(s->prog, s->output, moments);
    for (int64_t i = 0; i < m; i++)
        if (i % (2 * latent) >= latent) moments[i] = fminf(fmaxf(moments[i], -30.0f), 20.0f);
    return true;
}

bool vae_session_decode(struct vae_session *s, const float *latents, uint8_t *rgb, float *raw, struct error *err) {
    const struct vae_config *cfg = &s->e->model->vae;
    int64_t n = shape_elems(s->in), m = shape_elems(s->out);
    for (int64_t i = 0; i < n; i++)
        s->in_rows[i] = cfg->tiny ? 3 * tanhf(latents[i] / 3) : latents[i] / cfg->scaling_factor + cfg->shift_factor;
    gpu_program_write(s->prog, s->input, s->in_rows);
    if (!gpu_program_run(s->prog, err)) return false;
    float *out = raw ? raw : s->out_rows;
    gpu_program_read(s->prog, s->output, out);
    for (int64_t i = 0; i < m; i++) {
        float v = cfg->tiny ? out[i] : out[i] * 0.5f + 0.5f;
        if (cfg->tiny) out[i] = 2 * v - 1; /* raw values like every VAE's */
        v = !(v > 0) ? 0 : v > 1 ? 1 : v; /* NaN becomes black */
        rgb[i] = (uint8_t)rintf(v * 255.0f);
    }
    return true;
}

int64_t vae_session_bytes(const struct vae_session *s) {
    struct gpu_memory_use u = gpu_program_memory(s->prog);
    return u.activations + u.io + u.prepared;
}
