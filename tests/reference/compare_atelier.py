#!/usr/bin/env python3
"""Runs atelier's command line beside diffusers for any model, seed and prompt, and prints how far apart they are.

Exit code 1 if a picture is under 45 dB, a text embedding off by more than 1e-4 of its range, a token differs, or a
LoRA that atelier trained does not load everywhere with the same effect.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import torch
from peft import LoraConfig, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file

import make_goldens
import reference as ref
from make_model import HERE, make_model, read_config

MIN_PSNR, MAX_TEXT_ERROR = 45.0, 1e-4


class Report:
    def __init__(self):
        self.failures = 0

    def line(self, what, good, text):
        self.failures += not good
        print(f"{'ok  ' if good else 'FAIL'} {what:34} {text}", flush=True)


class Case:
    """One model with what to draw on it, by both programs."""

    def __init__(self, args, folder, work):
        self.args, self.folder, self.work = args, folder, work
        self.pipe = ref.load_pipeline(folder)
        self.size = tuple(args.latent_size or ref.default_latent_size(self.pipe))
        self.report = Report()

    def atelier(self, *words):
        result = subprocess.run([self.args.atelier, *map(str, words)], capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"atelier {words[0]} ended with {result.returncode}: {result.stderr.strip()}")

    def generate(self, sampler, lora=None):
        out, trace = os.path.join(self.work, "picture.png"), os.path.join(self.work, "trace.safetensors")
        scale = self.pipe.vae_scale_factor
        words = ["generate", "--model", self.folder, "--prompt", self.args.prompt, "--negative", self.args.negative,
                 "--steps", self.args.steps, "--cfg", self.args.guidance, "--sampler", sampler,
                 "--seed", self.args.seed, "--height", self.size[0] * scale, "--width", self.size[1] * scale,
                 "--out", out, "--trace", trace]
        self.atelier(*words, *(["--lora", lora] if lora else []))
        picture = torch.tensor(list(Image.open(out).convert("RGB").tobytes()), dtype=torch.uint8)
        return picture.reshape(self.size[0] * scale, self.size[1] * scale, 3), load_file(trace)

    def draw(self, sampler):
        return ref.draw(self.pipe, sampler, self.args.prompt, self.args.negative, self.args.seed, self.size,
                        self.args.guidance, self.args.steps)

    def compare_text(self, trace):
        prompts = [self.args.negative, self.args.prompt]
        for name, second in (("token_ids", False), ("token_ids_2", True))[:1 + ref.is_xl(self.pipe)]:
            wanted_ids = ref.token_ids(self.pipe, prompts, second)
            same = torch.equal(trace[name].reshape(wanted_ids.shape).long(), wanted_ids)
            self.report.line(name.replace("_", " "), same, "equal" if same else "differ")
        context, pooled = ref.embed_text_pooled(self.pipe, prompts)
        for name, wanted in (("text_embedding", context), ("pooled_embedding", pooled)):
            if wanted is not None:
                error = ref.range_error(trace[name].reshape(wanted.shape), wanted)
                self.report.line(name.replace("_", " "), error <= MAX_TEXT_ERROR, f"{error:.2e} of range")

    def compare_picture(self, what, sampler, lora=None):
        got, trace = self.generate(sampler, lora)
        trail, wanted = self.draw(sampler)
        start, first, last = (ref.range_error(trace[f"latents_{k:03d}"].reshape(trail[k].shape), trail[k])
                              for k in (0, 1, self.args.steps))
        quality, equal = ref.psnr(got, wanted), (got == wanted).float().mean().item()
        self.report.line(what, quality >= MIN_PSNR, f"{quality:.1f} dB, {100 * equal:.2f}% of bytes equal; latents "
                         f"start {start:.1e}, step 1 {first:.1e}, end {last:.1e} of range")
        return got, trace

    def compare_lora(self):
        """A random LoRA in kohya's form, applied by both."""
        path = os.path.join(self.work, "random.safetensors")
        generator = torch.Generator().manual_seed(self.args.seed)
        make_goldens.write_kohya_file(self.pipe, path, generator, False)
        self.pipe.load_lora_weights(path, adapter_name="random")
        self.pipe.set_adapters("random", 0.7)
        self.compare_picture("picture ddim, LoRA at 0.7", "ddim", path + ":0.7")
        self.pipe.unload_lora_weights()

    def write_pictures(self):
        folder = os.path.join(self.work, "pictures")
        os.makedirs(folder, exist_ok=True)
        generator = torch.Generator().manual_seed(self.args.seed)
        side = self.resolution()
        for i in range(4):
            image = make_goldens.smooth_image(generator, side, side)[0]
            pixels = ((image / 2 + 0.5) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(pixels).save(os.path.join(folder, f"{i}.png"))
            with open(os.path.join(folder, f"{i}.txt"), "w") as f:
                f.write(("red fox", "small house", "blue car", "green apple")[i])
        return folder

    def resolution(self):
        return self.pipe.vae_scale_factor * min(self.size)

    def compare_training(self, targets):
        """A LoRA trained by atelier must load in diffusers and in peft, and draw there what atelier draws."""
        path = os.path.join(self.work, f"trained-{targets}.safetensors")
        self.atelier("train", "--model", self.folder, "--data", self.write_pictures(), "--out", path, "--steps", 12,
                     "--rank", 4, "--lr", 0.02, "--batch", 2, "--resolution", self.resolution(),
                     "--targets", targets, "--seed", self.args.seed)
        _, plain = self.draw("ddim")
        self.pipe.load_lora_weights(path, adapter_name="trained")
        self.pipe.set_adapters("trained", 1.0)
        got, _ = self.compare_picture(f"trained {targets}, in diffusers", "ddim", path + ":1")
        self.pipe.unload_lora_weights()
        effect = ref.psnr(got, plain)
        self.report.line(f"trained {targets}, has an effect", effect < 60, f"{effect:.1f} dB from the plain picture")
        self.compare_peft(targets, path, got)

    def compare_peft(self, targets, path, got):
        state, names = load_file(path), {ref.kohya_name(n): n for n, _ in self.pipe.unet.named_modules()}
        modules = sorted({k.split(".")[0] for k in state})
        unknown = [m for m in modules if m not in names]
        missing = sorted(set(ref.target_modules(self.pipe.unet, targets)) - {names.get(m) for m in modules})
        self.report.line(f"trained {targets}, module names", not unknown and not missing,
                         f"{len(modules)} modules, unknown {unknown[:3]}, missing {missing[:3]}")
        if unknown:
            return
        rank = state[modules[0] + ".lora_down.weight"].shape[0]
        alpha = float(state[modules[0] + ".alpha"])
        self.pipe.unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=[names[m] for m in modules]), "p")
        weights = {}
        for m in modules:
            weights[names[m] + ".lora_A.weight"] = state[m + ".lora_down.weight"].float()
            weights[names[m] + ".lora_B.weight"] = state[m + ".lora_up.weight"].float()
        result = set_peft_model_state_dict(self.pipe.unet, weights, adapter_name="p")
        left = [k for k in result.unexpected_keys] + [k for k in result.missing_keys if "lora_" in k]
        _, picture = self.draw("ddim")
        self.pipe.unet.unload_lora()
        quality = ref.psnr(got, picture)
        self.report.line(f"trained {targets}, in peft", not left and quality >= MIN_PSNR,
                         f"{quality:.1f} dB, {len(left)} keys without a place")

    def run(self):
        for i, sampler in enumerate(self.args.sampler):
            _, trace = self.compare_picture("picture " + sampler, sampler)
            if i == 0:
                self.compare_text(trace)
        self.compare_lora()
        for targets in self.args.targets:
            self.compare_training(targets)
        return self.report.failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a folder in the layout of diffusers")
    model.add_argument("--config", help="a miniature is made from this name or file, with --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atelier", default=os.path.join(HERE, "..", "..", "build", "atelier"))
    parser.add_argument("--prompt", default=make_goldens.PICTURE_PROMPT)
    parser.add_argument("--negative", default=make_goldens.PICTURE_NEGATIVE)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--latent-size", type=int, nargs=2, metavar=("H", "W"))
    parser.add_argument("--sampler", nargs="*", default=list(ref.SAMPLERS), choices=list(ref.SAMPLERS))
    parser.add_argument("--targets", nargs="*", default=["attn", "attn-mlp", "all"],
                        choices=["attn", "attn-mlp", "all"], help="what to train; nothing after it: no training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="atelier-compare-") as work:
        folder = args.model
        if args.config:
            config = read_config(args.config)
            folder = os.path.join(work, "model")
            make_model(config, args.seed, folder)
            args.latent_size = args.latent_size or config["latent_size"]
            args.guidance = args.guidance or config.get("goldens", {}).get("guidance")
        args.guidance = args.guidance or 4.0
        print(f"{args.model or args.config}, seed {args.seed}, guidance {args.guidance}")
        sys.exit(1 if Case(args, folder, work).run() else 0)


if __name__ == "__main__":
    main()
