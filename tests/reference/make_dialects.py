#!/usr/bin/env python3
"""Small adapter files in every spelling, and what the reference libraries make of them.

    python tests/reference/make_dialects.py --data tests/data --out tests/data/dialects [--seed 7] [--rank 2]

Where a library writes a spelling, it writes the file (diffusers save_lora_weights, peft save_pretrained, lycoris); other
names are put together from the published rules. Where a library reads it, its reading is the answer: the base weights
are set to zero, the adapter is fused, and what a layer's weight W then is goes into NAME.golden.safetensors as
W.flatten(1) @ cos(0.7 * [0, 1, 2, ...]), one vector per layer, under the part's name and the layer's path. That is a
change of weight without the base's rounding. cloneofsimo's numbers and ComfyUI's names, which none of the installed
libraries reads, are answered from the factors themselves.
"""
import argparse
import json
import os
import re
import shutil

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

import reference as ref

BLOCK = "transformer_blocks.0."


def randn(generator, *shape):
    return torch.randn(*shape, generator=generator)


class Golden:
    def __init__(self, folder, kind, data, seed, rank):
        self.model = os.path.join(data, folder)
        self.sdxl = kind is StableDiffusionXLPipeline
        self.kind, self.rank = kind, rank
        self.generator = torch.Generator().manual_seed(seed)
        self.pipe = self.fresh()

    def fresh(self):
        ref.diffusers_logging.set_verbosity_error()
        ref.diffusers_logging.disable_progress_bar()
        pipe = self.kind.from_pretrained(self.model, torch_dtype=torch.float32)
        for _, part in self.parts(pipe):
            part.requires_grad_(False)
            for module in part.modules():
                if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                    module.weight.zero_()
        return pipe

    @staticmethod
    def parts(pipe):
        names = ["unet", "text_encoder"] + (["text_encoder_2"] if hasattr(pipe, "text_encoder_2") else [])
        return [(n, getattr(pipe, n)) for n in names]

    def factors(self, part, paths, half=True):
        """{path: (down, up)}, rounded to f16 so that files can be small."""
        out = {}
        for path in paths:
            w = dict(self.parts(self.pipe))[part].get_submodule(path).weight
            down = randn(self.generator, self.rank, *w.shape[1:]) * 0.3
            up = randn(self.generator, w.shape[0], self.rank, *([1] * (w.dim() - 2))) * 0.3
            out[path] = (down.half().float(), up.half().float())
        return out


def probe(weight):
    flat = weight.double().flatten(1)
    return (flat @ torch.cos(0.7 * torch.arange(flat.shape[1], dtype=torch.float64))).float()


def canonical(part, path):
    path = path.replace(".base_layer", "")
    return f"{part}.{path if part == 'unet' or path.startswith('text_') else 'text_model.' + path}"


@torch.no_grad()
def probes_of(pipe):
    """Every layer that is not zero any more."""
    out = {}
    for name, part in Golden.parts(pipe):
        for path, module in part.named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and module.weight.abs().max() > 0:
                out[canonical(name, path)] = probe(module.weight)
    return out


def probes_by_diffusers(golden, path):
    pipe = golden.fresh()
    pipe.load_lora_weights(path)
    pipe.fuse_lora(lora_scale=1.0)
    pipe.unload_lora_weights()
    return probes_of(pipe)


def probes_by_hand(part, factors, scale=1.0):
    return {canonical(part, p): probe(scale * torch.einsum("or,r...->o...", u.flatten(1), d)) for p, (d, u) in factors.items()}


def save(out, name, tensors, metadata=None):
    path = os.path.join(out, name + ".safetensors")
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
    os.chmod(path, 0o644)
    return path


def finish(out, name, probes, n):
    assert len(probes) == n, (name, len(probes), n)
    save(out, name + ".golden", probes)
    print(f"{name}: {n} layers")


# ---- SD1 ----

DOWN, MID = "down_blocks.0.attentions.0.", "mid_block.attentions.0."
UNET = [DOWN + "proj_in", DOWN + BLOCK + "attn1.to_q", DOWN + BLOCK + "attn1.to_out.0", DOWN + BLOCK + "ff.net.0.proj",
        DOWN + BLOCK + "attn2.to_k", MID + BLOCK + "attn1.to_v", "up_blocks.1.attentions.0." + BLOCK + "attn2.to_out.0"]
CONVOLUTIONS = ["down_blocks.1.resnets.0.conv1", "up_blocks.2.upsamplers.0.conv"]
ATTENTION = [p for p in UNET if ".attn" in p]
TEXT = ["layers.0.self_attn.q_proj", "layers.1.self_attn.out_proj", "layers.1.mlp.fc1"]


def text_paths(pipe, part="text_encoder", ends=None):
    return [n for n, _ in getattr(pipe, part).named_modules() if n.endswith(tuple(ends or TEXT))]


def with_text_model(path):
    return path if path.startswith("text_model.") else "text_model." + path


def kohya(golden, out):
    state = {}
    unet, text = golden.factors("unet", UNET + CONVOLUTIONS), golden.factors("text_encoder", text_paths(golden.pipe))
    for prefix, factors in (("lora_unet_", unet), ("lora_te_", text)):
        for path, (down, up) in factors.items():
            key = ref.kohya_name(path if prefix == "lora_unet_" else with_text_model(path), prefix)
            state[key + ".lora_down.weight"], state[key + ".lora_up.weight"] = down.half(), up.half()
            # One alpha for all: where they differ, diffusers 0.42 loses some (kohya's own rule is alpha/rank per module).
            state[key + ".alpha"] = torch.tensor(3.0)
    path = save(out, "kohya", state, {"ss_network_module": "networks.lora", "ss_network_dim": str(golden.rank)})
    finish(out, "kohya", probes_by_diffusers(golden, path), len(unet) + len(text))


def add_adapters(golden, unet_config, text_config):
    pipe = golden.fresh()
    pipe.unet.add_adapter(unet_config)
    pipe.text_encoder.add_adapter(text_config)
    with torch.no_grad():
        for _, part in golden.parts(pipe):
            for name, p in part.named_parameters():
                if ".lora_" in name:
                    p.copy_((randn(golden.generator, *p.shape) * 0.3).half().float())
    return pipe


def diffusers_new(golden, out):
    unet = LoraConfig(r=golden.rank, lora_alpha=3, target_modules=UNET, rank_pattern={MID + BLOCK + "attn1.to_v": 3},
                      alpha_pattern={DOWN + BLOCK + "attn1.to_q": 5})
    text = LoraConfig(r=golden.rank, lora_alpha=1, use_rslora=True, target_modules=text_paths(golden.pipe))
    pipe = add_adapters(golden, unet, text)
    StableDiffusionPipeline.save_lora_weights(
        out, unet_lora_layers=get_peft_model_state_dict(pipe.unet, adapter_name="default"),
        text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder, adapter_name="default"),
        unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict(),
        text_encoder_lora_adapter_metadata=pipe.text_encoder.peft_config["default"].to_dict(),
        weight_name="diffusers.safetensors")
    path = os.path.join(out, "diffusers.safetensors")
    os.chmod(path, 0o644)
    finish(out, "diffusers", probes_by_diffusers(golden, path), len(UNET) + len(text_paths(golden.pipe)))


def diffusers_old(golden, out):
    """What diffusers 0.2x wrote before PEFT, doubled prefix and all."""
    unet, text = golden.factors("unet", UNET), golden.factors("text_encoder", text_paths(golden.pipe))
    state = {}
    for path, (down, up) in unet.items():
        state[f"unet.{path}.lora.down.weight"], state[f"unet.{path}.lora.up.weight"] = down.half(), up.half()
    for path, (down, up) in text.items():
        key = f"text_encoder.{with_text_model(path)}.lora_linear_layer"
        state[key + ".down.weight"], state[key + ".up.weight"] = down.half(), up.half()
    path = save(out, "diffusers-old", state)
    finish(out, "diffusers-old", probes_by_diffusers(golden, path), len(unet) + len(text))


def processors(golden, out):
    """What unet.save_attn_procs wrote in diffusers 0.12."""
    factors, state = golden.factors("unet", ATTENTION), {}
    for path, (down, up) in factors.items():
        layer, name = re.fullmatch(r"(.*)\.(to_\w+?)(?:\.0)?", path).groups()
        key = f"{layer}.processor.{name}_lora"
        state[key + ".down.weight"], state[key + ".up.weight"] = down.half(), up.half()
    save(out, "processors", state)
    reading = {"unet." + k: v for k, v in state.items()}  # current diffusers wants the part's name in front
    finish(out, "processors", probes_by_diffusers(golden, reading), len(factors))


def peft_folder(golden, out, part, paths, name, **settings):
    folder = os.path.join(out, name)
    shutil.rmtree(folder, ignore_errors=True)
    pipe = golden.fresh()
    model = get_peft_model(getattr(pipe, part), LoraConfig(r=golden.rank, target_modules=paths, **settings))
    with torch.no_grad():
        for n, p in model.named_parameters():
            if ".lora_" in n:
                p.copy_((randn(golden.generator, *p.shape) * 0.3).half().float())
    model.save_pretrained(folder)
    readme = os.path.join(folder, "README.md")
    if os.path.exists(readme):
        os.remove(readme)
    for f in os.listdir(folder):
        os.chmod(os.path.join(folder, f), 0o644)
    pipe = golden.fresh()
    setattr(pipe, part, PeftModel.from_pretrained(getattr(pipe, part), folder).merge_and_unload())
    finish(out, name, probes_of(pipe), len(paths))


def numbered(golden, out, name, ff_last, classes, lists=False):
    """cloneofsimo's lora_diffusion.lora: modules by number, in the order of named_modules() inside the classes listed.
    Before diffusers 0.13 the feed-forward came before the second attention."""
    names, state, meta, probes = {}, {}, {}, {}
    for part, model in golden.parts(golden.pipe):
        found = []
        blocks = {"Attention": ("Attention",), "GEGLU": ("GEGLU",), "ResnetBlock2D": ("ResnetBlock2D",), "CLIPAttention": ("CLIPAttention",)}
        for path, module in model.named_modules():
            if type(module).__name__ not in sum((blocks[c] for c in classes[part]), ()):
                continue
            kinds = (torch.nn.Linear, torch.nn.Conv2d) if "ResnetBlock2D" in classes[part] else (torch.nn.Linear,)
            found += [f"{path}.{n}" for n, child in module.named_modules() if isinstance(child, kinds)]
        if not ff_last:
            block = lambda p: re.sub(r"\.(attn1|attn2|ff)\..*", "", p)
            where = lambda p: {"attn1": 0, "ff": 1, "attn2": 2}.get((re.findall(r"\.(attn1|attn2|ff)\.", p) or [""])[0], 0)
            order = {}
            for p in found:
                order.setdefault(block(p), len(order))
            found.sort(key=lambda p: (order[block(p)], where(p)))
        names[part] = found
    for part, paths in names.items():
        meta[part] = json.dumps(classes[part])
        factors = golden.factors(part, paths)
        for i, (down, up) in enumerate(factors.values()):
            state[f"{part}:{i}:down"], state[f"{part}:{i}:up"] = down.half(), up.half()
            meta[f"{part}:{i}:rank"] = str(golden.rank)
        probes.update(probes_by_hand(part, factors))
    if lists:  # the oldest form: torch.save of [up, down, up, down, ...], a file per part
        for part in names:
            weights = [state[f"{part}:{i}:{side}"] for i in range(len(names[part])) for side in ("up", "down")]
            path = os.path.join(out, f"{name}.{part}.pt")
            torch.save(weights, path)
            finish(out, f"{name}.{part}", {k: v for k, v in probes.items() if k.startswith(part + ".")}, len(names[part]))
        return
    state["<s1>"], meta["<s1>"] = torch.zeros(32), "<embed>"
    save(out, name, state, meta)
    finish(out, name, probes, sum(len(p) for p in names.values()))


def ldm_path(path, layers, levels):
    """diffusers' path -> single-file path by the published numbering, L = layers."""
    m = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(attentions|resnets|downsamplers|upsamplers)\.(\d+)\.(.*)", path)
    if not m:
        return path.replace("mid_block.attentions.0.", "middle_block.1.")
    side, b, group, i, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
    rest = {"conv1": "in_layers.2", "conv2": "out_layers.3"}.get(rest, rest)
    if side == "down":
        number = 1 + b * (layers + 1) + (layers if group == "downsamplers" else i)
        return f"input_blocks.{number}.{'1' if group == 'attentions' else '0'}.{'op' if group == 'downsamplers' else rest}"
    number = b * (layers + 1) + (layers if group == "upsamplers" else i)
    member = {"attentions": 1, "resnets": 0, "upsamplers": 2}[group]
    return f"output_blocks.{number}.{member}.{rest}"


def comfy(golden, out):
    unet, text = golden.factors("unet", UNET + CONVOLUTIONS), golden.factors("text_encoder", text_paths(golden.pipe))
    state, probes = {}, {}
    for path, (down, up) in unet.items():
        key = "diffusion_model." + ldm_path(path, 1, 4)
        state[key + ".lora_A.weight"], state[key + ".lora_B.weight"] = down.half(), up.half()
    for path, (down, up) in text.items():
        key = "text_encoders.clip_l.transformer." + with_text_model(path)
        state[key + ".lora_A.weight"], state[key + ".lora_B.weight"] = down.half(), up.half()
        state[key + ".alpha"] = torch.tensor(1.0)
    save(out, "comfy", state)
    probes = {**probes_by_hand("unet", unet), **probes_by_hand("text_encoder", text, 1 / golden.rank)}
    finish(out, "comfy", probes, len(unet) + len(text))


def lycoris_wrapper(golden, out):
    from lycoris import LycorisNetwork, create_lycoris
    LycorisNetwork.apply_preset({"enable_conv": True, "target_module": ["Attention", "Downsample2D"], "target_name": []})
    pipe = golden.fresh()
    net = create_lycoris(pipe.unet, 1.0, linear_dim=golden.rank, linear_alpha=1, algo="lora", use_tucker=True, conv_dim=golden.rank)
    modules = {lora: lora.org_module[0] for lora in net.loras}
    net.apply_to()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_((randn(golden.generator, *p.shape) * 0.3).half().float())
    probes, paths = {}, {m: n for n, m in pipe.unet.named_modules()}
    for lora, module in modules.items():
        probes["unet." + paths[module]] = probe(lora.get_diff_weight(1.0)[0].detach().reshape(module.weight.shape))
    save(out, "lycoris", {k: v.half() for k, v in net.state_dict().items()})
    finish(out, "lycoris", probes, len(net.loras))


# ---- SDXL ----

def sdxl_kohya(golden, out):
    unet = golden.factors("unet", ["down_blocks.1.attentions.0.proj_in", "down_blocks.2.attentions.0.transformer_blocks.1.attn2.to_k",
                                   MID + BLOCK + "attn1.to_out.0", "up_blocks.0.attentions.1." + BLOCK + "ff.net.2",
                                   "up_blocks.1.attentions.0." + BLOCK + "attn2.to_v"])
    state, n = {}, len(unet)
    for path, (down, up) in unet.items():
        key = "lora_unet_" + ldm_path(path, 1, 3).replace(".", "_")
        state[key + ".lora_down.weight"], state[key + ".lora_up.weight"] = down.half(), up.half()
        state[key + ".alpha"] = torch.tensor(1.0)
    for part, prefix in (("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")):
        for path, (down, up) in golden.factors(part, text_paths(golden.pipe, part)).items():
            key = ref.kohya_name(with_text_model(path), prefix)
            state[key + ".lora_down.weight"], state[key + ".lora_up.weight"] = down.half(), up.half()
            state[key + ".alpha"] = torch.tensor(1.0)
            n += 1
    path = save(out, "sdxl-kohya", state, {"ss_base_model_version": "sdxl_base_v1-0"})
    finish(out, "sdxl-kohya", probes_by_diffusers(golden, path), n)


def b_lora(golden, out):
    paths = [f"up_blocks.0.attentions.{part}.transformer_blocks.{b}.attn{a}.{to}" for part in (0, 1) for b in (0,)
             for a in (1, 2) for to in ("to_q", "to_k", "to_v", "to_out.0")]
    factors, state = golden.factors("unet", [p for p in paths if has(golden.pipe.unet, p)]), {}
    for path, (down, up) in factors.items():
        state[f"unet.{path}.lora.down.weight"], state[f"unet.{path}.lora.up.weight"] = down.half(), up.half()
    path = save(out, "b-lora", state)
    finish(out, "b-lora", probes_by_diffusers(golden, path), len(factors))


def has(model, path):
    return path in {n for n, _ in model.named_modules()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rank", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(options.out, exist_ok=True)
    out = options.out
    sd1 = Golden("mini-sd1", StableDiffusionPipeline, options.data, options.seed, options.rank)
    kohya(sd1, out)
    diffusers_new(sd1, out)
    diffusers_old(sd1, out)
    processors(sd1, out)
    peft_folder(sd1, out, "unet", UNET, "peft-unet", lora_alpha=4, use_rslora=True,
                rank_pattern={r".*attn1\.to_out\.0": 3}, alpha_pattern={r"mid_block.*to_v": 7})
    peft_folder(sd1, out, "text_encoder", text_paths(sd1.pipe), "peft-text", lora_alpha=1)
    old = {"unet": ["GEGLU", "Attention"], "text_encoder": ["CLIPAttention"]}
    new = {"unet": ["Attention", "ResnetBlock2D", "GEGLU"], "text_encoder": ["CLIPAttention"]}
    numbered(sd1, out, "cloneofsimo", False, old)
    numbered(sd1, out, "cloneofsimo-extended", True, new)
    comfy(sd1, out)
    lycoris_wrapper(sd1, out)
    numbered(sd1, out, "cloneofsimo-list", False, old, lists=True)
    sdxl = Golden("mini-sdxl", StableDiffusionXLPipeline, options.data, options.seed, options.rank)
    sdxl_kohya(sdxl, out)
    b_lora(sdxl, out)


if __name__ == "__main__":
    with torch.no_grad():
        main()
