#!/usr/bin/env python3
"""Random LoRA files and what their merges are, for tests/test_lora_merge.c.

    python tests/reference/make_mergers.py [--seed 11] [--model tests/data/mini-sd1] [--out tests/data/mergers]

first.safetensors and second.safetensors share some layers; alpha is not the rank. golden.safetensors holds each merge's
change of weight, flattened to [out, in*k*k], as METHOD/LAYER, and those of first.safetensors resized. The changes before the cut are peft's own functions
(peft.utils.merge_utils), called layer by layer in the order of the layers' paths as add_weighted_adapter's svd types do
(a merge's cut is torch.linalg.svd, as there). Files in f32.
"""
import argparse
import os

import torch
from peft.utils.merge_utils import dare_linear, magnitude_prune, task_arithmetic, ties
from safetensors.torch import load_file, save_file

B = "down_blocks.0.attentions.0."
T = B + "transformer_blocks.0."
LAYERS = {"first": [T + "attn1.to_q", T + "attn2.to_k", T + "ff.net.2", "down_blocks.0.resnets.0.conv1", B + "proj_in"],
          "second": [T + "attn1.to_q", T + "attn2.to_k", "down_blocks.0.resnets.0.conv1", T + "attn1.to_v"]}
RANK = {"first": (4, 2.0), "second": (3, 4.5)}
WEIGHTS = {"first": 0.8, "second": -0.6}
CUT, DENSITY, SEED = 3, 0.4, 5


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--model", default=os.path.join(here, "../data/mini-sd1"))
    parser.add_argument("--out", default=os.path.join(here, "../data/mergers"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(args.out, exist_ok=True)
    base = load_file(os.path.join(args.model, "unet/diffusion_pytorch_model.safetensors"))
    generator = torch.Generator().manual_seed(args.seed)
    deltas = {}
    for name, layers in LAYERS.items():
        rank, alpha = RANK[name]
        tensors = {}
        for layer in layers:
            shape = base[layer + ".weight"].shape
            down = torch.randn(rank, *shape[1:], generator=generator)
            up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
            key = "lora_unet_" + layer.replace(".", "_")
            tensors |= {key + ".lora_down.weight": down, key + ".lora_up.weight": up, key + ".alpha": torch.tensor(alpha)}
            deltas[name, layer] = up.flatten(1).double() @ down.flatten(1).double() * alpha / rank
        save_file(tensors, os.path.join(args.out, name + ".safetensors"))
    golden = {}
    methods = {"sum": (task_arithmetic, ()), "ties": (ties, (DENSITY,)), "dare": (dare_linear, (DENSITY,)),
               "magnitude": (magnitude_prune, (DENSITY,))}
    for method, (function, extra) in methods.items():
        torch.manual_seed(SEED)
        for layer in sorted({l for _, l in deltas}):
            of = [n for n in LAYERS if (n, layer) in deltas]
            # f32 as in peft: a uniform number per element is drawn in f32
            whole = function([deltas[n, layer].float() for n in of], torch.tensor([WEIGHTS[n] for n in of]), *extra)
            u, s, v = torch.linalg.svd(whole.double(), full_matrices=False)
            golden[f"{method}/{layer}"] = whole
            golden[f"{method}-cut/{layer}"] = ((u[:, :CUT] * s[:CUT]) @ v[:CUT]).float()
            if method == "sum":
                golden[f"sigma/{layer}"] = s.float()
    for layer in LAYERS["first"]:
        u, s, v = torch.linalg.svd(deltas["first", layer], full_matrices=False)
        fro = int(torch.searchsorted((s**2).cumsum(0) / (s**2).sum(), 0.8**2)) + 1
        for name, rank in (("resize", CUT), ("resize-fro", fro)):
            golden[f"{name}/{layer}"] = ((u[:, :rank] * s[:rank]) @ v[:rank]).float()
    save_file({k: v.contiguous() for k, v in golden.items()}, os.path.join(args.out, "golden.safetensors"))


if __name__ == "__main__":
    main()
