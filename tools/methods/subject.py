#!/usr/bin/env python3
"""DreamBooth on the demo model: five pictures of one robot, with and without prior preservation.

Trains assets/subjects/bolt as "sks robot, flat" twice with assets/recipes/subject.json: with pictures of the class
"robot, flat" and, with --prior-weight 0, without. Measures, over the same seeds with the base model, both LoRAs:

    subject   distance to the subject (measure.subject_distance to the nearest of the five pictures), eight prompts with
              the token, three seeds: by how many percent the LoRA with prior preservation falls below the base
    drift     root mean square error between the LoRA's and the base's picture of the class prompt without the token, 24
              seeds: with prior preservation as a share of without

    python3 tools/methods/subject.py --sheet docs/gallery/subject.png

What exists under --work is kept; the second run measures at once.
"""
import sys

import numpy as np

import measure as m

TOKEN = ["sks robot, flat", "sks robot, noto", "a sks robot, flat", "sks robot with crown, flat", "happy sks robot, flat",
         "sks robot in rain, flat", "sks robot and cat, flat", "sks robot, sun, noto"]
CLASS, SEEDS, CLASS_SEEDS = "robot, flat", 3, 24
SUBJECT = m.ROOT / "assets" / "subjects" / "bolt"


def train(studio, seed):
    options = ["--config", m.ROOT / "assets" / "recipes" / "subject.json", "--data", SUBJECT, "--instance-prompt", TOKEN[0],
               "--class-prompt", CLASS, "--class-data", studio.work / "class", "--seed", seed]
    return {"with": studio.train("with", *options), "without": studio.train("without", *options, "--prior-weight", 0)}


def main():
    args = m.arguments(__doc__, "subject").parse_args()
    studio = m.Studio(args.work, args.atelier, args.model, args.steps, args.cfg)
    loras = train(studio, args.seed)
    models = {"base": [], **{name: ["--lora", f"{file}:1"] for name, file in loras.items()}}
    token = {k: studio.draw(f"token-{k}", TOKEN, SEEDS, options=o) for k, o in models.items()}
    plain = {k: studio.draw(f"class-{k}", [CLASS], CLASS_SEEDS, options=o)[0] for k, o in models.items()}

    references = [m.subject_features(p) for p in m.read_folder(SUBJECT)]
    distance = {k: [m.subject_distance(m.read(p), references) for row in rows for p in row] for k, rows in token.items()}
    base = [m.read(p) for p in plain["base"]]
    drift = {k: [m.picture_distance(m.read(p), b) for p, b in zip(plain[k], base)] for k in ("with", "without")}

    for k, values in distance.items():
        print("distance to the subject, {}: {:.3f} +- {:.3f}".format(k, *m.mean_error(values)))
    fall = {k: 100 * (1 - np.mean(distance[k]) / np.mean(distance["base"])) for k in loras}
    print(f"falls by {fall['with']:.1f}% with prior preservation (goal: 30%), by {fall['without']:.1f}% without")
    for k, values in drift.items():
        print("drift of the class, {}: {:.2f} +- {:.2f}".format(k, *m.mean_error(values)))
    share = np.mean(drift["with"]) / np.mean(drift["without"])
    print(f"drift with prior preservation is {100 * share:.0f}% of without (goal: 50%)")
    if args.sheet:
        rows = [[m.read(p) for p in sorted(SUBJECT.glob("*.png"))]]
        rows += [[token[k][i][s] for k in models for s in range(2)] for i in range(len(TOKEN))]
        rows += [[plain[k][s] for k in models for s in range(2)]]
        across = [f"{k} {s + 1}" for k in ("base", "with prior", "without") for s in range(2)]
        m.sheet(args.sheet, rows, across, ["(the five pictures)"] + TOKEN + [CLASS], side=84)
    return 0 if fall["with"] >= 30 and share <= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
