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
TIME_IDS = [[128.0, 96.0, 0.0, 16.0, 64.0, 64.0], [64.0, 64.0, 8.0, 0.0, 64.0, 48.0]]
GUIDANCE_EMBEDDED = 8.5  # consistency models: the guidance that the UNet is told
STEPS, RANK, ALPHA, STRENGTH = 20, 4, 2.0, 0.7
TRAINING = {"steps": 10, "batch": 2, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 1e-2, "eps": 1e-8,
            "clip": 1.0}


def randn(generator, *shape):
    return torch.randn(*shape, generator=generator)


@torch.no_grad()
def forward_goldens(pipe, generator, latent_size, uneven):
    embedding, pooled = ref.embed_text_pooled(pipe, PROMPTS)
    out = {"token_ids": ref.token_ids(pipe, PROMPTS).int(), "text_embedding": embedding}
    context, conditions = embedding[[0, 2]].clone(), {}
    if pooled is not None:
        out["token_ids_2"], out["pooled_embedding"] = ref.token_ids(pipe, PROMPTS, True).int(), pooled
        out["unet.pooled"], out["unet.time_ids"] = pooled[[0, 2]].clone(), torch.tensor(TIME_IDS)
        conditions["added_cond_kwargs"] = {"text_embeds": out["unet.pooled"], "time_ids": out["unet.time_ids"]}
    if pipe.unet.config.time_cond_proj_dim:
        weight = torch.full((2,), GUIDANCE_EMBEDDED - 1)
        conditions["timestep_cond"] = pipe.get_guidance_scale_embedding(weight, pipe.unet.config.time_cond_proj_dim)
    n_extra = pipe.unet.config.in_channels - 4
    for prefix, size in (("unet", latent_size), ("unet_uneven", uneven)):
        if size is None:
            continue
        latents, timesteps = randn(generator, 2, 4, *size), torch.tensor([801, 37])
        out[prefix + ".latents"] = latents
        out[prefix + ".timesteps"] = timesteps.float()
        out[prefix + ".context"] = context.clone()
        sample = latents
        if n_extra:
            out[prefix + ".extra"] = randn(generator, 2, n_extra, *size)
            sample = torch.cat([latents, out[prefix + ".extra"]], dim=1)
        out[prefix + ".output"] = pipe.unet(sample, timesteps, context, **conditions).sample
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


def picture_goldens(pipe, seed, latent_size, guidance, keep_latents, samplers, prefix="picture",
                    negative=PICTURE_NEGATIVE):
    out = {}
    for name in samplers:
        trail, image = ref.draw(pipe, name, PICTURE_PROMPT, negative, seed, latent_size, guidance, STEPS)
        out[f"{prefix}.{name}.latents"] = trail if keep_latents else trail[-1:].clone()
        out[f"{prefix}.{name}.image"] = image
    return out


def write_kohya_file(pipe, path, generator, with_text):
    """A LoRA of half-precision weights over the transformers, and over the text towers if asked."""
    state = {}
    parts = [("lora_unet_", pipe.unet, ref.target_modules(pipe.unet, "attn-mlp"))]
    for i, text in enumerate(ref.text_encoders(pipe) if with_text else []):
        parts.append((ref.text_prefix(pipe, i), text, [n for n, _ in text.named_modules() if n.endswith(ref.TEXT)]))
    for prefix, model, modules in parts:
        for name, (down, up) in ref.random_lora(model, modules, RANK, generator).items():
            key = ref.kohya_name(name, prefix)
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


def training_parts(pipe, targets, with_text):
    """Prefix of kohya's names, model and names of the layers that learn, for each part."""
    parts = [("lora_unet_", pipe.unet, ref.target_modules(pipe.unet, targets))]
    for i, text in enumerate(ref.text_encoders(pipe) if with_text else []):
        names = [n for n, _ in text.named_modules() if n.endswith(ref.TEXT_ATTENTION)]
        parts.append((ref.text_prefix(pipe, i), text, names))
    return parts


def adapt(parts, generator):
    """Puts a LoRA with a given start on every layer; returns kohya's name -> (down, up)."""
    layers = {}
    for prefix, model, modules in parts:
        start = ref.random_lora(model, modules, RANK, generator)
        model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules), "golden")
        for name, halves in start.items():
            layer = model.get_submodule(name)
            pair = (layer.lora_A["golden"].weight, layer.lora_B["golden"].weight)
            for weight, value in zip(pair, halves):
                weight.requires_grad_(True)
                with torch.no_grad():
                    weight.copy_(value)
            layers[ref.kohya_name(name, prefix)] = pair
    return layers


def training_inputs(pipe, generator, latent_size, with_text):
    n, batch = TRAINING["steps"], TRAINING["batch"]
    out = {"latents": randn(generator, n, batch, 4, *latent_size), "noise": randn(generator, n, batch, 4, *latent_size),
           "timesteps": torch.randint(0, 1000, (n, batch), generator=generator).int()}
    prompts = [PROMPTS[0], PROMPTS[2]]
    if with_text:
        out["ids"] = ref.token_ids(pipe, prompts).int()
        if ref.is_xl(pipe):
            out["ids_2"] = ref.token_ids(pipe, prompts, True).int()
    else:
        with torch.no_grad():
            out["context"], pooled = ref.embed_text_pooled(pipe, prompts)
        if pooled is not None:
            out["pooled"] = pooled
    if ref.is_xl(pipe):
        out["time_ids"] = torch.tensor(TIME_IDS)
    return out


def predict(pipe, given, noised, timesteps, with_text):
    """The UNet's answer; where they learn, the text encoders' work belongs to it."""
    if with_text:
        context, pooled = ref.embed_text_pooled(pipe, [PROMPTS[0], PROMPTS[2]])
    else:
        context, pooled = given["context"], given.get("pooled")
    added = {"text_embeds": pooled, "time_ids": given["time_ids"]} if ref.is_xl(pipe) else None
    return pipe.unet(noised, timesteps, context, added_cond_kwargs=added).sample


def training_goldens(pipe, generator, targets, latent_size, with_text=False):
    """One step's gradients and ten steps' losses of a LoRA whose start, noise and times are given."""
    parts = training_parts(pipe, targets, with_text)
    layers = adapt(parts, generator)
    params = [half for pair in layers.values() for half in pair]
    out = training_inputs(pipe, generator, latent_size, with_text)
    optimiser = torch.optim.AdamW(params, lr=TRAINING["lr"], betas=(TRAINING["beta1"], TRAINING["beta2"]),
                                  weight_decay=TRAINING["weight_decay"], eps=TRAINING["eps"])
    losses, norms = [], []
    for key, pair in layers.items():
        for half, name in zip(pair, ("down", "up")):
            out[f"start.{key}.lora_{name}.weight"] = half.detach().clone()
    for step in range(TRAINING["steps"]):
        timesteps = out["timesteps"][step].long()
        noised, target = ref.training_target(pipe, out["latents"][step], out["noise"][step], timesteps)
        loss = torch.nn.functional.mse_loss(predict(pipe, out, noised, timesteps, with_text), target)
        optimiser.zero_grad()
        loss.backward()
        for key, pair in layers.items() if step == 0 else []:
            for half, name in zip(pair, ("down", "up")):
                # The last layer of SDXL's first tower reaches nothing.
                grad = torch.zeros_like(half) if half.grad is None else half.grad
                out[f"gradient.{key}.lora_{name}.weight"] = grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_(params, TRAINING["clip"]).item())
        optimiser.step()
        losses.append(loss.item())
    pipe.unet.unload_lora()  # deleting the adapter alone would leave its wrappers
    for _, model, _ in parts[1:]:
        model.delete_adapter("golden")
    for _, model, _ in parts:
        model.requires_grad_(False)
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
                 targets=("attn", "attn-mlp"), train_latent_size=(8, 8), with_text=False, samplers=tuple(ref.SAMPLERS),
                 keep_latents=True, text_targets=()):
    pipe = ref.load_pipeline(folder)
    latent_size = tuple(latent_size or ref.default_latent_size(pipe))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    goldens = forward_goldens(pipe, generator, latent_size, uneven)
    goldens |= vae_goldens(pipe, generator, latent_size)
    if small:
        for key in ("vae.image", "vae.decoded"):
            goldens[key + ".u8"] = ((goldens.pop(key)[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    goldens |= picture_goldens(pipe, seed, latent_size, guidance, keep_latents and not small, samplers)
    if ref.is_xl(pipe):  # a negative prompt that is not given differs from an empty one
        goldens |= picture_goldens(pipe, seed, latent_size, guidance, False, ("ddim",), "picture_none", None)
        goldens |= picture_goldens(pipe, seed, latent_size, guidance, False, ("ddim",), "picture_empty", "")
    metadata = {"prompts": json.dumps(PROMPTS), "picture_prompt": PICTURE_PROMPT,
                "picture_negative": PICTURE_NEGATIVE, "seed": str(seed), "guidance": str(guidance),
                "steps": str(STEPS), "lora_strength": str(STRENGTH), "unet_guidance": str(GUIDANCE_EMBEDDED)}
    files = [("lora", "picture_lora", False)] + ([("lora-te", "picture_lora_te", True)] if with_text else [])
    for kind, prefix, text in files:
        write_kohya_file(pipe, beside(out_path, kind), generator, text)
        goldens |= lora_goldens(pipe, beside(out_path, kind), seed, latent_size, guidance, False, ("ddim",), prefix)
    save(goldens, out_path, metadata)
    for choice, text in [(c, False) for c in targets] + [(c, True) for c in text_targets]:
        tensors = training_goldens(pipe, generator, choice, train_latent_size, text)
        settings = {k: str(v) for k, v in TRAINING.items()}
        save(tensors, beside(out_path, "train-" + choice + ("-te" if text else "")),
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
