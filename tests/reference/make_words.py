#!/usr/bin/env python3
"""New words as diffusers has them (load_textual_inversion adds the tokens) while torch trains their vectors: the gradient of
a first step, ten losses and where the vectors end. Writes tests/data/MINI.words.safetensors (the vectors alone) and
MINI.custom.safetensors (with the keys and values of cross-attention, whole: Custom Diffusion). As in diffusers'
train_custom_diffusion.py the gradient of all other rows of the token table is zeroed before it is clipped."""
import argparse
import os

import torch
from safetensors.torch import save_file

import make_goldens as goldens
import reference as ref

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")
WORDS = (("<new1>", 2), ("<new2>", 1))
PROMPTS = ["a photo of <new1>, red, and a <new2> fox", "the <NEW2> on a table"]
LR = 5e-3


def add_words(pipe, generator):
    """Per text encoder the start vectors [3, width] and the first new id."""
    starts, first = [], []
    for i, text in enumerate(ref.text_encoders(pipe)):
        tokenizer = pipe.tokenizer_2 if i else pipe.tokenizer
        first.append(len(tokenizer))
        table = text.get_input_embeddings().weight
        spread = table.std()
        vectors = torch.randn(sum(n for _, n in WORDS), table.shape[1], generator=generator) * spread
        at = 0
        for word, n in WORDS:
            pipe.load_textual_inversion({word: vectors[at:at + n]}, tokenizer=tokenizer, text_encoder=text)
            at += n
        starts.append(vectors.clone())
    return starts, first


def encode(pipe):
    """context and pooled as the pipeline makes them, with gradients; and the ids."""
    prompts = [pipe.maybe_convert_prompt(p, pipe.tokenizer) for p in PROMPTS]
    ids = [ref.token_ids(pipe, prompts)] + ([ref.token_ids(pipe, prompts, True)] if ref.is_xl(pipe) else [])
    if not ref.is_xl(pipe):
        return pipe.text_encoder(ids[0])[0], None, ids
    hidden, pooled = [], None
    for text, own in zip(ref.text_encoders(pipe), ids):
        out = text(own, output_hidden_states=True)
        hidden.append(out.hidden_states[-2])
        pooled = out[0]
    return torch.cat(hidden, dim=-1), pooled, ids


def dense_layers(pipe):
    names = [n for n, _ in pipe.unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v"))]
    return {ref.kohya_name(n): pipe.unet.get_submodule(n).weight for n in names}


def run(folder, seed, dense):
    pipe = ref.load_pipeline(folder)
    generator = torch.Generator().manual_seed(seed)
    starts, first = add_words(pipe, generator)
    vocabularies = [t.config.vocab_size for t in ref.text_encoders(ref.load_pipeline(folder))]
    layers = dense_layers(pipe) if dense else {}
    base = {k: w.detach().clone() for k, w in layers.items()}
    steps, batch = goldens.TRAINING["steps"], goldens.TRAINING["batch"]
    out = {"latents": torch.randn(steps, batch, 4, 8, 8, generator=generator),
           "noise": torch.randn(steps, batch, 4, 8, 8, generator=generator),
           "timesteps": torch.randint(0, 1000, (steps, batch), generator=generator).int()}
    added = None
    if ref.is_xl(pipe):
        out["time_ids"] = torch.tensor(goldens.TIME_IDS)
    tables = [t.get_input_embeddings().weight.requires_grad_(True) for t in ref.text_encoders(pipe)]
    for weight in layers.values():
        weight.requires_grad_(True)
    params = tables + list(layers.values())
    # The frozen weights lie under the change that trains here: decay would pull at them, so there is none.
    optimiser = torch.optim.AdamW(params, lr=LR, betas=(0.9, 0.999), weight_decay=0, eps=1e-8)
    losses = []
    for step in range(steps):
        context, pooled, ids = encode(pipe)
        if ref.is_xl(pipe):
            added = {"text_embeds": pooled, "time_ids": out["time_ids"]}
        t = out["timesteps"][step].long()
        noised, target = ref.training_target(pipe, out["latents"][step], out["noise"][step], t)
        loss = torch.nn.functional.mse_loss(pipe.unet(noised, t, context, added_cond_kwargs=added).sample, target)
        optimiser.zero_grad()
        loss.backward()
        for table, begin in zip(tables, first):
            table.grad[:begin] = 0
        if step == 0:
            for i, own in enumerate(ids):
                out["ids_2" if i else "ids"] = torch.where(own >= first[i], own - first[i] + vocabularies[i], own).int()
            for i, (table, begin) in enumerate(zip(tables, first)):
                out[f"start.{i}"], out[f"gradient.{i}"] = starts[i], table.grad[begin:begin + 3].clone()
            for key, weight in layers.items():
                out[f"gradient.{key}.diff"] = weight.grad.clone()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        losses.append(loss.item())
    for i, (table, begin) in enumerate(zip(tables, first)):
        out[f"end.{i}"] = table[begin:begin + 3].detach().clone()
    for key, weight in layers.items():
        out[f"end.{key}.diff"] = (weight - base[key]).detach()
    out["losses"] = torch.tensor(losses)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--out", default=DATA)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for mini, kind in (("mini-sd1", "words"), ("mini-sdxl", "words"), ("mini-sd1", "custom")):
        tensors = run(os.path.join(DATA, mini), args.seed, kind == "custom")
        path = os.path.join(args.out, f"{mini}.{kind}.safetensors")
        save_file({k: v.contiguous() for k, v in tensors.items()}, path,
                  metadata={"lr": str(LR), "prompts": "\n".join(PROMPTS), "words": " ".join(f"{w}:{n}" for w, n in WORDS)})
        os.chmod(path, 0o644)
        print(path, tensors["losses"][[0, -1]].tolist(), tensors["ids"][0, :14].tolist())


if __name__ == "__main__":
    main()
