#include "checkpoint/kind.h"

#include <stdio.h>
#include <string.h>

static const char other_family[] = "this program runs Stable Diffusion 1, 2 and SDXL",
                  adapter[] = "give the checkpoint it was made for with --model and this file with --lora";

/* Pieces of names that occur in one family only; earlier rows go first. */
static const struct {
    const char *piece, *name, *hint;
} kinds[] = {
    {"edm_mean", "a Playground v2.5 model (another noise schedule)", other_family},
    {"joint_blocks.0.", "a Stable Diffusion 3 model", other_family},
    {"distilled_guidance_layer.", "a Chroma model", other_family},
    {"double_blocks.0.img_attn", "a Flux model", other_family},
    {"single_transformer_blocks.0.", "a Flux model", other_family},
    {"double_layers.0.attn.w1q", "an AuraFlow model", other_family},
    {"txt_in.individual_token_refiner", "a HunyuanVideo model", other_family},
    {"mlp_t5.0.", "a Hunyuan-DiT model", other_family},
    {"t5_yproj.", "a Mochi model (video)", other_family},
    {"cap_embedder.1.", "a Lumina model", other_family},
    {"img_mod.1.weight", "a Qwen-Image model", other_family},
    {"caption_projection.0.linear", "a HiDream model", other_family},
    {"clip_txt_mapper.", "a Stable Cascade model", other_family},
    {"effnet_mapper.", "a Stable Cascade model", other_family},
    {"clip_txt_pooled_mapper.", "a Stable Cascade model", other_family},
    {"t_block.1.", "a PixArt model", other_family},
    {"caption_projection.y_embedding", "a PixArt model", other_family},
    {"head.modulation", "a Wan model (video)", other_family},
    {"transformer_blocks.0.scale_shift_table", "a diffusion transformer such as LTX-Video or PixArt", other_family},
    {"add_embedding.image_norm.", "a Kandinsky 2 model", other_family},
    {"encoder_hid_proj.image_embeds", "a Kandinsky 2 model", other_family},
    {"prior_hidden_states", "a Kandinsky prior", other_family},
    {"movq.", "a Kandinsky model", other_family},
    {"time_stack.", "a Stable Video Diffusion model", other_family},
    {"temporal_transformer_block", "a Stable Video Diffusion model", other_family},
    {"motion_modules.", "an AnimateDiff motion module", other_family},
    {"input_hint_block.", "a ControlNet", "ControlNets are not supported"},
    {"controlnet_cond_embedding.", "a ControlNet", "ControlNets are not supported"},
    {"image_proj.", "an IP-Adapter", "IP-Adapters are not supported"},
    {"position_net.", "a GLIGEN model", other_family},
    {"body.0.rdb1.", "a picture upscaler (ESRGAN)", "upscalers are not supported"},
    {"model.1.sub.0.RDB1", "a picture upscaler (ESRGAN)", "upscalers are not supported"},
    {"encoder.block.0.layer.0.SelfAttention", "a T5 text encoder", other_family},
    {"lora_up.weight", "an adapter (LoRA)", adapter},
    {"lora_B.", "an adapter (LoRA)", adapter},
    {"lora_A.", "an adapter (LoRA)", adapter},
    {"lora.up.weight", "an adapter (LoRA)", adapter},
    {"hada_w1_a", "an adapter (LoHa)", adapter},
    {"lokr_w1", "an adapter (LoKr)", adapter},
    {"emb_params", "a textual-inversion embedding", "give the checkpoint it was made for with --model"},
    {"string_to_param", "a textual-inversion embedding", "give the checkpoint it was made for with --model"},
};

bool checkpoint_foreign(const struct st_file *f, struct checkpoint_kind *out) {
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (size_t i = 0; i < st_count(f); i++) {
            if (!strstr(st_at(f, i)->name, kinds[k].piece)) continue;
            *out = (struct checkpoint_kind){kinds[k].name, kinds[k].hint, kinds[k].hint == other_family};
            return true;
        }
    return false;
}

enum match { WHOLE, BEGIN, END, INSIDE };
static const struct {
    enum match match;
    const char *text, *why;
} reasons[] = {
    {BEGIN, "model_ema.", "moving average of the UNet; the weights themselves are used"},
    {END, "position_ids", "a count from 0"},
    {END, "logit_scale", "used in training CLIP only"},
    {END, "attn_mask", "the causal mask, made here"},
    {END, "num_batches_tracked", "a counter of training"},
    {BEGIN, "first_stage_model.loss.", "the VAE's discriminator, used in its training only"},
    {BEGIN, "loss.", "the VAE's discriminator, used in its training only"},
    {BEGIN, "first_stage_model.model_ema.", "moving average of the VAE; the weights themselves are used"},
    {INSIDE, "cond_stage_model.model.visual.", "CLIP's picture tower"},
    {INSIDE, "conditioner.embedders.1.model.visual.", "CLIP's picture tower"},
    {INSIDE, "vision_model.", "CLIP's picture tower"},
    {INSIDE, "visual_projection", "CLIP's picture tower"},
    {END, "text_projection", "projection of pooled text, which this family does not use"},
    {END, "text_projection.weight", "projection of pooled text, which this family does not use"},
    {WHOLE, "betas", "the noise schedule, made here"},
    {BEGIN, "alphas_cumprod", "the noise schedule, made here"},
    {BEGIN, "sqrt_", "the noise schedule, made here"},
    {BEGIN, "log_one_minus_alphas", "the noise schedule, made here"},
    {BEGIN, "posterior_", "the noise schedule, made here"},
    {BEGIN, "denoiser.", "the noise schedule, made here"},
    {BEGIN, "lvlb_weights", "weights of a training loss"},
    {WHOLE, "logvar", "weights of a training loss"},
    {WHOLE, "scale_factor", "the latents' scale, known from the family"},
    {WHOLE, "global_step", "a counter of training"},
    {WHOLE, "v_pred", "a mark of what the model predicts"},
    {WHOLE, "ztsnr", "a mark of the noise schedule"},
    {BEGIN, "embedding_manager.", "embeddings of a training"},
    {BEGIN, "control_model.", "a ControlNet joined to the checkpoint, which is not used"},
    {BEGIN, "depth_model.", "a depth estimator, which is not used"},
};

const char *checkpoint_ignored(const char *name, int last_layer) {
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        const char *text = reasons[i].text;
        size_t m = strlen(text);
        bool fits = reasons[i].match == WHOLE   ? !strcmp(name, text)
                    : reasons[i].match == BEGIN ? !strncmp(name, text, m)
                    : reasons[i].match == END   ? n >= m && !strcmp(name + n - m, text)
                                                : strstr(name, text) != NULL;
        if (fits) return reasons[i].why;
    }
    char layer[64];
    snprintf(layer, sizeof layer, "cond_stage_model.model.transformer.resblocks.%d.", last_layer);
    return last_layer >= 0 && strstr(name, layer) ? "the last layer, which Stable Diffusion 2 does not use" : NULL;
}
