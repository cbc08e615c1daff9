#!/usr/bin/env python3
"""tests/data/mini-sd1.regions.safetensors: the last latents of pictures with three regions, two of them overlapping and one from
a soft mask, drawn by diffusers with an attention processor that does each cross-attention once per part of the picture and mixes by
the parts' shares (Mix-of-Show's regionally controllable sampling), and with adapters that change the rows of their region only."""
import argparse
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import reference as ref

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPT, NEGATIVE, STEPS, GUIDANCE, SEED, SIZE = "a red fox on a table", "blue rain", 8, 4.0, 11, (8, 16)
REGIONS = ["a black cat", "rain", "a table and a blue fox"]
BOXES = [(0, 0, 64, 64), (32, 16, 64, 40)]  # x, y, w, h in pixels
FILES = ["mini-sd1.lora", "mini-sd1.lora-2", "kinds/locon", "kinds/full", "kinds/norm"]
# Strengths of the files, for what the regions leave and for each region.
CASES = {"prompts": [[0, 0, 0, 0, 0]] * 4,
         "everywhere": [[0.7, 0, 0, 0, 0]] * 4,
         "loras": [[0.7, 0, 0, 0, 0], [0.7, 0, 0.8, 0, 0], [0.7, 0.5, 0, 0, 0], [0, 0.3, 0, 0, 0]],
         "dense": [[0, 0, 0, 0.2, 0], [0, 0, 0, 0.6, 0], [0, 0.5, 0, 0, 0.4], [0, 0, 0, 0, 0.8]]}


def pixel_maps(generator):
    h, w = SIZE[0] * 8, SIZE[1] * 8
    maps = torch.zeros(3, h, w)
    for k, (x, y, bw, bh) in enumerate(BOXES):
        maps[k, y:y + bh, x:x + bw] = 1
    maps[2, 8:60, 76:120] = torch.rand(52, 44, generator=generator)
    return maps


def shares_of(maps):
    """[parts, h, w], the first what the regions leave; together 1."""
    maps = F.avg_pool2d(maps[None], 8)[0]
    total = maps.sum(0, keepdim=True)
    return torch.cat([(1 - total).clamp(min=0), maps / total.clamp(min=1)])


class State:
    """What the changed layers look at while the model runs."""
    shares = None  # [parts, h, w]
    strengths = None  # [parts][files]
    part = None  # a layer that reads one part's context; None: the picture's features

    def at(self, file, out):
        """The file's strength for every row of a layer's result."""
        if self.part is not None:
            return self.strengths[self.part][file]
        amount = torch.tensor([s[file] for s in self.strengths])
        picture = (self.shares * amount[:, None, None]).sum(0)
        if out.dim() == 2:  # time embeddings
            return picture.mean()
        h, w = self.shares.shape[1:]
        factor = 1
        while out.dim() == 3 and (h // factor) * (w // factor) > out.shape[1]:
            factor *= 2
        if out.dim() == 4:
            factor = h // out.shape[2]
        picture = F.avg_pool2d(picture[None, None], factor)
        return picture if out.dim() == 4 else picture.reshape(1, -1, 1)


STATE = State()


def rebuild(tensors):
    """A file's change of one layer: weight and bias, or None."""
    if "diff" in tensors or "diff_b" in tensors:
        return tensors.get("diff"), tensors.get("diff_b")
    if "w_norm" in tensors:
        return tensors["w_norm"], tensors["b_norm"]
    down, up = tensors["lora_down.weight"].float(), tensors["lora_up.weight"].float()
    scale = tensors["alpha"].item() / down.shape[0]
    if "lora_mid.weight" in tensors:
        return scale * torch.einsum("ijkl,jr,pi->prkl", tensors["lora_mid.weight"].float(), down[:, :, 0, 0], up[:, :, 0, 0]), None
    return scale * (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:]), None


def change_of(layer, x, weight, bias):
    if isinstance(layer, torch.nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    if isinstance(layer, torch.nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    if isinstance(layer, torch.nn.Conv2d):
        return F.conv2d(x, weight.reshape(layer.weight.shape), bias, layer.stride, layer.padding)
    return F.linear(x, weight, bias)


def attach(model, prefix, state, file):
    """Makes the layers that the file changes add its change, times the strength of their rows."""
    names = {ref.kohya_name(n, prefix): m for n, m in model.named_modules()}
    changes = {}
    for key, value in state.items():
        if key.startswith(prefix):
            layer, what = key.split(".", 1)
            changes.setdefault(layer, {})[what] = value.float()
    for layer, tensors in changes.items():
        weight, bias = rebuild(tensors)

        def hook(module, inputs, out, weight=weight, bias=bias):
            return out + STATE.at(file, out) * change_of(module, inputs[0], weight, bias)
        names[layer].register_forward_hook(hook)


class Processor:
    """Attention whose context may be a list, one per part."""

    def __call__(self, attn, x, encoder_hidden_states=None, **_):
        q = attn.to_q(x)
        if encoder_hidden_states is None:
            out = self.look(attn, q, x)
        else:
            h, w = STATE.shares.shape[1:]
            factor = round((h * w / x.shape[1]) ** 0.5)
            shares = F.avg_pool2d(STATE.shares[None], factor)[0].flatten(1)
            out = 0
            for part, context in enumerate(encoder_hidden_states.unbind(1)):
                STATE.part = part
                out = out + shares[part][None, :, None] * self.look(attn, q, context)
                STATE.part = None
        return attn.to_out[0](out)

    @staticmethod
    def look(attn, q, source):
        split = lambda t: t.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        k, v = attn.to_k(source), attn.to_v(source)
        return F.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(1, 2).flatten(2)


@torch.no_grad()
def sample(pipe, maps, strengths):
    STATE.shares, STATE.strengths = shares_of(maps), strengths
    context = []
    for part, text in enumerate([PROMPT] + REGIONS):
        STATE.part = part
        context.append(ref.embed_text(pipe, [NEGATIVE, text]))
    STATE.part = None
    context = torch.stack(context, 1)  # [negative and prompt, parts, tokens, width]
    ref.set_sampler(pipe, "ddim")
    pipe.scheduler.set_timesteps(STEPS)
    x = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(SEED)) * pipe.scheduler.init_noise_sigma
    for t in pipe.scheduler.timesteps:
        uncond, cond = pipe.unet(torch.cat([pipe.scheduler.scale_model_input(x, t)] * 2), t, context).sample.chunk(2)
        x = pipe.scheduler.step(uncond + GUIDANCE * (cond - uncond), t, x).prev_sample
    return x


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.path.join(HERE, "..", "data"))
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = ref.load_pipeline(os.path.join(args.data, "mini-sd1"))
    pipe.unet.set_attn_processor(Processor())
    for i, name in enumerate(FILES):
        state = load_file(os.path.join(args.data, name + ".safetensors"))
        attach(pipe.unet, "lora_unet_", state, i)
        attach(pipe.text_encoder, "lora_te_", state, i)
    maps = pixel_maps(torch.Generator().manual_seed(args.seed))
    out = {name: sample(pipe, maps, strengths) for name, strengths in CASES.items()}
    out["mask"] = maps[2][None, None].contiguous()
    for name, strengths in CASES.items():
        out[name + ".strengths"] = torch.tensor(strengths, dtype=torch.float32)
    path = os.path.join(args.data, "mini-sd1.regions.safetensors")
    save_file(out, path, metadata={"prompt": PROMPT, "negative": NEGATIVE, "steps": str(STEPS), "guidance": str(GUIDANCE), "seed": str(SEED),
                                   **{f"region_{k}": text for k, text in enumerate(REGIONS)}})
    os.chmod(path, 0o644)


if __name__ == "__main__":
    main()
