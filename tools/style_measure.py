#!/usr/bin/env python3
"""How near a style LoRA comes to how that style's artist draws things it never saw.

For every line of assets/styles/STYLE-heldout.txt `atelier generate` draws the
prompt with the same seed without the LoRA and with it; each picture is compared
with tools/style_truth/STYLE/NN.png as the root mean square error over 64x64 RGB
values in 0..255. Printed: the mean of both and by how many percent it falls.
--pictures measures pictures that exist already: DIR/base/NN.png and DIR/lora/NN.png.
--drawn measures, too, how differently the pictures are drawn than those of the style's folder, wherever
their strokes lie (style_distance of tools/methods/measure.py), for the artist's own as well.
"""
import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "methods"))
from measure import read, read_folder, style_distance  # noqa: E402
SIDE = 64


def read_rgb(path):
    """A picture as float [64, 64, 3]; larger ones are averaged down."""
    picture = Image.open(path).convert("RGB")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.BOX)
    return np.asarray(picture, dtype=np.float64)


def rmse(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


def generate(args, prompts, out, strength):
    """Draws every prompt into out/NN.png with `atelier generate`; existing pictures are kept."""
    out.mkdir(parents=True, exist_ok=True)
    for i, prompt in enumerate(prompts):
        path = out / f"{i:02d}.png"
        if path.exists():
            continue
        command = [args.atelier, "generate", "--model", args.model, "--prompt", prompt,
                   "--seed", str(args.seed + i), "--steps", str(args.steps), "--cfg", str(args.cfg),
                   "--sampler", "ddim", "--width", "128", "--height", "128", "--out", str(path)]
        if args.lora:
            command += ["--lora", f"{args.lora}:{strength}"]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{run.stdout}")


def sheet(prompts, folders, path, columns=6):
    """Truth, base and LoRA picture of every prompt beside each other."""
    rows = (len(prompts) + columns - 1) // columns
    page = Image.new("RGB", (columns * (3 * SIDE + 8), rows * (SIDE + 8)), "white")
    for i in range(len(prompts)):
        x, y = i % columns * (3 * SIDE + 8), i // columns * (SIDE + 8)
        for k, folder in enumerate(folders):
            page.paste(Image.fromarray(read_rgb(folder / f"{i:02d}.png").astype(np.uint8)), (x + k * SIDE, y))
    page.save(path)


def drawn(style, folders, count):
    """Mean distance of each folder's first pictures to the style's own."""
    references = read_folder(ROOT / "assets" / "styles" / style)
    return [float(np.mean([style_distance(read(folder / f"{i:02d}.png"), references) for i in range(count)])) for folder in folders]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("style", choices=["outline", "ink"])
    parser.add_argument("--lora", help="the LoRA to measure; drawn at strength 0 and --strength")
    parser.add_argument("--pictures", required=True, help="folder for base/NN.png and lora/NN.png, kept if there")
    parser.add_argument("--atelier", default=str(ROOT / "build" / "atelier"))
    parser.add_argument("--model", default=str(ROOT / "assets" / "model"))
    parser.add_argument("--strength", default="1", help="as in `atelier generate --lora FILE:STRENGTH`, such as 1@30-100%%")
    parser.add_argument("--seed", type=int, default=1000, help="line N of the prompts gets seed + N")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--count", type=int, default=60, help="measure the first COUNT prompts only")
    parser.add_argument("--sheet", help="PNG of truth, base and LoRA side by side")
    parser.add_argument("--drawn", action="store_true", help="also measure how the pictures are drawn; takes minutes")
    parser.add_argument("--least", type=float, default=20.0, help="fail if the error falls by less, in percent")
    args = parser.parse_args()

    prompts = (ROOT / "assets" / "styles" / f"{args.style}-heldout.txt").read_text().split("\n")[:-1][:args.count]
    truth = ROOT / "tools" / "style_truth" / args.style
    base, styled = Path(args.pictures) / "base", Path(args.pictures) / "lora"
    if args.lora:
        generate(args, prompts, base, 0)
        generate(args, prompts, styled, args.strength)
    before, after = [], []
    for i in range(len(prompts)):
        target = read_rgb(truth / f"{i:02d}.png")
        before.append(rmse(read_rgb(base / f"{i:02d}.png"), target))
        after.append(rmse(read_rgb(styled / f"{i:02d}.png"), target))
    fall = 100 * (1 - np.mean(after) / np.mean(before))
    nearer = sum(b > a for a, b in zip(after, before))
    print(f"{args.style}: {len(prompts)} captions kept out, RMSE to the artist {np.mean(before):.2f} without, "
          f"{np.mean(after):.2f} with the LoRA: falls by {fall:.1f}%; nearer in {nearer} of {len(prompts)}")
    if args.drawn:
        artist, without, with_lora = drawn(args.style, (truth, base, styled), len(prompts))
        print(f"{args.style}: drawn differently than the folder by {without:.3f} without, {with_lora:.3f} with the LoRA, "
              f"{artist:.3f} by the artist")
    if args.sheet:
        sheet(prompts, (truth, base, styled), args.sheet)
    return 0 if fall >= args.least else 1


if __name__ == "__main__":
    sys.exit(main())
