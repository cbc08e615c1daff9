#!/usr/bin/env python3
"""Makes the miniature models and their goldens anew in tests/data (or --out)."""
import argparse
import os

import torch

from make_goldens import make_goldens
from make_model import HERE, make_model, read_config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", nargs="*", default=["mini-sd1", "mini-sd2", "mini-xl", "mini-odd"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "data"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.config:
        config = read_config(name)
        folder = os.path.join(args.out, name)
        make_model(config, args.seed, folder)
        make_goldens(folder, folder + ".golden.safetensors", args.seed, config["latent_size"],
                     config.get("uneven_latent_size"), **config["goldens"])


if __name__ == "__main__":
    main()
