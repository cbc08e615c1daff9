#!/usr/bin/env python3
"""Makes the miniatures of single-file checkpoints: the diffusers folder NAME, and NAME.names.json that says which of its
tensors a single file has under which names. Proves the names by diffusers' own converters: they must give back the
folder's tensors. --single writes the file itself, --ckpt one of torch.save with Lightning's entries and an EMA."""
import argparse
import collections
import json
import os

import torch
from diffusers.loaders import single_file_utils as reference
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import make_model as mm
from single_file import assemble, single_names
from tokenizer import write_tokenizer

FAMILY = {"file-sd1": "sd1", "file-sd2": "sd2", "file-xl": "xl"}
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model", "text_encoder_2": "model"}


def make_xl_unet(config, dtype, generator, out):
    unet = mm.UNet2DConditionModel(**config["unet"]).eval()
    mm.enliven(unet, generator)
    h, w = config["latent_size"]
    x = torch.randn(2, 4, h, w, generator=generator)
    context = torch.randn(2, 77, config["unet"]["cross_attention_dim"], generator=generator)
    added = {"text_embeds": torch.randn(2, config["text_2"]["projection_dim"], generator=generator), "time_ids": torch.rand(2, 6) * 100}
    mm.scale_output(unet, unet.conv_out, lambda m: m(x, torch.tensor([500, 200]), context, added_cond_kwargs=added).sample, 0.9)
    mm.round_weights(unet, dtype)
    unet.save_config(out)
    mm.save(unet, out, "diffusion_pytorch_model.safetensors", dtype)


def make_second_text(config, vocab, dtype, generator, out):
    settings = dict(config["text_2"], vocab_size=len(vocab), max_position_embeddings=77, bos_token_id=vocab["<|startoftext|>"],
                    eos_token_id=vocab["<|endoftext|>"], pad_token_id=vocab[config["pad_token_2"]])
    text = CLIPTextModelWithProjection(CLIPTextConfig(**settings)).eval()
    mm.enliven(text, generator)
    mm.round_weights(text, dtype)
    mm.write_json(os.path.join(out, "config.json"), {
        "architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model", "layer_norm_eps": 1e-5,
        "torch_dtype": str(dtype)[6:], **settings})
    mm.save(text, out, "model.safetensors", dtype)


def make_folder(config, family, seed, out):
    if family != "xl":
        return mm.make_model(config, seed, out)
    dtype, generator = mm.DTYPES[config["dtype"]], torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    _, vocab = write_tokenizer(os.path.join(out, "tokenizer"), config["pad_token"])
    write_tokenizer(os.path.join(out, "tokenizer_2"), config["pad_token_2"])
    mm.make_text(config, vocab, dtype, generator, os.path.join(out, "text_encoder"))
    make_second_text(config, vocab, dtype, generator, os.path.join(out, "text_encoder_2"))
    make_xl_unet(config, dtype, generator, os.path.join(out, "unet"))
    mm.make_vae(config, dtype, generator, os.path.join(out, "vae"))
    mm.write_json(os.path.join(out, "scheduler", "scheduler_config.json"), config["scheduler"])
    mm.write_json(os.path.join(out, "model_index.json"), {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True})


def load_states(folder):
    return {part: load_file(os.path.join(folder, part, stem + ".safetensors"))
            for part, stem in WEIGHTS.items() if os.path.isdir(os.path.join(folder, part))}


def read_config(folder, part):
    with open(os.path.join(folder, part, "config.json")) as f:
        return json.load(f)


def plain(key):
    return key[len("text_model."):] if key.startswith("text_model.") else key


def same(what, got, want):
    got, want = {plain(k): v for k, v in got.items()}, {plain(k): v for k, v in want.items()}
    got = {k: v for k, v in got.items() if not k.endswith("position_ids")}
    assert got.keys() == want.keys(), (what, sorted(got.keys() ^ want.keys())[:8])
    for k in want:
        assert torch.equal(got[k].reshape(want[k].shape), want[k]), (what, k)


def prove(folder, family, single, states):
    """diffusers' converters read the file as the folder. Its text towers are created from the converter's own configs only
    at full size, so those of the miniatures are converted by name."""
    state = dict(single)
    same("unet", reference.convert_ldm_unet_checkpoint(dict(state), read_config(folder, "unet")), states["unet"])
    state = dict(single)
    vae = reference.convert_ldm_vae_checkpoint(state, read_config(folder, "vae"))
    same("vae", vae, states["vae"])
    if family == "sd1":
        same("text", reference.convert_ldm_clip_checkpoint(dict(single)), states["text_encoder"])
        return
    part, prefix = ("text_encoder", "cond_stage_model.model.") if family == "sd2" else ("text_encoder_2", "conditioner.embedders.1.model.")

    class Tower:  # what convert_open_clip_checkpoint asks of a model
        config = type("Config", (), read_config(folder, part) | {"projection_dim": read_config(folder, part)["projection_dim"]})

    tower = Tower()
    tower.config.num_hidden_layers = read_config(folder, part)["num_hidden_layers"]
    got = reference.convert_open_clip_checkpoint(tower, dict(single), prefix=prefix)
    got = {k: v for k, v in got.items() if k in states[part] or ("text_model." + k) in states[part] or k.startswith("text_")}
    want = dict(states[part])
    layers = tower.config.num_hidden_layers
    got = {k: v for k, v in got.items() if f"encoder.layers.{layers}." not in k}
    if "text_projection.weight" not in want:
        got.pop("text_projection.weight", None)
    same("open clip", got, want)
    if family == "xl":
        first = {k[len("conditioner.embedders.0.transformer."):]: v for k, v in single.items() if k.startswith("conditioner.embedders.0.")}
        same("text", first, states["text_encoder"])


def write_ckpt(single, path):
    state = collections.OrderedDict(single)
    for key in list(single)[:3]:
        if key.startswith("model.diffusion_model."):
            state["model_ema." + key[len("model."):].replace(".", "")] = single[key].clone()
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["betas"], state["alphas_cumprod"] = torch.linspace(0, 1, 10), torch.linspace(1, 0, 10)
    torch.save({"state_dict": state, "global_step": 1234, "epoch": 5, "pytorch-lightning_version": "1.5.0"}, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="*", default=sorted(FAMILY))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=os.path.join(mm.HERE, "..", "data"))
    parser.add_argument("--single", help="also write the single file here")
    parser.add_argument("--ckpt", default="file-sd1", help="the config whose .ckpt is written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.config:
        config, folder, family = mm.read_config(name), os.path.join(args.out, name), FAMILY[name]
        make_folder(config, family, args.seed, folder)
        states = load_states(folder)
        layers = config.get("text_2", config["text"])["num_hidden_layers"]
        names = single_names(family, config["unet"], config["vae"], states, layers)
        single = assemble(names, states)
        prove(folder, family, single, states)
        with open(folder + ".names.json", "w") as f:
            json.dump({k: {"part": part, "keys": keys, "how": how} for k, (part, keys, how) in names.items()}, f, indent=0, sort_keys=True)
            f.write("\n")
        if args.single:
            save_file(single, args.single, metadata={"format": "pt"})
        if name == args.ckpt:
            write_ckpt(single, folder + ".ckpt")
        print(f"{name}: {len(single)} tensors, names as diffusers converts them")


if __name__ == "__main__":
    main()
