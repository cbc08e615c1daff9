#!/usr/bin/env python3
"""Miniature parts of what comes after SD1 and SD2: a UNet with SDXL's added vector, LCM's guidance embedding and
unequal depths down and up, and a text tower with projection and its penultimate layer. Writes NAME/ and
NAME.golden.safetensors; README.md lists the tensors."""
import argparse
import os

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from make_goldens import save as save_goldens
from make_model import HERE, enliven, round_weights, save, scale_output, write_json

UNET = dict(sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), mid_block_type=None, attention_head_dim=(2, 4),
            transformer_layers_per_block=[0, [2]], reverse_transformer_layers_per_block=[[2, 1], 0],
            cross_attention_dim=24, use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 6 * 8, time_cond_proj_dim=12)
TEXT = dict(vocab_size=100, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
            max_position_embeddings=20, hidden_act="gelu", projection_dim=12, bos_token_id=98, eos_token_id=99,
            pad_token_id=0)
TIME_IDS = [[128.0, 96.0, 0.0, 8.0, 64.0, 64.0], [64.0, 64.0, 4.0, 0.0, 64.0, 48.0]]


@torch.no_grad()
def unet_goldens(generator, folder):
    unet = UNet2DConditionModel(**UNET).eval()
    enliven(unet, generator)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 24, generator=generator)
    pooled, guidance = torch.randn(2, 16, generator=generator), torch.randn(2, 12, generator=generator)
    times = torch.tensor([801.0, 37.0])
    added = {"text_embeds": pooled, "time_ids": torch.tensor(TIME_IDS)}

    def run(m):
        return m(x, times, context, timestep_cond=guidance, added_cond_kwargs=added).sample

    scale_output(unet, unet.conv_out, run, 0.9)
    round_weights(unet, torch.float16)
    unet.save_config(folder)
    save(unet, folder, "diffusion_pytorch_model.safetensors", torch.float16)
    return {"unet.latents": x, "unet.timesteps": times, "unet.context": context, "unet.pooled": pooled,
            "unet.time_ids": torch.tensor(TIME_IDS), "unet.guidance": guidance, "unet.output": run(unet)}


@torch.no_grad()
def text_goldens(generator, folder):
    text = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)).eval()
    enliven(text, generator)
    round_weights(text, torch.float16)
    write_json(os.path.join(folder, "config.json"),
               dict(TEXT, architectures=["CLIPTextModelWithProjection"], model_type="clip_text_model"))
    save(text, folder, "model.safetensors", torch.float16)
    ids = torch.randint(1, 98, (3, 20), generator=generator)
    ends = [4, 19, 11]
    for row, end in zip(ids, ends):
        row[0], row[end], row[end + 1:] = 98, 99, 0
    out = text(ids, output_hidden_states=True)
    return {"text.ids": ids.int(), "text.ends": torch.tensor(ends).int(), "text.penultimate": out.hidden_states[-2],
            "text.last": out.last_hidden_state, "text.pooled": out.text_embeds}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "data", "xl-parts"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    goldens = unet_goldens(generator, os.path.join(args.out, "unet"))
    goldens |= text_goldens(generator, os.path.join(args.out, "text_encoder"))
    save_goldens(goldens, args.out + ".golden.safetensors", {"seed": str(args.seed)})


if __name__ == "__main__":
    main()
