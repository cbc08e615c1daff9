"""Writes tests/data/samplers.json: what diffusers' schedulers, and k-diffusion's samplers where diffusers has none, do
with a made-up model, for tests/test_samplers.c.

    python tests/reference/make_samplers.py [--seed 3] [--out tests/data/samplers.json] [--config FILE]

The model is out = 0.9 tanh(0.7 x) + 0.0002 t, guidance none. --config adds cases for another
scheduler_config.json. Recorded per case: times, start scale, latents after the first, middle and last model call.
Noise comes from torch's generator in the order of use, also where a library would ask a Brownian tree.
Needs diffusers, scipy and k-diffusion (pip install --no-deps k-diffusion torchsde torchdiffeq trampoline).
"""
import argparse
import functools
import importlib
import importlib.util
import json
import sys
import types
import warnings

import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
                       EulerDiscreteScheduler, HeunDiscreteScheduler, KDPM2AncestralDiscreteScheduler,
                       KDPM2DiscreteScheduler, LCMScheduler, LMSDiscreteScheduler, PNDMScheduler, TCDScheduler,
                       UniPCMultistepScheduler)

OLD = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "euler-a": EulerAncestralDiscreteScheduler,
       "dpmpp-2m": DPMSolverMultistepScheduler}
NEW = {"heun": HeunDiscreteScheduler, "dpm2": KDPM2DiscreteScheduler, "dpm2-a": KDPM2AncestralDiscreteScheduler,
       "lms": LMSDiscreteScheduler, "dpmpp-2m-sde": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler,
       "pndm": PNDMScheduler, "ddpm": DDPMScheduler, "lcm": LCMScheduler, "tcd": TCDScheduler}
CLASSES = OLD | NEW
CHOICES = {"dpmpp-2m-sde": {"algorithm_type": "sde-dpmsolver++"}, "pndm": {"skip_prk_steps": True}}
DRAWS = ("ddim", "euler-a", "dpm2-a", "dpmpp-2m-sde", "ddpm", "lcm", "tcd")
KDIFF = {"dpmpp-2s-a": "sample_dpmpp_2s_ancestral", "dpmpp-sde": "sample_dpmpp_sde",
         "dpmpp-3m-sde": "sample_dpmpp_3m_sde"}
KDIFF_TOO = {"euler": "sample_euler", "euler-a": "sample_euler_ancestral", "heun": "sample_heun",
             "dpm2": "sample_dpm_2", "dpm2-a": "sample_dpm_2_ancestral", "lms": "sample_lms"}
SHAPE = (2, 4, 3, 3)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SD1 = dict(SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
LEADING = dict(SD1, timestep_spacing="leading")
VPRED = dict(SD, clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing",
             rescale_betas_zero_snr=True)
COSINE = dict(SD, beta_schedule="squaredcos_cap_v2", clip_sample=False)


def old_cases(extra):
    for name in OLD:
        yield name, SD1, 20
        yield name, LEADING, 20
        yield name, LEADING, 7
        yield name, dict(SD1, timestep_spacing="trailing"), 12
        yield name, dict(SD1, timestep_spacing="linspace"), 30
        yield name, dict(LEADING, prediction_type="v_prediction"), 10
        yield name, VPRED, 9
        yield name, COSINE, 10
        if name != "euler-a":
            yield name, dict(LEADING, prediction_type="sample"), 5
        if name in ("euler", "dpmpp-2m"):
            yield name, dict(LEADING, use_karras_sigmas=True), 20
            yield name, dict(SD, use_karras_sigmas=True), 6
            yield name, dict(COSINE, use_karras_sigmas=True), 3
            yield name, dict(SD1, use_exponential_sigmas=True), 16
            yield name, dict(LEADING, final_sigmas_type="sigma_min"), 16
        for config in extra:
            yield name, config, 20
    yield "ddim", {"num_train_timesteps": 500}, 11
    yield "ddim", dict(SD1, eta=0.6), 8


def new_cases(extra):
    for name in NEW:
        yield name, SD1, 10
        yield name, dict(LEADING, prediction_type="v_prediction"), 10
        if name not in ("lcm", "tcd"):
            yield name, LEADING, 10
            yield name, dict(SD1, timestep_spacing="trailing"), 10
            yield name, dict(SD1, timestep_spacing="linspace"), 17
            if name != "dpm2-a":  # diffusers' times are not numbers there
                yield name, dict(COSINE, set_alpha_to_one=False), 10
        if name in ("lcm", "tcd", "ddpm", "unipc", "dpmpp-2m-sde"):
            yield name, VPRED, 4 if name in ("lcm", "tcd") else 10
        if name not in ("dpm2", "dpm2-a", "pndm"):
            yield name, dict(LEADING, prediction_type="sample"), 10
        if name in ("heun", "dpm2", "dpm2-a", "lms", "dpmpp-2m-sde", "unipc"):
            yield name, dict(LEADING, use_karras_sigmas=True), 10
            yield name, dict(LEADING, use_exponential_sigmas=True), 10
            yield name, dict(LEADING, use_beta_sigmas=True), 10
        for config in extra:
            yield name, config, 20
    for n in (1, 2, 3, 6, 8):
        yield "lcm", SD1, n
        yield "tcd", SD1, n
    yield "lcm", dict(SD1, clip_sample=True), 4
    yield "tcd", dict(SD1, eta=0.0), 4
    yield "tcd", dict(SD1, eta=0.85), 4
    yield "pndm", LEADING, 1
    yield "pndm", LEADING, 2
    yield "unipc", dict(SD1, final_sigmas_type="sigma_min"), 16
    yield "euler", dict(LEADING, use_beta_sigmas=True), 10
    yield "dpmpp-2m", dict(LEADING, use_beta_sigmas=True), 10


def start_cases():
    """From the middle, as img2img, and with a mask, as inpainting. diffusers' LMS takes weights for slopes that it
    does not have when it starts in the middle, and its DPM2 noises a midpoint to the step's end: left out."""
    for name in CLASSES:
        if name != "lms":
            yield name, LEADING, 10, 4, False
            if name not in ("dpm2", "dpm2-a"):
                yield name, LEADING, 10, 4, True
    yield "pndm", LEADING, 10, 1, False
    yield "euler", dict(SD1, use_karras_sigmas=True), 10, 9, True


def kdiff_cases():
    for name in KDIFF:
        for schedule in ("linspace", "trailing", "normal", "karras", "exponential"):
            yield name, SD, schedule, 10
        yield name, dict(SD, prediction_type="v_prediction"), "karras", 10
        yield name, dict(SD, eta=0.4), "normal", 10
        yield name, SD, "normal", 3
    for name in KDIFF_TOO:
        yield name, SD, "normal", 10
    yield "euler-a", dict(SD, eta=0.5), "normal", 10
    yield "dpmpp-2m-sde", SD, "karras", 10
    yield "dpmpp-2m-sde", dict(SD, eta=0.0), "karras", 10
    yield "dpmpp-2m-sde", dict(SD, eta=0.7), "karras", 10


def rounded(x):
    return [float(f"{v:.9g}") for v in x.flatten().tolist()]


def model(x, t):
    return 0.9 * torch.tanh(0.7 * x) + 0.0002 * torch.as_tensor(t).float()


def record(name, config, steps, seed, init_sigma, times, trail, generator, **more):
    keep = sorted({0, len(trail) // 2, len(trail) - 1})
    return {"sampler": name, "config": config, "steps": steps, "seed": seed, "init_sigma": float(init_sigma),
            "times": [float(t) for t in times], "x": {str(i): rounded(trail[i]) for i in keep},
            "next_word": float(torch.rand(1, generator=generator)), **more}


def mask_pattern():
    return (torch.arange(torch.Size(SHAPE).numel()) % 3 != 0).float().reshape(SHAPE)


def run(name, config, steps, seed, first=None, blend=False):
    config = dict(config)
    more = {"eta": config.pop("eta")} if "eta" in config else {}
    scheduler = CLASSES[name].from_config(dict(config, **CHOICES.get(name, {})))
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator} if name in DRAWS else {}
    options |= more
    times = scheduler.timesteps
    if first is None:
        x = torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma
    else:
        times = times[first * scheduler.order:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first * scheduler.order)
        z0, noise = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
        x = scheduler.add_noise(z0, noise, times[:1].repeat(SHAPE[0]))
        more |= {"first": first, "blend": blend}
    trail = []
    for i, t in enumerate(times):
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, **options).prev_sample
        if blend:
            known = z0
            if i < len(times) - 1:
                known = scheduler.add_noise(z0, noise, torch.stack([times[i + 1]]))
            x = (1 - mask_pattern()) * known + mask_pattern() * x
        trail.append(x)
    return record(name, config, steps, seed, scheduler.init_noise_sigma, times, trail, generator, **more)


@functools.cache
def kdiff_modules():
    """Without the package's __init__ and utils, which want training libraries."""
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(importlib.util.find_spec("k_diffusion").submodule_search_locations)
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, n: x.reshape(x.shape + (1,) * (n - x.ndim))
    package.utils = utils
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    return importlib.import_module("k_diffusion.external"), importlib.import_module("k_diffusion.sampling")


def run_kdiff(name, config, schedule, steps, seed):
    external, sampling = kdiff_modules()
    config = dict(config)
    eta = {"eta": config.pop("eta")} if "eta" in config else {}
    euler = EulerDiscreteScheduler.from_config(dict(config, timestep_spacing=schedule)
                                               if schedule in ("linspace", "trailing") else config)
    euler.set_timesteps(steps)
    table = external.DiscreteSchedule(((1 - euler.alphas_cumprod) / euler.alphas_cumprod) ** 0.5, quantize=False)
    ends = float(table.sigma_min), float(table.sigma_max)
    sigmas = {"normal": lambda: table.get_sigmas(steps),
              "karras": lambda: sampling.get_sigmas_karras(steps, *ends),
              "exponential": lambda: sampling.get_sigmas_exponential(steps, *ends)}.get(schedule, lambda: euler.sigmas)()
    spaced = {float(s): float(t) for s, t in zip(euler.sigmas, euler.timesteps)} if schedule in ("linspace", "trailing") else {}
    generator = torch.Generator().manual_seed(seed)
    seen, times = [], []

    def denoise(x, sigma):
        sigma = sigma[0]
        t = spaced.get(float(sigma), table.sigma_to_t(sigma))
        if name == "dpmpp-2m-sde":
            t = torch.as_tensor(t).round()  # of diffusers' family, which feeds whole times
        seen.append(x)
        times.append(t)
        out = model(x / (sigma ** 2 + 1) ** 0.5, t)
        if config.get("prediction_type") == "v_prediction":
            return out * (-sigma / (sigma ** 2 + 1) ** 0.5) + x / (sigma ** 2 + 1)
        return x - sigma * out

    start = torch.randn(SHAPE, generator=generator)
    unit = name == "dpmpp-2m-sde"  # ours works on x / sqrt(sigma^2 + 1), and starts from plain noise
    x = start * (sigmas[0] ** 2 + 1) ** 0.5 if unit else start * sigmas[0]
    takes_noise = name in KDIFF or name in ("euler-a", "dpm2-a", "dpmpp-2m-sde")
    noise = {"noise_sampler": lambda a, b: torch.randn(SHAPE, generator=generator)} if takes_noise else {}
    method = getattr(sampling, (KDIFF | KDIFF_TOO | {"dpmpp-2m-sde": "sample_dpmpp_2m_sde"})[name])
    x = method(denoise, x, sigmas, disable=True, **noise, **eta)
    trail = [*seen[1:], x]
    if unit:
        trail = [v / (s ** 2 + 1) ** 0.5 for v, s in zip(trail, sigmas[1:])]
    case = record(name, config, steps, seed, float(sigmas[0]), times, trail, generator, schedule=schedule, **eta)
    if name in ("euler-a", "dpmpp-2m-sde"):
        del case["next_word"]  # ours draws once more at the end, as diffusers does
    return case


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", default="tests/data/samplers.json")
    parser.add_argument("--config", action="append", default=[])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    extra = [json.load(open(path)) for path in options.config]
    cases = [run(*case, options.seed) for case in [*old_cases(extra), *new_cases(extra)]]
    cases += [run(name, config, steps, options.seed, first, blend) for name, config, steps, first, blend in start_cases()]
    cases += [run_kdiff(*case, options.seed) for case in kdiff_cases()]
    with open(options.out, "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
