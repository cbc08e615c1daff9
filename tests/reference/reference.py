"""What the scripts here share: a pipeline in f32, its samplers, pictures with their latents, kohya names."""
import json
import os
import warnings

import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
                       EulerDiscreteScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline,
                       StableDiffusionXLPipeline)
from diffusers.utils import logging as diffusers_logging

SAMPLERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "euler-a": EulerAncestralDiscreteScheduler,
            "dpmpp-2m": DPMSolverMultistepScheduler}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TRANSFORMER = ATTENTION + ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def pipeline_class(folder):
    """Consistency models run in the plain pipeline, which knows their guidance embedding, with any sampler."""
    with open(os.path.join(folder, "model_index.json")) as f:
        name = json.load(f)["_class_name"]
    return {"StableDiffusionXLPipeline": StableDiffusionXLPipeline,
            "StableDiffusionInpaintPipeline": StableDiffusionInpaintPipeline}.get(name, StableDiffusionPipeline)


def load_pipeline(folder):
    warnings.filterwarnings("ignore")
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    pipe = pipeline_class(folder).from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, *text_encoders(pipe)):
        assert all(p.dtype == torch.float32 for p in part.parameters())
        part.eval().requires_grad_(False)
    pipe.scheduler_config = dict(pipe.scheduler.config)
    return pipe


def set_sampler(pipe, name):
    pipe.scheduler = SAMPLERS[name].from_config(pipe.scheduler_config)


def default_latent_size(pipe):
    size = pipe.unet.config.sample_size
    return (size, size) if isinstance(size, int) else tuple(size)


def is_xl(pipe):
    return hasattr(pipe, "text_encoder_2")


def text_encoders(pipe):
    return [pipe.text_encoder, pipe.text_encoder_2] if is_xl(pipe) else [pipe.text_encoder]


def token_ids(pipe, prompts, second=False):
    tokenizer = pipe.tokenizer_2 if second else pipe.tokenizer
    return tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def embed_text(pipe, prompts):
    return embed_text_pooled(pipe, prompts)[0]


def embed_text_pooled(pipe, prompts):
    """What the UNet looks at, and the pooled text of SDXL (else None)."""
    if not is_xl(pipe):
        return pipe.text_encoder(token_ids(pipe, prompts))[0], None
    context, _, pooled, _ = pipe.encode_prompt(prompts, device="cpu", num_images_per_prompt=1,
                                               do_classifier_free_guidance=False)
    return context, pooled


@torch.no_grad()
def draw(pipe, sampler, prompt, negative, seed, latent_size, guidance, steps=20):
    """Returns latents [steps+1, 4, h, w], the first being the start, and the picture as bytes [H, W, 3]."""
    set_sampler(pipe, sampler)
    h, w = latent_size
    extra = {}
    if isinstance(pipe, StableDiffusionInpaintPipeline):  # without a picture: all is masked
        size = h * pipe.vae_scale_factor, w * pipe.vae_scale_factor
        extra = {"image": torch.zeros(1, 3, *size), "mask_image": torch.ones(1, 1, *size), "strength": 1.0}
    start = torch.randn(1, 4, h, w, generator=torch.Generator().manual_seed(seed))
    pipe.scheduler.set_timesteps(steps)
    trail = [start[0] * pipe.scheduler.init_noise_sigma]

    def keep(_pipe, _step, _t, values):
        trail.append(values["latents"][0].clone())
        return values

    scale = pipe.vae_scale_factor
    latents = pipe(prompt, negative_prompt=negative, height=h * scale, width=w * scale, num_inference_steps=steps,
                   guidance_scale=guidance, generator=torch.Generator().manual_seed(seed), output_type="latent",
                   callback_on_step_end=keep, **extra).images
    assert len(trail) == steps + 1 and torch.equal(trail[-1], latents[0])
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    image = (decoded[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
    return torch.stack(trail), (image * 255).round().to(torch.uint8)


def training_target(pipe, latents, noise, timesteps):
    """The noised latents and what the network should answer."""
    schedule = DDPMScheduler.from_config(pipe.scheduler_config)
    noised = schedule.add_noise(latents, noise, timesteps)
    if schedule.config.prediction_type == "v_prediction":
        return noised, schedule.get_velocity(latents, noise, timesteps)
    return noised, noise


def target_modules(unet, targets):
    """Names of the modules that a choice of --targets adapts."""
    attention = [n for n, _ in unet.named_modules() if "transformer_blocks" in n and n.endswith(ATTENTION)]
    if targets == "attn":
        return attention
    inside = [n for n, m in unet.named_modules() if ".attentions." in n and n.endswith(TRANSFORMER)
              and isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    if targets == "attn-mlp":
        return inside
    assert targets == "all"
    convolutions = [n for n, m in unet.named_modules() if n.endswith(CONVOLUTIONS) and "attentions" not in n
                    and isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    return inside + convolutions


def text_prefix(pipe, which):
    return ("lora_te1_", "lora_te2_")[which] if is_xl(pipe) else "lora_te_"


def kohya_name(module, prefix="lora_unet_"):
    if prefix != "lora_unet_" and not module.startswith("text_model."):
        module = "text_model." + module  # transformers 5 leaves it out
    return prefix + module.replace(".", "_")


def random_lora(model, modules, rank, generator, up_std=0.15):
    """Down and up for each module in kohya's shapes; both nonzero, so that every gradient is."""
    table = dict(model.named_modules())
    out = {}
    for name in modules:
        layer = table[name]
        shape = layer.weight.shape
        fan_in = shape[1:].numel()
        down = torch.randn(rank, *shape[1:], generator=generator) / fan_in ** 0.5
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator) * up_std
        out[name] = (down, up)
    return out


def psnr(a, b):
    mse = ((a.double() - b.double()) ** 2).mean().item()
    return float("inf") if mse == 0 else 10 * torch.log10(torch.tensor(255.0 ** 2 / mse)).item()


def range_error(got, wanted):
    """Largest difference as a part of the range of what is wanted."""
    return ((got.double() - wanted.double()).abs().max() / (wanted.max() - wanted.min()).double()).item()
