#!/usr/bin/env python3
"""tests/data/extract.safetensors: changes of weight and what numpy's SVD makes of them at a rank, clamped and not.

    python tests/reference/make_extract.py [--seed 5]

kohya's extract_lora_from_models.py cuts at a quantile of the signed numbers, whose result depends on the signs that LAPACK
chose; here, as in the program, it is the quantile of their sizes.
"""
import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=5)
parser.add_argument("--out", default=str(Path(__file__).resolve().parents[1] / "data" / "extract.safetensors"))
args = parser.parse_args()
rng = np.random.default_rng(args.seed)

tensors = {}
for name, shape in {"linear": (24, 40), "tall": (48, 20), "conv": (16, 12, 3, 3)}.items():
    d = rng.standard_normal(shape) * 0.01
    m = d.reshape(shape[0], -1)
    u, s, vh = np.linalg.svd(m, full_matrices=False)
    s = s * np.exp(-0.3 * np.arange(s.size))  # spectra fall in real models
    m = (u * s) @ vh
    d = m.reshape(shape).astype(np.float32)
    u, s, vh = np.linalg.svd(d.reshape(shape[0], -1).astype(np.float64), full_matrices=False)
    rank = 5
    up, down = u[:, :rank] * s[:rank], vh[:rank]
    tensors[f"{name}.diff"] = d
    tensors[f"{name}.product"] = (up @ down).astype(np.float32)
    most = np.quantile(np.abs(np.concatenate([up.ravel(), down.ravel()])), 0.9)
    tensors[f"{name}.clamped"] = (np.clip(up, -most, most) @ np.clip(down, -most, most)).astype(np.float32)
    share = np.sqrt(np.cumsum(s ** 2) / np.sum(s ** 2))
    tensors[f"{name}.shares"] = share.astype(np.float32)
save_file(tensors, args.out)
