#!/usr/bin/env python3
"""Makes tests/data/tiny.safetensors: a narrow TAESD decoder with random weights and what diffusers makes of it."""
import argparse
import os

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "data"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    vae = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()
    with torch.no_grad():
        for p in vae.parameters():
            p.copy_((torch.randn(p.shape) * (1.2 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.1)).half().float())
        latents = torch.randn(1, 4, 4, 6) * 2
        image = vae.decode(latents).sample
        vae.decoder.layers[18].weight.mul_(0.5 / image.std())
        vae.decoder.layers[18].weight.copy_(vae.decoder.layers[18].weight.half().float())
        image = vae.decode(latents).sample
    state = {k: v.half() for k, v in vae.state_dict().items() if k.startswith("decoder.")}
    save_file(dict(state), os.path.join(args.out, "tiny.safetensors"), metadata={"format": "pt"})
    # The author's names: one up, the first layer clamps.
    bare = {f"{int(k.split('.')[2]) + 1}.{k.split('.', 3)[3]}": v for k, v in state.items()}
    save_file(bare, os.path.join(args.out, "tiny-bare.safetensors"), metadata={"format": "pt"})
    save_file({"latents": latents, "image": image.contiguous()}, os.path.join(args.out, "tiny.golden.safetensors"))
    print("image std", image.std().item())


if __name__ == "__main__":
    main()
