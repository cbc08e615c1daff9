#!/usr/bin/env python3
"""What `atelier train` writes for new words, read by diffusers, draws there what atelier draws:

    the word alone (--kind none)            load_textual_inversion
    word and whole weights (--kind full)    the same from FILE-words.safetensors, and W + diff by kohya's names, as LyCORIS adds it

    python tests/reference/check_words.py [--atelier build/atelier] [--config mini-sd1]
"""
import argparse
import os
import subprocess
import tempfile

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import reference as ref

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data")
PROMPT, NEGATIVE, SEED, GUIDANCE, STEPS = "a drawing of <new1>, and a small house", "blue rain", 5, 5.0, 6


def run(atelier, *words):
    subprocess.run([atelier, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def train(atelier, model, work, name, *options):
    data, out = os.path.join(work, "data"), os.path.join(work, name + ".safetensors")
    if not os.path.isdir(data):
        os.mkdir(data)
        noise = np.random.default_rng(3).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(os.path.join(data, "0.png"))
    run(atelier, "train", "--model", model, "--data", data, "--caption", "a photo of <new1>", "--token", "<new1>=the", "--token-vectors", 2,
        "--steps", 5, "--batch", 2, "--lr", 0.02, "--dtype", "f32", "--out", out, *options)
    return out


def compare(atelier, model, pipe, work, what, *options):
    trace = os.path.join(work, "trace.safetensors")
    h, w = ref.default_latent_size(pipe)
    scale = pipe.vae_scale_factor
    run(atelier, "generate", "--model", model, "--prompt", PROMPT, "--negative", NEGATIVE, "--seed", SEED, "--cfg", GUIDANCE, "--steps", STEPS,
        "--width", w * scale, "--height", h * scale, "--trace", trace, "--out", os.path.join(work, "p.png"), *options)
    got = load_file(trace)[f"latents_{STEPS:03d}"][0]
    trail, _ = ref.draw(pipe, "ddim", PROMPT, NEGATIVE, SEED, (h, w), GUIDANCE, STEPS)
    plain, _ = ref.draw(ref.load_pipeline(model), "ddim", PROMPT, NEGATIVE, SEED, (h, w), GUIDANCE, STEPS)
    error, effect = (got - trail[-1]).abs().max().item(), (plain[-1] - trail[-1]).abs().max().item()
    good = error < 1e-3 < effect
    print(f"{what}: latents differ by {error:.1e} from diffusers', which the file moved by {effect:.1e}: {'ok' if good else 'WRONG'}")
    return good


def add_diffs(unet, path):
    names = {ref.kohya_name(n): m for n, m in unet.named_modules()}
    diffs = {k[:-5]: v for k, v in load_file(path).items() if k.endswith(".diff")}
    assert diffs and set(diffs) <= set(names)
    with torch.no_grad():
        for key, diff in diffs.items():
            names[key].weight += diff.reshape(names[key].weight.shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atelier", default=os.path.join(HERE, "..", "..", "build", "atelier"))
    parser.add_argument("--config", default="mini-sd1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = os.path.join(DATA, args.config)
    with tempfile.TemporaryDirectory() as work:
        word = train(args.atelier, model, work, "word", "--kind", "none")
        pipe = ref.load_pipeline(model)
        pipe.load_textual_inversion(word)
        good = compare(args.atelier, model, pipe, work, "the word alone", "--embedding", word)
        full = train(args.atelier, model, work, "full", "--kind", "full", "--targets", "all")
        pipe = ref.load_pipeline(model)
        pipe.load_textual_inversion(full.replace(".safetensors", "-words.safetensors"))
        add_diffs(pipe.unet, full)
        good &= compare(args.atelier, model, pipe, work, "word and whole weights", "--lora", full)
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
