"""Measures that the scripts of this folder share: how far a picture is from a subject, from a style, from a layout.

All of them compare pictures at 128x128 and are plain arithmetic (numpy and PIL, no network, nothing learnt), so a
number can be followed by hand. 0 means equal; the numbers of one measure compare with each other and with nothing else.

    subject_distance(picture, references)   is this the drawn character? nearest of its pictures; forgives small shifts
    style_distance(picture, references)     drawn the same way? looks at no position and at no shape as a whole
    content_distance(picture, references)   the same thing in the same place? looks at no colour
    picture_distance(a, b)                  plain root mean square error, for drift of two pictures of one seed

Also: Studio, which draws with `atelier generate` and trains with `atelier train` and skips what exists; contact sheets;
mean, standard error and the z value of paired differences. A picture is a float array [128, 128, 3] of 0..1.
"""
import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
SIDE = 128
SHEET_BYTES = 400000


# ---- Pictures ----

def read(path):
    """A picture as float [SIDE, SIDE, 3], 0..1, on white; other sizes are averaged or stretched to it."""
    picture = Image.open(path)
    if picture.mode in ("RGBA", "LA", "P"):
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.BOX if picture.size[0] > SIDE else Image.LANCZOS)
    return np.asarray(picture, dtype=np.float64) / 255


def read_folder(folder):
    """Every PNG, JPEG and WebP directly in a folder, by name."""
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    return [read(p) for p in paths]


def opponent(rgb):
    """Lightness, red-green and blue-yellow, each about -1..1."""
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.stack([0.299 * r + 0.587 * g + 0.114 * b, r - g, b - (r + g) / 2], axis=-1)


def shrink(x, by):
    """Mean over by x by squares; the last axes stay."""
    h, w = x.shape[0] // by, x.shape[1] // by
    return x[:h * by, :w * by].reshape(h, by, w, by, *x.shape[2:]).mean(axis=(1, 3))


def blur(x, sigma):
    """Gaussian over the first two axes; the border is repeated."""
    radius = max(1, int(3 * sigma + 0.5))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(x, pad, mode="edge")
        x = sum(k * np.take(padded, np.arange(i, i + x.shape[axis]), axis=axis) for i, k in enumerate(kernel))
    return x


ANGLES = np.arange(4) * math.pi / 4


def edges(plane, sigma):
    """Slopes of a blurred plane in four directions: [h, w, 4], signed."""
    dy, dx = np.gradient(blur(plane, sigma))
    return np.stack([math.cos(a) * dx + math.sin(a) * dy for a in ANGLES], axis=-1)


def second(plane, sigma):
    """Curvature of a blurred plane in four directions, which answers to lines as slopes do to borders: [h, w, 4]."""
    dy, dx = np.gradient(blur(plane, sigma))
    dyy, dyx = np.gradient(dy)
    dxx = np.gradient(dx, axis=1)
    c, s = np.cos(ANGLES), np.sin(ANGLES)
    return dxx[..., None] * c * c + 2 * dyx[..., None] * c * s + dyy[..., None] * s * s


# ---- Distances ----

def background(rgb):
    """Median colour of the border: what the thing stands on."""
    border = np.concatenate([rgb[:4].reshape(-1, 3), rgb[-4:].reshape(-1, 3), rgb[:, :4].reshape(-1, 3), rgb[:, -4:].reshape(-1, 3)])
    return np.median(border, axis=0)


def silhouette(rgb):
    """How much every pixel differs from the background, 0..1."""
    far = np.abs(rgb - background(rgb)).max(axis=-1)
    return 1 - np.exp(-(far / 0.15) ** 2)


def histogram(planes, weight, bins, ranges):
    """Joint histogram with every value shared between its two nearest bins, so that small changes are small. Sum 1."""
    out = np.zeros([bins] * len(planes))
    lower, share = [], []
    for plane, (low, high) in zip(planes, ranges):
        at = np.clip((plane.ravel() - low) / (high - low), 0, 1) * (bins - 1)
        cell = np.minimum(at.astype(int), bins - 2)
        lower.append(cell)
        share.append(at - cell)
    for corner in range(1 << len(planes)):
        index, part = [], weight.ravel().copy()
        for k in range(len(planes)):
            up = corner >> k & 1
            index.append(lower[k] + up)
            part = part * (share[k] if up else 1 - share[k])
        np.add.at(out, tuple(index), part)
    return out / max(out.sum(), 1e-12)


def hellinger(p, q):
    """Distance of two histograms: 0 equal, 1 without common ground."""
    return math.sqrt(max(0.0, 1 - float(np.sqrt(p * q).sum())))


COLOURS = ((0, 1), (-1, 1), (-1, 1))


def colour_histogram(rgb, weight):
    planes = opponent(rgb)
    return histogram([planes[..., k] for k in range(3)], weight, 8, COLOURS)


def shifted(x, dy, dx):
    """x moved by whole cells; what comes in is the border's own value."""
    h, w = x.shape[:2]
    return x[np.clip(np.arange(h) - dy, 0, h - 1)][:, np.clip(np.arange(w) - dx, 0, w - 1)]


def nearest_shift(a, b, reach):
    """Least mean absolute difference of two grids of features over shifts of up to `reach` cells, as a share of their mean size."""
    best = min(np.abs(shifted(a, dy, dx) - b).mean() for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1))
    return float(best / max(0.5 * (np.abs(a).mean() + np.abs(b).mean()), 1e-6))


def subject_features(rgb):
    colour = opponent(rgb) - opponent(background(rgb))
    slope = np.abs(edges(opponent(rgb)[..., 0], 1.0)) * 4
    grid = np.concatenate([colour, slope], axis=-1)
    mask = silhouette(rgb)
    return {"grids": [shrink(blur(grid, 2.0), 4), shrink(blur(grid, 4.0), 8), shrink(blur(grid, 8.0), 16)],
            "colours": colour_histogram(rgb, mask + 1e-6)}


def subject_distance(picture, references):
    """How far a drawing is from a character: the nearest of the character's pictures counts.

    Half of it compares colours against the background and slopes in four directions, averaged over cells of 4, 8 and
    16 pixels (blurred first) and with the best shift of up to 8, 16 and 16 pixels each: a character that stands a
    little elsewhere or moves a limb stays near. The other half compares the colours of the thing without the
    background, wherever they are, so that a new pose costs little. 0 is the same picture, about 1 nothing in common.
    """
    a = picture if isinstance(picture, dict) else subject_features(picture)
    best = math.inf
    for reference in references:
        b = reference if isinstance(reference, dict) else subject_features(reference)
        layout = np.mean([nearest_shift(x, y, reach) for x, y, reach in zip(a["grids"], b["grids"], (2, 2, 1))])
        best = min(best, 0.5 * float(layout) / 2 + 0.5 * hellinger(a["colours"], b["colours"]))
    return best


def style_features(rgb):
    planes = opponent(rgb)
    grams, strokes = [], []
    for _ in range(3):
        responses = np.concatenate([np.abs(edges(planes[..., 0], 0.7)), np.abs(second(planes[..., 0], 0.7)),
                                    np.abs(edges(planes[..., 1], 0.7)), np.abs(edges(planes[..., 2], 0.7))], axis=-1)
        flat = responses.reshape(-1, responses.shape[-1])
        where = np.maximum(silhouette(planes_to_rgb(planes)).ravel(), 0.02)
        gram = (flat * where[:, None]).T @ flat / where.sum()
        grams.append(np.sign(gram) * np.sqrt(np.abs(gram)))
        steep = np.sqrt((edges(planes[..., 0], 0.7)[..., [0, 2]] ** 2).sum(axis=-1))
        strokes.append(histogram([np.sqrt(steep)], where.reshape(steep.shape), 16, ((0, 0.7),)))
        planes = shrink(planes, 2)
    mask = silhouette(rgb)
    return {"grams": grams, "strokes": strokes, "colours": colour_histogram(rgb, mask + 1e-6)}


def planes_to_rgb(planes):
    """Inverse of opponent()."""
    light, rg, by = planes[..., 0], planes[..., 1], planes[..., 2]
    # light = .299r + .587g + .114b, rg = r - g, by = b - (r + g)/2
    g = light - 0.299 * rg - 0.114 * (by + rg / 2)
    r = g + rg
    return np.stack([r, g, by + (r + g) / 2], axis=-1)


def mean_features(features):
    """The mean of several pictures' style features: a style is what its pictures have in common."""
    return {key: [np.mean([f[key][k] for f in features], axis=0) for k in range(len(features[0][key]))]
            if isinstance(features[0][key], list) else np.mean([f[key] for f in features], axis=0) for key in features[0]}


def style_distance(picture, references):
    """How differently a picture is drawn than a set of pictures (or than one); positions and shapes do not count.

    Equal thirds of: Gram matrices of slopes and curvatures in four directions (lightness; colours' slopes too), square
    rooted and compared relative to their size; how steep the borders are (soft shading, flat areas, hard strokes), as a
    histogram; both over three scales and weighted by what is not background; and the palette, as a histogram of the
    thing's colours. The references count by the mean of their features.
    """
    a = picture if isinstance(picture, dict) else style_features(picture)
    many = references if isinstance(references, dict) else mean_features([style_features(r) for r in references])
    gram = np.mean([np.linalg.norm(x - y) / max(0.5 * (np.linalg.norm(x) + np.linalg.norm(y)), 1e-6)
                    for x, y in zip(a["grams"], many["grams"])])
    stroke = np.mean([hellinger(x, y) for x, y in zip(a["strokes"], many["strokes"])])
    return float((gram / 2 + stroke + hellinger(a["colours"], many["colours"])) / 3)


def content_features(rgb):
    mask = silhouette(rgb)
    slope = np.abs(edges(opponent(rgb)[..., 0], 1.5))
    slope = slope / max(slope.mean(), 1e-3) * 0.1  # strong and weak outlines count alike
    return [shrink(blur(np.concatenate([2 * mask[..., None], slope], axis=-1), s), by) for s, by in ((2.0, 4), (4.0, 8), (8.0, 16))]


def content_distance(picture, references):
    """Whether the same thing lies in the same place, whatever its colours: silhouette against the background and slopes
    of the lightness in four directions (as shares of all slopes), over cells of 4, 8 and 16 pixels with the best shift
    of up to 8, 8 and 0 pixels. The nearest reference counts."""
    a = picture if isinstance(picture, list) else content_features(picture)
    best = math.inf
    for reference in references:
        b = reference if isinstance(reference, list) else content_features(reference)
        best = min(best, float(np.mean([nearest_shift(x, y, reach) for x, y, reach in zip(a, b, (2, 1, 0))])) / 2)
    return best


def picture_distance(a, b):
    """Root mean square error over RGB, 0..255, at half size: a pixel's shift is nothing."""
    return float(255 * np.sqrt(((shrink(a, 2) - shrink(b, 2)) ** 2).mean()))


# ---- Statistics ----

def mean_error(values):
    """Mean and its standard error."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.inf


def paired(first, second):
    """Mean of first - second over pairs, its standard error, and how many errors it is away from 0."""
    mean, error = mean_error(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))
    return mean, error, mean / error if error > 0 else math.copysign(math.inf, mean)


# ---- Sheets ----

def sheet(path, rows, across=(), down=(), side=96, label=130):
    """Writes a contact sheet. rows: lists of pictures (arrays, paths, or None for an empty cell); across, down: labels."""
    columns = max(len(row) for row in rows)
    top, left = (16 if across else 0), (label if down else 0)
    page = Image.new("RGB", (left + columns * (side + 4), top + len(rows) * (side + 4)), "white")
    draw = ImageDraw.Draw(page)
    for k, text in enumerate(across):
        draw.text((left + k * (side + 4) + 2, 2), text, fill="black")
    for i, row in enumerate(rows):
        if down:
            draw.multiline_text((2, top + i * (side + 4) + side // 3), wrap(down[i], label // 6), fill="black", spacing=2)
        for k, cell in enumerate(row):
            if cell is None:
                continue
            rgb = cell if isinstance(cell, np.ndarray) else read(cell)
            tile = Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)).resize((side, side), Image.LANCZOS)
            page.paste(tile, (left + k * (side + 4), top + i * (side + 4)))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, optimize=True)
    if path.stat().st_size > SHEET_BYTES:  # 256 colours are enough to look at
        page.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def wrap(text, width):
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = (lines[-1] + " " + word).strip()
    return "\n".join(lines)


# ---- The program ----

class Studio:
    """Runs `atelier` and keeps what it made under `work`: a second run of a script draws only what is missing."""

    def __init__(self, work, atelier=None, model=None, steps=12, cfg=4.0):
        self.work, self.steps, self.cfg = Path(work), steps, cfg
        self.atelier = str(atelier or ROOT / "build" / "atelier")
        self.model = str(model or ROOT / "assets" / "model")
        self.work.mkdir(parents=True, exist_ok=True)

    def run(self, *words):
        command = [self.atelier, *map(str, words)]
        print("+", " ".join(command), file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
        return done.stdout

    def train(self, name, *options):
        """`atelier train` into work/NAME.safetensors, unless it is there. An unfinished run goes on where it stopped."""
        out = self.work / f"{name}.safetensors"
        if not out.exists():
            resume = ["--resume"] if Path(f"{out}.state.safetensors").exists() else []
            self.run("train", "--model", self.model, "--out", out, *options, *resume)
        return out

    def draw(self, name, prompts, seeds=1, first_seed=1000, options=()):
        """Paths [prompt][seed] of pictures work/NAME/PP-S.png. One call of the program draws all that is missing;
        `options` go to it as they are (--lora FILE:1 and the like)."""
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        paths = [[folder / f"{i:02d}-{s}.png" for s in range(seeds)] for i in range(len(prompts))]
        missing = [i for i, row in enumerate(paths) if not all(p.exists() for p in row)]
        if missing:
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                words = [word for i in missing for word in ("--prompt", prompts[i])]
                self.run("generate", "--model", self.model, *words, "--count", seeds, "--seed", first_seed, "--steps", self.steps,
                         "--cfg", self.cfg, *options, "--out", Path(temporary) / "p.png")
                made = sorted(Path(temporary).glob("*.png"))
                if len(made) != len(missing) * seeds:
                    sys.exit(f"atelier drew {len(made)} pictures instead of {len(missing) * seeds}")
                for k, source in enumerate(made):
                    os.replace(source, paths[missing[k // seeds]][k % seeds])
        return paths

    def forget(self, name):
        """Throws pictures away, because what drew them has changed."""
        shutil.rmtree(self.work / name, ignore_errors=True)


def arguments(doc, work):
    """The options all scripts have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default=str(ROOT / "out" / "methods" / work), help="LoRAs and pictures; what exists is kept")
    parser.add_argument("--atelier", default=str(ROOT / "build" / "atelier"))
    parser.add_argument("--model", default=str(ROOT / "assets" / "model"))
    parser.add_argument("--steps", type=int, default=12, help="sampling steps, DDIM")
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1, help="of training; pictures use seeds from 1000")
    parser.add_argument("--sheet", help="contact sheet to write")
    return parser
