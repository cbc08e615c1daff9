"""The sets of pictures that tools/methods/lcm.py measures: drawn by `atelier generate`, skipped where they exist.

Two hundred captions of the demo model by lot (seed 0), half of what is left for teaching. Groups of twenty captions
share a seed, so that the noise differs between groups and, by `first_seed`, between sets.
"""
import os
import random
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MODEL = os.path.join(ROOT, "assets/model")
GROUP = 20


def captions():
    """(200 to measure with, the others), each in the order of the lot."""
    with open(os.path.join(ROOT, "tools/demo_model/names.txt"), encoding="utf-8") as f:
        names = f.read().split("\n")
    lot = [f"{n}, {style}" for n in names if n for style in ("flat", "noto")]
    random.Random(0).shuffle(lot)
    return lot[:200], lot[200:]


def draw(atelier, folder, prompts, first_seed, options):
    """One picture per prompt, as paths in the prompts' order. A folder that has them is left as it is."""
    os.makedirs(folder, exist_ok=True)
    paths = []
    for g in range(0, len(prompts), GROUP):
        part = prompts[g:g + GROUP]
        stem = os.path.join(folder, f"g{g // GROUP:02d}")
        names = [f"{stem}-{i + 1:03d}.png" for i in range(len(part))]
        if not all(os.path.exists(n) for n in names):
            args = [atelier, "generate", "--model", MODEL, "--out", stem + ".png", "--seed", str(first_seed + g // GROUP), "--quiet"]
            for p in part:
                args += ["--prompt", p]
            subprocess.run(args + [str(o) for o in options], check=True)
        paths += names
    return paths
