#!/usr/bin/env python3
"""`atelier extract` on the demo model: the rows of docs/methods.md.

    tools/methods/extract.py [--lora FILE] [--work DIR]

Merges a style LoRA of rank 8 into the model (`atelier merge-into`: a fine-tuned checkpoint whose difference is known),
extracts it again at several ranks, with and without clamping, and draws the same prompts with the tuned model and with base
plus extracted LoRA. Measured: the share of the change's norm that the program reports, and picture_distance (0..255) between
the two pictures of one prompt and seed; `without` is the base model alone.
"""
from pathlib import Path

import measure

WAYS = (("rank 8", ("--rank", 8)), ("rank 8, --clamp 0.99", ("--rank", 8, "--clamp", 0.99)), ("rank 4", ("--rank", 4)),
        ("rank 2", ("--rank", 2)), ("kept 0.9", ("--kept", 0.9)))


def main():
    parser = measure.arguments(__doc__, "extract")
    parser.add_argument("--lora", help="a LoRA for the demo model; trained on assets/styles/ink if not given")
    args = parser.parse_args()
    studio = measure.Studio(args.work, args.atelier, args.model, args.steps, args.cfg)
    assets = measure.ROOT / "assets"
    lora = args.lora or studio.train("ink", "--data", assets / "styles" / "ink", "--config", assets / "recipes" / "style.json",
                                     "--seed", args.seed)
    tuned = studio.work / "tuned"
    if not tuned.exists():
        studio.run("merge-into", "--model", studio.model, "--lora", lora, "--out", tuned)
    prompts = (assets / "styles" / "ink-heldout.txt").read_text().splitlines()[:16]
    other = measure.Studio(studio.work, args.atelier, tuned, args.steps, args.cfg)
    goal = [measure.read(row[0]) for row in other.draw("by-tuned", prompts)]
    bare = [measure.read(row[0]) for row in studio.draw("by-base", prompts)]
    print("base alone: %.1f +- %.1f" % measure.mean_error([measure.picture_distance(a, b) for a, b in zip(goal, bare)]))
    for k, (name, words) in enumerate(WAYS):
        file = studio.work / f"extracted-{k}.safetensors"
        said = studio.run("extract", "--base", studio.model, "--tuned", tuned, "--out", file, *words).splitlines()
        drawn = [measure.read(row[0]) for row in studio.draw(f"extracted-{k}", prompts, options=("--lora", f"{file}:1"))]
        far = measure.mean_error([measure.picture_distance(a, b) for a, b in zip(goal, drawn)])
        print(f"{name}: distance {far[0]:.2f} +- {far[1]:.2f}; {[line for line in said if 'kept' in line][0].split(': ')[1]}; "
              f"{Path(file).stat().st_size / 1024:.0f} KiB", flush=True)


if __name__ == "__main__":
    main()
