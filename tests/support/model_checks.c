#include "tests/support/cm.h"
#include "tests/support/evaluate.h"
#include "tests/support/model_checks.h"

#include <stdio.h>
#include <string.h>

#include "gpu/device.h"
#include "textenc/clip_build.h"
#include "textenc/clip_naming.h"
#include "unet/build.h"
#include "vae/build.h"
#include "vae/ldm.h"

static const struct vae_names plain = {"", 0};
static struct gpu_device *device;
static enum tensor_dtype storage;
static double tolerance; /* of the output's range */
static const char *const minis[] = {"mini-sd1", "mini-sd2", "mini-xl", "mini-odd", "demo"};
enum { N_MINIS = sizeof minis / sizeof *minis - 1 };
/* The demo model is too large for the double references. */
static int n_minis(void) { return N_MINIS + (device != NULL); }

struct part {
    struct arena *arena;
    struct nn_params *params;
    struct st_file *weights, *golden;
    struct graph *g;
    char config[512];
};

static struct part part_open(const char *model, const char *component, const char *weights) {
    struct error e = {0};
    struct part p = {.arena = arena_create(NULL)};
    snprintf(p.config, sizeof p.config, "%s",
             eval_data_path(p.arena, arena_printf(p.arena, "%s/%s/config.json", model, component)));
    p.weights =
        st_open(eval_data_path(p.arena, arena_printf(p.arena, "%s/%s/%s", model, component, weights)), &e);
    if (!p.weights) fail_msg("%s", e.text);
    p.golden = st_open(eval_data_path(p.arena, arena_printf(p.arena, "%s.golden.safetensors", model)), &e);
    if (!p.golden) fail_msg("%s", e.text);
    p.params = nn_params_create(p.arena, component, storage, false, 0);
    p.g = graph_create(p.arena, storage);
    return p;
}

static void part_bind(struct part *p, struct nn_naming naming) {
    struct error e = {0};
    struct nn_bind_report report;
    if (!nn_params_bind(p->params, p->weights, &naming, &report, &e)) fail_msg("%s", e.text);
    if (report.n_used != (int)st_count(p->weights))
        fail_msg("%s: %d tensors used of %zu", p->config, report.n_used, st_count(p->weights));
}

static void part_close(struct part *p) {
    st_close(&p->weights);
    st_close(&p->golden);
    arena_destroy(&p->arena);
}

/* Evaluates and compares the values out[i] with golden tensors of those names. */
static void part_compare(struct part *p, const int *in, double *const *in_data, int n_in, int out,
                         const char *name) {
    struct error e = {0};
    int result = graph_output(p->g, name, out);
    if (!graph_verify(p->g, &e)) fail_msg("%s: %s", p->config, e.text);
    struct eval_set sets[] = {eval_params(p->params)};
    double **data = arena_alloc_n(p->arena, (size_t)p->g->n_values, sizeof *data);
    for (int i = 0; i < n_in; i++) data[in[i]] = in_data[i];
    eval_run(device, p->g, data, sets, 1, p->arena);
    struct shape s;
    double *want = eval_golden(p->golden, name, p->arena, &s);
    assert_int_equal(shape_elems(s), shape_elems(graph_shape(p->g, result)));
    double worst = eval_worst(data[result], want, shape_elems(s));
    print_message("%s %s: %.2g of the range\n", p->config + strlen(ATELIER_SOURCE_DIR "/"), name,
                  worst);
    if (!(worst < tolerance)) fail_msg("%s differs", name);
}

static void check_text(const char *model) {
    struct error e = {0};
    struct part p = part_open(model, "text_encoder", "model.safetensors");
    struct clip_config cfg;
    if (!clip_config_load(&cfg, p.config, &e) || !clip_declare(p.params, &cfg, NULL, &e))
        fail_msg("%s", e.text);
    part_bind(&p, clip_hf_naming(""));
    struct shape s;
    double *ids = eval_golden(p.golden, "token_ids", p.arena, &s);
    struct nn_ctx c = nn_begin(p.g, p.params, NULL, "te");
    struct clip_inputs in = {.ids = graph_io(p.g, "ids", s), .eos = -1};
    struct clip_outputs out;
    clip_build(&c, &cfg, &in, &(struct clip_params){0}, &out);
    nn_end(&c);
    part_compare(&p, &in.ids, &ids, 1, out.hidden, "text_embedding");
    part_close(&p);
}

static void check_unet(const char *model, const char *prefix) {
    struct error e = {0};
    struct part p = part_open(model, "unet", "diffusion_pytorch_model.safetensors");
    struct unet_config cfg;
    char name[4][64];
    static const char *const tails[] = {"latents", "timesteps", "context", "output"};
    for (int i = 0; i < 4; i++) snprintf(name[i], sizeof name[i], "%s.%s", prefix, tails[i]);
    if (st_find(p.golden, name[0])) {
        if (!unet_config_load(&cfg, p.config, &e) || !unet_declare(p.params, &cfg, NULL, &e))
            fail_msg("%s", e.text);
        part_bind(&p, (struct nn_naming){0});
        double *data[3];
        struct shape s[3];
        int io[3];
        for (int i = 0; i < 3; i++) {
            data[i] = eval_golden(p.golden, name[i], p.arena, &s[i]);
            io[i] = graph_io(p.g, tails[i], s[i]);
        }
        struct nn_ctx c = nn_begin(p.g, p.params, NULL, "");
        struct unet_inputs in = {io[0], io[1], io[2], -1, -1};
        int out = unet_build(&c, &cfg, &in);
        nn_end(&c);
        part_compare(&p, io, data, 3, out, name[3]);
    }
    part_close(&p);
}

static struct part vae_open(const char *model, struct vae_config *cfg) {
    struct error e = {0};
    struct part p = part_open(model, "vae", "diffusion_pytorch_model.safetensors");
    if (!vae_config_load(cfg, p.config, &e) || !vae_declare(p.params, cfg, &e)) fail_msg("%s", e.text);
    part_bind(&p, vae_diffusers_naming(&plain));
    return p;
}

static void check_decoder(const char *model) {
    struct vae_config cfg;
    struct part p = vae_open(model, &cfg);
    struct shape s;
    double *latents = eval_golden(p.golden, "vae.latents", p.arena, &s);
    int in = graph_io(p.g, "latents", s);
    struct nn_ctx c = nn_begin(p.g, p.params, NULL, "vae");
    int out = vae_build_decoder(&c, &cfg, in);
    nn_end(&c);
    part_compare(&p, &in, &latents, 1, out, "vae.decoded");
    part_close(&p);
}

static void check_encoder(const char *model) {
    static const char *const halves[] = {"vae.mean", "vae.logvar"};
    for (int i = 0; i < 2; i++) {
        struct vae_config cfg;
        struct part p = vae_open(model, &cfg);
        struct shape s;
        double *image = eval_golden(p.golden, "vae.image", p.arena, &s);
        int in = graph_io(p.g, "image", s);
        struct nn_ctx c = nn_begin(p.g, p.params, NULL, "");
        int out = vae_build_encoder(&c, &cfg, in);
        nn_end(&c);
        out = graph_slice(p.g, out, i * cfg.latent_channels, cfg.latent_channels);
        part_compare(&p, &in, &image, 1, out, halves[i]);
        part_close(&p);
    }
}

static void check_texts(void) {
    for (int i = 0; i < n_minis(); i++) check_text(minis[i]);
}
static void check_unets(void) {
    for (int i = 0; i < n_minis(); i++) check_unet(minis[i], "unet");
}
static void check_uneven_unets(void) {
    for (int i = 0; i < N_MINIS; i++) check_unet(minis[i], "unet_uneven");
}
static void check_decoders(void) {
    for (int i = 0; i < n_minis(); i++) check_decoder(minis[i]);
}
static void check_encoders(void) {
    for (int i = 0; i < n_minis(); i++) check_encoder(minis[i]);
}

/* --- what SDXL and LCM add ----------------------------------------------------------------------------- */

static void check_xl_unet(void) {
    struct error e = {0};
    struct part p = part_open("xl-parts", "unet", "diffusion_pytorch_model.safetensors");
    struct unet_config cfg;
    if (!unet_config_load(&cfg, p.config, &e) || !unet_declare(p.params, &cfg, NULL, &e))
        fail_msg("%s", e.text);
    part_bind(&p, (struct nn_naming){0});
    static const char *const names[] = {"unet.latents", "unet.timesteps", "unet.context", "unet.guidance"};
    double *data[5];
    int io[5];
    struct shape s;
    for (int i = 0; i < 4; i++) {
        data[i] = eval_golden(p.golden, names[i], p.arena, &s);
        if (i == 3) s = (struct shape){s.n, 1, 1, s.w}; /* [n,c] is one row per image here */
        io[i] = graph_io(p.g, names[i], s);
    }
    double *pooled = eval_golden(p.golden, "unet.pooled", p.arena, &s);
    double *time_ids = eval_golden(p.golden, "unet.time_ids", p.arena, &s);
    io[4] = graph_io(p.g, "added", (struct shape){2, 1, 1, cfg.added_dim});
    data[4] = arena_alloc_n(p.arena, 2 * (size_t)cfg.added_dim, sizeof **data);
    for (int n = 0; n < 2; n++) {
        float text[16], ids[6], added[64];
        for (int i = 0; i < 16; i++) text[i] = (float)pooled[n * 16 + i];
        for (int i = 0; i < 6; i++) ids[i] = (float)time_ids[n * 6 + i];
        assert_int_equal(cfg.added_dim, 64);
        if (!unet_added_fill(&cfg, text, 16, ids, 6, added, &e)) fail_msg("%s", e.text);
        for (int i = 0; i < 64; i++) data[4][n * 64 + i] = added[i];
    }
    struct nn_ctx c = nn_begin(p.g, p.params, NULL, "");
    struct unet_inputs in = {io[0], io[1], io[2], io[4], io[3]};
    int out = unet_build(&c, &cfg, &in);
    nn_end(&c);
    part_compare(&p, io, data, 5, out, "unet.output");
    part_close(&p);
}

static void check_xl_text(const struct clip_params *params, bool pooled, const char *name) {
    struct error e = {0};
    struct part p = part_open("xl-parts", "text_encoder", "model.safetensors");
    struct clip_config cfg;
    if (!clip_config_load(&cfg, p.config, &e) || !clip_declare(p.params, &cfg, NULL, &e))
        fail_msg("%s", e.text);
    part_bind(&p, clip_hf_naming(""));
    struct shape s, ends_shape;
    double *data[2] = {eval_golden(p.golden, "text.ids", p.arena, &s),
                       eval_golden(p.golden, "text.ends", p.arena, &ends_shape)};
    for (int i = 0; i < s.n; i++) data[1][i] += i * s.w;
    int io[2] = {graph_io(p.g, "ids", s), graph_io(p.g, "eos", ends_shape)};
    struct nn_ctx c = nn_begin(p.g, p.params, NULL, "te2");
    struct clip_inputs in = {io[0], pooled ? io[1] : -1};
    struct clip_outputs out;
    clip_build(&c, &cfg, &in, params, &out);
    nn_end(&c);
    part_compare(&p, io, data, 2, strcmp(name, "text.pooled") ? out.hidden : out.pooled, name);
    part_close(&p);
}

static void check_xl_texts(void) {
    const struct clip_params sdxl = {.skip = 1, .no_final_norm = true}, plain = {0};
    check_xl_text(&plain, false, "text.last");
    check_xl_text(&sdxl, false, "text.penultimate");
    check_xl_text(&sdxl, true, "text.penultimate");
    check_xl_text(&sdxl, true, "text.pooled");
}

const struct model_check model_checks[] = {
    {"text", check_texts},         {"unet", check_unets},       {"uneven unet", check_uneven_unets},
    {"decoder", check_decoders},   {"encoder", check_encoders}, {"SDXL and LCM inputs", check_xl_unet},
    {"SDXL text", check_xl_texts},
};
const int n_model_checks = sizeof model_checks / sizeof *model_checks;

void model_check_run(const struct model_check *check, struct gpu_device *dev) {
    device = dev;
    storage = dev ? gpu_device_storage(dev) : TENSOR_F32;
    tolerance = storage == TENSOR_F16 ? 1e-2 : 1e-4;
    check->run();
}
