#!/usr/bin/env python3
"""Draws with an LCM-LoRA by diffusers (LCMScheduler, TCDScheduler) and by build/atelier and compares the pictures.

    venv/bin/python tests/reference/check_lcm.py --lora assets/loras/lcm.safetensors [--style FILE:0.8]

Fails below 45 dB, which is about one level of 255 on average. The noise of the steps comes from one generator in both.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import LCMScheduler, TCDScheduler
from PIL import Image

import reference as ref

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
CASES = [("lcm", 1, 1.0), ("lcm", 2, 1.0), ("lcm", 4, 1.0), ("lcm", 8, 1.0), ("lcm", 4, 1.5), ("lcm", 4, 2.0), ("tcd", 4, 1.0), ("tcd", 8, 1.5)]
PROMPT, SEED = "red apple, flat", 5


def theirs(pipe, sampler, steps, cfg):
    config = {k: v for k, v in pipe.scheduler_config.items() if k in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type",
                                                                      "set_alpha_to_one", "steps_offset")}
    # As pipelines have it: what model folders say of clipping is for other schedulers.
    pipe.scheduler = {"lcm": LCMScheduler, "tcd": TCDScheduler}[sampler].from_config(config | {"clip_sample": False})
    return pipe(PROMPT, negative_prompt="", num_inference_steps=steps, guidance_scale=cfg, eta=0.3,  # tcd's own default; lcm has none
                generator=torch.Generator().manual_seed(SEED), output_type="np").images[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.path.join(ROOT, "assets/model"))
    parser.add_argument("--atelier", default=os.path.join(ROOT, "build/atelier"))
    parser.add_argument("--lora", required=True)
    parser.add_argument("--style", help="a second LoRA, FILE:STRENGTH")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = ref.load_pipeline(args.model)
    pipe.load_lora_weights(args.lora, adapter_name="lcm")
    names, weights, loras = ["lcm"], [1.0], ["--lora", args.lora]
    if args.style:
        path, strength = args.style.rsplit(":", 1)
        pipe.load_lora_weights(path, adapter_name="style")
        names, weights, loras = names + ["style"], weights + [float(strength)], loras + ["--lora", args.style]
    pipe.set_adapters(names, weights)
    worst = np.inf
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "a.png")
        for sampler, steps, cfg in CASES:
            subprocess.run([args.atelier, "generate", "--model", args.model, "--prompt", PROMPT, "--seed", str(SEED), "--sampler", sampler, "--steps",
                            str(steps), "--cfg", str(cfg), "--out", out, "--quiet"] + loras, check=True, stdout=subprocess.DEVNULL)
            mine = np.asarray(Image.open(out).convert("RGB"), dtype=np.float64)
            other = np.round(theirs(pipe, sampler, steps, cfg) * 255)
            psnr = 10 * np.log10(255 ** 2 / max(1e-12, ((mine - other) ** 2).mean()))
            worst = min(worst, psnr)
            print(f"{sampler}, {steps} steps, cfg {cfg}: {psnr:.1f} dB")
    sys.exit(f"{worst:.1f} dB is less than 45" if worst < 45 else 0)


if __name__ == "__main__":
    main()
