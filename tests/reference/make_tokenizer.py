"""Writes tests/data/tokenizer.json: ids from Hugging Face's CLIPTokenizer, for tests/test_tokenizer.c.

    python tests/reference/make_tokenizer.py [--seed 5] [--vocab assets/model/tokenizer] [--out tests/data/tokenizer.json]

Each variant is a pair of configuration files beside the same vocabulary; the texts are fixed ones and random mixtures.
"""
import argparse
import json
import os
import random
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import CLIPTokenizer  # noqa: E402

TEXTS = [
    "", " ", "a", "!", "a photo of an astronaut riding a horse on mars", "Hello, World! 2024", "it's  a dog's life",
    "isn't DON'T we'll I'VE they'd I'm you're", "A [v1]", "masterpiece, (best quality:1.2)", "h\u00e9llo \u65e5\u672c \U0001f600",
    "supercalifragilisticexpialidocious", "hello! wow!!", "a<|endoftext|>b", "A <|EndOfText|> b", "x<|startoftext|>!!",
    "!<|ENDOFTEXT|>!!'s", "'S!'s ''s 's's", "\u0130stanbul STRASSE \u1e9e \u01c5", "a\u0301e e\u0301\u0323 \u212b",
    "\u0391\u03a3 \u03a3", "\x01\x7f a\x1b", "\u00bd\u00b2\u2167 1\u0663\u4e09", "a\u200bb a\u3000b\u00a0c\u0085d\u2028e\tf\r\ng",
    "<|endoftext|", "caf\u00e9 na\u00efve co\u00f6perate", "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 ok",
    "100000 42nd 3.14 1e-5", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "--- ... ??? ,,,", "\uff21\uff22\uff23 \ufb01", "\u023a \u1c90 \U00010400",
    "word " * 90, "'", "''", "'l 'll 'lll", "don\u2019t", "_snake_case_ CamelCase", "\ufffd", "\uac00\u1100\u1161",
]
ALPHABET = list("abcDEF's! 12.,<|>-") + ["\u00e9", "\u0301", "\u65e5", " ", "\u00bd", "\U0001f600", "<|endoftext|>", "'re", "\u0130"]


def added(content, normalized):
    return {"content": content, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}


def variants():
    start, end = "<|startoftext|>", "<|endoftext|>"
    plain = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": start, "eos_token": end,
             "unk_token": end, "pad_token": end}
    objects = {"bos_token": added(start, True), "eos_token": added(end, True), "unk_token": added(end, True)}
    typed = {k: dict(v, __type="AddedToken") for k, v in objects.items()}
    decoder = {str(i): dict(added(c, n), special=True) for i, c, n in ((0, "!", False), (49406, start, True), (49407, end, True))}
    yield "strings", plain, {k: plain[k] for k in ("bos_token", "eos_token", "unk_token", "pad_token")}
    yield "sd1", dict(plain, **typed), dict(objects, pad_token=end)
    yield "sd2", dict(plain, **typed), dict(objects, pad_token="!")
    yield "sdxl", dict(plain, pad_token="!", added_tokens_decoder=decoder), dict(objects, pad_token="!")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--vocab", default="assets/model/tokenizer")
    parser.add_argument("--out", default="tests/data/tokenizer.json")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    texts = TEXTS + ["".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 30))) for _ in range(60)]
    lines = []
    for name, config, special in variants():
        with tempfile.TemporaryDirectory() as folder:
            for file in ("vocab.json", "merges.txt"):
                os.symlink(os.path.abspath(os.path.join(options.vocab, file)), os.path.join(folder, file))
            json.dump(config, open(os.path.join(folder, "tokenizer_config.json"), "w"))
            json.dump(special, open(os.path.join(folder, "special_tokens_map.json"), "w"))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            rows = [[t, tokenizer(t, add_special_tokens=False).input_ids] for t in texts]
            window = tokenizer("a photo!", padding="max_length", truncation=True).input_ids
        lines.append(json.dumps({"name": name, "config": config, "special": special, "window": window, "texts": rows}))
    with open(options.out, "w") as out:
        out.write("[\n" + ",\n".join(lines) + "\n]\n")


main()
