#!/usr/bin/env python3
"""What the measure of style_measure.py gives simple pictures instead of a LoRA's: white, the mean of the folder, the base
model's own pictures, and their silhouettes as borders and areas of several greys. --pictures is the folder that
style_measure.py filled. With --icons also what a faultless change of style would get that starts from the flat style's own
artist: a black border, and black where the drawing is dark. docs/style.md has the figures."""
import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "demo_model"))
from style_measure import ROOT, read_rgb, rmse  # noqa: E402


def erode(mask):
    """One pixel less on every side."""
    m = np.pad(mask, 1)
    return mask & m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:]


def painted(mask, ink):
    """White with `ink` (0..1) of black where the mask is."""
    return np.repeat(255 - 255 * ink * mask[..., None].astype(np.float64), 3, 2)


def inside(picture):
    """What white from the picture's edge does not reach: float [64, 64, 3] -> bool [64, 64]."""
    page = Image.fromarray(np.where(picture.min(2) < 242, 0, 255).astype(np.uint8))
    page = ImageOps.expand(page, 1, 255)
    ImageDraw.floodfill(page, (0, 0), 128)
    return np.asarray(page)[1:-1, 1:-1] != 128


def restyled(picture, width):
    """The drawing in black: a border of `width` pixels, and whatever is dark."""
    mask = inside(picture)
    core = mask
    for _ in range(width):
        core = erode(core)
    dark = picture @ [0.299, 0.587, 0.114] < 128
    return painted(mask & (dark | ~core), 1.0)


def flat_artist(icons_dir, count):
    """The flat set's own drawings of the captions kept out."""
    from data import draw_icon, load_icons
    icons, _ = load_icons(icons_dir, "fluent-emoji-flat")
    names = (ROOT / "assets" / "styles" / "heldout-names.txt").read_text().split("\n")[:count]
    return [np.asarray(Image.fromarray(draw_icon(icons, n.replace(" ", "-"))).resize((64, 64), Image.BOX), np.float64) for n in names]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", choices=["outline", "ink"])
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--icons", help="node_modules folder with @iconify-json/fluent-emoji-flat")
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
    if args.icons:
        artist = flat_artist(args.icons, args.count)
        line("the flat style's artist", artist)
        for width in (2, 3, 4):
            line(f"the same in black, border of {width}", [restyled(p, width) for p in artist])


if __name__ == "__main__":
    main()
