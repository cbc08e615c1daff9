"""Loads an adapter file that atelier wrote with diffusers and compares what it does to the weights.

    python tests/reference/check_lora_file.py --model tests/data/mini-xl --lora FILE.safetensors [--strength 0.7]

diffusers must take every module of the file, and each layer's weight must change by
strength * alpha / rank * up * down, within 1e-6 of the change's range.
"""
import argparse
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


def layers(pipe):
    """kohya's name -> (layer inside its peft wrapper, weight)."""
    found = {}
    for prefix, model in (("lora_unet_", pipe.unet), ("lora_te_", pipe.text_encoder)):
        for name, module in model.named_modules():
            if hasattr(module, "weight") and getattr(module.weight, "dim", lambda: 0)() in (2, 4):
                flat = prefix + name.replace(".base_layer", "").replace(".", "_")
                found[flat] = found[flat.replace("lora_te_", "lora_te_text_model_", 1)] = module.weight
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--lora", required=True)
    parser.add_argument("--strength", type=float, default=0.7)
    options = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(options.model, torch_dtype=torch.float32, safety_checker=None)
    before = {k: v.detach().clone() for k, v in layers(pipe).items()}
    pipe.load_lora_weights(options.lora)
    pipe.fuse_lora(lora_scale=options.strength)
    after = layers(pipe)
    tensors = load_file(options.lora)
    names = sorted({k.rsplit(".", 1)[0] for k in tensors if k.endswith(".alpha")})
    worst, changed = 0.0, 0
    for name in names:
        down, up = tensors[name + ".lora_down.weight"].float(), tensors[name + ".lora_up.weight"].float()
        scale = options.strength * float(tensors[name + ".alpha"]) / down.shape[0]
        want = scale * torch.einsum("or,r...->o...", up.flatten(1), down)
        got = (after[name] - before[name]).reshape(want.shape)
        worst = max(worst, float((got - want).abs().max() / want.abs().max().clamp_min(1e-12)))
        changed += 1
    print(f"{changed} modules, worst difference {worst:.2g} of a layer's change")
    sys.exit(0 if changed and worst < 1e-5 else 1)


main()
