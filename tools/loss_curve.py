"""Draw loss curves from `atelier train --log FILE.jsonl` files as one PNG.

    python tools/loss_curve.py outline=out/outline.jsonl ink=out/ink.jsonl --out docs/style-loss.png

Each step's loss is a grey dot; the line is the mean over a sliding window. Needs Pillow.
"""
import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = [(200, 60, 40), (40, 90, 180), (30, 140, 70), (150, 80, 170)]
LEFT, TOP, RIGHT, BOTTOM = 60, 20, 20, 40


def read(path):
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def smooth(points, window):
    sums, out = 0.0, []
    for i, (step, loss) in enumerate(points):
        sums += loss
        if i >= window:
            sums -= points[i - window][1]
        if i >= window - 1:
            out.append((step, sums / window))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", nargs="+", metavar="NAME=FILE.jsonl")
    parser.add_argument("--out", required=True)
    parser.add_argument("--window", type=int, default=40, help="steps in the mean")
    parser.add_argument("--size", type=int, nargs=2, default=(760, 320))
    args = parser.parse_args()
    curves = [(name, read(path)) for name, path in (c.split("=", 1) for c in args.curves)]
    width, height = args.size
    steps = max(points[-1][0] for _, points in curves)
    top = 1.05 * max(sorted(loss for _, loss in points)[int(0.98 * len(points))] for _, points in curves)

    def place(step, loss):
        return (LEFT + (width - LEFT - RIGHT) * step / steps,
                height - BOTTOM - (height - TOP - BOTTOM) * min(loss, top) / top)

    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for i in range(6):
        _, y = place(0, top * i / 5)
        draw.line([(LEFT, y), (width - RIGHT, y)], fill=(225, 225, 225))
        draw.text((8, y - 6), f"{top * i / 5:.3f}", fill="black")
        x, _ = place(steps * i / 5, 0)
        draw.text((x - 10, height - BOTTOM + 8), str(round(steps * i / 5)), fill="black")
    draw.text((width // 2 - 20, height - 16), "step", fill="black")
    for (name, points), colour in zip(curves, COLOURS):
        for step, loss in points:
            x, y = place(step, loss)
            draw.point((x, y), fill=tuple((c + 2 * 255) // 3 for c in colour))
        draw.line([place(*p) for p in smooth(points, args.window)], fill=colour, width=2)
    for i, ((name, _), colour) in enumerate(zip(curves, COLOURS)):
        draw.text((width - RIGHT - 120, TOP + 14 * i), name, fill=colour)
    picture.save(args.out)


if __name__ == "__main__":
    main()
