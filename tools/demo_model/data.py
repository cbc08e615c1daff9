"""Draw icon sets from npm as 128x128 pictures on white.

Reads the iconify JSON packages below --icons (a node_modules folder), draws every
icon that is neither a skin tone nor a country flag, and writes to --out:
  images.npy     uint8 [N, 128, 128, 3], fluent-emoji-flat first, then noto
  drawings.json  one {"name", "set", "caption"} for each picture, in the same order
Needs rsvg-convert (Debian: librsvg2-bin).
"""
import argparse
import io
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128
SETS = (("fluent-emoji-flat", "flat"), ("noto", "noto"))
SKIN_TONE = re.compile(r"-(medium-light|medium-dark|light|medium|dark)(-skin-tone)?")


def load_icons(icons_dir, package):
    """The package's icons.json, and the icon ids kept from it in file order."""
    data = json.loads((Path(icons_dir) / "@iconify-json" / package / "icons.json").read_text())
    icons = data["icons"]
    kept = []
    for icon_id, icon in icons.items():
        if icon.get("hidden") or "skin-tone" in icon_id or icon_id.startswith("flag-for-"):
            continue
        plain = SKIN_TONE.sub("", icon_id)
        if plain != icon_id and plain in icons:
            continue
        kept.append(icon_id)
    return data, kept


def draw_icon(data, icon_id, size=SIZE):
    """One icon as uint8 [size, size, 3] on white."""
    icon = data["icons"][icon_id]
    width = icon.get("width", data.get("width", 16))
    height = icon.get("height", data.get("height", 16))
    left = icon.get("left", data.get("left", 0))
    top = icon.get("top", data.get("top", 0))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size}" height="{size}" viewBox="{left} {top} {width} {height}" '
        f'preserveAspectRatio="xMidYMid meet">{icon["body"]}</svg>'
    )
    png = subprocess.run(
        ["rsvg-convert", "-w", str(size), "-h", str(size), "-b", "white"],
        input=svg.encode(), stdout=subprocess.PIPE, check=True,
    ).stdout
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def name_of(icon_id):
    return icon_id.replace("-", " ")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--icons", required=True, help="node_modules folder with @iconify-json packages")
    parser.add_argument("--out", required=True, help="folder for images.npy and drawings.json")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    drawings, jobs = [], []
    for package, word in SETS:
        data, kept = load_icons(args.icons, package)
        for icon_id in kept:
            name = name_of(icon_id)
            drawings.append({"name": name, "set": word, "caption": f"{name}, {word}"})
            jobs.append((data, icon_id))
    with ThreadPoolExecutor(2) as pool:
        images = np.stack(list(pool.map(lambda job: draw_icon(*job), jobs)))
    np.save(out / "images.npy", images)
    (out / "drawings.json").write_text(json.dumps(drawings, indent=0))
    print(f"{len(images)} drawings")


if __name__ == "__main__":
    main()
