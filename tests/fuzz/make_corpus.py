#!/usr/bin/env python3
"""Writes the seeds of the fuzzers' corpora from the project's own test data (tests/fuzz/corpus/TARGET/seed-*)."""
import glob
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data")
MOST = 6000


def put(target, number, data):
    folder = os.path.join(HERE, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f"seed-{number:02d}"), "wb") as f:
        f.write(data)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def header(entries, data=b""):
    return json.dumps(entries).encode() + b"\0" + data


def main():
    one = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}
    two = {"dtype": "F32", "shape": [1, 1], "data_offsets": [4, 8]}
    seeds = [header({"a": one}, bytes(4)), header({"a": one, "b": two, "__metadata__": {"k": "v"}}, bytes(8)),
             header({"x": {"dtype": "F8_E4M3", "shape": [], "data_offsets": [0, 1]}}, b"\x7f"),
             header({"e": {"dtype": "I64", "shape": [0, 3], "data_offsets": [0, 0]}})]
    for i, s in enumerate(seeds):
        put("safetensors", i, s)

    files = []
    for kind, pattern in ((0, "*/unet/config.json"), (1, "*/vae/config.json"), (2, "*/text_encoder/config.json"), (3, "*/scheduler/*.json")):
        files += [(kind, p) for p in sorted(glob.glob(os.path.join(DATA, pattern)))]
    files += [(0, p) for p in sorted(glob.glob(os.path.join(DATA, "configs", "*unet.json")))]
    for i, (kind, path) in enumerate(files):
        put("configs", i, bytes([kind]) + read(path))

    texts = ["a photo of an astronaut riding a horse", "isn't DON'T it's", "h\u00e9llo \u65e5\u672c \U0001f600 !!", "<|endoftext|> <|startoftext|>x 12345"]
    for i, text in enumerate(texts):
        put("tokenizer", i, b"\0" + text.encode())
    vocab = {"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "<|startoftext|>": 5, "<|endoftext|>": 6}
    config = {"model_max_length": 8, "pad_token": "a", "added_tokens_decoder": {"6": {"content": "<|endoftext|>", "special": True}}}
    parts = [json.dumps(vocab).encode(), b"#version: 0.2\na b</w>\n", json.dumps(config).encode(), b"ab a AB"]
    put("tokenizer", len(texts), b"\1" + b"\0".join(parts))

    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    kohya = "lora_unet_" + layer.replace(".", "_")
    adapters = [f"{kohya}.lora_down.weight 4 16\n{kohya}.lora_up.weight 16 4\n{kohya}.alpha\n@ss_network_dim 4\n",
                f"unet.{layer}.lora_A.weight 4 16\nunet.{layer}.lora_B.weight 16 4\n",
                f"{kohya}.hada_w1_a 16 4\n{kohya}.hada_w1_b 4 16\n{kohya}.hada_w2_a 16 4\n{kohya}.hada_w2_b 4 16\n",
                f"{kohya}.lokr_w1 4 4\n{kohya}.lokr_w2 4 4\n{kohya}.dora_scale 16 1\n", f"unet.{layer}.processor.to_q_lora.down.weight 4 16\n",
                f"base_model.model.{layer}.lora_A.default.weight 4 16\n@lora_adapter_metadata {{\"unet.r\": 4}}\n",
                f"{kohya}.diff 16 16\n{kohya}.oft_blocks 4 4 4\n",
                "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight 4 16\n", "unet:0:up 16 4\nunet:0:down 4 16\n", "emb_params 2 16\n"]
    for i, text in enumerate(adapters):
        put("adapter", i, text.encode())

    recipes = ["a cat, flat\nNegative prompt: bad\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, "
               "Seed: 5, Size: 512x512, Model: m, Model hash: 0123456789",
               "x <lora:a b:0.8>\nSteps: 4, Lora hashes: \"a: 00aa, b: 11bb\", Version: 1", "Steps: 1", "", "a\n\nb, Steps: x\nSeed: -1, Size: 1x"]
    for i, text in enumerate(recipes):
        put("recipe", i, b"\0" + text.encode())
    pictures = [p for p in sorted(glob.glob(os.path.join(DATA, "..", "..", "assets", "styles", "*", "*.png"))) if os.path.getsize(p) < MOST][:2]
    for i, path in enumerate(pictures):
        put("recipe", len(recipes) + i, b"\1" + read(path))

    number = 0
    for path in sorted(glob.glob(os.path.join(DATA, "torch", "*"))):
        put("torch", number, b"\0" + read(path))
        number += 1
    import zipfile
    for name in ("sound.ckpt", "protocol4.pt", "list.pt", "nested.pt"):
        with zipfile.ZipFile(os.path.join(DATA, "torch", name)) as z:
            put("torch", number, b"\1" + z.read([n for n in z.namelist() if n.endswith("data.pkl")][0]))
        number += 1


if __name__ == "__main__":
    main()
