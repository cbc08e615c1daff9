#!/usr/bin/env python3
"""Distillation measured on the demo model: an LCM-LoRA, the same with a style LoRA, and a one-pass student.

    tools/methods/lcm.py [--lora FILE] [--one-pass FILE] [--style FILE] [--work DIR] [--sheet docs/gallery/lcm.png]

Without the files it makes them first: 1024 of the model's own pictures to teach with, then `atelier distill` and
`atelier train`. What exists under --work is kept, so an interrupted run goes on.

Measure 1, distance of two sets of pictures of the same 200 captions (lot of seed 0): Frechet distance between normal
distributions fitted to features of the two sets. Features of a picture: 16x16 mean colours and 16x16 mean absolute
slopes of lightness, each block divided by its standard deviation in the reference set, projected on the reference
set's 16 first principal components. The reference set is 50 steps of DDIM with guidance 4; the noise floor is another
such set with other seeds, of the first 20 captions, beside which the sets' own first 20 are given.

Measure 2, what a style LoRA does: the fall of measure.style_distance to the pictures of assets/styles/outline over 30
captions kept out of that folder, when the style LoRA is added. Kept part: that fall with the LCM-LoRA at 4 steps over
that fall of the model alone at 12 steps.

Measure 3, the one-pass student: mean PSNR to the guided pictures of the same seeds (12 steps, guidance 4) over 40
captions, beside that of pictures without guidance.
"""
import subprocess
import sys
from pathlib import Path

import numpy as np

import lcm_sets as sets
import measure as m

STYLE = m.ROOT / "assets" / "styles" / "outline"
COMPONENTS = 16
GUIDED = ["--cfg", 4]
LCM = ["--sampler", "lcm", "--cfg", 1]


# ---- Measures ----

def features(path):
    x = m.read(path)
    colours = m.shrink(x, 8).ravel()
    light = x @ [0.299, 0.587, 0.114]
    slopes = np.abs(np.diff(light, axis=1, append=light[:, -1:])) + np.abs(np.diff(light, axis=0, append=light[-1:]))
    return colours, m.shrink(slopes, 8).ravel()


class Reference:
    def __init__(self, paths):
        self.parts = [np.array(f) for f in zip(*[features(p) for p in paths])]
        self.scale = [p.std(0).mean() * np.sqrt(p.shape[1]) for p in self.parts]
        joined = self.join(self.parts)
        self.mean = joined.mean(0)
        self.basis = np.linalg.svd(joined - self.mean, full_matrices=False)[2][:COMPONENTS].T
        self.own = (joined - self.mean) @ self.basis

    def join(self, parts):
        return np.concatenate([p / s for p, s in zip(parts, self.scale)], axis=1)

    def project(self, paths):
        return (self.join([np.array(f) for f in zip(*[features(p) for p in paths])]) - self.mean) @ self.basis

    def distances(self, paths):
        """Of all pictures where there are 200, and of the first 20, each to as many of the reference set."""
        x = self.project(paths)
        return [frechet(self.own[:n], x[:n]) for n in (200, 20) if n <= len(paths)]


def frechet(a, b):
    ca, cb = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cb @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * shared)


def psnr(a, b):
    return 10 * np.log10(1 / max(1e-12, np.mean((m.read(a) - m.read(b)) ** 2)))


# ---- What is measured ----

class Work:
    def __init__(self, args):
        self.args, self.folder = args, Path(args.work)
        self.test, self.others = sets.captions()

    def draw(self, name, prompts, seed, *options):
        return sets.draw(self.args.atelier, str(self.folder / name), prompts, seed, options)

    def run(self, out, *command):
        if not out.exists():
            subprocess.run([self.args.atelier, *[str(c) for c in command], "--out", str(out)], check=True)
        return str(out)

    def teaching(self):
        folder = self.folder / "data"
        paths = self.draw("data", self.others, 5000, "--steps", 8, *GUIDED)
        for path, caption in zip(paths, self.others):
            Path(path).with_suffix(".txt").write_text(caption, encoding="utf-8")
        for listing in folder.glob("g[0-9][0-9].txt"):
            listing.unlink()
        return folder

    def distilled(self, given, name, *options):
        if given:
            return given
        return self.run(self.folder / name, "distill", "--model", self.args.model, "--data", self.teaching(), "--lr", 0.001,
                        "--lr-schedule", "cosine", "--guidance-min", 4, "--guidance-max", 4, *options)


def speed(w, lora):
    reference = Reference(w.draw("ref", w.test, 1000, "--steps", 50, *GUIDED))
    few = w.test[:20]
    rows = []
    for steps in (4, 2, 1):
        rows.append((f"model alone, {steps} steps, guidance 4", 2 * steps, w.draw(f"base{steps}", w.test, 3000, "--steps", steps, *GUIDED)))
    for steps in (4, 2, 1):
        rows.append((f"LCM-LoRA, {steps} steps", steps, w.draw(f"lcm{steps}", w.test, 3000, "--steps", steps, *LCM, "--lora", lora)))
    rows.append(("LCM-LoRA, 8 steps", 8, w.draw("lcm8", few, 3000, "--steps", 8, *LCM, "--lora", lora)))
    rows.append(("LCM-LoRA, 4 steps, guidance 1.5", 8, w.draw("lcm4-cfg", few, 3000, "--steps", 4, *LCM[:2], "--cfg", 1.5, "--lora", lora)))
    rows.append(("LCM-LoRA, sampler tcd, 4 steps", 4, w.draw("tcd4", few, 3000, "--steps", 4, "--sampler", "tcd", "--cfg", 1, "--lora", lora)))
    rows.append(("model alone, 4 steps, no guidance", 4, w.draw("plain4", w.test, 3000, "--steps", 4, "--cfg", 1)))
    rows.append(("model alone, other seeds, 50 steps (the noise floor)", 100, w.draw("floor", few, 2000, "--steps", 50, *GUIDED)))
    print("| pictures | evaluations each | distance, 200 | first 20 |\n|-|-|-|-|")
    for name, evaluations, paths in rows:
        d = reference.distances(paths)
        print(f"| {name} | {evaluations} | {f'{d[0]:.4f}' if len(d) > 1 else ''} | {d[-1]:.4f} |")


def style(w, lora, style_lora):
    captions = (m.ROOT / "assets/styles/outline-heldout.txt").read_text(encoding="utf-8").split("\n")[:30]
    pictures = m.mean_features([m.style_features(p) for p in m.read_folder(STYLE)])

    def distances(name, *options):
        return [m.style_distance(m.read(p), pictures) for p in w.draw(name, captions, 4000, *options)]

    full, fast = ["--steps", 12, *GUIDED], ["--steps", 4, *LCM, "--lora", lora]
    rows = {"model alone, 12 steps": (distances("style-without", *full), distances("style-with", *full, "--lora", style_lora)),
            "LCM-LoRA, 4 steps": (distances("style-lcm-without", *fast), distances("style-lcm-with", *fast, "--lora", style_lora))}
    print("\n| 30 captions | without style LoRA | with | falls by |\n|-|-|-|-|")
    falls = []
    for name, (without, with_style) in rows.items():
        fall = np.mean(without) - np.mean(with_style)
        falls.append(fall)
        print(f"| {name} | {np.mean(without):.4f} | {np.mean(with_style):.4f} | {fall:.4f} |")
    print(f"\nkept: {100 * falls[1] / falls[0]:.0f}% of the fall")


def one_pass(w, student):
    captions = w.test[:40]
    guided = w.draw("guided", captions, 6000, "--steps", 12, *GUIDED)
    print("\n| 40 captions, 12 steps | evaluations each | PSNR to the guided pictures |\n|-|-|-|")
    for name, paths in (("no guidance", w.draw("unguided", captions, 6000, "--steps", 12, "--cfg", 1)),
                        ("one-pass student", w.draw("one-pass", captions, 6000, "--steps", 12, "--cfg", 1, "--lora", student))):
        values = [psnr(a, b) for a, b in zip(paths, guided)]
        print(f"| {name} | 12 | {np.mean(values):.2f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f} dB |")


def picture_sheet(w, path):
    rows = [("50 steps, guidance 4: 100 evaluations", "ref"), ("4 steps, guidance 4: 8", "base4"), ("2 steps, guidance 4: 4", "base2"),
            ("LCM-LoRA, 4 steps: 4", "lcm4"), ("LCM-LoRA, 2 steps: 2", "lcm2"), ("LCM-LoRA, 1 step: 1", "lcm1")]
    which = range(0, 8)
    grid = [[w.folder / folder / f"g00-{i + 1:03d}.png" for i in which] for _, folder in rows]
    grid += [[w.folder / folder / f"g00-{i + 1:03d}.png" for i in which] for folder in ("style-with", "style-lcm-with")]
    labels = [name for name, _ in rows] + ["style LoRA, 12 steps, guidance 4: 24", "style LoRA and LCM-LoRA, 4 steps: 4"]
    m.sheet(path, grid, down=labels, side=88, label=150)


def main():
    parser = m.arguments(__doc__, "lcm")
    parser.add_argument("--lora", help="LCM-LoRA; distilled where it is not given")
    parser.add_argument("--one-pass", help="one-pass student, likewise")
    parser.add_argument("--style", help="style LoRA; trained on assets/styles/outline by assets/recipes/style.json where it is not given")
    args = parser.parse_args()
    w = Work(args)
    w.folder.mkdir(parents=True, exist_ok=True)
    lora = w.distilled(args.lora, "lcm.safetensors", "--method", "lcm", "--steps", 250, "--batch", 8, "--rank", 8,
                       "--skip", 50, "--huber-c", 0.1, "--ema", 0.95)
    student = w.distilled(args.one_pass, "one-pass.safetensors", "--method", "cfg", "--steps", 160, "--batch", 4, "--rank", 8)
    style_lora = args.style or w.run(w.folder / "outline.safetensors", "train", "--model", args.model, "--data", STYLE, "--config",
                                     m.ROOT / "assets/recipes/style.json")
    speed(w, lora)
    style(w, lora, style_lora)
    one_pass(w, student)
    if args.sheet:
        picture_sheet(w, args.sheet)


if __name__ == "__main__":
    sys.exit(main())
