#!/usr/bin/env python3
"""Merging LoRAs beside their plain sum: ZipLoRA, gradient fusion, and composing while drawing (switch, composite).

    python tools/methods/merge.py [--work DIR] [--seeds 12] [--sheet docs/gallery/merging.png]

Two characters are drawn by this script, five pictures each (a robot and a cat, under the rare words "sks" and "zwx"), and learnt as
LoRAs; the style is assets/styles/outline. What is measured, always over the same seeds:

A and B: subject + style ("sks robot, flat outline"), then the same with the cat's LoRA aboard, too. How much of the subject there is:
its outer shape against that of its five pictures, everything inside counted as filled, so that an outline drawing loses nothing; how
much of the style: style_distance to the style's pictures. Both as a share of the way from the base model's pictures (0) to those of
the LoRA's own alone (1). A method counts by the smaller of its two shares; "+-" is the standard error over seeds, of the method's own
and of the difference to the plain sum seed by seed.

C: two subjects in one file, each asked for by its own prompt: subject_distance to the five pictures, again as a share.
"""
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import measure

SCALE = 8
STYLE = measure.ROOT / "assets" / "styles" / "outline"
SUBJECT, OTHER, IN_STYLE = "sks robot, flat", "zwx cat, flat", "sks robot, flat outline"


# ---- Two characters ----

def canvas():
    image = Image.new("RGB", (128 * SCALE, 128 * SCALE), "white")
    return image, ImageDraw.Draw(image)


def points(origin, list_):
    return [((origin[0] + x) * SCALE, (origin[1] + y) * SCALE) for x, y in list_]


def box(origin, x, y, w, h):
    (a, b), (c, d) = points(origin, [(x, y), (x + w, y + h)])
    return a, b, c, d


def robot(dx, dy, arm, lean):
    """A teal box on legs with one round orange eye, a zigzag mouth and two bent antennae."""
    image, draw = canvas()
    o = (64 + dx, 64 + dy)
    for side in (-1, 1):
        draw.line(points(o, [(side * 14, -34), (side * 20 + lean, -46), (side * 12 + lean, -54)]), fill="#5b2a86", width=5 * SCALE)
        draw.line(points(o, [(side * 30, 0), (side * 46, arm * side - 4)]), fill="#127475", width=8 * SCALE)
        draw.ellipse(box(o, side * 46 - 6, arm * side - 10, 12, 12), fill="#f2542d")
        draw.rectangle(box(o, side * 14 - 6, 28, 12, 22), fill="#127475")
        draw.rectangle(box(o, side * 14 - 9, 46, 18, 8), fill="#5b2a86")
    draw.rounded_rectangle(box(o, -32, -36, 64, 68), 12 * SCALE, fill="#0e9594")
    draw.ellipse(box(o, -17, -28, 34, 34), fill="#f5dfbb")
    draw.ellipse(box(o, -10 + lean / 3, -21, 20, 20), fill="#f2542d")
    draw.line(points(o, [(-18, 18), (-9, 12), (0, 18), (9, 12), (18, 18)]), fill="#5b2a86", width=4 * SCALE)
    return image


def cat(dx, dy, tail, lean):
    """A round pink cat with yellow stripes, a square nose and a tail like a hook."""
    image, draw = canvas()
    o = (62 + dx, 66 + dy)
    draw.arc(box(o, 18, -20 + tail, 40, 52), 260, 110, fill="#c9184a", width=8 * SCALE)
    for side in (-1, 1):
        draw.polygon(points(o, [(side * 30, -22), (side * 26 + lean, -52), (side * 8, -34)]), fill="#c9184a")
    draw.ellipse(box(o, -38, -38, 76, 80), fill="#ff758f")
    for k in (-1, 0, 1):
        draw.rectangle(box(o, k * 14 - 3, -36 if not k else -32, 6, 16), fill="#ffd60a")
    for side in (-1, 1):
        draw.ellipse(box(o, side * 16 - 8 + lean / 4, -12, 16, 12), fill="#ffffff")
        draw.rectangle(box(o, side * 16 - 2 + lean / 4, -12, 4, 12), fill="#22223b")
        draw.ellipse(box(o, side * 16 - 9, 34, 18, 14), fill="#c9184a")
    draw.rectangle(box(o, -5, 4, 10, 8), fill="#22223b")
    draw.line(points(o, [(-14, 18), (0, 22), (14, 18)]), fill="#22223b", width=3 * SCALE)
    return image


POSES = ((0, 0, 0, 0), (4, -3, 12, 6), (-5, 2, -12, -6), (2, 4, 18, -4), (-3, -4, 6, 8))


def folders(work):
    """The characters' pictures with captions, as `atelier train --data` takes them."""
    made = {}
    for name, draw, caption in (("robot", robot, SUBJECT), ("cat", cat, OTHER)):
        folder = made[name] = Path(work) / "pictures" / name
        folder.mkdir(parents=True, exist_ok=True)
        for k, pose in enumerate(POSES):
            draw(*pose).resize((128, 128), Image.LANCZOS).save(folder / f"{k}.png")
            (folder / f"{k}.txt").write_text(caption + "\n")
    return made


# ---- Measuring ----

def shares(values, base, own):
    """Per seed: 0 as far away as the base model's pictures are on average, 1 as near as the LoRA alone."""
    return (np.mean(base) - np.asarray(values)) / (np.mean(base) - np.mean(own))


def text(values):
    return "%.2f +- %.2f" % measure.mean_error(values)


def shape_of(rgb):
    """What the border's background does not reach, 0 or 1 at half size, blurred and averaged over cells of 4 and 8 pixels."""
    thing = measure.shrink(measure.silhouette(rgb)[..., None], 2)[..., 0] > 0.3
    outside = np.zeros_like(thing)
    outside[0], outside[-1], outside[:, 0], outside[:, -1] = ~thing[0], ~thing[-1], ~thing[:, 0], ~thing[:, -1]
    while True:
        grown = outside.copy()
        grown[1:] |= outside[:-1]
        grown[:-1] |= outside[1:]
        grown[:, 1:] |= outside[:, :-1]
        grown[:, :-1] |= outside[:, 1:]
        grown &= ~thing
        if (grown == outside).all():
            break
        outside = grown
    whole = (~outside)[..., None].astype(float)
    return [measure.shrink(measure.blur(whole, sigma), by) for sigma, by in ((1.0, 2), (2.0, 4))]


def shape_distance(a, references):
    """Least mean absolute difference of two shapes over shifts of up to 8 pixels, as a share of their mean size; the nearest counts."""
    return min(float(np.mean([measure.nearest_shift(x, y, reach) for x, y, reach in zip(a, b, (2, 1))])) for b in references)


class Subject:
    def __init__(self, folder):
        pictures = measure.read_folder(folder)
        self.shapes = [shape_of(p) for p in pictures]
        self.whole = [measure.subject_features(p) for p in pictures]

    def contents(self, paths):
        return [shape_distance(shape_of(measure.read(p)), self.shapes) for p in paths]

    def wholes(self, paths):
        return [measure.subject_distance(measure.subject_features(measure.read(p)), self.whole) for p in paths]


class Style:
    def __init__(self, folder):
        self.mean = measure.mean_features([measure.style_features(p) for p in measure.read_folder(folder)])

    def distances(self, paths):
        return [measure.style_distance(measure.style_features(measure.read(p)), self.mean) for p in paths]


def table(title, rows):
    print("\n" + title)
    width = max(len(r[0]) for r in rows)
    for row in rows:
        print("  %-*s  %s" % (width, row[0], "  ".join(row[1:])))


# ---- The three parts ----

class Show:
    def __init__(self, args):
        self.args, self.seeds = args, args.seeds
        self.studio = measure.Studio(args.work, args.atelier, args.model, args.steps, args.cfg)
        self.folders = folders(args.work)
        train = ["--config", measure.ROOT / "assets" / "recipes" / "style.json", "--seed", args.seed]
        self.style = self.studio.train("style", *train, "--data", STYLE)
        short = [*train, "--steps", 150, "--batch", 2]
        self.robot = self.studio.train("robot", *short, "--data", self.folders["robot"])
        self.cat = self.studio.train("cat", *short, "--data", self.folders["cat"])
        self.looks = {"robot": Subject(self.folders["robot"]), "cat": Subject(self.folders["cat"]), "style": Style(STYLE)}

    def merge(self, name, method, loras, *options):
        out = self.studio.work / f"{name}.safetensors"
        if not out.exists():
            words = [w for lora in loras for w in ("--lora", lora)]
            self.studio.run("merge", "--method", method, "--model", self.studio.model, *words, *options, "--out", out)
        return out

    def draw(self, name, prompt, loras=(), *options):
        words = [w for lora in loras for w in ("--lora", lora)]
        return self.studio.draw(name, [prompt], self.seeds, options=[*words, *options])[0]

    def zip(self, name, loras):
        data = {self.style: STYLE, self.robot: self.folders["robot"], self.cat: self.folders["cat"]}
        return self.merge(name, "ziplora", loras, *[w for lora in loras for w in ("--data", data[lora])], "--similarity",
                          self.args.similarity, "--seed", self.args.seed)

    def styled(self, tag, loras):
        """The ways of having all of these LoRAs at once: [(name, paths)]."""
        zipped = [("ziplora", self.draw(f"{tag}-zip", IN_STYLE, [self.zip(f"{tag}-ziplora", loras)]))] if len(loras) == 2 else []
        return [("sum", self.draw(f"{tag}-sum", IN_STYLE, loras)), *zipped,
                ("switch", self.draw(f"{tag}-switch", IN_STYLE, loras, "--compose", "switch", "--every", 1)),
                ("composite", self.draw(f"{tag}-composite", IN_STYLE, loras, "--compose", "composite"))]

    def subject_and_style(self, tag, title, loras):
        robot, style = self.looks["robot"], self.looks["style"]
        base, alone = self.draw("base", IN_STYLE), self.draw("robot-alone", IN_STYLE, [self.robot])
        inked = self.draw("style-alone", IN_STYLE, [self.style])
        ends = [robot.contents(base), robot.contents(alone), style.distances(base), style.distances(inked)]
        rows, out, plain = [("", "subject", "style", "smaller of the two", "beside the sum")], [], None
        for name, paths in [("base", base), ("subject alone", alone), ("style alone", inked), *self.styled(tag, loras)]:
            c, s = shares(robot.contents(paths), *ends[:2]), shares(style.distances(paths), *ends[2:])
            least = np.minimum(c, s)
            plain = least if name == "sum" else plain
            more = "" if plain is None or name == "sum" else "%+.2f +- %.2f" % measure.paired(least, plain)[:2]
            rows.append((name, text(c), text(s), "%.2f" % min(c.mean(), s.mean()), more))
            out.append((name, paths))
        table(title, rows)
        return out

    def two_subjects(self):
        loras = [self.robot, self.cat]
        data = [w for name in ("robot", "cat") for w in ("--data", self.folders[name])]
        files = {"sum": self.merge("two-sum", "sum", loras),
                 "gradient fusion": self.merge("two-fusion", "gradient-fusion", loras, *data, "--seed", self.args.seed)}
        rows, out = [("", "robot", "cat", "smaller of the two")], []
        asked = (("robot", SUBJECT, self.robot), ("cat", OTHER, self.cat))
        ends = {}
        for look, prompt, own in asked:
            base, alone = self.draw(f"two-base-{look}", prompt), self.draw(f"two-alone-{look}", prompt, [own])
            ends[look] = self.looks[look].wholes(base), self.looks[look].wholes(alone)
            out.append((f"{look}: base", base))
            out.append((f"{look}: alone", alone))
        for name, file in files.items():
            values = []
            for look, prompt, _ in asked:
                paths = self.draw(f"two-{name.replace(' ', '-').replace(',', '')}-{look}", prompt, [file])
                values.append(shares(self.looks[look].wholes(paths), *ends[look]))
                out.append((f"{look}: {name}", paths))
            rows.append((name, text(values[0]), text(values[1]), "%.2f" % min(v.mean() for v in values)))
        table("C. Two subjects in one file, each under its own prompt", rows)
        return out


def main():
    parser = measure.arguments(__doc__, "merge")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--similarity", default="0.01", help="ZipLoRA's lambda")
    parser.add_argument("--parts", default="abc", help="which of A, B and C")
    args = parser.parse_args()
    show = Show(args)
    rows = [("the five pictures", sorted(show.folders["robot"].glob("*.png")))]
    if "a" in args.parts:
        rows += show.subject_and_style("a", "A. Subject and style, as shares of what each LoRA does alone", [show.robot, show.style])
    if "b" in args.parts:
        third = show.subject_and_style("b", "B. The same with a third LoRA aboard", [show.robot, show.style, show.cat])
        rows += [(f"with a third: {name}", paths) for name, paths in third[3:]]
    if "c" in args.parts:
        rows += [("the cat's pictures", sorted(show.folders["cat"].glob("*.png"))), *show.two_subjects()]
    if args.sheet:
        measure.sheet(args.sheet, [paths[:8] for _, paths in rows], down=[name for name, _ in rows], side=72)


if __name__ == "__main__":
    main()
