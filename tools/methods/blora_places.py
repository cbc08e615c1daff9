#!/usr/bin/env python3
"""Which of a model's transformers decide about content and which about style: the experiment of the B-LoRA paper, with diffusers.

One transformer after the other hears another prompt than the rest: one with another thing ("rocket, flat" instead of "umbrella,
flat"), then one in another style ("umbrella, noto"). Printed, as a mean over three pairs: how far the picture goes from
the one prompt's to the other's, |X - A| / (|X - A| + |X - B|), 0 to 1. Needs torch and diffusers.

    python3 tools/methods/blora_places.py [MODEL]
"""
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

PAIRS, SEEDS, STEPS = [("umbrella", "rocket"), ("cat face", "guitar"), ("red apple", "key")], 2, 10


class Experiment:
    def __init__(self, model):
        self.pipe = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
        self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        self.pipe.set_progress_bar_config(disable=True)
        self.place = self.other = None
        modules = dict(self.pipe.unet.named_modules())
        self.places = [n for n in modules if n.split(".")[-2:-1] == ["attentions"]]
        for name in self.places:
            modules[name].register_forward_pre_hook(lambda module, args, kw, name=name: self.hear(name, args, kw), with_kwargs=True)

    def hear(self, name, args, kw):
        if name == self.place:
            kw = {**kw, "encoder_hidden_states": self.other.repeat_interleave(kw["encoder_hidden_states"].shape[0] // 2, 0)}
        return args, kw

    def draw(self, prompt, place=None, other=None):
        self.place = place
        if other:
            told, untold = self.pipe.encode_prompt(other, "cpu", 1, True, "")
            self.other = torch.cat([untold, told])
        noise = [torch.Generator().manual_seed(1000 + i) for i in range(SEEDS)]
        return self.pipe([prompt] * SEEDS, num_inference_steps=STEPS, guidance_scale=4, generator=noise, output_type="np").images


def rms(a, b):
    return float(np.sqrt(((a - b) ** 2).mean()))


def main():
    torch.set_num_threads(1)
    e = Experiment(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "assets" / "model")
    way = {place: {"content": [], "style": []} for place in e.places}
    for one, two in PAIRS:
        for kind, other in (("content", f"{two}, flat"), ("style", f"{one}, noto")):
            a, b = e.draw(f"{one}, flat"), e.draw(other)
            for place in e.places:
                x = e.draw(f"{one}, flat", place, other)
                way[place][kind].append(rms(x, a) / (rms(x, a) + rms(x, b)))
    for place, kinds in way.items():
        print(f"{place:32s} content {np.mean(kinds['content']):.2f}  style {np.mean(kinds['style']):.2f}")


if __name__ == "__main__":
    main()
