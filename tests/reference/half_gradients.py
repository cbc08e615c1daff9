#!/usr/bin/env python3
"""How far torch's own gradients are off when it trains in half precision: what a training golden's in double are held against.

    venv/bin/python tests/reference/half_gradients.py --model assets/model --golden tests/data/demo.train-attn.safetensors

Prints, for autocast to f16 and to bf16 and for a UNet of half floats, the worst and the median layer's error, each as a
share of that layer's largest gradient. Start, latents, noise, times and context are the golden's; the loss is scaled by 4096.
"""
import statistics

import torch

import double_gradients as double
import reference as ref

LOSS_SCALE = 4096.0


def answer(unet, kind, *inputs):
    if kind == "half":
        return unet.half()(inputs[0].half(), inputs[1], inputs[2].half()).sample
    with torch.autocast("cpu", dtype=torch.float16 if kind == "autocast f16" else torch.bfloat16):
        return unet(*inputs).sample


def main():
    args = double.arguments(__doc__, "NAME.train-TARGETS.safetensors with gradients in double")
    for kind in ("autocast f16", "autocast bf16", "half"):
        tensors, _, pipe, halves = double.golden_run(args)
        times = tensors["timesteps"][0].long()
        noised, target = ref.training_target(pipe, tensors["latents"][0], tensors["noise"][0], times)
        predicted = answer(pipe.unet, kind, noised, times, tensors["context"])
        (torch.nn.functional.mse_loss(predicted.float(), target) * LOSS_SCALE).backward()
        errors = []
        for name, half in halves.items():
            want = tensors["gradient." + name]
            errors.append((float((want - half.grad.float() / LOSS_SCALE).abs().max() / want.abs().max()), name))
        print(f"{kind}: worst {max(errors)[0]:.3f}, {max(errors)[1]}; median {statistics.median(e for e, _ in errors):.4f}")


if __name__ == "__main__":
    main()
