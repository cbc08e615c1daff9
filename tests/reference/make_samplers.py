"""Writes tests/data/samplers.json: what diffusers' schedulers do with a made-up model, for tests/test_samplers.c.

    python tests/reference/make_samplers.py [--seed 3] [--out tests/data/samplers.json] [--config FILE]

The model is out = 0.9 tanh(0.7 x) + 0.0002 t, guidance none. --config adds cases for another
scheduler_config.json. Recorded per case: times, start scale, latents after the first, middle and last step.
"""
import argparse
import json

import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
                       EulerDiscreteScheduler)

CLASSES = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "euler-a": EulerAncestralDiscreteScheduler,
           "dpmpp-2m": DPMSolverMultistepScheduler}
SHAPE = (2, 4, 3, 3)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SD1 = dict(SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
LEADING = dict(SD1, timestep_spacing="leading")
VPRED = dict(SD, clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing",
             rescale_betas_zero_snr=True)


def cases(extra):
    for name in CLASSES:
        yield name, SD1, 20
        yield name, LEADING, 20
        yield name, LEADING, 7
        yield name, dict(SD1, timestep_spacing="trailing"), 12
        yield name, dict(SD1, timestep_spacing="linspace"), 30
        yield name, dict(LEADING, prediction_type="v_prediction"), 10
        yield name, VPRED, 9
        yield name, dict(SD, beta_schedule="squaredcos_cap_v2", clip_sample=False), 10
        if name != "euler-a":
            yield name, dict(LEADING, prediction_type="sample"), 5
        if name in ("euler", "dpmpp-2m"):
            yield name, dict(LEADING, use_karras_sigmas=True), 20
            yield name, dict(SD, use_karras_sigmas=True), 6
            yield name, dict(SD, use_karras_sigmas=True, beta_schedule="squaredcos_cap_v2"), 3
            yield name, dict(SD1, use_exponential_sigmas=True), 16
            yield name, dict(LEADING, final_sigmas_type="sigma_min"), 16
        for config in extra:
            yield name, config, 20
    yield "ddim", {"num_train_timesteps": 500}, 11
    yield "ddim", dict(SD1, eta=0.6), 8


def run(name, config, steps, seed):
    config = dict(config)
    eta = config.pop("eta", 0.0)
    scheduler = CLASSES[name].from_config(config)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma
    kept = {}
    more = {"generator": generator} if name in ("ddim", "euler-a") else {}
    if name == "ddim":
        more["eta"] = eta
    for i, t in enumerate(scheduler.timesteps):
        out = 0.9 * torch.tanh(0.7 * scheduler.scale_model_input(x, t)) + 0.0002 * t.float()
        x = scheduler.step(out, t, x, **more).prev_sample
        if i in (0, steps // 2, steps - 1):
            kept[i] = [float(f"{v:.9g}") for v in x.flatten().tolist()]
    return {"sampler": name, "config": config, "eta": eta, "steps": steps, "seed": seed,
            "init_sigma": float(scheduler.init_noise_sigma), "times": [float(t) for t in scheduler.timesteps],
            "x": {str(i): v for i, v in kept.items()}, "next_word": float(torch.rand(1, generator=generator))}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", default="tests/data/samplers.json")
    parser.add_argument("--config", action="append", default=[])
    options = parser.parse_args()
    extra = [json.load(open(path)) for path in options.config]
    lines = [json.dumps(run(*case, options.seed)) for case in cases(extra)]
    with open(options.out, "w") as out:
        out.write("[\n" + ",\n".join(lines) + "\n]\n")


main()
