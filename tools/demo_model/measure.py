"""Measure the demo model: names found again, and how well the VAE keeps held-out drawings.

Of --count captions, drawn at random from those trained (seeded), each is drawn once;
the answer counts as found if a drawing of the asked name, in either set, is among the
five nearest of all drawings of both sets (3,277, most of them of names never trained),
by Euclidean distance of 32x32 RGB averages.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from common import load_drawings, trained_indices
from sample import Sampler
from train_vae import psnr, split_drawings


def small(images):
    """uint8 [n, 128, 128, 3] as float rows of 32x32 averages."""
    return images.reshape(len(images), 32, 4, 32, 4, 3).astype(np.float32).mean((2, 4)).reshape(len(images), -1)


def nearest_names(pictures, images, drawings, count):
    """For each picture the names of the nearest drawings, best first."""
    known, asked = small(images), small(np.stack([np.asarray(p) for p in pictures]))
    distance = (known ** 2).sum(1)[None] - 2 * asked @ known.T
    return [[drawings[k]["name"] for k in row] for row in np.argsort(distance, 1)[:, :count]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder that data.py wrote")
    parser.add_argument("--model", required=True, help="pipeline folder")
    parser.add_argument("--unet", help="folder with unet/ and text_encoder/ to measure instead")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--half", action="store_true", help="run the UNet in bf16, for a quick look")
    parser.add_argument("--no-vae", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    drawings = load_drawings(args.data)
    images = np.load(Path(args.data) / "images.npy")
    result = {"captions": args.count, "steps": args.steps, "cfg": args.cfg, "seed": args.seed}
    if not args.no_vae:
        vae = AutoencoderKL.from_pretrained(args.model, subfolder="vae", torch_dtype=torch.float32)
        kept, held = split_drawings(len(images))
        result["vae_held_out_db"] = round(psnr(vae, images, held), 2)
        result["vae_trained_db"] = round(psnr(vae, images, kept[:128]), 2)
    chosen = np.random.RandomState(args.seed).permutation(trained_indices(drawings))[:args.count]
    sampler = Sampler(args.model, args.unet, torch.bfloat16 if args.half else torch.float32)
    start = time.time()
    pictures = sampler.draw([drawings[i]["caption"] for i in chosen], args.seed * 1000, args.steps, args.cfg)
    near = nearest_names(pictures, images, drawings, 5)
    names = [drawings[i]["name"] for i in chosen]
    result["found_first"] = sum(n == row[0] for n, row in zip(names, near))
    result["found_in_five"] = sum(n in row for n, row in zip(names, near))
    result["missed"] = [drawings[i]["caption"] for i, n, row in zip(chosen, names, near) if n not in row]
    result["seconds"] = round(time.time() - start)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
