#!/usr/bin/env python3
"""Textual-inversion files that torch.save wrote: A1111's dictionary, and the original program's with a ParameterDict.

    python tests/reference/make_embeddings.py --out tests/data/embeddings [--seed 5] [--width 32]

Every file holds the same two vectors, rows of one torch.randn(2, width), so that a reader can be compared with the others
and with vectors.safetensors. The safetensors forms are written by tests/test_embedding.c itself.
"""
import argparse
import os

import torch
from safetensors.torch import save_file


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--width", type=int, default=32)
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    vectors = torch.randn(2, options.width, generator=torch.Generator().manual_seed(options.seed)) * 0.02
    save_file({"vectors": vectors}, os.path.join(options.out, "vectors.safetensors"))
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "other", "step": 500,
                "sd_checkpoint": None, "sd_checkpoint_name": None}, os.path.join(options.out, "webui.pt"))
    torch.save({"string_to_token": {"*": torch.tensor(265)},
                "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})},
               os.path.join(options.out, "original.pt"))
    torch.save({"<gold>": vectors[0].clone()}, os.path.join(options.out, "learned_embeds.bin"))


main()
