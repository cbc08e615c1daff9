#!/usr/bin/env python3
"""Goldens of the mergers that run the model, for tests/test_ziplora.c and tests/test_gradient_fusion.c.

    python tests/reference/make_learnt_merges.py [--seed 7] [--data tests/data]

Two LoRAs of one miniature model, mini-sd1.lora at 1 and mini-sd1.lora-2 at 0.7, over the same inputs:

mini-sd1.ziplora.safetensors: x [batches, 2, 4, h, w], t [batches, 2], context [2, 77, width] and target (the UNet's answer
with the image's own LoRA alone); columns.LORA.LAYER after `steps` steps of torch.optim.Adam at `lr` over the batches in
turn, gradient.LORA.LAYER of the first of them, distance and overlap [steps] before each step, and after the last the mean over the
batches in the metadata (final_distance, final_overlap).

mini-sd1.gradient-fusion.safetensors: per layer that a LoRA changes (convolutions over several pixels apart), in double: objective.LAYER,
the least sum over the LoRAs of |(dW_i - D) X_i|^2, where X_i is what the layer reads of all batches' images of LoRA i with that
LoRA alone, start.LAYER, the same for the plain sum of the changes, and for a few layers D itself (change.LAYER, the smallest of all
minimisers, torch.linalg.lstsq's gelsd).
"""
import argparse
import os

import torch
from safetensors.torch import load_file, save_file

import reference as ref

HERE = os.path.dirname(os.path.abspath(__file__))
FILES, WEIGHTS = ("mini-sd1.lora", "mini-sd1.lora-2"), (1.0, 0.7)
BATCHES, STEPS, LR, LAMBDA, SIZE = 6, 60, 0.01, 1e-4, (8, 8)
# Where there are many more rows than channels: along directions that nothing takes the minimum is flat.
SHOWN = ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_v")


class Loras:
    """Changes of layers by forward hooks: y + sum of on_i w_i scale_i up_i down_i (m_i x)."""

    def __init__(self, unet, data):
        self.parts = {}    # layer -> [(lora, down, up with its scale)]
        self.columns = {}  # (lora, layer) -> m
        self.on = (True, True)
        self.mixed = False  # whether m counts
        self.inputs = None  # layer -> list of inputs, when wanted
        names = {ref.kohya_name(n): n for n, _ in unet.named_modules()}
        for i, name in enumerate(FILES):
            state = load_file(os.path.join(data, name + ".safetensors"))
            for key in sorted(k for k in state if k.endswith(".lora_down.weight")):
                stem = key[:-len(".lora_down.weight")]
                down, up = state[key].float(), state[stem + ".lora_up.weight"].float()
                scale = float(state[stem + ".alpha"]) / down.shape[0] if stem + ".alpha" in state else 1.0
                self.parts.setdefault(names[stem], []).append((i, down, up * scale * WEIGHTS[i]))
        for layer, parts in self.parts.items():
            unet.get_submodule(layer).register_forward_hook(self.hook(layer))
            for i, down, _ in parts:
                if len(parts) > 1:
                    self.columns[i, layer] = torch.ones(down.shape[1], requires_grad=True)

    def hook(self, layer):
        def change(module, args, y):
            if self.inputs is not None:
                self.inputs.setdefault(layer, []).append(args[0].detach())
            for i, down, up in self.parts[layer]:
                if not self.on[i]:
                    continue
                x = args[0]
                if self.mixed and (i, layer) in self.columns:
                    m = self.columns[i, layer]
                    x = x * (m if isinstance(module, torch.nn.Linear) else m[:, None, None])
                if isinstance(module, torch.nn.Linear):
                    y = y + x @ down.flatten(1).T @ up.flatten(1).T
                else:
                    h = torch.nn.functional.conv2d(x, down, stride=module.stride, padding=module.padding)
                    y = y + torch.nn.functional.conv2d(h, up)
            return y
        return change

    def overlap(self):
        total = 0
        for layer, parts in self.parts.items():
            if len(parts) > 1:
                total = total + (self.columns[0, layer] * self.columns[1, layer]).abs().mean()
        return LAMBDA * total


def ask(unet, loras, x, t, context, on, mixed):
    loras.on, loras.mixed = on, mixed
    return unet(x, t, context).sample


def zip_loras(unet, loras, inputs):
    x, t, context = inputs["x"], inputs["t"], inputs["context"]
    with torch.no_grad():
        target = torch.stack([torch.cat([ask(unet, loras, x[k, i:i + 1], t[k, i], context[i:i + 1], (i == 0, i == 1), False)
                                         for i in range(2)]) for k in range(BATCHES)])

    def losses(k):
        answers = ask(unet, loras, x[k], t[k], context, (True, True), True)
        return ((answers - target[k]) ** 2).mean(dim=(1, 2, 3)).sum(), loras.overlap()

    out = {"target": target}
    optimiser = torch.optim.Adam(loras.columns.values(), lr=LR)
    trail = []
    for step in range(STEPS):
        distance, overlap = losses(step % BATCHES)
        optimiser.zero_grad()
        (distance + overlap).backward()
        if step == 0:
            out.update({f"gradient.{i}.{layer}": m.grad.clone() for (i, layer), m in loras.columns.items()})
        optimiser.step()
        trail.append([float(distance), float(overlap)])
    with torch.no_grad():
        final = torch.tensor([[float(v) for v in losses(k)] for k in range(BATCHES)]).double().mean(0)
    out.update({f"columns.{i}.{layer}": m.detach() for (i, layer), m in loras.columns.items()})
    out["distance"], out["overlap"] = torch.tensor(trail).T.contiguous()
    print(f"ziplora: {trail[0][0]:.5f} + {trail[0][1]:.5f} -> {final[0]:.5f} + {final[1]:.5f}")
    return out, {"final_distance": repr(float(final[0])), "final_overlap": repr(float(final[1]))}


def fuse(unet, loras, inputs):
    x, t, context = inputs["x"], inputs["t"], inputs["context"]
    seen = []
    for i in range(2):
        loras.inputs = {}
        with torch.no_grad():
            for k in range(BATCHES):
                ask(unet, loras, x[k, i:i + 1], t[k, i], context[i:i + 1], (i == 0, i == 1), False)
        seen.append(loras.inputs)
    loras.inputs = None
    out = {}
    for layer, parts in loras.parts.items():
        if parts[0][1].dim() == 4 and parts[0][1].shape[-1] > 1:
            continue
        rows = []  # [number of rows, in] of each LoRA
        for s in seen:
            rows.append(torch.cat([(v if v.dim() == 3 else v.flatten(2).transpose(1, 2)).reshape(-1, parts[0][1].shape[1]) for v in s[layer]]).double()
                        if s[layer][0].dim() != 2 else torch.cat(s[layer]).double())
        deltas = [torch.zeros(parts[0][2].shape[0], parts[0][1].shape[1], dtype=torch.float64) for _ in range(2)]
        for i, down, up in parts:
            deltas[i] = up.flatten(1).double() @ down.flatten(1).double()
        want = torch.cat([rows[i] @ deltas[i].T for i in range(2)])
        stacked = torch.cat(rows)
        best = torch.linalg.lstsq(stacked, want, driver="gelsd").solution
        out["objective." + layer] = ((stacked @ best - want) ** 2).sum().float().reshape(1)
        out["start." + layer] = ((stacked @ sum(deltas).T - want) ** 2).sum().float().reshape(1)
        if layer in SHOWN:
            out["change." + layer] = best.T.float().contiguous()
    print(f"gradient fusion: {len(out)} tensors, sum {sum(float(v) for k, v in out.items() if k.startswith('start')):.4f} -> "
          f"{sum(float(v) for k, v in out.items() if k.startswith('objective')):.4f}")
    return out, {}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.path.join(HERE, "..", "data"))
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = ref.load_pipeline(os.path.join(args.data, "mini-sd1"))
    g = torch.Generator().manual_seed(args.seed)
    inputs = {"x": torch.randn(BATCHES, 2, 4, *SIZE, generator=g), "t": torch.randint(0, 1000, (BATCHES, 2), generator=g),
              "context": ref.embed_text(pipe, ["a red fox", "rain on a table"])}
    loras = Loras(pipe.unet, args.data)
    shared = {"weights": " ".join(map(str, WEIGHTS)), "steps": str(STEPS), "batches": str(BATCHES), "lr": str(LR),
              "similarity": str(LAMBDA)}
    for name, make in (("ziplora", zip_loras), ("gradient-fusion", fuse)):
        out, more = make(pipe.unet, loras, inputs)
        path = os.path.join(args.data, f"mini-sd1.{name}.safetensors")
        save_file({**inputs, **out, "t": inputs["t"].int()}, path, metadata={**shared, **more})
        os.chmod(path, 0o644)


if __name__ == "__main__":
    main()
