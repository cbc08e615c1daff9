"""What training, export and measuring share: names, captions and the noise schedule."""
import json
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
PARTS = ("unet", "text_encoder")


def load_drawings(data_dir):
    """All drawings: a list of {"name", "set", "caption"}, in the order of images.npy."""
    return json.loads((Path(data_dir) / "drawings.json").read_text())


def trained_names():
    return (HERE / "names.txt").read_text().split("\n")[:-1]


def trained_indices(drawings):
    """Indices of the drawings that the UNet and the text encoder learn: names.txt in both sets."""
    wanted = set(trained_names())
    found = [i for i, d in enumerate(drawings) if d["name"] in wanted]
    assert len(found) == 2 * len(wanted), "every name must be drawn in both sets"
    return np.array(found)


def alphas_cumprod(steps=1000, first=0.00085, last=0.012):
    """Stable Diffusion's scaled linear schedule."""
    betas = torch.linspace(first ** 0.5, last ** 0.5, steps) ** 2
    return torch.cumprod(1 - betas, 0)


def picture_sheet(pictures, columns):
    """A list of equally large PIL pictures as one picture, row by row."""
    from PIL import Image
    width, height = pictures[0].size
    rows = (len(pictures) + columns - 1) // columns
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet
