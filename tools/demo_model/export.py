"""Put VAE, UNet, text encoder and tokenizer together as a fp16 StableDiffusionPipeline folder."""
import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

VERSION = "0.30.0"
SCHEDULER = dict(
    _class_name="DDIMScheduler", _diffusers_version=VERSION, beta_start=0.00085, beta_end=0.012,
    beta_schedule="scaled_linear", num_train_timesteps=1000, prediction_type="epsilon", clip_sample=False,
    set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading", trained_betas=None,
)
INDEX = dict(
    _class_name="StableDiffusionPipeline", _diffusers_version=VERSION, feature_extractor=[None, None],
    safety_checker=[None, None], requires_safety_checker=False, scheduler=["diffusers", "DDIMScheduler"],
    text_encoder=["transformers", "CLIPTextModel"], tokenizer=["transformers", "CLIPTokenizer"],
    unet=["diffusers", "UNet2DConditionModel"], vae=["diffusers", "AutoencoderKL"],
)
TEXT = dict(
    architectures=["CLIPTextModel"], model_type="clip_text_model", attention_dropout=0.0, bos_token_id=49406,
    eos_token_id=49407, pad_token_id=49407, hidden_act="quick_gelu", hidden_size=128, intermediate_size=512,
    num_attention_heads=4, num_hidden_layers=3, max_position_embeddings=77, vocab_size=49408,
    layer_norm_eps=1e-5, projection_dim=128, initializer_factor=1.0, initializer_range=0.02, torch_dtype="float16",
)
UNET_KEYS = (
    "act_fn attention_head_dim block_out_channels center_input_sample cross_attention_dim down_block_types "
    "downsample_padding flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor "
    "mid_block_type norm_eps norm_num_groups out_channels sample_size transformer_layers_per_block up_block_types "
    "use_linear_projection").split()
VAE_KEYS = (
    "act_fn block_out_channels down_block_types force_upcast in_channels latent_channels layers_per_block "
    "norm_num_groups out_channels sample_size scaling_factor up_block_types").split()


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_part(folder, weights_name, tensors, config):
    write_json(folder / "config.json", config)
    half = {k: v.to(torch.float16).contiguous() for k, v in tensors.items() if not k.endswith("position_ids")}
    assert all(torch.isfinite(v).all() for v in half.values()), "a weight does not fit in fp16"
    save_file(half, folder / weights_name, metadata={"format": "pt"})


def text_names(tensors):
    """Names as Stable Diffusion folders have them, whatever the installed transformers calls them."""
    return {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in tensors.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", required=True, help="folder that train_vae.py wrote")
    parser.add_argument("--unet", required=True, help="folder that train_unet.py wrote")
    parser.add_argument("--tokenizer", required=True, help="CLIP tokenizer folder to copy")
    parser.add_argument("--out", required=True, help="pipeline folder to write")
    args = parser.parse_args()
    out = Path(args.out)
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(args.unet, subfolder="unet", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(args.unet, subfolder="text_encoder", torch_dtype=torch.float32)
    weights = "diffusion_pytorch_model.safetensors"
    write_part(out / "vae", weights, vae.state_dict(),
               dict(_class_name="AutoencoderKL", _diffusers_version=VERSION, **{k: vae.config[k] for k in VAE_KEYS}))
    write_part(out / "unet", weights, unet.state_dict(),
               dict(_class_name="UNet2DConditionModel", _diffusers_version=VERSION,
                    **{k: unet.config[k] for k in UNET_KEYS}))
    write_part(out / "text_encoder", "model.safetensors", text_names(text.state_dict()), TEXT)
    write_json(out / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(out / "model_index.json", INDEX)
    if Path(args.tokenizer).resolve() != (out / "tokenizer").resolve():
        shutil.copytree(args.tokenizer, out / "tokenizer", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
