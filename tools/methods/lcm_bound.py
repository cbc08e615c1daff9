#!/usr/bin/env python3
"""How near could any LCM-LoRA come? What lcm.py measures, of a student that makes no mistake.

    tools/methods/lcm_bound.py [--guidance 4 5] [--work DIR]

A consistency model's answer at a time is where the teacher's guided solver ends. Here it is that: each of the sampler's
steps runs guided DDIM in torch from its time to 0 (hops of 80 times), and noises the end to the next time, as the LCM
sampler does. What is left of the distance is not the student's: it comes of guidance, which is applied anew to every
noised picture. The reference pictures are lcm.py's, by `atelier generate`. Needs torch and diffusers; what exists under
--work is kept.
"""
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import lcm
import lcm_sets as sets
import measure as m

HOP, AT_ONCE = 80, 20


def sampler_times(steps, grid=50):
    """The LCM sampler's: every so many-th of a grid of 50, the noisiest first."""
    times = [1000 // grid * i - 1 for i in range(grid, 0, -1)]
    return [times[i * grid // steps] for i in range(steps)]


class Teacher:
    def __init__(self, model):
        pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, torch_dtype=torch.float32)
        self.unet, self.vae, self.pipe = pipe.unet.eval(), pipe.vae.eval(), pipe
        bar = pipe.scheduler.alphas_cumprod.double()
        self.signal, self.noise = bar.sqrt().float(), (1 - bar).sqrt().float()
        self.empty = self.encode([""])

    def encode(self, prompts):
        ids = self.pipe.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        return self.pipe.text_encoder(ids)[0]

    def end(self, x, time, context, guidance):
        """Where the guided solver ends that starts from x at a time."""
        both = torch.cat([self.empty.expand(len(x), -1, -1), context])
        while time > 0:
            to = max(time - HOP, 0)
            without, with_ = self.unet(torch.cat([x, x]), torch.tensor(time), both).sample.chunk(2)
            noise = without + guidance * (with_ - without)
            x = self.signal[to] * (x - self.noise[time] * noise) / self.signal[time] + self.noise[to] * noise
            time = to
        return x

    def draw(self, folder, prompts, first_seed, times, guidance):
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{i:03d}.png" for i in range(len(prompts))]
        for at in range(0, len(prompts), AT_ONCE):
            if all(p.exists() for p in paths[at:at + AT_ONCE]):
                continue
            seeded, context = torch.Generator().manual_seed(first_seed + at), self.encode(prompts[at:at + AT_ONCE])
            fresh = lambda: torch.randn(len(context), 4, 16, 16, generator=seeded)
            x = fresh()
            for i, time in enumerate(times):
                x = self.end(x, time, context, guidance)
                if i + 1 < len(times):
                    x = self.signal[times[i + 1]] * x + self.noise[times[i + 1]] * fresh()
            for path, y in zip(paths[at:], self.vae.decode(x / self.vae.config.scaling_factor).sample):
                levels = ((y / 2 + 0.5).clamp(0, 1) * 255).round().byte()
                Image.fromarray(levels.permute(1, 2, 0).numpy()).save(path)
        return paths


@torch.no_grad()
def main():
    parser = m.arguments(__doc__, "lcm")
    parser.add_argument("--guidance", type=float, nargs="*", default=[4.0, 5.0])
    args = parser.parse_args()
    prompts, _ = sets.captions()
    folder = Path(args.work)
    guided = ["--cfg", 4]
    reference = lcm.Reference(sets.draw(args.atelier, str(folder / "ref"), prompts, 1000, ["--steps", 50, *guided]))
    rows = [("model alone, 4 steps, guidance 4", sets.draw(args.atelier, str(folder / "base4"), prompts, 3000, ["--steps", 4, *guided]))]
    teacher = Teacher(args.model)
    for guidance in args.guidance:
        for steps in (4, 2, 1):
            paths = teacher.draw(folder / f"bound-{guidance:g}-{steps}", prompts, 3000, sampler_times(steps), guidance)
            rows.append((f"faultless student of guidance {guidance:g}, {steps} steps", paths))
    print("| pictures | distance, 200 | first 20 |\n|-|-|-|")
    for name, paths in rows:
        all_of_them, first = reference.distances(paths)
        print(f"| {name} | {all_of_them:.4f} | {first:.4f} |")


if __name__ == "__main__":
    sys.exit(main())
