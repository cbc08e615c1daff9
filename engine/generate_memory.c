#include "diffusion/guidance.h"
#include "engine/generate.h"

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t text_bytes(const struct engine *e, int64_t *largest) {
    int64_t all = 0;
    *largest = 0;
    for (int i = 0; i < e->model->n_texts; i++) {
        int64_t bytes = memory_part_bytes(e, (enum engine_part)(ENGINE_TEXT + i));
        all += bytes, *largest = most(*largest, bytes);
    }
    return all;
}

static struct denoiser_params unet_params(const struct engine *e, const struct generate_params *p, int batch) {
    int f = vae_config_factor(&e->model->vae);
    bool guided = guidance_is_needed(p->cfg) && !e->model->unet.time_cond_dim;
    struct denoiser_params dp = {(guided ? 2 : 1) * batch, p->w / f, p->h / f, model_window(e->model), p->adapter};
    if (p->regions_by == GUIDE_PREDICTIONS) dp.n *= p->n_regions + 1;
    else dp.n_parts = p->n_regions + 1, dp.part_strengths = true; /* any LoRA may act in one region only */
    return dp;
}

int generate_batch_fit(struct engine *e, const struct generate_params *p, int most) {
    struct memory_choice c;
    struct error ignored;
    for (int n = most; n > 1; n--) {
        struct denoiser_params dp = unet_params(e, p, n);
        if (denoiser_plan(e, &dp, &c, &ignored) && !c.streamed) return n;
    }
    return 1;
}

bool generate_memory_plan(struct engine *e, const struct generate_params *p, struct generate_memory *out, struct error *err) {
    int f = vae_config_factor(&e->model->vae);
    if (p->w <= 0 || p->h <= 0 || p->w % f || p->h % f)
        return error_set(err, "A picture of %dx%d cannot be made: --width and --height must be multiples of %d.", p->w, p->h,
                         f);
    *out = (struct generate_memory){.device_bytes = gpu_device_memory_total(e->dev),
                                    .adapter_bytes = p->adapter ? gpu_set_bytes(p->adapter->data) : 0};
    struct denoiser_params dp = unet_params(e, p, p->batch ? p->batch : 1);
    if (!denoiser_plan(e, &dp, &out->unet, err) ||
        !vae_session_plan(e, false, false, p->w, p->h, &out->vae, &out->vae_tile, err))
        return false;
    out->f32_possible = gpu_device_storage(e->dev) == TENSOR_F16 && e->model->vae.force_upcast;
    if (out->f32_possible && !vae_session_plan(e, false, true, p->w, p->h, &out->vae_f32, &out->vae_tile_f32, err))
        return false;
    int64_t largest, free_bytes = gpu_device_memory_total(e->dev) - gpu_device_memory_used(e->dev);
    out->text_bytes = text_bytes(e, &largest);
    int64_t unet = memory_choice_bytes(&out->unet),
            vae = most(memory_choice_bytes(&out->vae), memory_choice_bytes(&out->vae_f32));
    out->in_turn = unet + vae > free_bytes;
    int64_t text = out->text_bytes <= free_bytes ? out->text_bytes : largest;
    out->peak_bytes = out->adapter_bytes + most(text, out->in_turn ? most(unet, vae) : unet + vae);
    return true;
}
