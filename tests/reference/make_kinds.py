#!/usr/bin/env python3
"""One adapter file per kind, with random weights, and what LyCORIS and PEFT make of each on a miniature model.

    make_kinds.py [--config mini-sd1] [--seed 5] [--out tests/data/kinds]     needs lycoris-lora and einops

NAME.safetensors (or a folder NAME as PEFT saves it) and golden.safetensors, where for each NAME there are
    NAME.delta.PATH, NAME.bias.PATH   W'(1) - W and the same of the bias, for some layers
    NAME.unet                         the golden forward's output, batch 2, at the strengths in the metadata
    NAME.text                         embedding of the metadata's prompt at strength 1, where the text tower is touched
and, for three of them at once, each image with strengths of its own, "mixed.unet".
Effects are linear in the strength here as they are in ComfyUI: W + s * (W'(1) - W)."""
import argparse
import json
import os
import shutil

import peft
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft.tuners.boft import layer as boft_layer
from safetensors.torch import load_file, save_file

import reference as ref

HERE = os.path.dirname(os.path.abspath(__file__))
BLOCK = "down_blocks.0.attentions.0."
UNET = ["conv_in", BLOCK + "proj_in", BLOCK + "transformer_blocks.0.attn2.to_k", BLOCK + "transformer_blocks.0.ff.net.0.proj",
        "down_blocks.0.downsamplers.0.conv", "down_blocks.2.resnets.0.conv1", "mid_block.resnets.0.time_emb_proj",
        "up_blocks.2.upsamplers.0.conv", "conv_out"]
TEXT = ["text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.mlp.fc1"]
UNET_NORMS = ["down_blocks.0.resnets.0.norm1", BLOCK + "norm", BLOCK + "transformer_blocks.0.norm2", "conv_norm_out"]
TEXT_NORMS = ["text_model.encoder.layers.1.layer_norm1", "text_model.final_layer_norm"]
KEPT = UNET[:3] + UNET[5:6] + TEXT[:1] + UNET_NORMS[:1] + TEXT_NORMS[:1]  # layers whose deltas are written
PROMPT = "a drawing of a small house by the river"
STRENGTHS = [1.0, -0.6]
MIXED = {"loha": [0.7, 0.0], "boft": [0.5, 1.0], "norm": [-0.5, 0.8], "locon": [0.6, -0.3]}


class Kinds:
    def __init__(self, model, golden, out, seed):
        self.pipe, self.out = ref.load_pipeline(model), out
        self.golden = load_file(golden)
        self.generator = torch.Generator().manual_seed(seed)
        self.answers, self.deltas = {}, {}

    def layer(self, path):
        tower = self.pipe.text_encoder if "encoder" in path or "final_layer" in path else self.pipe.unet
        return tower.get_submodule(path if hasattr_path(tower, path) else path.removeprefix("text_model."))

    def randomise(self, module, spread):
        for name, p in module.named_parameters():
            if p.requires_grad and "org_module" not in name:
                center = p.data.clone() if "dora_scale" in name or "rescale" in name else 0
                p.data = (center + spread * torch.randn(p.shape, generator=self.generator)).half().float()

    def forward(self):
        g = self.golden
        return self.pipe.unet(g["unet.latents"], g["unet.timesteps"], g["unet.context"]).sample

    def run(self, strengths):
        """strengths: NAME -> [per image]. Every image with its own weights."""
        images = []
        for i in range(2):
            with Changed(self, {n: s[i] for n, s in strengths.items()}):
                images.append(self.forward()[i])
        return torch.stack(images)

    def keep(self, name, deltas):
        self.deltas[name] = deltas
        for path, (weight, bias) in deltas.items():
            if path in KEPT:
                self.answers[f"{name}.delta.{path}"] = weight.contiguous()
                if bias is not None:
                    self.answers[f"{name}.bias.{path}"] = bias.contiguous()
        self.answers[name + ".unet"] = self.run({name: STRENGTHS})
        if any(path.startswith("text_model") for path in deltas):
            with Changed(self, {name: 1.0}):
                self.answers[name + ".text"] = ref.embed_text(self.pipe, [PROMPT])

    def lycoris(self, name, make, paths=UNET + TEXT, spread=0.15, dtype=torch.float16):
        """make(path, layer) -> a LyCORIS module; its file, its deltas, and its own unmerged forward as a check."""
        state, deltas, modules = {}, {}, []
        for i, path in enumerate(paths):
            layer = self.layer(path)
            prefix = "lora_te_" if path.startswith("text_model") else "lora_unet_"
            module = make(i, prefix + path.replace(".", "_"), layer)
            self.randomise(module, spread)
            own = module.custom_state_dict() if hasattr(module, "custom_state_dict") and not isinstance(module, FullModule) else None
            if isinstance(module, FullModule):
                own = {"diff": module.weight} | ({"diff_b": module.bias} if module.bias is not None else {})
                deltas[path] = (module.weight.detach().clone(), None if module.bias is None else module.bias.detach().clone())
            elif isinstance(module, NormModule):
                deltas[path] = (module.w_norm.detach().clone(), module.b_norm.detach().clone())
            elif isinstance(module, (DiagOFTModule, ButterflyOFTModule, GLoRAModule)):  # their own f32
                deltas[path] = (module.get_diff_weight(1.0, layer.weight.shape)[0].detach(), None)
            else:
                deltas[path] = (exact_delta(module, layer), None)
            for key, value in (own or module.state_dict()).items():
                if "org_" not in key and key != "scalar":
                    value = value.detach()
                    state[f"{module.lora_name}.{key}"] = value.to(dtype).contiguous() if value.is_floating_point() else value
            modules.append(module)
        save_file(state, os.path.join(self.out, name + ".safetensors"))
        self.keep(name, deltas)
        if not isinstance(modules[0], FullModule):
            for module in modules:
                module.apply_to()
            assert torch.allclose(self.forward()[0], self.answers[name + ".unet"][0], atol=2e-5), name
            for module in modules:
                module.org_module[0].forward = module.org_forward

    def peft(self, name, config, spread=0.1):
        self.pipe = ref.load_pipeline(self.model)
        model = peft.get_peft_model(self.pipe.unet, config)
        for key, p in model.named_parameters():
            if p.requires_grad:
                center = p.data.clone() if any(w in key for w in ("ia3", "boft_s", "magnitude")) else 0
                p.data = (center + spread * torch.randn(p.shape, generator=self.generator)).half().float()
        folder = os.path.join(self.out, name)
        model.save_pretrained(folder)
        for extra in os.listdir(folder):
            if extra not in ("adapter_model.safetensors", "adapter_config.json"):
                os.remove(os.path.join(folder, extra))
        saved = os.path.join(folder, "adapter_model.safetensors")
        save_file({k: v.half() for k, v in load_file(saved).items()}, saved)
        linear = not isinstance(config, (peft.OFTConfig, peft.BOFTConfig))  # their convolutions fold patches
        own = self.forward() if linear else None
        merged = model.merge_and_unload()
        after = {p: (merged.get_submodule(p).weight.detach(), getattr(merged.get_submodule(p), "bias", None)) for p in UNET}
        self.pipe = ref.load_pipeline(self.model)
        deltas = {}
        for path in config.target_modules:
            layer, (weight, bias) = self.layer(path), after[path]
            changed = bias is not None and not torch.equal(bias, layer.bias)
            deltas[path] = (weight - layer.weight, bias.detach() - layer.bias if changed else None)
        self.keep(name, deltas)
        if linear:
            assert torch.allclose(own[0], self.answers[name + ".unet"][0], atol=2e-5), name


def exact_delta(module, layer):
    """In f64, since W' - W cancels. LoHa's and LoKr's get_merged_weight scales twice, unlike their forward."""
    module.double(), layer.double()
    if isinstance(module, (LohaModule, LokrModule)):
        weight = layer.weight + module.get_weight(layer.weight.shape)
        weight = module.apply_weight_decompose(weight) if module.wd else weight
    else:
        weight = module.get_merged_weight(1.0, layer.weight.shape)[0]
    delta = (weight.detach() - layer.weight).float()
    module.float(), layer.float()
    return delta


def hasattr_path(model, path):
    try:
        model.get_submodule(path)
        return True
    except AttributeError:
        return False


class Changed:
    """The model with deltas at strengths added, for the length of a with."""

    def __init__(self, kinds, strengths):
        self.kinds, self.strengths, self.before = kinds, strengths, []

    def __enter__(self):
        for name, strength in self.strengths.items():
            for path, (weight, bias) in self.kinds.deltas[name].items():
                layer = self.kinds.layer(path)
                self.before.append((layer.weight, layer.weight.data.clone()))
                layer.weight.data = layer.weight.data + strength * weight
                if bias is not None and layer.bias is not None:
                    self.before.append((layer.bias, layer.bias.data.clone()))
                    layer.bias.data = layer.bias.data + strength * bias

    def __exit__(self, *_):
        for parameter, data in reversed(self.before):
            parameter.data = data


def stage_blocks(_autograd, blocks):
    """What PEFT's CUDA extension does: block diagonals of [stages, n, b, b]."""
    return torch.stack([torch.block_diag(*stage) for stage in blocks])


def make_all(k):
    linear = lambda layer: isinstance(layer, torch.nn.Linear)
    k.lycoris("locon", lambda i, n, l: LoConModule(n, l, 1.0, 4, 2.0, use_tucker=True))
    k.lycoris("rslora", lambda i, n, l: LoConModule(n, l, 1.0, 4, 2.0, rs_lora=True), UNET[:4])
    k.lycoris("dora-rows", lambda i, n, l: LoConModule(n, l, 1.0, 4, 2.0, weight_decompose=True, wd_on_out=True))
    k.lycoris("dora-columns", lambda i, n, l: LoConModule(n, l, 1.0, 4, 3.0, weight_decompose=True, wd_on_out=False))
    k.lycoris("loha", lambda i, n, l: LohaModule(n, l, 1.0, 3, 2.0), spread=0.4)
    k.lycoris("loha-tucker-dora", lambda i, n, l: LohaModule(n, l, 1.0, 3, 2.0, use_tucker=True, weight_decompose=i % 2 == 0), spread=0.4)
    k.lycoris("lokr", lambda i, n, l: LokrModule(n, l, 1.0, [1, 1, 100][i % 3], 0.5, factor=[4, -1, 2][i % 3], decompose_both=i % 2 == 0))
    k.lycoris("lokr-tucker-dora", lambda i, n, l: LokrModule(n, l, 1.0, 1, 0.5, factor=2, use_tucker=True, weight_decompose=i % 2 == 0))
    k.lycoris("glora", lambda i, n, l: GLoRAModule(n, l, 1.0, 3, 3.0))
    k.lycoris("ia3", lambda i, n, l: IA3Module(n, l, 1.0, train_on_input=i % 2 == 0))
    k.lycoris("oft", lambda i, n, l: DiagOFTModule(n, l, 1.0, 4, 1.0, constraint=[0.0, 1 / 128][i % 2], rescaled=i % 3 == 0))
    k.lycoris("boft", lambda i, n, l: ButterflyOFTModule(n, l, 1.0, 2, 0.0, constraint=[0.0, 1 / 64][i % 2], rescaled=i % 3 == 0))
    k.lycoris("full", lambda i, n, l: FullModule(n, l, 1.0), spread=0.03)
    k.lycoris("norm", lambda i, n, l: NormModule(n, l, 1.0), UNET_NORMS + TEXT_NORMS)
    k.peft("peft-dora", peft.LoraConfig(r=3, lora_alpha=2, use_dora=True, target_modules=UNET))
    k.peft("peft-rslora", peft.LoraConfig(r=3, lora_alpha=2, use_rslora=True, lora_bias=True, target_modules=UNET[:2] + UNET[3:4]))
    k.peft("peft-loha", peft.LoHaConfig(r=3, alpha=2, target_modules=UNET, use_effective_conv2d=True), 0.4)
    k.peft("peft-lokr", peft.LoKrConfig(r=2, alpha=1, target_modules=UNET, decompose_factor=4), 0.3)
    k.peft("peft-ia3", peft.IA3Config(target_modules=UNET, feedforward_modules=UNET[3:4] + UNET[5:6]))
    k.peft("peft-oft", peft.OFTConfig(r=0, oft_block_size=4, target_modules=UNET))
    k.peft("peft-oft-exact", peft.OFTConfig(r=0, oft_block_size=4, target_modules=UNET[1:4], block_share=True, use_cayley_neumann=False), 0.3)
    boft_layer.get_fbd_cuda = lambda: True
    boft_layer.FastBlockDiag = type("FastBlockDiag", (), {"apply": classmethod(stage_blocks)})
    k.peft("peft-boft", peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, target_modules=UNET[1:6], init_weights=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.path.join(HERE, "..", "data", "mini-sd1"))
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "data", "kinds"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    shutil.rmtree(args.out, ignore_errors=True)
    os.makedirs(args.out)
    with torch.no_grad():
        kinds = Kinds(args.model, args.model + ".golden.safetensors", args.out, args.seed)
        kinds.model = args.model
        make_all(kinds)
        kinds.answers["mixed.unet"] = kinds.run(MIXED)
    metadata = {"prompt": PROMPT, "strengths": json.dumps(STRENGTHS), "mixed": json.dumps(MIXED), "names": json.dumps(list(kinds.deltas))}
    save_file({k: v.detach().float().contiguous() for k, v in kinds.answers.items()}, os.path.join(args.out, "golden.safetensors"), metadata)


if __name__ == "__main__":
    main()
