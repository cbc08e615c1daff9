#!/usr/bin/env python3
"""Loads what `atelier convert` wrote with the libraries that it was written for.

    python tests/reference/check_convert.py --atelier build/atelier --data tests/data

Each golden file of tests/data/dialects is converted; diffusers reads files, peft folders; what they do to a layer must
be what the golden file says of the original, within 1e-4 of a layer's range.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import PeftModel
from safetensors.torch import load_file

import make_dialects as made

# Files whose modules differ in alpha are not checked as kohya's: diffusers 0.42 loses the pattern (and warns of it).
ROWS = [("mini-sd1", "kohya", "diffusers"), ("mini-sd1", "kohya", "peft"), ("mini-sd1", "diffusers-old", "kohya"),
        ("mini-sd1", "cloneofsimo-extended", "diffusers"), ("mini-sd1", "comfy", "kohya"), ("mini-sd1", "lycoris", "peft"),
        ("mini-sd1", "peft-unet", "diffusers"), ("mini-sdxl", "sdxl-kohya", "diffusers"), ("mini-sdxl", "sdxl-kohya", "peft"),
        ("mini-sdxl", "b-lora", "kohya")]


def read_by_library(golden, path, to):
    if to != "peft":
        return made.probes_by_diffusers(golden, path)
    pipe = golden.fresh()
    folders = [(n, os.path.join(path, n)) for n, _ in golden.parts(pipe) if os.path.isdir(os.path.join(path, n))] or [("unet", path)]
    for part, folder in folders:
        setattr(pipe, part, PeftModel.from_pretrained(getattr(pipe, part), folder).merge_and_unload())
    return made.probes_of(pipe)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--atelier", required=True)
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    goldens = {"mini-sd1": made.Golden("mini-sd1", StableDiffusionPipeline, options.data, 0, 2),
               "mini-sdxl": made.Golden("mini-sdxl", StableDiffusionXLPipeline, options.data, 0, 2)}
    failed = False
    for model, name, to in ROWS:
        base = os.path.join(options.data, "dialects", name)
        source = base if os.path.isdir(base) else base + ".safetensors"
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out" if to == "peft" else "out.safetensors")
            subprocess.run([options.atelier, "convert", source, "--to", to, "--model", os.path.join(options.data, model), "--out", out,
                            "--partial"], check=True, stdout=subprocess.DEVNULL)
            got = read_by_library(goldens[model], out, to)
        want = load_file(base + ".golden.safetensors")
        worst = max(float((got[k] - v).abs().max() / v.abs().max()) if k in got else 1.0 for k, v in want.items())
        bad = worst > 1e-4 or len(got) != len(want)
        failed |= bad
        print(f"{name} -> {to}: {len(got)} of {len(want)} layers, worst {worst:.2g}{' FAILED' if bad else ''}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
