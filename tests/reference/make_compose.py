#!/usr/bin/env python3
"""tests/data/mini-sd1.lora-2.safetensors, a second LoRA, and mini-sd1.compose.safetensors: the last latents of pictures in which
diffusers' adapters are set anew before each step (switch, courses), their predictions averaged (composite), or weighed
block by block. Names of the tensors are atelier's options."""
import argparse
import os

import torch
from safetensors.torch import save_file

import reference as ref

HERE = os.path.dirname(os.path.abspath(__file__))
REGION = "a black cat"
PROMPT, NEGATIVE, STEPS, GUIDANCE, SEED, SIZE = "a red fox on a table", "blue rain", 8, 4.0, 11, (8, 16)
RANK, ALPHA = 4, 2.0


def write_second(pipe, path, seed):
    state = {}
    for name, (down, up) in ref.random_lora(pipe.unet, ref.target_modules(pipe.unet, "attn"), RANK, torch.Generator().manual_seed(seed)).items():
        key = ref.kohya_name(name)
        state[key + ".lora_down.weight"], state[key + ".lora_up.weight"] = down.half().contiguous(), up.half().contiguous()
        state[key + ".alpha"] = torch.tensor(ALPHA).half()
    save_file(state, path, metadata={"ss_network_module": "networks.lora", "ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA)})
    os.chmod(path, 0o644)


@torch.no_grad()
def sample(pipe, settings):
    """settings(step): what each of the averaged passes sets, as lists of names and weights; for regions also a prompt and a map."""
    ref.set_sampler(pipe, "ddim")
    pipe.scheduler.set_timesteps(STEPS)
    x = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(SEED)) * pipe.scheduler.init_noise_sigma
    for step, t in enumerate(pipe.scheduler.timesteps):
        total = 0
        passes = settings(step)
        for names, weights, *region in passes:
            prompt, share = region or (PROMPT, 1 / len(passes))
            context = ref.embed_text(pipe, [NEGATIVE, prompt])
            if names:
                pipe.enable_lora()
                pipe.set_adapters(names, weights)
            else:
                pipe.disable_lora()
            uncond, cond = pipe.unet(torch.cat([pipe.scheduler.scale_model_input(x, t)] * 2), t, context).sample.chunk(2)
            total = total + share * (uncond + GUIDANCE * (cond - uncond))
        x = pipe.scheduler.step(total, t, x).prev_sample
    return x


def cases():
    yield "sum", lambda s: [(["a", "b"], [0.7, 0.5])]
    yield "switch", lambda s: [(["a"], [0.7]) if s // 3 % 2 == 0 else (["b"], [0.5])]
    yield "composite", lambda s: [(["a"], [0.7]), (["b"], [0.5])]
    # 0.2..1.0 and 0.8@0-50%
    yield "course", lambda s: [(["a", "b"], [0.2 + 0.8 * s / 7, 0.8]) if s < 4 else (["a"], [0.2 + 0.8 * s / 7])]
    # IN01=0.2,IN03=0.9,M00=0,OUT02=0.6,OUT03=0.3: one layer a block here, so that input blocks with attention are odd
    blocks = {"unet": {"down": {"block_0": 0.2, "block_1": 0.9}, "mid": 0.0, "up": {"block_1": [0.6, 0.3]}}}
    # the box 64,16,32,48 of 128x64 pixels, an eighth of that in latents
    box = torch.zeros(1, 1, *SIZE)
    box[..., 2:8, 8:12] = 1
    yield "region", lambda s: [(["a"], [0.7], PROMPT, 1 - box), (["b"], [0.5], REGION, box)]
    yield "blocks", lambda s: [(["a", "b"], [blocks, 0.5])]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.path.join(HERE, "..", "data"))
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = ref.load_pipeline(os.path.join(args.data, "mini-sd1"))
    second = os.path.join(args.data, "mini-sd1.lora-2.safetensors")
    write_second(pipe, second, args.seed)
    pipe.load_lora_weights(os.path.join(args.data, "mini-sd1.lora.safetensors"), adapter_name="a")
    pipe.load_lora_weights(second, adapter_name="b")
    out = {name: sample(pipe, settings) for name, settings in cases()}
    path = os.path.join(args.data, "mini-sd1.compose.safetensors")
    save_file(out, path, metadata={"prompt": PROMPT, "region": REGION, "negative": NEGATIVE, "steps": str(STEPS), "guidance": str(GUIDANCE), "seed": str(SEED)})
    os.chmod(path, 0o644)


if __name__ == "__main__":
    main()
