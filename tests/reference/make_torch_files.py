#!/usr/bin/env python3
"""Writes small files as torch.save makes them, sound and hostile ones, for tests/test_io_torch.c.

Values of a tensor with n elements are seed + 0, 1, 2, ... as far as its type holds them."""
import argparse
import collections
import os
import pickle
import random
import zipfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


def ramp(seed, shape, dtype):
    n = 1
    for d in shape:
        n *= d
    return (torch.arange(n, dtype=torch.float64) + seed).reshape(shape).to(dtype)


def repack(source, target, compression, drop=(), change=None):
    """The same archive written by another hand."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for item in old.infolist():
            data = old.read(item)
            if any(item.filename.endswith(d) for d in drop):
                continue
            if change:
                data = change(item.filename, data)
            new.writestr(zipfile.ZipInfo(item.filename), data, compress_type=compression)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "data", "torch"))
    args = parser.parse_args()
    s = args.seed
    os.makedirs(args.out, exist_ok=True)
    path = lambda name: os.path.join(args.out, name)

    whole = ramp(s, (4, 6), torch.float32)
    state = collections.OrderedDict([
        ("model.f32", ramp(s, (2, 3), torch.float32)), ("model.f16", ramp(s, (5,), torch.float16)),
        ("model.bf16", ramp(s, (3, 1, 2), torch.bfloat16)), ("model.f64", ramp(s, (2, 2), torch.float64)),
        ("model.i64", ramp(s, (3,), torch.int64)), ("model.i32", ramp(s, (3,), torch.int32)),
        ("model.i16", ramp(s, (3,), torch.int16)), ("model.i8", ramp(s, (3,), torch.int8)),
        ("model.u8", ramp(s, (3,), torch.uint8)), ("model.bool", torch.tensor([True, False, True])),
        ("scalar", torch.tensor(float(s))), ("empty", torch.zeros(0, 4)),
        ("view.rows", whole[1:3]), ("view.turned", whole.t()), ("view.columns", whole[:, 2:4]),
        ("parameter", torch.nn.Parameter(ramp(s, (2, 2), torch.float32)))])
    torch.save({"state_dict": state, "epoch": 7, "global_step": 875000, "note": "text", "rate": 0.5,
                "optimizer_states": [{"ignored": ramp(s, (4,), torch.float32)}]}, path("sound.ckpt"))
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": ramp(s, (2, 8), torch.float32)},
                "name": "style", "step": 12}, path("nested.pt"))
    torch.save([ramp(s, (2, 2), torch.float32), ramp(s, (3,), torch.float16)], path("list.pt"))
    torch.save({"a": ramp(s, (2,), torch.float32)}, path("protocol4.pt"), pickle_protocol=4)
    repack(path("sound.ckpt"), path("deflated.ckpt"), zipfile.ZIP_DEFLATED)

    torch.save({"a": ramp(s, (2,), torch.float32), "b": Evil()}, path("evil.pt"))
    torch.save({"a": ramp(s, (2,), torch.float32)}, path("old.pt"), _use_new_zipfile_serialization=False)
    torch.save({"a": ramp(s, (64,), torch.float32)}, path("plain.pt"))
    with open(path("plain.pt"), "rb") as f:
        data = f.read()
    with open(path("cut.pt"), "wb") as f:
        f.write(data[: len(data) * 2 // 3])
    repack(path("plain.pt"), path("lacks-storage.pt"), zipfile.ZIP_STORED, drop=("data/0",))
    repack(path("plain.pt"), path("short-storage.pt"), zipfile.ZIP_STORED,
           change=lambda name, d: d[:100] if name.endswith("data/0") else d)
    repack(path("plain.pt"), path("big-endian.pt"), zipfile.ZIP_STORED,
           change=lambda name, d: b"big" if name.endswith("byteorder") else d)
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, path("repeats.pt"))
    looped = collections.OrderedDict()
    looped["self"] = looped
    torch.save(looped, path("looped.pt"))
    with zipfile.ZipFile(path("no-pickle.pt"), "w") as z:
        z.writestr("archive/other", b"x")
    rng = random.Random(s)
    with zipfile.ZipFile(path("noise.pt"), "w") as z:
        z.writestr("archive/data.pkl", b"\x80\x02" + bytes(rng.randrange(256) for _ in range(64)))
    with zipfile.ZipFile(path("twice.pt"), "w") as z:
        z.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2))
    with zipfile.ZipFile(path("plain.pt")) as z:
        pkl = z.read([n for n in z.namelist() if n.endswith("data.pkl")][0])
        storage = z.read([n for n in z.namelist() if n.endswith("data/0")][0])
    # {"a": T} with the item set a second time.
    body = pkl[pkl.index(b"X\x01\x00\x00\x00a"):pkl.rindex(b"s.")]
    with zipfile.ZipFile(path("twice.pt"), "w") as z:
        z.writestr("archive/data.pkl", pkl[: pkl.rindex(b".")] + body + b"s.")
        z.writestr("archive/data/0", storage)
    os.remove(path("plain.pt"))


if __name__ == "__main__":
    main()
