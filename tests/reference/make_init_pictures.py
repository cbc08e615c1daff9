#!/usr/bin/env python3
"""Pictures that diffusers makes from other pictures: img2img, inpainting, a second pass at a larger size. README.md
lists the names."""
import argparse
import os

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

import reference as ref
from make_goldens import PICTURE_NEGATIVE, PICTURE_PROMPT, smooth_image
from make_samplers import CHOICES, CLASSES

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, GUIDANCE, STRENGTH, HIRES_STRENGTH, SCALE = 10, 5.0, 0.65, 0.7, 1.5


def sampler(pipe, name):
    pipe.scheduler = CLASSES[name].from_config(pipe.scheduler_config, **CHOICES.get(name, {}))
    return pipe


def kind(pipe, cls):
    out = cls(**pipe.components, requires_safety_checker=False)
    out.set_progress_bar_config(disable=True)
    out.scheduler_config = pipe.scheduler_config
    return out


def common(seed):
    return {"prompt": PICTURE_PROMPT, "negative_prompt": PICTURE_NEGATIVE, "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE, "output_type": "latent", "generator": torch.Generator().manual_seed(seed)}


def decoded(pipe, latents):
    image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample[0]
    return ((image / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()


def blob(height, width):
    """A soft-edged disc, off the middle, as a grey picture."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = ((y - 0.4 * height) ** 2 + (x - 0.6 * width) ** 2) ** 0.5
    return ((0.38 * min(height, width) - distance) * 24 + 128).clamp(0, 255).byte()


def hires(pipe, name, upscaler, seed, height, width):
    first = sampler(pipe, name)(height=height, width=width, **common(seed)).images
    second = kind(pipe, StableDiffusionImg2ImgPipeline)
    factor = pipe.vae_scale_factor
    height, width = int(height * SCALE) // factor * factor, int(width * SCALE) // factor * factor
    if upscaler == "latent":
        image = torch.nn.functional.interpolate(first, (height // factor, width // factor), mode="bilinear")
    else:
        image = Image.fromarray(decoded(pipe, first).numpy()).resize((width, height), Image.LANCZOS)
    return decoded(pipe, sampler(second, name)(image=image, strength=HIRES_STRENGTH, **common(seed)).images)


@torch.no_grad()
def make(folder, seed):
    pipe = ref.load_pipeline(folder)
    h, w, _ = load_file(folder.rstrip("/") + ".golden.safetensors")["picture.ddim.image"].shape
    generator = torch.Generator().manual_seed(seed)
    picture = ((smooth_image(generator, h, w)[0] / 2 + 0.5) * 255).round().byte().permute(1, 2, 0).contiguous()
    out = {"picture": picture, "mask": blob(h, w)}
    image, mask = Image.fromarray(picture.numpy()), Image.fromarray(out["mask"].numpy())
    inpaint = kind(pipe, StableDiffusionInpaintPipeline)
    for name in ("ddim", "euler-a"):
        for strength in (STRENGTH, 1.0):
            latents = sampler(inpaint, name)(image=image, mask_image=mask, strength=strength, height=h, width=w, **common(seed)).images
            out[f"inpaint.{name}.{strength:g}"] = decoded(pipe, latents)
    if pipe.unet.config.in_channels == 4:
        again = kind(pipe, StableDiffusionImg2ImgPipeline)
        for name in ("ddim", "euler-a", "dpmpp-2m-sde", "heun", "pndm"):
            for strength in (STRENGTH, 1.0) if name in ("ddim", "euler-a") else (STRENGTH,):
                latents = sampler(again, name)(image=image, strength=strength, **common(seed)).images
                out[f"img2img.{name}.{strength:g}"] = decoded(pipe, latents)
        for upscaler in ("latent", "lanczos") if "sd1" in folder else ():
            out[f"hires.{upscaler}"] = hires(pipe, "euler-a", upscaler, seed, h, w)
    facts = {"picture_prompt": PICTURE_PROMPT, "picture_negative": PICTURE_NEGATIVE, "seed": seed, "steps": STEPS,
             "guidance": GUIDANCE, "hires_strength": HIRES_STRENGTH, "scale": SCALE}
    path = folder.rstrip("/") + ".init.safetensors"
    save_file(out, path, metadata={k: str(v) for k, v in facts.items()})
    os.chmod(path, 0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="*", default=[os.path.join(HERE, "..", "data", name) for name in ("mini-sd1", "mini-sd2", "mini-inpaint")])
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for folder in args.model:
        make(folder, args.seed)


if __name__ == "__main__":
    main()
