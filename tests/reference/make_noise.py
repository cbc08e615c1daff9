"""Writes tests/data/noise.safetensors: offset, pyramid and perturbed noise by torch, for tests/test_noise.c.

    python tests/reference/make_noise.py [--seed 5] [--out tests/data/noise.safetensors]

Arithmetic after kohya's scripts; random numbers from torch's generator in the order that diffusion/noise.c draws them,
over [n,h,w,c]. A case's name is its key in the file; its settings are in the metadata.
"""
import argparse
import json

import torch
from safetensors.torch import save_file

CASES = {
    "offset": dict(offset=0.1),
    "offset_adaptive": dict(offset=0.05, offset_adaptive=-0.04),
    "offset_random": dict(offset=0.2, offset_adaptive=0.3, offset_random=True),
    "pyramid": dict(pyramid_iterations=6, pyramid_discount=0.3),
    "pyramid_deep": dict(pyramid_iterations=10, pyramid_discount=0.8),
    "both": dict(offset=0.1, pyramid_iterations=3, pyramid_discount=0.5),
    "perturbation": dict(perturbation=0.1),
    "perturbation_random": dict(perturbation=0.3, perturbation_random=True),
}
SHAPES = [(2, 9, 13, 4), (1, 16, 16, 4)]


def offset(noise, latents, p, g):
    strength = p["offset"] * (torch.rand(1, generator=g) if p.get("offset_random") else 1.0)
    if p.get("offset_adaptive"):
        mean = latents.mean(dim=(1, 2), keepdim=True).abs()
        strength = torch.clamp(strength + p["offset_adaptive"] * mean, min=0.0)
    n, _, _, c = noise.shape
    shift = torch.stack([torch.randn(c, generator=g) for _ in range(n)]).reshape(n, 1, 1, c)
    return noise + strength * shift


def pyramid(noise, p, g):
    n, h, w, c = noise.shape
    up = torch.nn.Upsample(size=(h, w), mode="bilinear")
    for i in range(p["pyramid_iterations"]):
        r = torch.rand(1, generator=g).double().item() * 2 + 2
        fh, fw = max(1, int(h / r**i)), max(1, int(w / r**i))
        field = torch.randn(n, fh, fw, c, generator=g)
        noise = noise + up(field.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) * p["pyramid_discount"] ** i
        if fh == 1 or fw == 1:
            break
    return noise / noise.std()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", default="tests/data/noise.safetensors")
    args = parser.parse_args()
    out, meta = {}, {"seed": str(args.seed)}
    for k, (name, p) in enumerate(CASES.items()):
        for j, shape in enumerate(SHAPES):
            key, g = f"{name}.{j}", torch.Generator().manual_seed(args.seed + 10 * k + j)
            latents, noise = torch.randn(shape, generator=g) + 0.5, torch.randn(shape, generator=g)
            out[key + ".latents"], out[key + ".noise"] = latents, noise.clone()
            g.manual_seed(args.seed + 1000 + 10 * k + j)
            if "offset" in p:
                noise = offset(noise, latents, p, g)
            if "pyramid_iterations" in p:
                noise = pyramid(noise, p, g)
            if "perturbation" in p:
                strength = p["perturbation"] * (torch.rand(1, generator=g) if p.get("perturbation_random") else 1.0)
                noise = noise + strength * torch.randn(shape, generator=g)
            out[key + ".result"] = noise.contiguous()
            meta[key] = json.dumps(dict(p, seed=args.seed + 1000 + 10 * k + j))
    save_file(out, args.out, meta)


if __name__ == "__main__":
    main()
