/* What a model is and what became of every tensor in its files. */
#include <stdio.h>

#include "app/inspect.h"
#include "base/text.h"

static void print_unet(const struct unet_config *c) {
    printf("UNet          channels");
    for (int i = 0; i < c->n_levels; i++) printf(" %d", c->down[i].channels);
    printf(", attention depth");
    for (int i = 0; i < c->n_levels; i++) printf(" %d", c->down[i].attention ? c->down[i].depth[0] : 0);
    printf(", heads");
    for (int i = 0; i < c->n_levels; i++) printf(" %d", c->down[i].heads);
    printf(", %s projections, text width %d\n", c->linear_projection ? "linear" : "convolution", c->context_dim);
}

static void print_model(const struct model *m) {
    int factor = vae_config_factor(&m->vae);
    printf("%s: %s %s%s\n", m->path, nn_family_name(m->family), m->single ? "in one file" : "in diffusers' layout",
           model_extra_channels(m) ? ", for inpainting" : "");
    print_unet(&m->unet);
    printf("parameters    UNet %.1f M, VAE %.1f M", (double)nn_params_count(m->unet_params) * 1e-6,
           (double)nn_params_count(m->vae_params) * 1e-6);
    for (int i = 0; i < m->n_texts; i++)
        printf(", text encoder%s %.1f M", i ? " 2" : "", (double)nn_params_count(m->texts[i].params) * 1e-6);
    printf("\n");
    if (m->unet.sample_w) printf("made for      %dx%d pixels\n", m->unet.sample_w * factor, m->unet.sample_h * factor);
    printf("VAE           %dx smaller, %d channels, scale %g\n", factor, m->vae.latent_channels, (double)m->vae.scaling_factor);
    for (int i = 0; i < m->n_texts; i++) {
        const struct clip_config *t = &m->texts[i].cfg;
        printf("text encoder  %d layers of width %d, %d tokens at most of %d known\n", t->layers, t->width, t->positions,
               t->vocabulary);
    }
    printf("predicts      %s over %d times%s (%s)\n", model_prediction_name(m->schedule.prediction),
           m->schedule.n_train ? m->schedule.n_train : 1000, m->schedule.zero_terminal_snr ? ", zero terminal SNR" : "",
           m->prediction_from);
    int text_layers = 0;
    for (int i = 0; i < m->n_texts; i++) text_layers += m->texts[i].targets.n;
    printf("LoRAs         can attach to %d UNet and %d text encoder layers\n", m->unet_targets.n, text_layers);
}

static void print_names(const char *what, const char *const *names, size_t n, bool all) {
    size_t k = all || n <= INSPECT_SHOW ? n : INSPECT_SHOW;
    if (n) printf("    %s (%zu)\n", what, n);
    for (size_t i = 0; i < k; i++) printf("        %s\n", TEXT_SHOW(names[i]));
    if (n > k) printf("        ... and %zu more (--all)\n", n - k);
}

static void print_report(const struct checkpoint_report *r, bool all) {
    for (int i = 0; i < r->n_files; i++) {
        const struct checkpoint_file_report *f = &r->files[i];
        size_t ignored = f->n_tensors - f->n_used - f->n_unknown;
        printf("weights       %s: %zu tensors, %zu used, %zu ignored, %zu unknown\n", f->path, f->n_tensors, f->n_used, ignored,
               f->n_unknown);
        for (int k = 0; k < f->n_reasons; k++)
            printf("    ignored (%zu): %s, such as %s\n", f->ignored[k].n, f->ignored[k].why, TEXT_SHOW(f->ignored[k].example));
        print_names("unknown: no layer asks for them", f->unknown, f->n_unknown, all);
    }
    print_names("missing", r->missing, (size_t)r->n_missing, all);
    print_names("of another shape or type", r->misfit, (size_t)r->n_misfit, all);
}

bool inspect_model(const char *path, const struct model_files *files, bool all, struct error *e) {
    struct checkpoint_report *report = NULL;
    struct model_params p = {.storage = TENSOR_F32, .files = *files, .report = &report};
    struct model *m = model_open(path, &p, e);
    if (m) print_model(m);
    if (report->n_files) {
        if (!m) printf("%s: a model that cannot be used\n", path);
        print_report(report, all);
    }
    char hex[65];
    bool ok = m && model_unet_sha256(m, hex, e);
    if (ok) printf("UNet SHA-256  %s\n", hex);
    model_close(&m);
    checkpoint_report_destroy(&report);
    return ok;
}

bool inspect_is_model(const struct st_file *f) {
    static const char *const prefixes[] = {"model.diffusion_model.", "diffusion_model.", ""};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (unet_ldm_is(f, prefixes[i])) return true;
    return false;
}
