#!/usr/bin/env python3
"""Custom Diffusion's constrained problem on random matrices, solved as its linear system of optimality conditions in double:
minimise |D R^(1/2)|_F over D = W - W0 where D c = dW_k c for the features c of file k. Writes
tests/data/closed_form.safetensors: features C, files (which file each row of C is of), regularisation features, changes dW_k,
and D. Also checks the paper's formula, v^T d, against it."""
import argparse
import os

import numpy as np
from safetensors.numpy import save_file

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", default=DATA)
    args = parser.parse_args()
    g = np.random.default_rng(args.seed)
    width, out, captions, files = 24, 10, 300, np.array([0, 0, 0, 1, 1, 2, 2])
    common = g.standard_normal((1, width))  # text features are far from centred
    features = (g.standard_normal((len(files), width)) + common).astype(np.float32).astype(np.float64)
    regular = (g.standard_normal((captions, width)) * g.uniform(0.2, 2, width) + common).astype(np.float32).astype(np.float64)
    changes = (g.standard_normal((3, out, width)) * 0.1).astype(np.float32).astype(np.float64)
    base = g.standard_normal((out, width))
    gram, n = regular.T @ regular, len(files)
    wanted = np.stack([changes[f] @ c for f, c in zip(files, features)])  # [n, out]
    system = np.block([[gram, features.T], [features, np.zeros((n, n))]])
    solved = np.linalg.solve(system, np.vstack([np.zeros((width, out)), wanted]))[:width].T
    duals = features @ np.linalg.inv(gram)
    targets = np.stack([(base + changes[f]) @ c for f, c in zip(files, features)]).T
    paper = (targets - base @ features.T) @ np.linalg.inv(duals @ features.T) @ duals
    print("the paper's formula differs by", np.abs(paper - solved).max() / np.abs(solved).max())
    path = os.path.join(args.out, "closed_form.safetensors")
    save_file({"features": features.astype(np.float32), "files": files.astype(np.float32), "regular": regular.astype(np.float32),
               **{f"change.{k}": changes[k].astype(np.float32) for k in range(3)}, "solved": np.ascontiguousarray(solved, np.float32)}, path)
    os.chmod(path, 0o644)


if __name__ == "__main__":
    main()
