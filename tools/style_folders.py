#!/usr/bin/env python3
"""Draw the style folders under assets/styles/ and the pictures kept out of them.

  assets/styles/outline/  OpenMoji's line layer, colours left out (CC BY-SA 4.0)
  assets/styles/ink/      Fluent Emoji High Contrast (MIT)
  tools/style_truth/STYLE/NN.png  64x64, what the artist drew for line NN of
                          assets/styles/STYLE-heldout.txt

Names to draw stand in assets/styles/names.txt (in the folders) and
heldout-names.txt (kept out); both styles share them, and the demo model knows
all of them. Captions are `NAME, flat STYLE`: the demo model's own `NAME, flat`
and one new word, so that the same prompt shows the subject without the LoRA.

  npm install --prefix DIR @iconify-json/openmoji @iconify-json/fluent-emoji-high-contrast
  tools/style_folders.py --icons DIR/node_modules
"""
import argparse
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "demo_model"))
from data import draw_icon, load_icons  # noqa: E402

STYLES = {"outline": "openmoji", "ink": "fluent-emoji-high-contrast"}
SVG = "http://www.w3.org/2000/svg"
KEPT_COLOURS = {None, "none", "#000", "#000000", "black", "currentColor", "#fff", "#ffffff", "white"}


def line_layer(body):
    """An OpenMoji drawing without its colours: fills and strokes in any hue are left out."""
    tree = ET.fromstring(f'<g xmlns="{SVG}" xmlns:xlink="http://www.w3.org/1999/xlink">{body}</g>')
    for element in tree.iter():
        for paint in ("fill", "stroke"):
            if element.get(paint) not in KEPT_COLOURS:
                element.set(paint, "none")
    ET.register_namespace("", SVG)
    return ET.tostring(tree, encoding="unicode")


def draw(icons, style, name, size):
    """One drawing as a grey PIL picture on white."""
    icon_id = name.replace(" ", "-")
    if style == "outline":
        icon = dict(icons["icons"][icon_id])
        icon["body"] = line_layer(icon["body"])
        icons = {**icons, "icons": {icon_id: icon}}
    picture = Image.fromarray(draw_icon(icons, icon_id)).convert("L")
    return picture if size == picture.width else picture.resize((size, size), Image.BOX)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--icons", required=True, help="node_modules folder with the @iconify-json packages")
    args = parser.parse_args()
    styles = ROOT / "assets" / "styles"
    shown = (styles / "names.txt").read_text().split("\n")[:-1]
    kept_out = (styles / "heldout-names.txt").read_text().split("\n")[:-1]
    trained = set((ROOT / "tools" / "demo_model" / "names.txt").read_text().split("\n"))
    assert not set(shown) & set(kept_out), "a name is both in the folder and kept out"
    assert set(shown) | set(kept_out) <= trained, sorted((set(shown) | set(kept_out)) - trained)
    for style, package in STYLES.items():
        icons, _ = load_icons(args.icons, package)
        folder, truth = styles / style, ROOT / "tools" / "style_truth" / style
        folder.mkdir(parents=True, exist_ok=True)
        truth.mkdir(parents=True, exist_ok=True)
        for name in shown:
            stem = name.replace(" ", "-")
            draw(icons, style, name, 128).save(folder / f"{stem}.png", optimize=True)
            (folder / f"{stem}.txt").write_text(f"{name}, flat {style}\n")
        (styles / f"{style}-heldout.txt").write_text("".join(f"{name}, flat {style}\n" for name in kept_out))
        for i, name in enumerate(kept_out):
            draw(icons, style, name, 64).save(truth / f"{i:02d}.png", optimize=True)


if __name__ == "__main__":
    main()
