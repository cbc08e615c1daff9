#include "engine/bench.h"
#include "engine/footprint.h"

static const struct vae_config kl_f8 = {.in_channels = 3, .out_channels = 3, .latent_channels = 4, .n_levels = 4,
                                        .channels = {128, 256, 512, 512}, .layers = 2, .norm_groups = 32, .mid_attention = true,
                                        .quant_conv = true, .post_quant_conv = true, .sample_size = 512,
                                        .scaling_factor = 0.18215f};

static struct clip_config clip(int width, int layers, int heads, int projection) {
    return (struct clip_config){.vocabulary = 49408, .positions = 77, .width = width, .layers = layers, .heads = heads,
                                .mlp_width = 4 * width, .quick_gelu = !projection, .norm_eps = 1e-5f,
                                .projection = projection > 0, .projection_dim = projection};
}

static struct unet_config unet_sdxl(void) {
    static const int channels[] = {320, 640, 1280}, depth[] = {1, 2, 10}, heads[] = {5, 10, 20};
    struct unet_config c = bench_unet_sd15();
    c.sample_h = c.sample_w = 128, c.n_levels = 3, c.linear_projection = true;
    c.context_dim = 2048, c.added_dim = 2816, c.added_time_id_dim = 256;
    c.mid_stage.heads = 20, c.mid_stage.depth[0] = 10;
    for (int i = 0; i < 3; i++) {
        struct unet_stage s = {.channels = channels[i], .layers = 2, .attention = i > 0, .heads = heads[i],
                               .depth = {depth[i], depth[i]}};
        c.down[i] = s;
        s.layers = 3, s.depth[2] = depth[i];
        c.up[2 - i] = s;
    }
    return c;
}

void footprint_family(int i, struct footprint_family *out) {
    if (i == 0) {
        *out = (struct footprint_family){.name = "SD1.5", .unet = bench_unet_sd15(), .vae = kl_f8,
                                         .texts = {clip(768, 12, 12, 0)}, .n_texts = 1, .side = 512};
        return;
    }
    *out = (struct footprint_family){.name = "SDXL", .unet = unet_sdxl(), .vae = kl_f8,
                                     .texts = {clip(768, 12, 12, 0), clip(1280, 32, 20, 1280)}, .n_texts = 2, .side = 1024};
    out->vae.force_upcast = true, out->vae.scaling_factor = 0.13025f;
}
