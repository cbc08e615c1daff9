#!/usr/bin/env python3
"""Makes a miniature Stable Diffusion folder with random weights, in the layout of diffusers.

Weights are rounded to the stored type before anything is measured, so the folder and a reference
computed from it in f32 hold exactly the same numbers.
"""
import argparse
import json
import os

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tokenizer import write_tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}


def read_config(name):
    path = name if os.path.exists(name) else os.path.join(HERE, "configs", name + ".json")
    with open(path) as f:
        return json.load(f)


def enliven(module, generator):
    """Default initialisation is too tidy to find mistakes: norms that do nothing, attention that is almost flat."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name and p.dim() == 1:
                p.add_(0.1 * noise)
            elif name.endswith(".bias"):
                p.copy_(0.05 * noise)
            elif any(k in name for k in ("to_q", "to_k", "q_proj", "k_proj")):
                p.copy_(noise * 1.6 / p.shape[1] ** 0.5)
            elif "embedding" in name and "time" not in name:
                p.copy_(noise * 0.1)
            else:
                fan_in = p[0].numel() if p.dim() > 1 else 1
                p.copy_(noise / fan_in ** 0.5)


def scale_output(module, layer, run, wanted_std):
    with torch.no_grad():
        layer.weight.mul_(wanted_std / run(module).std().item())


def round_weights(module, dtype):
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(p.to(dtype).float())


def save_state(state, folder, name, dtype):
    os.makedirs(folder, exist_ok=True)
    state = {k: v.detach().to(dtype).contiguous() for k, v in state.items()}
    save_file(state, os.path.join(folder, name), metadata={"format": "pt"})
    os.chmod(os.path.join(folder, name), 0o644)


def save(module, folder, name, dtype, prefix=""):
    save_state({prefix + k: v for k, v in module.state_dict().items()}, folder, name, dtype)


def write_json(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        json.dump(content, f, indent=2)
        f.write("\n")


def make_text(config, part, pad_token, vocab, dtype, generator, out):
    """part is "text" or, with a projection, "text_2"."""
    kind = CLIPTextModel if part == "text" else CLIPTextModelWithProjection
    settings = dict({"projection_dim": config[part]["hidden_size"]}, **config[part], vocab_size=len(vocab),
                    max_position_embeddings=77, bos_token_id=vocab["<|startoftext|>"],
                    eos_token_id=vocab["<|endoftext|>"], pad_token_id=vocab[pad_token])
    text = kind(CLIPTextConfig(**settings)).eval()
    enliven(text, generator)
    round_weights(text, dtype)
    write_json(os.path.join(out, "config.json"), {
        "architectures": [kind.__name__], "model_type": "clip_text_model", "attention_dropout": 0.0,
        "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-5,
        "torch_dtype": str(dtype)[6:], **settings})
    # Older folders spell the tower "text_model.…", those of transformers 5 leave it out.
    state = text.state_dict()
    bare = not any(k.startswith("text_model.") for k in state)
    prefix = config.get("text_prefix", "text_model.") if bare else ""
    save_state({k if k.startswith("text_projection") else prefix + k: v for k, v in state.items()}, out,
               "model.safetensors", dtype)


def make_unet(config, dtype, generator, out):
    unet = UNet2DConditionModel(**config["unet"]).eval()
    enliven(unet, generator)
    round_weights(unet, dtype)
    h, w = config["latent_size"]
    x = torch.randn(2, unet.config.in_channels, h, w, generator=generator)
    context = torch.randn(2, 77, config["unet"]["cross_attention_dim"], generator=generator)
    extra = {}
    if unet.config.addition_embed_type:
        pooled = torch.randn(2, config["text_2"]["projection_dim"], generator=generator)
        extra["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.full((2, 6), 64.0)}
    if unet.config.time_cond_proj_dim:
        extra["timestep_cond"] = torch.randn(2, unet.config.time_cond_proj_dim, generator=generator)
    scale_output(unet, unet.conv_out, lambda m: m(x, torch.tensor([500, 200]), context, **extra).sample, 0.9)
    round_weights(unet, dtype)
    unet.save_config(out)
    save(unet, out, "diffusion_pytorch_model.safetensors", dtype)


def make_vae(config, dtype, generator, out):
    levels = len(config["vae"]["block_out_channels"])
    vae = AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
                        latent_channels=4, sample_size=64, **config["vae"]).eval()
    enliven(vae, generator)
    round_weights(vae, dtype)
    h, w = config["latent_size"]
    z = torch.randn(1, 4, h, w, generator=generator)
    scale_output(vae, vae.decoder.conv_out, lambda m: m.decode(z).sample, 0.45)
    round_weights(vae, dtype)
    vae.save_config(out)
    save(vae, out, "diffusion_pytorch_model.safetensors", dtype)


def write_index(config, out):
    two = "text_2" in config
    index = {"_class_name": config.get("pipeline", "StableDiffusionPipeline"), "_diffusers_version": "0.30.0",
             "feature_extractor": [None, None], "scheduler": ["diffusers", config["scheduler"]["_class_name"]],
             "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    if two:
        index |= {"force_zeros_for_empty_prompt": True, "image_encoder": [None, None],
                  "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                  "tokenizer_2": ["transformers", "CLIPTokenizer"]}
    else:
        index |= {"requires_safety_checker": False, "safety_checker": [None, None]}
    write_json(os.path.join(out, "model_index.json"), dict(sorted(index.items())))


def make_model(config, seed, out, dtype_name=None):
    dtype = DTYPES[dtype_name or config["dtype"]]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    for part, suffix in (("text", ""), ("text_2", "_2")):
        if part in config:
            pad = config["pad_token" + suffix]
            _, vocab = write_tokenizer(os.path.join(out, "tokenizer" + suffix), pad)
            make_text(config, part, pad, vocab, dtype, generator, os.path.join(out, "text_encoder" + suffix))
    make_unet(config, dtype, generator, os.path.join(out, "unet"))
    make_vae(config, dtype, generator, os.path.join(out, "vae"))
    write_json(os.path.join(out, "scheduler", "scheduler_config.json"),
               dict(config["scheduler"], _diffusers_version="0.30.0"))
    write_index(config, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a name in configs/, or a JSON file like those")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="how weights are stored; default: as the config says")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_model(read_config(args.config), args.seed, args.out, args.dtype)


if __name__ == "__main__":
    main()
