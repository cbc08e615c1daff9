"""Draw many prompts at once with a pipeline folder: DDIM, classifier-free guidance."""
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from train_unet import PlainAttention


class Sampler:
    def __init__(self, model, unet=None, dtype=torch.float32):
        """model: pipeline folder; unet: folder with unet/ and text_encoder/ to use instead of the model's."""
        unet = unet or model
        last = torch.channels_last
        self.dtype = dtype
        self.tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
        self.text = CLIPTextModel.from_pretrained(unet, subfolder="text_encoder", torch_dtype=torch.float32)
        self.unet = UNet2DConditionModel.from_pretrained(unet, subfolder="unet", torch_dtype=dtype)
        self.unet.to(memory_format=last).set_attn_processor(PlainAttention())
        self.vae = AutoencoderKL.from_pretrained(model, subfolder="vae", torch_dtype=torch.float32)
        self.scheduler = DDIMScheduler.from_pretrained(model, subfolder="scheduler")

    @torch.no_grad()
    def draw(self, prompts, seed=0, steps=25, cfg=4.0, batch=20):
        """One 128x128 PIL picture a prompt; prompt i has its own noise from seed + i."""
        pictures = []
        for i in range(0, len(prompts), batch):
            part = prompts[i:i + batch]
            ids = self.tokenizer([""] + part, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
            context = self.text(ids).last_hidden_state.to(self.dtype)
            context = torch.cat([context[:1].expand(len(part), -1, -1), context[1:]])
            x = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed + i + j))
                             for j in range(len(part))])
            self.scheduler.set_timesteps(steps)
            for t in self.scheduler.timesteps:
                both = torch.cat([x, x]).to(self.dtype).contiguous(memory_format=torch.channels_last)
                empty, asked = self.unet(both, t, context, return_dict=False)[0].float().chunk(2)
                x = self.scheduler.step(empty + cfg * (asked - empty), t, x).prev_sample
            y = self.vae.decode(x / self.vae.config.scaling_factor).sample
            y = ((y.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
            pictures += [Image.fromarray(p) for p in y]
        return pictures
