#!/usr/bin/env python3
"""Writes what diffusers, transformers and peft compute in f32 for a model folder. README.md lists the names."""
import argparse
import json
import os

import torch
from peft import LoraConfig
from safetensors.torch import save_file

import reference as ref

PROMPTS = ["a photo of a red fox", "", "Hello, World 2024! It's a CAFÉ & an \"ink\" style…",
           "an orange cat and the black dog on a table, " * 12]
PICTURE_PROMPT, PICTURE_NEGATIVE = "a drawing of a small house by the river", "blue rain"
STEPS, RANK, ALPHA, STRENGTH = 20, 4, 2.0, 0.7
TRAINING = {"steps": 10, "batch": 2, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 1e-2, "eps": 1e-8,
            "clip": 1.0}


def randn(generator, *shape):
    return torch.randn(*shape, generator=generator)


@torch.no_grad()
def forward_goldens(pipe, generator, latent_size, uneven):
    out = {"token_ids": ref.token_ids(pipe, PROMPTS).int(), "text_embedding": ref.embed_text(pipe, PROMPTS)}
    context = out["text_embedding"][[0, 2]].clone()
    for prefix, size in (("unet", latent_size), ("unet_uneven", uneven)):
        if size is None:
            continue
        latents, timesteps = randn(generator, 2, 4, *size), torch.tensor([801, 37])
        out[prefix + ".latents"] = latents
        out[prefix + ".timesteps"] = timesteps.float()
        out[prefix + ".context"] = context.clone()
        out[prefix + ".output"] = pipe.unet(latents, timesteps, context).sample
    return out


def smooth_image(generator, height, width):
    """Something like a picture in [-1, 1]: soft shapes with a little grain, on the 256 levels a file can hold."""
    coarse = torch.nn.functional.interpolate(randn(generator, 1, 3, 5, 5), (height, width), mode="bicubic")
    image = (coarse * 0.8 + 0.05 * randn(generator, 1, 3, height, width)).clamp(-1, 1)
    return ((image / 2 + 0.5) * 255).round() / 255 * 2 - 1


@torch.no_grad()
def vae_goldens(pipe, generator, latent_size):
    h, w = latent_size
    image = smooth_image(generator, h * pipe.vae_scale_factor, w * pipe.vae_scale_factor)
    posterior = pipe.vae.encode(image).latent_dist
    latents = randn(generator, 1, 4, h, w)
    return {"vae.image": image, "vae.mean": posterior.mean, "vae.logvar": posterior.logvar, "vae.latents": latents,
            "vae.decoded": pipe.vae.decode(latents).sample}


def picture_goldens(pipe, seed, latent_size, guidance, keep_latents, samplers, prefix="picture"):
    out = {}
    for name in samplers:
        trail, image = ref.draw(pipe, name, PICTURE_PROMPT, PICTURE_NEGATIVE, seed, latent_size, guidance, STEPS)
        out[f"{prefix}.{name}.latents"] = trail if keep_latents else trail[-1:].clone()
        out[f"{prefix}.{name}.image"] = image
    return out


def write_kohya_file(pipe, path, generator, with_text):
    """A LoRA of half-precision weights over the transformers, and over the text tower if asked."""
    state = {}
    parts = [("lora_unet_", pipe.unet, ref.target_modules(pipe.unet, "attn-mlp"))]
    if with_text:
        text = [n for n, _ in pipe.text_encoder.named_modules() if n.endswith(ref.TEXT)]
        parts.append(("lora_te_", pipe.text_encoder, text))
    for prefix, model, modules in parts:
        for name, (down, up) in ref.random_lora(model, modules, RANK, generator).items():
            path_name = name if prefix == "lora_unet_" or name.startswith("text_model.") else "text_model." + name
            key = ref.kohya_name(path_name, prefix)
            state[key + ".lora_down.weight"] = down.half()
            state[key + ".lora_up.weight"] = up.half()
            state[key + ".alpha"] = torch.tensor(ALPHA).half()
    save(state, path, {"ss_network_module": "networks.lora", "ss_network_dim": str(RANK),
                       "ss_network_alpha": str(ALPHA)})


def lora_goldens(pipe, path, seed, latent_size, guidance, keep_latents, samplers, prefix):
    pipe.load_lora_weights(path, adapter_name="golden")
    pipe.set_adapters("golden", STRENGTH)
    out = picture_goldens(pipe, seed, latent_size, guidance, keep_latents, samplers, prefix)
    with torch.no_grad():
        out[prefix + ".text_embedding"] = ref.embed_text(pipe, [PICTURE_PROMPT, PICTURE_NEGATIVE])
    pipe.unload_lora_weights()
    return out


def training_goldens(pipe, generator, targets, latent_size):
    """One step's gradients and ten steps' losses of a LoRA whose start, noise and times are given."""
    n, batch = TRAINING["steps"], TRAINING["batch"]
    unet = pipe.unet
    modules = ref.target_modules(unet, targets)
    start = ref.random_lora(unet, modules, RANK, generator)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules), "golden")
    layers = {m: (unet.get_submodule(m).lora_A["golden"], unet.get_submodule(m).lora_B["golden"]) for m in modules}
    with torch.no_grad():
        for m, (down, up) in start.items():
            layers[m][0].weight.copy_(down)
            layers[m][1].weight.copy_(up)
    params = [half.weight for pair in layers.values() for half in pair]
    assert len(params) == len([p for p in unet.parameters() if p.requires_grad])
    latents = randn(generator, n, batch, 4, *latent_size)
    noise = randn(generator, n, batch, 4, *latent_size)
    timesteps = torch.randint(0, 1000, (n, batch), generator=generator)
    context = ref.embed_text(pipe, [PROMPTS[0], PROMPTS[2]])
    out = {"latents": latents, "noise": noise, "timesteps": timesteps.int(), "context": context}
    optimiser = torch.optim.AdamW(params, lr=TRAINING["lr"], betas=(TRAINING["beta1"], TRAINING["beta2"]),
                                  weight_decay=TRAINING["weight_decay"], eps=TRAINING["eps"])
    losses, norms = [], []
    for step in range(n):
        noised, target = ref.training_target(pipe, latents[step], noise[step], timesteps[step])
        loss = torch.nn.functional.mse_loss(unet(noised, timesteps[step], context).sample, target)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            for m, (down, up) in layers.items():
                key = ref.kohya_name(m)
                out[f"start.{key}.lora_down.weight"], out[f"start.{key}.lora_up.weight"] = start[m]
                out[f"gradient.{key}.lora_down.weight"] = down.weight.grad.clone()
                out[f"gradient.{key}.lora_up.weight"] = up.weight.grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_(params, TRAINING["clip"]).item())
        optimiser.step()
        losses.append(loss.item())
    unet.unload_lora()  # deleting the adapter alone would leave its wrappers
    unet.requires_grad_(False)
    out["losses"], out["gradient_norms"] = torch.tensor(losses), torch.tensor(norms)
    return out


def save(tensors, path, metadata):
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
    os.chmod(path, 0o644)


def beside(path, kind):
    suffix = ".golden.safetensors"
    assert path.endswith(suffix), "--out must end in " + suffix
    return path[:-len(suffix)] + "." + kind + ".safetensors"


def make_goldens(folder, out_path, seed=1, latent_size=None, uneven=None, guidance=7.5, small=False,
                 targets=("attn", "attn-mlp"), train_latent_size=(8, 8), with_text=False):
    pipe = ref.load_pipeline(folder)
    latent_size = tuple(latent_size or ref.default_latent_size(pipe))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    goldens = forward_goldens(pipe, generator, latent_size, uneven)
    goldens |= vae_goldens(pipe, generator, latent_size)
    if small:
        for key in ("vae.image", "vae.decoded"):
            goldens[key + ".u8"] = ((goldens.pop(key)[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    goldens |= picture_goldens(pipe, seed, latent_size, guidance, not small, ref.SAMPLERS)
    metadata = {"prompts": json.dumps(PROMPTS), "picture_prompt": PICTURE_PROMPT,
                "picture_negative": PICTURE_NEGATIVE, "seed": str(seed), "guidance": str(guidance),
                "steps": str(STEPS), "lora_strength": str(STRENGTH)}
    files = [("lora", "picture_lora", False)] + ([("lora-te", "picture_lora_te", True)] if with_text else [])
    for kind, prefix, text in files:
        write_kohya_file(pipe, beside(out_path, kind), generator, text)
        goldens |= lora_goldens(pipe, beside(out_path, kind), seed, latent_size, guidance, False, ("ddim",), prefix)
    save(goldens, out_path, metadata)
    for choice in targets:
        tensors = training_goldens(pipe, generator, choice, train_latent_size)
        settings = {k: str(v) for k, v in TRAINING.items()}
        save(tensors, beside(out_path, "train-" + choice),
             dict(settings, rank=str(RANK), alpha=str(ALPHA), targets=choice))
        losses = tensors["losses"].tolist()
        print(f"{folder} {choice}: losses {losses[0]:.5f} … {losses[-1]:.5f}")
    return goldens


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, help="NAME.golden.safetensors; LoRA and training files go beside it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latent-size", type=int, nargs=2, metavar=("H", "W"), help="default: the model's own")
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--small", action="store_true", help="only last latents, and VAE pictures as bytes")
    parser.add_argument("--targets", nargs="*", default=["attn", "attn-mlp"], choices=["attn", "attn-mlp", "all"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_goldens(args.model, args.out, args.seed, args.latent_size, None, args.guidance, args.small, args.targets)


if __name__ == "__main__":
    main()
