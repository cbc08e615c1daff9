#!/usr/bin/env python3
"""Puts the gradients of a training golden in double precision: torch's own f32 ones are up to 1.6e-4 of the largest value off on
the demo model, where the gradients of a self-attention's queries and keys are small differences of large numbers.

    venv/bin/python tests/reference/double_gradients.py --model assets/model --golden tests/data/demo.train-attn.safetensors

Start, latents, noise, times and context are the golden's; whatever else it holds stays.
"""
import argparse
import os

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import make_goldens as goldens
import reference as ref


def arguments(doc, golden_help):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--golden", required=True, help=golden_help)
    return parser.parse_args()


def golden_run(args):
    """Tensors and metadata of the golden, the pipeline with its LoRA as the run started, and the LoRA's halves by name."""
    with safe_open(args.golden, "pt") as f:
        metadata = f.metadata()
    tensors, pipe = load_file(args.golden), ref.load_pipeline(args.model)
    layers = goldens.adapt(goldens.training_parts(pipe, metadata["targets"], False), torch.Generator().manual_seed(1))
    halves = {f"{key}.lora_{name}.weight": half for key, pair in layers.items() for half, name in zip(pair, ("down", "up"))}
    with torch.no_grad():
        for name, half in halves.items():
            half.copy_(tensors["start." + name])
    return tensors, metadata, pipe, halves


def main():
    args = arguments(__doc__, "NAME.train-TARGETS.safetensors, rewritten")
    tensors, metadata, pipe, halves = golden_run(args)
    pipe.unet.double()
    times = tensors["timesteps"][0].long()
    noised, target = ref.training_target(pipe, tensors["latents"][0], tensors["noise"][0], times)
    answer = pipe.unet(noised.double(), times, tensors["context"].double()).sample
    torch.nn.functional.mse_loss(answer, target.double()).backward()
    for name, half in halves.items():
        old, new = tensors["gradient." + name], half.grad.float()
        tensors["gradient." + name] = new
        print(f"{float((old - new).abs().max() / new.abs().max()):.1e} {name}")
    goldens.save(tensors, args.golden, metadata)


if __name__ == "__main__":
    main()
