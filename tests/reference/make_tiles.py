#!/usr/bin/env python3
"""What diffusers' VAE makes of a picture and of latents in tiles (enable_tiling): tests/data/vae-tiles.safetensors, from
the VAE of tests/data/mini-sd1 with tiles of 64 pixels.

    make_tiles.py [--seed N] [--out FILE]
"""
import argparse
import os

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", default=os.path.join(DATA, "vae-tiles.safetensors"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(os.path.join(DATA, "mini-sd1", "vae"), torch_dtype=torch.float32).eval()
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 64, 8
    # 20 x 13 latents: inner tiles, and last ones of 8, 2 and 1 rows and columns
    image = torch.rand(1, 3, 104, 160, generator=generator) * 2 - 1
    latents = torch.randn(1, 4, 13, 20, generator=generator)
    moments = vae.encode(image).latent_dist.parameters
    save_file({"image": image, "latents": latents, "moments": moments.contiguous(), "decoded": vae.decode(latents).sample.contiguous()},
              args.out)


main()
