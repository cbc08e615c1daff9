"""Codes and scales of 4- and 8-bit weights: nf4 as bitsandbytes' own quantiser makes them, int8 by numpy.

    quant.py OUT.safetensors [SEED]
"""
import sys

import bitsandbytes.functional as bnb
import numpy as np
import torch
from safetensors.numpy import save_file


def main():
    out, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    w = torch.randn(24, 192) * torch.rand(24, 1)
    w[3, 64:128] = 0  # a block of zeros
    packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
    back = bnb.dequantize_4bit(packed, state)
    # bitsandbytes has the even value in the high half
    codes = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], 1).view(24, 192)
    x = w.numpy().reshape(24, 3, 64)
    absmax = np.abs(x).max(2, keepdims=True)
    inverse = np.where(absmax > 0, np.float32(1) / np.where(absmax > 0, absmax, 1), 0).astype(np.float32)
    q = np.rint(x * inverse * np.float32(127)).clip(-127, 127)
    save_file({
        "weight": w.numpy(),
        "nf4.codes": codes.to(torch.uint8).numpy(),
        "nf4.absmax": state.absmax.numpy(),
        "nf4.levels": state.code.numpy(),
        "nf4.decoded": back.numpy(),
        "int8.decoded": (q * (absmax / np.float32(127))).astype(np.float32).reshape(24, 192),
    }, out)


main()
