#!/usr/bin/env python3
"""Makes a Stable Diffusion folder of the real size with random weights, in half precision, in diffusers' layout and, if asked
for, as a single file in the naming of LDM or SGM.

    python tools/make_checkpoint.py --model sd15|sd21|sdxl --out DIR [--single FILE] [--seed N]

Only the architecture is real: nobody's weights are in it, and it draws nothing but noise. Parameters and tensors are
counted and must be as many as the published models have. Tensors are written one after the other, so that SDXL's 7 GB
need less than 1 GB of memory. Developers run this before tests/reference/compare_full.py.
"""
import argparse
import json
import os
import struct
import sys

import torch
from safetensors import safe_open
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "tests", "reference"))
from single_file import single_names  # noqa: E402
from tokenizer import byte_alphabet, learn_merges  # noqa: E402

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000,
         "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False, "skip_prk_steps": True}
# Configs are those of tests/data/configs; counts are (parameters, tensors) of the published checkpoints.
MODELS = {
    "sd15": {"unet": "sd1-unet", "vae": 0.18215, "texts": [("clip-l", EOS)], "scheduler": dict(TABLE, _class_name="PNDMScheduler"),
             "counts": {"unet": (859520964, 686), "text_encoder": (123060480, 196)}},
    "sd21": {"unet": "sd2-unet", "vae": 0.18215, "texts": [("openclip-h", "!")],
             "scheduler": dict(TABLE, _class_name="DDIMScheduler", prediction_type="v_prediction"),
             "counts": {"unet": (865910724, 686), "text_encoder": (340387840, 372)}},
    "sdxl": {"unet": "sdxl-unet", "vae": 0.13025, "texts": [("clip-l", EOS), ("openclip-bigg", "!")],
             "scheduler": dict(TABLE, _class_name="EulerDiscreteScheduler", prediction_type="epsilon", timestep_spacing="leading",
                               interpolation_type="linear", use_karras_sigmas=False),
             "counts": {"unet": (2567463684, 1680), "text_encoder": (123060480, 196), "text_encoder_2": (694659840, 517)}},
}


def read_config(name):
    with open(os.path.join(ROOT, "tests", "data", "configs", name + ".json")) as f:
        return json.load(f)


def write_json(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        json.dump(content, f, indent=2)
        f.write("\n")


class Noise:
    """Random numbers from a pool that is gone through again and again: drawing SDXL's 3.5 billion would take minutes. The
    pool's length is a prime, so that no two rows of a matrix are equal."""

    def __init__(self, seed, length=8388593):
        self.pool = torch.randn(length, generator=torch.Generator().manual_seed(seed))
        self.at = 0

    def take(self, shape):
        n, length = shape.numel(), len(self.pool)
        parts, left = [], n
        while left:
            part = self.pool[self.at:self.at + left]
            parts.append(part)
            left -= len(part)
            self.at = (self.at + len(part)) % length
        return torch.cat(parts).reshape(shape)


def value(name, shape, noise):
    """Of a size that keeps activations near 1 through the whole depth, attention neither flat nor hard."""
    noise = noise.take(shape)
    if len(shape) == 1:
        return 1 + 0.1 * noise if name.endswith("norm.weight") or ("norm" in name and name.endswith(".weight")) else 0.02 * noise
    if "embedding" in name and "time" not in name and "add_" not in name:
        return 0.1 * noise
    gain = 1.2 if any(k in name for k in ("to_q", "to_k", "q_proj", "k_proj")) else 0.7
    return noise * (gain / shape[1:].numel() ** 0.5)


def write_weights(path, shapes, noise):
    """safetensors, one tensor at a time."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        n = 2 * shape.numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            f.write(value(name, shape, noise).half().contiguous().numpy().tobytes())
    os.replace(path + ".part", path)


def shapes_of(module, prefix=""):
    out = {}
    for name, p in sorted(module.named_parameters()):
        bare = prefix and not name.startswith((prefix, "text_projection"))
        out[(prefix if bare else "") + name] = p.shape
    return out


def check_count(what, shapes, wanted):
    got = sum(s.numel() for s in shapes.values()), len(shapes)
    print(f"{what}: {got[0]:,} parameters in {got[1]} tensors" + (", as published" if got == wanted else ""), flush=True)
    if wanted and got != wanted:
        sys.exit(f"{what} should have {wanted[0]:,} parameters in {wanted[1]} tensors")


def write_tokenizer(folder, pad):
    """As many tokens as CLIP's, at the same places of start and end; the merges past those of a few words are fillers."""
    alphabet = byte_alphabet()
    size = 49408
    symbols = alphabet + [c + "</w>" for c in alphabet]
    merges, known = [], set(symbols)
    fillers = ((a, b + "</w>") for a in alphabet for b in alphabet)
    for a, b in (*learn_merges(126), *fillers):
        if len(symbols) == size - 2:
            break
        if a + b not in known:
            known.add(a + b)
            symbols.append(a + b)
            merges.append((a, b))
    symbols += [BOS, EOS]
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as f:
        json.dump({s: i for i, s in enumerate(symbols)}, f, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    write_json(os.path.join(folder, "special_tokens_map.json"), special)
    write_json(os.path.join(folder, "tokenizer_config.json"), {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "add_prefix_space": False,
        "errors": "replace", **special})


def make_part(name, module, config, folder, counts, noise, stem, prefix=""):
    shapes = shapes_of(module, prefix)
    check_count(name, shapes, counts.get(name))
    write_json(os.path.join(folder, name, "config.json"), config)
    write_weights(os.path.join(folder, name, stem + ".safetensors"), shapes, noise)


def make_checkpoint(model, seed, out):
    plan, noise = MODELS[model], Noise(seed)
    counts = plan["counts"]
    index = {"_class_name": "StableDiffusionXLPipeline" if len(plan["texts"]) > 1 else "StableDiffusionPipeline",
             "_diffusers_version": "0.30.0", "scheduler": ["diffusers", plan["scheduler"]["_class_name"]],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    for i, (name, pad) in enumerate(plan["texts"]):
        suffix = "_2" if i else ""
        config = dict(read_config(name), bos_token_id=49406, eos_token_id=49407, torch_dtype="float16")
        kind = {"CLIPTextModel": CLIPTextModel}.get(config["architectures"][0], CLIPTextModelWithProjection)
        with torch.device("meta"):
            module = kind(CLIPTextConfig(**{k: v for k, v in config.items() if k != "architectures"}))
        make_part("text_encoder" + suffix, module, config, out, counts, noise, "model", "text_model.")
        write_tokenizer(os.path.join(out, "tokenizer" + suffix), pad)
        index |= {"text_encoder" + suffix: ["transformers", kind.__name__], "tokenizer" + suffix: ["transformers", "CLIPTokenizer"]}
    if len(plan["texts"]) > 1:
        index["force_zeros_for_empty_prompt"] = True
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    for name, kind, config in (("unet", UNet2DConditionModel, read_config(plan["unet"])),
                               ("vae", AutoencoderKL, dict(read_config("kl-f8-vae"), scaling_factor=plan["vae"]))):
        with torch.device("meta"):
            module = kind.from_config(config)
        make_part(name, module, config, out, counts, noise, "diffusion_pytorch_model")
    write_json(os.path.join(out, "scheduler", "scheduler_config.json"), plan["scheduler"])
    write_json(os.path.join(out, "model_index.json"), dict(sorted(index.items())))


def rearranged(tensors, how):
    t = torch.cat(tensors) if how == "stack" else tensors[0]
    return t.t() if how == "turn" else t[:, :, None, None] if how == "conv" else t


def write_single(model, folder, path):
    """The folder's weights in one file, in the naming of LDM or SGM (tests/reference/single_file.py), tensor by tensor."""
    family = {"sd15": "sd1", "sd21": "sd2", "sdxl": "xl"}[model]
    parts = ["unet", "vae"] + ["text_encoder", "text_encoder_2"][:len(MODELS[model]["texts"])]
    files = {p: safe_open(os.path.join(folder, p, ("model" if "text" in p else "diffusion_pytorch_model") + ".safetensors"), "pt") for p in parts}
    tower = read_config(MODELS[model]["texts"][-1][0])
    names = single_names(family, read_config(MODELS[model]["unet"]), read_config("kl-f8-vae"), {p: dict.fromkeys(f.keys()) for p, f in files.items()},
                         tower["num_hidden_layers"])
    names = dict(sorted(names.items()))
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (part, keys, how) in names.items():
        shape = list(rearranged([torch.empty(files[part].get_slice(k).get_shape(), device="meta") for k in keys], how).shape)
        n = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".part", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for part, keys, how in names.values():
            f.write(rearranged([files[part].get_tensor(k) for k in keys], how).contiguous().numpy().tobytes())
    os.replace(path + ".part", path)
    print(f"{path}: {len(names)} tensors, {at // 2:,} parameters")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, choices=sorted(MODELS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True, help="the folder; if it holds a model already, that is taken")
    parser.add_argument("--single", help="write the model in one file, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not os.path.exists(os.path.join(args.out, "model_index.json")):
        make_checkpoint(args.model, args.seed, args.out)
    if args.single:
        write_single(args.model, args.out, args.single)


if __name__ == "__main__":
    main()
