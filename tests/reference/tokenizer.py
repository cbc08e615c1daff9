"""A small CLIP tokenizer: the whole byte alphabet, some merges learned from a few sentences, two specials.

Laid out as CLIP's own: 256 bytes, the same 256 ending a word, one id per merge, start and end of text.
"""
import collections
import json
import os

SENTENCES = """a photo of a red fox under the old tree, a drawing of a small house by the river, an orange cat
and the black dog on a table, green apple with leaves, blue car in the rain at night, flat icon of a yellow star,
portrait of an astronaut riding a horse on the moon, ink outline of the bird singing, the best quality style,
a bowl of soup and bread, three trees in the wind, painting of mountains, watercolor flower in a glass"""


def byte_alphabet():
    """The characters that stand for bytes, in vocabulary order: printable bytes first, then the others moved up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = len([b for b in range(256) if b not in plain])
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(moved)]


def learn_merges(count):
    words = collections.Counter(SENTENCES.replace(",", " ").split())
    pieces = {w: [*w[:-1], w[-1] + "</w>"] for w in words}
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for word, parts in pieces.items():
            joined, i = [], 0
            while i < len(parts):
                if tuple(parts[i:i + 2]) == best:
                    joined.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    joined.append(parts[i])
                    i += 1
            pieces[word] = joined
    return merges


def write_tokenizer(folder, pad_token, n_merges=126):
    """Writes the four files of a CLIP tokenizer folder; returns the size of the vocabulary."""
    os.makedirs(folder, exist_ok=True)
    alphabet = byte_alphabet()
    merges = learn_merges(n_merges)
    symbols = alphabet + [c + "</w>" for c in alphabet] + [a + b for a, b in merges]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {s: i for i, s in enumerate(symbols)}
    assert len(vocab) == len(symbols)
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
               "pad_token": pad_token}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True,
                "add_prefix_space": False, "errors": "replace", **special}
    with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as f:
        json.dump(vocab, f, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    for name, content in (("special_tokens_map.json", special), ("tokenizer_config.json", settings)):
        with open(os.path.join(folder, name), "w") as f:
            json.dump(content, f, indent=2)
            f.write("\n")
    return len(vocab), vocab
