#!/usr/bin/env python3
"""A character under a new word, three ways, and two characters joined: tables and pictures of docs/gallery/tokens.md.

Five pictures each of two characters are drawn here: a striped robot with one eye and a hat, and a green cat with a bow.
Learnt from them by `atelier train --recipe`: the word alone (textual-inversion), word and LoRA (pivotal), word and
the keys and values of cross-attention (custom-diffusion). A thing that the model knows is also learnt as a word alone, from
five pictures that it drew. Measured over two prompts (flat, noto) and `--seeds` seeds
with measure.subject_distance to the five pictures (0 equal, about 1 nothing in common):

    without   the class, "robot, flat", by the model as it is
    with      "<hero> robot, flat" (the word alone: "<hero>, flat") with what was learnt
    class     "robot, flat" with what was learnt: how far that moved from `without` (measure.picture_distance, 0..255)

Joined: kv-closed-form and the plain sum of the two custom-diffusion runs, each character's distance with the joined file.
"""
import math
import sys

import numpy as np
from PIL import Image, ImageDraw

import measure

HERO = {"body": "#2a9d8f", "stripe": "#e9c46a", "hat": "#6a4c93"}


def draw_hero(k):
    """A one-eyed robot in stripes; poses differ in tilt, arms and place."""
    big = 512
    page = Image.new("RGB", (big, big), "white")
    d = ImageDraw.Draw(page)
    swing = (-30, -10, 0, 15, 35)[k]
    for side in (-1, 1):  # arms
        x = 256 + side * 120
        a = math.radians(90 + side * (25 + swing))
        d.line([x, 280, x + 110 * math.cos(a) * -side * -1, 280 + 110 * math.sin(a) * (1 if k % 2 else -0.4)], fill="#444444", width=26)
    d.rounded_rectangle([136, 170, 376, 420], 60, fill=HERO["body"])
    for i in range(3):
        d.rectangle([136, 300 + 38 * i, 376, 316 + 38 * i], fill=HERO["stripe"])
    d.ellipse([196, 190, 316, 290], fill="white", outline="#222222", width=8)
    pupil = (-16, 0, 12, 18, -6)[k]
    d.ellipse([236 + pupil, 218, 276 + pupil, 262], fill="#222222")
    d.polygon([(166, 176), (346, 176), (300, 60 + 6 * k), (212, 60 + 6 * k)], fill=HERO["hat"])
    d.rectangle([140, 164, 372, 184], fill=HERO["hat"])
    for x in (190, 290):
        d.rectangle([x, 420, x + 34, 470], fill="#444444")
    return page.rotate((-8, 5, 0, -4, 9)[k], fillcolor="white", translate=((-14, 10, 0, 16, -8)[k], (6, -8, 0, 10, -4)[k])).resize(
        (128, 128), Image.LANCZOS)


def draw_pet(k):
    """A green cat's head with a pink bow."""
    page = Image.new("RGB", (512, 512), "white")
    d = ImageDraw.Draw(page)
    d.polygon([(120, 220), (130, 70), (240, 150)], fill="#55a630")
    d.polygon([(392, 220), (382, 70), (272, 150)], fill="#55a630")
    d.ellipse([96, 120, 416, 420], fill="#80b918")
    look = (-10, 0, 8, 12, -4)[k]
    for x in (190, 322):
        d.ellipse([x - 38, 210, x + 38, 290], fill="#fffbe6")
        d.ellipse([x - 16 + look, 226, x + 16 + look, 278], fill="#1b1b1b")
    d.polygon([(240, 310), (272, 310), (256, 334)], fill="#e07a5f")
    d.arc([206, 310, 256, 366], 0, 150, fill="#1b1b1b", width=8)
    d.arc([256, 310, 306, 366], 30, 180, fill="#1b1b1b", width=8)
    for side in (-1, 1):
        d.polygon([(256, 420), (256 + side * 90, 380), (256 + side * 90, 470)], fill="#ff5d8f")
    d.ellipse([234, 398, 278, 442], fill="#d6336c")
    return page.rotate((10, -6, 0, 7, -12)[k], fillcolor="white", translate=((8, -12, 0, -6, 14)[k], (-6, 8, 0, 10, -10)[k])).resize(
        (128, 128), Image.LANCZOS)


SUBJECTS = {"hero": (draw_hero, "robot"), "pet": (draw_pet, "cat")}
STYLES = ("flat", "noto")


def subject_folder(studio, name):
    folder = studio.work / "subjects" / name
    if not (folder / "4.png").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(5):
            SUBJECTS[name][0](k).save(folder / f"{k}.png")
    return folder


def prompts(words):
    return [f"{words}, {style}" for style in STYLES]


def learn(studio, how, name, seed):
    """What a recipe was told, beside pictures and seed; the rates are this small model's, not the recipes' for large ones."""
    kind = SUBJECTS[name][1]
    common = ["--data", subject_folder(studio, name), "--seed", seed, "--recipe", how]
    if how == "textual-inversion":
        options = ["--token", f"<{name}>={kind}", "--instance-prompt", f"<{name}>, flat", "--steps", 200, "--batch", 4, "--lr", 0.005]
    elif how == "pivotal":
        options = ["--token", f"<{name}>={kind}", "--instance-prompt", f"<{name}> {kind}, flat", "--steps", 150, "--batch", 4, "--rank", 8,
                   "--lr", 0.001, "--token-lr", 0.01]
    else:
        options = ["--token", f"<{name}>={kind}", "--instance-prompt", f"<{name}> {kind}, flat", "--class-prompt", f"{kind}, flat", "--class-data",
                   studio.work / f"class-{kind}", "--class-count", 12, "--steps", 150, "--batch", 2, "--lr", 0.001, "--token-lr", 0.01]
    return studio.train(f"{how}-{name}", *common, *options)


def distances(paths, references):
    return [measure.subject_distance(measure.read(p), references) for row in paths for p in row]


def drift(a, b):
    return [measure.picture_distance(measure.read(x), measure.read(y)) for r, s in zip(a, b) for x, y in zip(r, s)]


def show(what, values):
    mean, error = measure.mean_error(values)
    print(f"{what}: {mean:.3f} ± {error:.3f}", flush=True)
    return mean


def one_character(studio, references, seeds, base, seed, rows, labels):
    for how in ("textual-inversion", "pivotal", "custom-diffusion"):
        path = learn(studio, how, "hero", seed)
        alone = how == "textual-inversion"
        options = ("--embedding", f"<hero>={path}") if alone else ("--lora", f"{path}:1")
        with_word = studio.draw(f"{how}-with", prompts("<hero>" if alone else "<hero> robot"), seeds, options=options)
        the_class = studio.draw(f"{how}-class", prompts("robot"), seeds, options=options)
        before, after = distances(base["hero"], references["hero"]), distances(with_word, references["hero"])
        gain = 1 - np.mean(after) / np.mean(before)
        show(f"{how}: distance with the word", after)
        print(f"{how}: {100 * gain:.0f}% nearer than the class without; flat alone {100 * (1 - np.mean(after[:seeds]) / np.mean(before[:seeds])):.0f}%; "
              f"class drift {np.mean(drift(the_class, base['hero'])):.1f} of 255")
        rows += [with_word[0][:5], the_class[0][:5]]
        labels += [f"{how}: {prompts('<hero>' if alone else '<hero> robot')[0]}", f"{how}: robot, flat"]


def known_thing(studio, seeds, seed, rows, labels):
    """What a word alone can do on this model: the word of a thing that it draws, found from five of its pictures and a wrong start."""
    folder = studio.work / "subjects" / "penguin"
    if not folder.exists():
        folder.mkdir(parents=True)
        studio.run("generate", "--model", studio.model, "--prompt", "penguin, flat", "--count", 5, "--seed", 1, "--steps", 12, "--cfg", 4,
                   "--out", folder / "p.png")
    path = studio.train("textual-inversion-penguin", "--data", folder, "--seed", seed, "--recipe", "textual-inversion", "--token", "<thing>=robot",
                        "--instance-prompt", "<thing>, flat", "--steps", 200, "--batch", 4, "--lr", 0.005)
    references = [measure.subject_features(p) for p in measure.read_folder(folder)]
    found = studio.draw("penguin-with", ["<thing>, flat"], seeds, options=("--embedding", f"<thing>={path}"))
    start, itself = studio.draw("base-hero", prompts("robot"), seeds)[:1], studio.draw("penguin-itself", ["penguin, flat"], seeds)
    show("a known thing: its own name", distances(itself, references))
    show("a known thing: the word's start, robot", distances(start, references))
    show("a known thing: the word learnt", distances(found, references))
    rows += [itself[0][:5], found[0][:5]]
    labels += ["penguin, flat", "textual-inversion of penguins from robot: <thing>, flat"]


def joined(studio, references, seeds, base, seed, rows, labels):
    files = [learn(studio, "custom-diffusion", name, seed) for name in SUBJECTS]
    captions = studio.work / "captions.txt"
    names = (measure.ROOT / "tools" / "demo_model" / "names.txt").read_text().split("\n")
    captions.write_text("".join(f"{n.strip()}, {style}\n" for n in names if n.strip() for style in STYLES))
    loras = [word for f in files for word in ("--lora", f)]
    for method, more in (("kv-closed-form", [w for n, (_, kind) in SUBJECTS.items() for w in ("--prompt", f"<{n}> {kind}, flat")] + ["--captions", captions]),
                         ("sum", [])):
        out = studio.work / f"{method}.safetensors"
        if not out.exists():
            studio.run("merge", "--method", method, *loras, "--model", studio.model, *more, "--dtype", "f32", "--out", out)
        for name, (_, kind) in SUBJECTS.items():
            pictures = studio.draw(f"{method}-{name}", prompts(f"<{name}> {kind}"), seeds, options=("--lora", f"{out}:1"))
            after, before = distances(pictures, references[name]), distances(base[name], references[name])
            show(f"{method}: {name}", after)
            print(f"{method}: {name} {100 * (1 - np.mean(after) / np.mean(before)):.0f}% nearer than the class without")
            rows.append(pictures[0][:5])
            labels.append(f"{method}: <{name}> {kind}, flat")
        other = studio.draw(f"{method}-others", ["penguin, flat", "rocket, flat", "pear, noto", "violin, noto"], 2, options=("--lora", f"{out}:1"))
        plain = studio.draw("plain-others", ["penguin, flat", "rocket, flat", "pear, noto", "violin, noto"], 2)
        print(f"{method}: other things moved by {np.mean(drift(other, plain)):.1f} of 255")


def main():
    parser = measure.arguments(__doc__, "tokens")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    studio = measure.Studio(args.work, args.atelier, args.model, args.steps, args.cfg)
    references = {n: [measure.subject_features(p) for p in measure.read_folder(subject_folder(studio, n))] for n in SUBJECTS}
    base = {n: studio.draw(f"base-{n}", prompts(kind), args.seeds) for n, (_, kind) in SUBJECTS.items()}
    rows = [[subject_folder(studio, n) / f"{k}.png" for k in range(5)] for n in SUBJECTS] + [base["hero"][0][:5]]
    labels = ["the robot's five pictures", "the cat's", "without: robot, flat"]
    for n in SUBJECTS:
        show(f"without: {n}", distances(base[n], references[n]))
    one_character(studio, references, args.seeds, base, args.seed, rows, labels)
    known_thing(studio, args.seeds, args.seed, rows, labels)
    joined(studio, references, args.seeds, base, args.seed, rows, labels)
    if args.sheet:
        measure.sheet(args.sheet, rows, down=labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
