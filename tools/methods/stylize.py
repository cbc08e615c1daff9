#!/usr/bin/env python3
"""A folder of pictures restyled with a style LoRA: docs/gallery/stylize.png and the rows of docs/methods.md.

    tools/methods/stylize.py [--styles ink,outline] [--work DIR] [--sheet FILE]

Trains a LoRA for each style with assets/recipes/style.json on assets/styles/STYLE, lets the model alone draw flat icons of
things that no style folder shows, writes their captions beside them, and restyles that folder with `atelier stylize` at
strengths 0.4, 0.6 and 0.8; each strength once more without the LoRA and its word, which says what of the change is the LoRA's.

Measured over the pictures (tools/methods/measure.py): style_distance to the style's own pictures and content_distance to the
source, both against the run without LoRA at the same strength. The goal: the style comes nearer by more than twice the standard
error at every strength.
"""
import shutil
import sys
from pathlib import Path

import measure

STRENGTHS = (0.4, 0.6, 0.8)
ASSETS = measure.ROOT / "assets"


def make_sources(studio, names):
    """Flat icons with captions beside them, as a user's folder would lie there."""
    folder = studio.work / "sources"
    folder.mkdir(exist_ok=True)
    drawn = studio.draw("drawn", [f"{name}, flat" for name in names])
    for name, paths in zip(names, drawn):
        target = folder / f"{name.replace(' ', '-')}.png"
        if not target.exists():
            shutil.copy(paths[0], target)
        target.with_suffix(".txt").write_text(f"{name}, flat\n")
    return folder, [folder / f"{name.replace(' ', '-')}.png" for name in names]


def stylize(studio, sources, name, strength, seed, *words):
    out = studio.work / name
    print(studio.run("stylize", "--model", studio.model, "--data", sources, "--out", out, "--strength", strength, "--steps", 20, "--cfg",
                     studio.cfg, "--seed", seed, *words).splitlines()[-1])
    return out


def main():
    parser = measure.arguments(__doc__, "stylize")
    parser.add_argument("--styles", default="ink,outline")
    args = parser.parse_args()
    studio = measure.Studio(args.work, args.atelier, args.model, args.steps, args.cfg)
    names = (ASSETS / "styles" / "heldout-names.txt").read_text().split("\n")[:24]
    names = [name for name in names if name]
    folder, sources = make_sources(studio, names)
    originals = [measure.read(path) for path in sources]
    bare = {}
    for s in STRENGTHS:
        out = stylize(studio, folder, f"bare-{s}", s, 1000)
        bare[s] = [measure.read(out / p.name) for p in sources]
    shown = [originals[:10]]
    down = ["source"]
    for style in args.styles.split(","):
        lora = studio.train(style, "--data", ASSETS / "styles" / style, "--config", ASSETS / "recipes" / "style.json", "--seed", args.seed)
        own = measure.mean_features([measure.style_features(p) for p in measure.read_folder(ASSETS / "styles" / style)])
        for s in STRENGTHS:
            out = stylize(studio, folder, f"{style}-{s}", s, 1000, "--prompt", f"{{caption}} {style}", "--lora", lora)
            pictures = [measure.read(out / p.name) for p in sources]
            shown.append(pictures[:10])
            down.append(f"{style}, --strength {s}")
            far = [[measure.style_distance(p, own) for p in group] for group in (originals, bare[s], pictures)]
            moved = [[measure.content_distance(p, [o]) for p, o in zip(group, originals)] for group in (bare[s], pictures)]
            gain, error, z = measure.paired(far[1], far[2])
            print(f"{style} strength {s}: style distance source {measure.mean_error(far[0])[0]:.3f}, "
                  f"without LoRA {measure.mean_error(far[1])[0]:.3f}, with {measure.mean_error(far[2])[0]:.3f}; "
                  f"nearer by {gain:.3f} +- {error:.3f} ({z:.1f} errors); content distance to the source "
                  f"without {measure.mean_error(moved[0])[0]:.3f}, with {measure.mean_error(moved[1])[0]:.3f}", flush=True)
    if args.sheet:
        measure.sheet(args.sheet, shown, [p.stem for p in sources[:10]], down, side=96, label=110)


if __name__ == "__main__":
    main()
