#!/usr/bin/env python3
"""tests/data/prompts.json: what compel reads in prompts. tests/data/MINI.prompts.safetensors: contexts of prompts with
weights and of long ones, for compel from compel itself, for A1111 from its published rules written out here over
transformers. Needs torch, transformers and compel. Weights come from the committed miniatures; only the learnt word is random."""
import argparse
import json
import os

import torch
from compel import Compel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
COMPEL = [
    "a red fox", "", "a red+ fox--", "a (red fox)++ on a table", "a (red fox)1.3, (old)0.5 house", '"black cat"+ by the river',
    "a ((red)+ fox)0.8 x", "well-known cat-5 dog+cat", "cat++dog", "( spaced  words )-", "a \\(fox\\)++ \\+ dog", "(unbalanced fox",
    "fox) dog", "a (x = y)2 fox", "fox.attend(1.5) dog", "(red fox).attend(--) dog", "one,two ,three.", "(a, b. c)1.1, d+",
    '("red fox", "blue house").blend(0.7, 0.3)', '("red fox", "blue house").blend(1, 1, no_normalize)', '("fox+", "dog").blend()',
    '("red fox+", "a blue house").and()', '("red fox", "a blue house").and(1, 0.5)', "(cat)-0.5 dog", "(dog)2", "it's a cat's life", "- + fox -",
    'say "no+ dog" (the)+', "a fox++, dog-, (river)1.21.", "((((red))))++ fox",
]
A1111_PROMPTS = [
    "a drawing of a (small house:1.3) by the [river]", "a (((red)) fox:0.6), black cat", "fox BREAK (blue:1.5) rain",
    "an orange cat and the black dog on a table, " * 9, "(an orange cat:1.2) and the black dog on a table " * 9 + "(river:0.7)", "(fox:0)", "[[[rain]]]",
]
WINDOW, BACKTRACK = 77, 20


def compel_prompts():
    out = []
    for text in COMPEL:
        tree = Compel.parse_prompt_string(text)
        parts = []
        for part, weight in zip(tree.prompts, tree.weights):
            texts, weights = (part.prompts, part.weights) if hasattr(part, "prompts") else ([part], [1.0])
            if getattr(part, "normalize_weights", False):
                weights = [w / sum(weights) for w in weights]
            parts.append({"weight": weight, "texts": [
                {"weight": w, "runs": [[f.text, f.weight] for f in t.children]} for t, w in zip(texts, weights)]})
        out.append({"text": text, "parts": parts})
    return out


class A1111:
    """Chunks and weights as AUTOMATIC1111's web UI applies them (emphasis mode "Original")."""

    def __init__(self, tokenizer, encoder):
        self.tokenizer, self.encoder = tokenizer, encoder

    def runs(self, text):
        """Brackets of the cases above only: a stack of factors over characters."""
        out, stack, i = [], [], 0
        while i < len(text):
            if text.startswith(" BREAK ", i):
                out.append([None, -1])
                i += 7
            elif text[i] in "([":
                stack.append(len(out))
                out.append(["", 1.0])
                i += 1
            elif text[i] in ")]:":
                end = text.index(")", i) if text[i] == ":" else i
                factor = float(text[i + 1:end]) if text[i] == ":" else 1.1 if text[i] == ")" else 1 / 1.1
                for run in out[stack.pop():]:
                    run[1] *= factor
                out.append(["", 1.0])
                i = end + 1
            else:
                if not out or out[-1][0] is None:
                    out.append(["", 1.0])
                out[-1][0] += text[i]
                i += 1
        joined = []
        for run in (r for r in out if r[0] != ""):
            if joined and run[0] is not None and joined[-1][0] is not None and joined[-1][1] == run[1]:
                joined[-1][0] += run[0]
            else:
                joined.append(list(run))
        return joined

    def chunks(self, text):
        comma = self.tokenizer.get_vocab()[",</w>"]
        done, now, last_comma = [], [], None
        for words, weight in self.runs(text):
            if words is None:
                done.append(now)
                now, last_comma = [], None
                continue
            for token in self.tokenizer(words, add_special_tokens=False)["input_ids"]:
                if token == comma:
                    last_comma = len(now)
                elif len(now) == WINDOW - 2 and last_comma is not None and len(now) - last_comma <= BACKTRACK:
                    done.append(now[:last_comma + 1])
                    now, last_comma = now[last_comma + 1:], None
                if len(now) == WINDOW - 2:
                    done.append(now)
                    now, last_comma = [], None
                now.append((token, weight))
        return done + [now] if now or not done else done

    def encode(self, text, hidden):
        parts = []
        for chunk in self.chunks(text):
            pad = WINDOW - 2 - len(chunk)
            t = self.tokenizer
            ids = [t.bos_token_id] + [i for i, _ in chunk] + [t.eos_token_id] + [t.pad_token_id] * pad
            weights = torch.tensor([1.0] + [w for _, w in chunk] + [1.0] * (pad + 1))
            z = hidden(torch.tensor([ids]))
            mean = z.mean()
            z = z * weights[None, :, None]
            parts.append(z * (mean / z.mean()))
        return torch.cat(parts, 1)


WORD, WORD_PROMPT = "<ink>", "a red fox, (<ink>:1.2) by the river"


def towers_of(folder):
    out = []
    for suffix, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)):
        if os.path.isdir(os.path.join(folder, "text_encoder" + suffix)):
            tokenizer = CLIPTokenizer.from_pretrained(os.path.join(folder, "tokenizer" + suffix))
            out.append((tokenizer, kind.from_pretrained(os.path.join(folder, "text_encoder" + suffix), torch_dtype=torch.float32).eval()))
    return out


def plain_hidden(encoder, xl):
    if xl:
        return lambda ids: encoder(ids, output_hidden_states=True).hidden_states[-2]
    return lambda ids: encoder(ids).last_hidden_state


def learnt_word(towers, xl, generator):
    """Two vectors a tower as new tokens, as diffusers loads them; the vectors and the context."""
    out, parts = {}, []
    for i, (tokenizer, encoder) in enumerate(towers):
        table = encoder.get_input_embeddings().weight
        vectors = torch.randn(2, table.shape[1], generator=generator) * table.std()
        tokenizer.add_tokens([WORD, WORD + "_1"])
        encoder.resize_token_embeddings(len(tokenizer))
        encoder.get_input_embeddings().weight.data[-2:] = vectors
        out[f"word.vectors.{i}"] = vectors
        parts.append(A1111(tokenizer, encoder).encode(WORD_PROMPT.replace(WORD, f"{WORD} {WORD}_1"), plain_hidden(encoder, xl)))
    return {**out, "word.0": torch.cat(parts, -1)[0]}


@torch.no_grad()
def contexts(folder, with_compel):
    towers, out, texts = towers_of(folder), {}, {}
    xl = len(towers) > 1
    tokenizer, encoder = towers[0]
    if with_compel:
        compel = Compel(tokenizer=tokenizer, text_encoder=encoder, truncate_long_prompts=True)
        for i, text in enumerate(COMPEL):
            out[f"compel.{i}"], texts[f"compel.{i}"] = compel(text)[0], text
    for i, text in enumerate(A1111_PROMPTS):
        parts = [A1111(t, e).encode(text, plain_hidden(e, xl)) for t, e in towers]
        out[f"a1111.{i}"], texts[f"a1111.{i}"] = torch.cat(parts, -1)[0], text
    layers = encoder.config.num_hidden_layers
    norm = getattr(encoder, "text_model", encoder).final_layer_norm
    for skip in range(1, layers + 1 if not xl else 1):
        def hidden(ids):
            return norm(encoder(ids, output_hidden_states=True).hidden_states[layers + 1 - skip])
        out[f"skip.{skip}"], texts[f"skip.{skip}"] = A1111(tokenizer, encoder).encode(A1111_PROMPTS[0], hidden)[0], A1111_PROMPTS[0]
    out.update(learnt_word(towers, xl, torch.Generator().manual_seed(3)))
    texts["word.0"] = WORD_PROMPT
    return {k: v.contiguous() for k, v in out.items()}, texts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.path.join(HERE, "..", "data"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with open(os.path.join(args.data, "prompts.json"), "w", encoding="utf-8") as f:
        json.dump({"compel": compel_prompts()}, f, indent=1, ensure_ascii=False)
        f.write("\n")
    for mini in ("mini-sd1", "mini-sd2", "mini-sdxl"):
        tensors, texts = contexts(os.path.join(args.data, mini), mini == "mini-sd1")
        path = os.path.join(args.data, mini + ".prompts.safetensors")
        save_file(tensors, path, metadata=texts)
        os.chmod(path, 0o644)


if __name__ == "__main__":
    main()
