#!/usr/bin/env python3
"""How near to the artist a learned change of style comes that sees what is to be drawn: a bound for a style LoRA.

A small U-Net learns the style's drawing of a name from the flat set's, 64x64, by mean square error over many turns, sizes,
places, flips and colours. --pairs folder: from the names of the style's folder alone, as a LoRA; --pairs all: from every name
that the demo model knows, but for those kept out. Then it is given the names kept out: as the flat artist drew them, and as
the base model does (--pictures, a folder that style_measure.py filled). Printed: RMSE to the style's artist of what it paints,
which is grey where it is not sure, and of the same decided: as many of the darkest pixels black as in the pictures it learned
from, the others white. `colours` is OpenMoji as it is, of which `outline` is the line layer; there decided
says nothing. Needs torch; docs/style.md has the figures."""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "demo_model"))
from data import draw_icon, load_icons  # noqa: E402
from style_folders import STYLES, draw  # noqa: E402
from style_measure import ROOT, SIDE, read_rgb, rmse  # noqa: E402


class Block(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.first = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = torch.nn.GroupNorm(8, outputs)
        self.second = torch.nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x):
        return F.silu(self.second(F.silu(self.norm(self.first(x)))))


class Net(torch.nn.Module):
    """Three levels, 32x32 to 8x8, so that the coarsest sees the whole thing; 2x2 pixels are one place with four times the
    channels. Out: as many colours as the style has."""

    def __init__(self, width, colours):
        super().__init__()
        sizes = [width, 2 * width, 3 * width]
        self.down = torch.nn.ModuleList(Block(i, o) for i, o in zip([12] + sizes, sizes))
        self.up = torch.nn.ModuleList(Block(sizes[k] + sizes[k - 1], sizes[k - 1]) for k in (2, 1))
        self.out = torch.nn.Conv2d(width + 12, 4 * colours, 1)

    def forward(self, x):
        first = x = F.pixel_unshuffle(x, 2)
        kept = []
        for k, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if k else x)
            kept.append(x)
        for block, beside in zip(self.up, kept[1::-1]):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), beside], 1))
        return torch.sigmoid(F.pixel_shuffle(self.out(torch.cat([x, first], 1)), 2))


def varied(x, y, random):
    """Batches [N, 3, 64, 64] and [N, 1 or 3, 64, 64] in 0..1, white = 0: the same turn, size, place and flip for both, and for
    x other colours (if y has none), a little blur and noise."""
    n = len(x)

    def between(low, high):
        return torch.rand(n, generator=random) * (high - low) + low

    angle, size = between(-0.25, 0.25), between(0.85, 1.25)
    flip = torch.where(between(0, 1) < 0.5, -1.0, 1.0)
    c, s = torch.cos(angle) * size, torch.sin(angle) * size
    where = torch.stack([torch.stack([c * flip, -s, between(-0.12, 0.12)], 1),
                         torch.stack([s * flip, c, between(-0.12, 0.12)], 1)], 1)
    grid = F.affine_grid(where, list(x.shape), align_corners=False)
    x, y = (F.grid_sample(v, grid, align_corners=False) for v in (x, y))
    if y.shape[1] == 1:
        mix = torch.eye(3) + 0.25 * torch.randn(n, 3, 3, generator=random)
        x = torch.einsum("nij,njhw->nihw", mix / mix.sum(2, keepdim=True).clamp(min=0.3), x)
    if torch.rand(1, generator=random) < 0.3:
        x = F.avg_pool2d(x, 3, 1, 1)
    return (x + 0.03 * torch.randn(x.shape, generator=random)).clamp(0, 1), y


def learn(x, y, steps, batch, width, seed):
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    net = Net(width, y.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    losses = []
    for step in range(steps):
        pick = torch.randint(len(x), (batch,), generator=random)
        a, b = varied(x[pick], y[pick], random)
        loss = F.mse_loss(net(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: RMSE {255 * np.mean(losses[-200:]) ** 0.5:.1f} on what it learns from", file=sys.stderr)
    return net


def inks(pictures):
    """RGB pictures [64, 64, 3] in 0..255 -> [N, 3, 64, 64] in 0..1, white = 0."""
    return 1 - torch.tensor(np.stack(pictures), dtype=torch.float32).permute(0, 3, 1, 2) / 255


def painted(net, pictures):
    """What the net makes of RGB pictures, in the same form."""
    with torch.no_grad():
        out = 255 * (1 - net(inks(pictures)).permute(0, 2, 3, 1).double().numpy())
    return [np.broadcast_to(p, (SIDE, SIDE, 3)) for p in out]


def small(picture):
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.BOX), np.float64)


def decided(pictures, share):
    """The darkest `share` of all pixels black, the others white."""
    least = np.quantile(np.stack(pictures), share)
    return [np.where(p <= least, 0.0, 255.0) for p in pictures]


def sheet(series, count, path, columns=6):
    """The first `count` of each list of pictures, beside each other."""
    wide, high = len(series) * SIDE + 8, SIDE + 8
    page = Image.new("RGB", (columns * wide, -(-count // columns) * high), "white")
    for i in range(count):
        for k, pictures in enumerate(series):
            picture = Image.fromarray(pictures[i].round().astype(np.uint8))
            page.paste(picture, (i % columns * wide + k * SIDE, i // columns * high))
    page.save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", choices=sorted(STYLES) + ["colours"])
    parser.add_argument("--icons", required=True, help="node_modules folder with the @iconify-json packages")
    parser.add_argument("--pictures", required=True, help="folder with base/NN.png of the captions kept out")
    parser.add_argument("--pairs", choices=["folder", "all"], default="folder")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", help="PNG of the first 24 names: the style's artist, the flat artist, painted from that, decided")
    args = parser.parse_args()
    torch.set_num_threads(1)

    flat, _ = load_icons(args.icons, "fluent-emoji-flat")
    style, _ = load_icons(args.icons, STYLES.get(args.style, "openmoji"))

    def by_flat(name):
        return small(draw_icon(flat, name.replace(" ", "-")))

    def by_style(name):
        if args.style == "colours":
            return small(draw_icon(style, name.replace(" ", "-")))
        return np.asarray(draw(style, args.style, name, SIDE).convert("RGB"), np.float64)

    styles = ROOT / "assets" / "styles"
    names, kept_out = ((styles / f).read_text().split("\n")[:-1] for f in ("names.txt", "heldout-names.txt"))
    if args.pairs == "all":
        known = (ROOT / "tools" / "demo_model" / "names.txt").read_text().split("\n")[:-1]
        names = [n for n in known if n not in kept_out and all(n.replace(" ", "-") in s["icons"] for s in (flat, style))]
    x, y = inks([by_flat(n) for n in names]), inks([by_style(n) for n in names])
    net = learn(x, y if args.style == "colours" else y[:, :1], args.steps, args.batch, args.width, args.seed)

    share = float((y > 0.5).float().mean())
    truth = [by_style(n) for n in kept_out]

    def mean(pictures):
        return round(float(np.mean([rmse(p, t) for p, t in zip(pictures, truth)])), 1)

    found = {"style": args.style, "pairs": args.pairs, "pictures": len(names)}
    for name, given in (("flat", [by_flat(n) for n in kept_out]),
                        ("model", [read_rgb(Path(args.pictures) / "base" / f"{i:02d}.png") for i in range(len(kept_out))])):
        made = painted(net, given)
        found[name] = {"unchanged": mean(given), "grey": mean(made),
                       "decided": mean(decided(made, share))}
        if args.sheet and name == "flat":
            sheet([truth, given, made, decided(made, share)], 24, args.sheet)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
