#!/usr/bin/env python3
"""What the measure of style_measure.py gives simple pictures instead of a LoRA's: white, the mean of the folder, the base
model's own pictures, and their silhouettes as borders and areas of several greys. --pictures is the folder that
style_measure.py filled. docs/style.md has the figures."""
import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from style_measure import ROOT, read_rgb, rmse  # noqa: E402


def erode(mask):
    """One pixel less on every side."""
    m = np.pad(mask, 1)
    return mask & m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:]


def painted(mask, ink):
    """White with `ink` (0..1) of black where the mask is."""
    return np.repeat(255 - 255 * ink * mask[..., None].astype(np.float64), 3, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", choices=["outline", "ink"])
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--count", type=int, default=60)
    args = parser.parse_args()
    truth = [read_rgb(ROOT / "tools" / "style_truth" / args.style / f"{i:02d}.png") for i in range(args.count)]
    base = [read_rgb(Path(args.pictures) / "base" / f"{i:02d}.png") for i in range(args.count)]
    shown = [read_rgb(p) for p in sorted((ROOT / "assets" / "styles" / args.style).glob("*.png"))]
    masks = [b.min(2) < 225 for b in base]
    borders = [m & ~erode(erode(m)) for m in masks]

    def line(name, pictures):
        print(f"{name:40} {np.mean([rmse(p, t) for p, t in zip(pictures, truth)]):.1f}")

    line("base model", base)
    line("white", [np.full_like(t, 255) for t in truth])
    line("mean of the folder", [np.mean(shown, 0)] * len(truth))
    for ink in (0.15, 0.5, 1.0):
        line(f"border of the silhouette, {ink:.0%} ink", [painted(m, ink) for m in borders])
        line(f"filled silhouette, {ink:.0%} ink", [painted(m, ink) for m in masks])


if __name__ == "__main__":
    main()
