#!/usr/bin/env python3
"""Models of the real size, with random weights, in atelier and in diffusers: text, UNet and VAE within 1e-3 of the range.

    python tests/reference/compare_full.py sd15 sd21 sdxl --work DIR

Makes each folder with tools/make_checkpoint.py unless it is there, then the reference answers, layer by layer (SDXL's UNet
alone would take 10 GB in f32), then runs build/test_full. Minutes each; SDXL needs 8 GB of memory for the latter (14 with
--weights f32), and 8 GB of disk.
"""
import argparse
import glob
import json
import os
import subprocess
import sys

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from make_goldens import PROMPTS, TIME_IDS, randn, save, smooth_image
from make_model import HERE

ROOT = os.path.join(HERE, "..", "..")


def load(kind, folder, part):
    """The module in f32 whose layers come from the file when they are run, and go again."""
    path = os.path.join(folder, part)
    with open(os.path.join(path, "config.json")) as f:
        config = json.load(f)
    with torch.device("meta"):
        if part.startswith("text"):
            module = kind(CLIPTextConfig(**{k: v for k, v in config.items() if k not in ("architectures", "torch_dtype")}))
        else:
            module = kind.from_config(config)
    weights = safe_open(glob.glob(os.path.join(path, "*.safetensors"))[0], "pt")
    names = set(weights.keys())

    def take(layer, prefix):
        for key in list(layer._parameters):
            if layer._parameters[key] is not None:
                name = prefix + key if prefix + key in names else "text_model." + prefix + key
                layer._parameters[key] = torch.nn.Parameter(weights.get_tensor(name).float(), requires_grad=False)

    def leave(layer):
        for key, p in layer._parameters.items():
            layer._parameters[key] = None if p is None else torch.nn.Parameter(p.to("meta"), requires_grad=False)

    for prefix, layer in module.named_modules():
        if any(p is not None for p in layer._parameters.values()):
            layer.register_forward_pre_hook(lambda m, _, prefix=prefix: take(m, prefix + "."))
            layer.register_forward_hook(lambda m, *_: leave(m))
        if getattr(layer, "position_ids", None) is not None:
            layer.position_ids = torch.arange(layer.position_ids.shape[-1])[None]
    return module.eval()


def text_goldens(folder, prompts):
    out, hidden, two = {}, [], os.path.isdir(os.path.join(folder, "text_encoder_2"))
    for suffix in ("", "_2")[:1 + two]:
        tokenizer = CLIPTokenizer.from_pretrained(os.path.join(folder, "tokenizer" + suffix))
        ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        out["token_ids" + suffix] = ids.int()
        tower = load(CLIPTextModelWithProjection if suffix else CLIPTextModel, folder, "text_encoder" + suffix)
        result = tower(ids, output_hidden_states=True)
        hidden.append(result.hidden_states[-2] if two else result.last_hidden_state)
        if suffix:
            out["pooled_embedding"] = result.text_embeds
    out["text_embedding"] = torch.cat(hidden, dim=-1)
    return out


def unet_goldens(folder, generator, text, size):
    unet = load(UNet2DConditionModel, folder, "unet")
    out = {"unet.latents": randn(generator, 2, 4, size, size), "unet.timesteps": torch.tensor([801.0, 37.0]),
           "unet.context": text["text_embedding"][:2].clone()}
    added = None
    if "pooled_embedding" in text:
        out["unet.pooled"], out["unet.time_ids"] = text["pooled_embedding"][:2].clone(), torch.tensor(TIME_IDS)
        added = {"text_embeds": out["unet.pooled"], "time_ids": out["unet.time_ids"]}
    out["unet.output"] = unet(out["unet.latents"], out["unet.timesteps"], out["unet.context"], added_cond_kwargs=added).sample
    return out


def vae_goldens(folder, generator, size):
    vae = load(AutoencoderKL, folder, "vae")
    image, latents = smooth_image(generator, 8 * size, 8 * size), randn(generator, 1, 4, size, size)
    posterior = vae.encode(image).latent_dist
    return {"vae.image": image, "vae.mean": posterior.mean, "vae.logvar": posterior.logvar, "vae.latents": latents,
            "vae.decoded": vae.decode(latents).sample}


@torch.no_grad()
def make_goldens(folder, seed, size):
    generator = torch.Generator().manual_seed(seed)
    out = text_goldens(folder, [PROMPTS[0], PROMPTS[2]])
    out |= vae_goldens(folder, generator, size)
    out |= unet_goldens(folder, generator, out, size)
    for name, tensor in out.items():
        assert tensor.isfinite().all(), name
    save(out, folder + ".golden.safetensors", {"seed": str(seed), "unet_guidance": "1"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=["sd15", "sd21", "sdxl"])
    parser.add_argument("--work", required=True, help="folder for models and answers; kept")
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latent-size", type=int, default=16)
    parser.add_argument("--weights", choices=["f16", "f32"], default="f16",
                        help="how the device stores the UNet's; f16 is what the file has, exactly")
    parser.add_argument("--answers-only", action="store_true", help="do not run build/test_full")
    args = parser.parse_args()
    torch.set_num_threads(1)
    failures = 0
    for model in args.models:
        folder = os.path.join(os.path.abspath(args.work), model)
        if not os.path.exists(os.path.join(folder, "model_index.json")):
            subprocess.run([sys.executable, os.path.join(ROOT, "tools", "make_checkpoint.py"), "--model", model, "--seed",
                            str(args.seed), "--out", folder], check=True)
        if not os.path.exists(folder + ".golden.safetensors"):  # in a process of its own: its memory comes back
            code = f"import compare_full as c; c.make_goldens({folder!r}, {args.seed}, {args.latent_size})"
            subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE)
        if args.answers_only:
            continue
        result = subprocess.run([os.path.join(args.build, "test_full")],
                                env=dict(os.environ, ATELIER_GOLDENS=os.path.abspath(args.work), ATELIER_FULL=model,
                                         ATELIER_FULL_WEIGHTS=args.weights))
        failures += result.returncode != 0
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
