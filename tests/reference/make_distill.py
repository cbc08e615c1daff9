#!/usr/bin/env python3
"""Writes what torch and diffusers compute for a few steps of distillation: NAME.distill-lcm and NAME.distill-cfg.

Latents, noise, texts and the LoRA's start are those of NAME.train-TARGETS.safetensors (make_goldens.py); times, guidance
and the empty text are drawn here. The formulas are diffusers' train_lcm_distill_lora_sd_wds.py's: a DDIM step of the guided
teacher, the boundary condition, the pseudo-Huber loss; the target is asked of an average of the LoRA where --ema is not 0.
"""
import argparse
import contextlib
import math
import os

import torch
from diffusers import DDPMScheduler
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file

import reference as ref

STEPS, GRID, HUBER_C = 4, 50, 1e-3


class Schedule:
    def __init__(self, pipe):
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler_config)
        self.alpha_bar = self.scheduler.alphas_cumprod
        self.prediction = self.scheduler.config.prediction_type

    def roots(self, t):
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return a.sqrt(), (1 - a).sqrt()

    def clean(self, answer, t, x):
        alpha, sigma = self.roots(t)
        return alpha * x - sigma * answer if self.prediction == "v_prediction" else (x - sigma * answer) / alpha

    def noise(self, answer, t, x):
        alpha, sigma = self.roots(t)
        return alpha * answer + sigma * x if self.prediction == "v_prediction" else answer


def boundary(t):
    scaled = t.float().view(-1, 1, 1, 1) * 10
    return 0.25 / (scaled ** 2 + 0.25), scaled / (scaled ** 2 + 0.25) ** 0.5


@contextlib.contextmanager
def weights(layers, values):
    """The LoRA's weights replaced for a while."""
    kept = {k: [w.detach().clone() for w in pair] for k, pair in layers.items()}
    with torch.no_grad():
        for k, pair in layers.items():
            for w, v in zip(pair, values[k]):
                w.copy_(v)
    yield
    with torch.no_grad():
        for k, pair in layers.items():
            for w, v in zip(pair, kept[k]):
                w.copy_(v)


def adapt(pipe, given, targets, rank, alpha):
    modules = ref.target_modules(pipe.unet, targets)
    pipe.unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules), "golden")
    layers = {}
    for name in modules:
        layer, key = pipe.unet.get_submodule(name), ref.kohya_name(name)
        pair = (layer.lora_A["golden"].weight, layer.lora_B["golden"].weight)
        for w, half in zip(pair, ("down", "up")):
            w.requires_grad_(True)
            with torch.no_grad():
                w.copy_(given[f"start.{key}.lora_{half}.weight"])
        layers[key] = pair
    return layers


def run(pipe, given, method, ema, seed, settings, targets):
    generator = torch.Generator().manual_seed(seed)
    s, batch, steps = Schedule(pipe), given["latents"].shape[1], STEPS
    layers = adapt(pipe, given, targets, int(settings["rank"]), float(settings["alpha"]))
    params = [w for pair in layers.values() for w in pair]
    average = {k: [w.detach().clone() for w in pair] for k, pair in layers.items()}
    optimiser = torch.optim.AdamW(params, lr=float(settings["lr"]), weight_decay=float(settings["weight_decay"]))
    skip = 1000 // GRID
    grid = torch.randint(0, GRID, (steps, batch), generator=generator)
    grid[0, 0], grid[1, 0] = 0, GRID - 1
    times = (grid + 1) * skip - 1 if method == "lcm" else torch.randint(0, 1000, (steps, batch), generator=generator)
    guidance = 3 + 5 * torch.rand(steps, batch, generator=generator)
    xl = ref.is_xl(pipe)
    empty = torch.zeros_like(given["context"][:1]) if xl else ref.embed_text(pipe, [""])
    pooled = given.get("pooled")

    def answer(x, t, text, pool):
        added = {"text_embeds": pool, "time_ids": given["time_ids"]} if xl else None
        return pipe.unet(x, t, text, added_cond_kwargs=added).sample

    losses, gradients = [], {}
    for k in range(steps):
        t, g = times[k], guidance[k].view(-1, 1, 1, 1)
        x = s.scheduler.add_noise(given["latents"][k], given["noise"][k], t)
        with torch.no_grad():
            pipe.unet.disable_adapters()
            told = answer(x, t, given["context"], pooled)
            untold = answer(x, t, empty.expand(batch, -1, -1), None if pooled is None else torch.zeros_like(pooled))
            pipe.unet.enable_adapters()
            guided = untold + g * (told - untold)
        if method == "cfg":
            loss = torch.nn.functional.mse_loss(answer(x, t, given["context"], pooled), guided)
        else:
            before = torch.clamp(t - skip, min=0)
            with torch.no_grad():
                alpha, sigma = s.roots(before)
                x_before = alpha * s.clean(guided, t, x) + sigma * s.noise(guided, t, x)
                with weights(layers, average) if ema else contextlib.nullcontext():
                    clean = s.clean(answer(x_before, before, given["context"], pooled), before, x_before)
                c_skip, c_out = boundary(before)
                target = c_skip * x_before + c_out * clean
            c_skip, c_out = boundary(t)
            mine = c_skip * x + c_out * s.clean(answer(x, t, given["context"], pooled), t, x)
            loss = torch.mean(torch.sqrt((mine - target) ** 2 + HUBER_C ** 2) - HUBER_C)
        optimiser.zero_grad()
        loss.backward()
        if k == 0:
            gradients = {f"gradient.{key}.lora_{half}.weight": w.grad.clone() for key, pair in layers.items() for w, half in zip(pair, ("down", "up"))}
        torch.nn.utils.clip_grad_norm_(params, float(settings["clip"]))
        optimiser.step()
        losses.append(loss.item())
        keep = 0 if k == 0 else min(ema, k / (9 + k))
        with torch.no_grad():
            for key, pair in layers.items():
                for a, w in zip(average[key], pair):
                    a.mul_(keep).add_(w, alpha=1 - keep)
    pipe.unet.unload_lora()
    assert all(math.isfinite(x) for x in losses)
    print(f"{method}, ema {ema}: losses {' '.join(f'{x:.6f}' for x in losses)}")
    return {"timesteps": times.int(), "guidance": guidance, "empty": empty, "losses": torch.tensor(losses)} | gradients


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for model, targets, ema in (("mini-sd1", "attn", 0.9), ("mini-odd", "all", 0), ("mini-sdxl", "attn-mlp", 0)):
        path = os.path.join(args.data, f"{model}.train-{targets}.safetensors")
        with safe_open(path, "pt") as f:
            settings, given = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
        pipe = ref.load_pipeline(os.path.join(args.data, model))
        for method in ("lcm", "cfg"):
            out = run(pipe, given, method, ema, args.seed, settings, targets)
            small = {k: v.contiguous() for k, v in out.items() if method == "lcm" and model == "mini-sd1" or not k.startswith("gradient.")}
            save_file(small, os.path.join(args.data, f"{model}.distill-{method}.safetensors"),
                      metadata={"targets": targets, "ema": str(ema), "skip": str(1000 // GRID), "huber_c": str(HUBER_C), "steps": str(STEPS)})


if __name__ == "__main__":
    main()
