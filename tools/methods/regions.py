#!/usr/bin/env python3
"""Regions: does each box hold what its prompt asks for, and does a LoRA stay in its box?

Pictures of 256x128 with two boxes of 128x128, a name in each, every name drawn by lot beforehand (PAIRS); by
--region-method attention, by predictions, and with one prompt that names both and no regions.

1. Found: a box counts if, of the 16 names drawn alone (two seeds each), its own is nearest by subject_distance. Also the
   distance to it.
2. A LoRA (the outline style, assets/recipes/style.json on assets/styles/outline, 300 steps) in the left box only: how much the left
   and the right box change against the same picture without it (picture_distance, 0..255), and how far the left box is
   from the style's pictures (style_distance).
"""
import subprocess
import sys
import time

import numpy as np
from PIL import Image, ImageDraw

import measure

PAIRS = [("red apple", "penguin"), ("guitar", "sunflower"), ("rocket", "house"), ("umbrella", "owl"), ("mushroom", "sailboat"),
         ("cactus", "teapot"), ("strawberry", "elephant"), ("crown", "butterfly")]
METHODS = ("attention", "predictions")
SIZE = ("--width", "256", "--height", "128")
BOXES = ("0,0,128,128", "128,0,128,128")


def halves(path):
    rgb = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255
    return rgb[:, :128], rgb[:, 128:]


def regions(pair, left="", suffix=", flat"):
    """Options for a pair of names; left goes behind the left prompt."""
    texts = (pair[0] + suffix + left, pair[1] + ", flat")
    return [word for box, text in zip(BOXES, texts) for word in ("--region", f"{box}:{text}")]


def draw_pairs(studio, args):
    pictures = {"one prompt": [studio.draw(f"plain-{k}", [f"{a} and {b}, flat"], args.seeds, options=SIZE)[0] for k, (a, b) in enumerate(PAIRS)]}
    for method in METHODS:
        pictures[method] = [studio.draw(f"{method}-{k}", [f"{a} and {b}, flat"], args.seeds,
                                        options=[*SIZE, "--region-method", method, *regions((a, b))])[0] for k, (a, b) in enumerate(PAIRS)]
    return pictures


def found(studio, args, pictures):
    names = [name for pair in PAIRS for name in pair]
    alone = studio.draw("alone", [f"{name}, flat" for name in names], 2)
    known = {name: [measure.subject_features(measure.read(p)) for p in row] for name, row in zip(names, alone)}
    for method, rows in pictures.items():
        hits, far = [], []
        for pair, row in zip(PAIRS, rows):
            for path in row:
                for name, half in zip(pair, halves(path)):
                    features = measure.subject_features(half)
                    distance = {other: measure.subject_distance(features, refs) for other, refs in known.items()}
                    hits.append(min(distance, key=distance.get) == name)
                    far.append(distance[name])
        mean, error = measure.mean_error(far)
        print(f"found, {method}: {sum(hits)} of {len(hits)} boxes, distance {mean:.3f} ± {error:.3f}", flush=True)


def style(studio, args):
    pairs = PAIRS[:args.styled]
    lora = args.lora or studio.train("outline", "--config", measure.ROOT / "assets/recipes/style.json", "--data",
                                     measure.ROOT / "assets/styles/outline", "--seed", args.seed)
    artist = measure.mean_features([measure.style_features(p) for p in measure.read_folder(measure.ROOT / "assets/styles/outline")])
    name = f"<lora:{lora.stem}:1>"
    pictures = {}
    for method in METHODS:
        cases = {"without": ("", ()), "left": (" " + name, ("--lora-dir", str(lora.parent)))}
        for case, (tag, more) in cases.items():
            rows = [studio.draw(f"style-{method}-{case}-{k}", [f"{a} and {b}, flat"], args.seeds, options=[*SIZE, "--region-method", method,
                                *regions((a, b), tag, ", flat outline"), *more])[0] for k, (a, b) in enumerate(pairs)]
            pictures[method, case] = [path for row in rows for path in row]
        change = [[measure.picture_distance(x, y) for x, y in zip(halves(p), halves(q))]
                  for p, q in zip(pictures[method, "left"], pictures[method, "without"])]
        inside, outside = (measure.mean_error([c[k] for c in change]) for k in (0, 1))
        print(f"LoRA left, {method}: left changes by {inside[0]:.1f} ± {inside[1]:.1f}, right by {outside[0]:.1f} ± {outside[1]:.1f}", flush=True)
        far = [[measure.style_distance(halves(p)[0], artist) for p in pictures[method, case]] for case in ("without", "left")]
        print(f"left to the style, {method}: {np.mean(far[0]):.3f} without, {np.mean(far[1]):.3f} with; nearer by "
              "{:.3f} ± {:.3f}".format(*measure.paired(*far)[:2]), flush=True)
    return pictures


def show(path, rows, labels):
    """Rows of wide pictures under their labels."""
    tiles = [[Image.open(p).convert("RGB").resize((192, 96), Image.LANCZOS) for p in row] for row in rows]
    page = Image.new("RGB", (max(len(r) for r in rows) * 196, len(rows) * 114), "white")
    draw = ImageDraw.Draw(page)
    for i, row in enumerate(tiles):
        draw.text((2, i * 114 + 2), labels[i], fill="black")
        for k, tile in enumerate(row):
            page.paste(tile, (k * 196, i * 114 + 15))
    page.save(path, optimize=True)


def seconds(studio, args, pair):
    """What one picture takes, start included, by method: the least of three runs."""
    for method in METHODS:
        least = min(timed(studio, ["--region-method", method, *regions(pair)]) for _ in range(3))
        print(f"time, {method}: {least:.1f} s", flush=True)


def timed(studio, options):
    start = time.monotonic()
    subprocess.run([studio.atelier, "generate", "--model", studio.model, "--prompt", ", flat", "--steps", "12", *SIZE, *options,
                    "--out", str(studio.work / "timed.png")], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def main():
    parser = measure.arguments(__doc__, "regions")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--styled", type=int, default=3, help="pairs for the LoRA")
    parser.add_argument("--lora", type=measure.Path, help="an outline LoRA that is there already")
    parser.add_argument("--style-sheet", help="contact sheet of the LoRA")
    parser.add_argument("--time", action="store_true", help="also time the methods")
    args = parser.parse_args()
    studio = measure.Studio(args.work, args.atelier, args.model, args.steps, args.cfg)
    pictures = draw_pairs(studio, args)
    if args.sheet:
        show(args.sheet, [[row[0] for row in pictures[m][:5]] for m in pictures], [m if m == "one prompt" else "regions by " + m for m in pictures])
    found(studio, args, pictures)
    styled = style(studio, args)
    if args.style_sheet:
        show(args.style_sheet, [styled[key][::args.seeds] for key in styled], [f"by {m}, LoRA " + {"without": "nowhere", "left": "in the left box"}[c]
                                                                    for m, c in styled])
    if args.time:
        seconds(studio, args, PAIRS[0])


if __name__ == "__main__":
    sys.exit(main())
