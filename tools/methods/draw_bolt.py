#!/usr/bin/env python3
"""Draws the five pictures of assets/subjects/bolt: one invented robot in five poses, 128x128, no other source.

    python3 tools/methods/draw_bolt.py assets/subjects/bolt
"""
import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIDE, FINE = 128, 6  # drawn six times as large, then averaged
TEAL, DARK, CREAM, PINK, YELLOW = "#1f9e8f", "#123f4a", "#fff3d6", "#ff6f91", "#ffc83d"

# Arms: angle at the shoulder in degrees, 0 down, 90 outward. Eye: where the pupil looks. Lean: of the whole, degrees.
POSES = [
    {"left": 20, "right": 20, "look": (0, 0), "lean": 0, "mouth": "smile"},
    {"left": 150, "right": 20, "look": (-3, -2), "lean": 5, "mouth": "open"},
    {"left": 90, "right": 90, "look": (3, 0), "lean": -6, "mouth": "smile"},
    {"left": 150, "right": 150, "look": (0, -4), "lean": 0, "mouth": "open"},
    {"left": 15, "right": 120, "look": (4, 3), "lean": 8, "mouth": "flat"},
]


def circle(draw, x, y, r, fill):
    draw.ellipse([FINE * (x - r), FINE * (y - r), FINE * (x + r), FINE * (y + r)], fill=fill)


def box(draw, x0, y0, x1, y1, r, fill):
    draw.rounded_rectangle([FINE * v for v in (x0, y0, x1, y1)], FINE * r, fill=fill)


def line(draw, points, width, fill):
    draw.line([(FINE * x, FINE * y) for x, y in points], fill=fill, width=int(FINE * width), joint="curve")


def arm(draw, x, y, side, angle):
    a = math.radians(angle)
    ex, ey = x + side * 20 * math.sin(a), y + 20 * math.cos(a)
    line(draw, [(x, y), (ex, ey)], 7, DARK)
    circle(draw, ex, ey, 6, PINK)


def robot(pose):
    page = Image.new("RGB", (SIDE * FINE, SIDE * FINE), "white")
    draw = ImageDraw.Draw(page)
    arm(draw, 38, 76, -1, pose["left"])
    arm(draw, 90, 76, 1, pose["right"])
    for x in (52, 76):  # legs
        line(draw, [(x, 98), (x, 112)], 8, DARK)
        box(draw, x - 9, 109, x + 9, 117, 4, PINK)
    box(draw, 40, 66, 88, 102, 12, TEAL)  # body
    draw.polygon([(FINE * x, FINE * y) for x, y in ((67, 71), (56, 86), (63, 86), (60, 98), (72, 82), (65, 82))], fill=YELLOW)  # bolt
    line(draw, [(64, 24), (64, 12)], 3, DARK)  # antenna
    circle(draw, 64, 11, 5, YELLOW)
    box(draw, 34, 22, 94, 66, 20, TEAL)  # head
    box(draw, 41, 29, 87, 60, 14, CREAM)
    circle(draw, 64, 41, 11, DARK)  # one eye
    circle(draw, 64 + pose["look"][0], 41 + pose["look"][1], 5, YELLOW)
    if pose["mouth"] == "smile":
        draw.arc([FINE * v for v in (56, 46, 72, 58)], 20, 160, fill=PINK, width=int(2.5 * FINE))
    elif pose["mouth"] == "open":
        circle(draw, 64, 56, 3, PINK)
    else:
        line(draw, [(58, 56), (70, 56)], 2.5, PINK)
    page = page.rotate(pose["lean"], resample=Image.BICUBIC, fillcolor="white")
    return page.resize((SIDE, SIDE), Image.BOX)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for i, pose in enumerate(POSES):
        robot(pose).save(folder / f"bolt-{i + 1}.png", optimize=True)


if __name__ == "__main__":
    main()
