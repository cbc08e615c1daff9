"""The sets of pictures that tools/methods/lcm.py measures: drawn by `atelier generate`, skipped where they exist.

Two hundred captions of the demo model by lot (seed 0) to measure with; pictures of others to teach with. Twenty captions
share a seed, so that the noise differs between them and, by `first_seed`, between sets.
"""
import os
import random
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MODEL = os.path.join(ROOT, "assets/model")
GROUP, AT_ONCE = 20, 10


def captions():
    """(200 to measure with, the others), each in the order of the lot."""
    with open(os.path.join(ROOT, "tools/demo_model/names.txt"), encoding="utf-8") as f:
        names = f.read().split("\n")
    lot = [f"{n}, {style}" for n in names if n for style in ("flat", "noto")]
    random.Random(0).shuffle(lot)
    return lot[:200], lot[200:]


def draw(atelier, folder, prompts, first_seed, options):
    """One picture per prompt, as paths in the prompts' order; what is there already stays as it is."""
    os.makedirs(folder, exist_ok=True)
    paths = [os.path.join(folder, f"g{i // GROUP:02d}-{i % GROUP + 1:03d}.png") for i in range(len(prompts))]
    for g in range(0, len(prompts), GROUP):
        part = range(g, min(g + GROUP, len(prompts)))
        if all(os.path.exists(paths[i]) for i in part):
            continue
        stem = os.path.join(folder, f"g{g // GROUP:02d}")
        with open(stem + ".txt", "w", encoding="utf-8") as f:
            f.writelines(f"{prompts[i]} --d {first_seed + g // GROUP}\n" for i in part)
        subprocess.run([atelier, "generate", "--model", MODEL, "--prompts", stem + ".txt", "--batch", str(AT_ONCE), "--out", stem + ".png",
                        "--quiet"] + [str(o) for o in options], check=True)
    return paths
