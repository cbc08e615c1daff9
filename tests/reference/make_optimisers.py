"""Writes tests/data/optimisers.safetensors: steps of the published optimisers, for tests/test_optimisers.c.

    python tests/reference/make_optimisers.py [--seed 7] [--out tests/data/optimisers.safetensors]

torch's AdamW, lion-pytorch, transformers' Adafactor, prodigyopt, schedulefree; two matrices of a LoRA of rank 6, given
gradients, a falling learning rate, clipping by torch. Needs prodigyopt, schedulefree and lion-pytorch.
"""
import argparse
import json

import torch
from lion_pytorch import Lion
from prodigyopt import Prodigy
from safetensors.torch import save_file
from schedulefree import AdamWScheduleFree
from transformers.optimization import Adafactor

STEPS = 16
CASES = {
    "adamw": dict(name="adamw", lr=1e-2, ratio=1, clip=0, weight_decay=0.01),
    "adamw_plus": dict(name="adamw", lr=1e-2, ratio=16, clip=1, weight_decay=0.01),
    "lion": dict(name="lion", lr=1e-3, ratio=4, clip=1, weight_decay=0.1),
    "schedule_free": dict(name="schedule-free", lr=1e-2, ratio=4, clip=1, weight_decay=0.01),
    "prodigy": dict(name="prodigy", lr=1, ratio=1, clip=0, weight_decay=0.01),
    "prodigy_usual": dict(name="prodigy", lr=1, ratio=1, clip=1, weight_decay=0.01, bias_correction=True, safeguard=True,
                          d_coef=2, growth=1.5),
    "adafactor": dict(name="adafactor", lr=1e-3, ratio=4, clip=0, weight_decay=0.01),
    "adafactor_relative": dict(name="adafactor", lr=1, ratio=1, clip=1, weight_decay=0, relative=True, scale=True),
}


def make(case, down, up):
    groups = [{"params": [down], "lr": case["lr"]}, {"params": [up], "lr": case["lr"] * case["ratio"]}]
    wd = case["weight_decay"]
    if case["name"] == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=wd)
    if case["name"] == "lion":
        return Lion(groups, betas=(0.9, 0.99), weight_decay=wd)
    if case["name"] == "schedule-free":
        return AdamWScheduleFree(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=wd)
    if case["name"] == "prodigy":
        return Prodigy([down, up], lr=1, weight_decay=wd, decouple=True, use_bias_correction=case.get("bias_correction", False),
                       safeguard_warmup=case.get("safeguard", False), d_coef=case.get("d_coef", 1),
                       growth_rate=case.get("growth", float("inf")))
    if case.get("relative"):
        return Adafactor([down, up], relative_step=True, scale_parameter=True, warmup_init=False)
    return Adafactor(groups, relative_step=False, scale_parameter=False, weight_decay=wd)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", default="tests/data/optimisers.safetensors")
    args = parser.parse_args()
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(args.seed)
    start = [torch.randn(6, 21, generator=g) * 0.2, torch.zeros(26, 6)]
    slope = [torch.randn(p.shape, generator=g) for p in start]  # a common direction, or Prodigy's estimate would not grow
    grads = [[(s + 0.5 * torch.randn(s.shape, generator=g)) * 10 ** (-torch.rand(1, generator=g)) for s in slope] for _ in range(STEPS)]
    rates = [1 - k / (2 * STEPS) for k in range(STEPS)]
    out, meta = {"start.down": start[0], "start.up": start[1]}, {"seed": str(args.seed), "steps": str(STEPS)}
    for k in range(STEPS):
        out[f"grad.{k}.down"], out[f"grad.{k}.up"] = grads[k]
    for name, case in CASES.items():
        params = [torch.nn.Parameter(p.clone()) for p in start]
        optimiser = make(case, *params)
        fixed = case["name"] == "schedule-free" or case.get("relative")
        base = [group["lr"] for group in optimiser.param_groups]
        if case["name"] == "schedule-free":
            optimiser.train()
        for k in range(STEPS):
            for p, grad in zip(params, grads[k]):
                p.grad = grad.clone()
            if case["clip"]:
                torch.nn.utils.clip_grad_norm_(params, case["clip"])
            for group, lr in zip(optimiser.param_groups, base):
                if not fixed:
                    group["lr"] = lr * rates[k]
            optimiser.step()
            out[f"{name}.{k}.down"], out[f"{name}.{k}.up"] = params[0].detach().clone(), params[1].detach().clone()
        if case["name"] == "schedule-free":
            optimiser.eval()
            out[f"{name}.judged.down"], out[f"{name}.judged.up"] = params[0].detach().clone(), params[1].detach().clone()
        meta[name] = json.dumps(dict(case, rates=[1] * STEPS if fixed else rates))
    save_file(out, args.out, meta)


if __name__ == "__main__":
    main()
