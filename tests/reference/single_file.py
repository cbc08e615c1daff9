"""Single-file (LDM, SGM) names for the weights of a diffusers folder, written from the published layouts and not from
Atelier's tables. Every entry maps a name in the file to where it comes from:

    (part, [keys], how)    part: "unet", "vae", "text_encoder", "text_encoder_2"
                           how: "" as it is, "stack" rows of all keys below each other, "turn" transposed,
                                "conv" a matrix as a 1x1 convolution, "repeat" a layer that the folder lacks
"""


def resnet(out, source, target, keys, part, emb=True):
    parts = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
             "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    for ours, theirs in parts.items():
        for kind in ("weight", "bias"):
            if f"{source}.{ours}.{kind}" in keys:
                out[f"{target}.{theirs}.{kind}"] = (part, [f"{source}.{ours}.{kind}"], "")


def below(out, source, target, keys, part):
    for key in keys:
        if key.startswith(source + "."):
            out[target + key[len(source):]] = (part, [key], "")


def unet_names(config, keys, prefix="model.diffusion_model."):
    out, levels = {}, len(config["block_out_channels"])
    layers = config["layers_per_block"]
    pairs = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
             "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
             "add_embedding.linear_2": "label_emb.0.2"}
    for ours, theirs in pairs.items():
        below(out, ours, theirs, keys, "unet")
    number = 0
    for level in range(levels):
        for layer in range(layers):
            number += 1
            resnet(out, f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{number}.0", keys, "unet")
            below(out, f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{number}.1", keys, "unet")
        if level + 1 < levels:
            number += 1
            below(out, f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op", keys, "unet")
    resnet(out, "mid_block.resnets.0", "middle_block.0", keys, "unet")
    below(out, "mid_block.attentions.0", "middle_block.1", keys, "unet")
    resnet(out, "mid_block.resnets.1", "middle_block.2", keys, "unet")
    number = 0
    for level in range(levels):
        for layer in range(layers + 1):
            resnet(out, f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{number}.0", keys, "unet")
            below(out, f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{number}.1", keys, "unet")
            member = 2 if any(k.startswith(f"up_blocks.{level}.attentions.{layer}.") for k in keys) else 1
            if layer == layers and level + 1 < levels:
                below(out, f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{number}.{member}.conv", keys, "unet")
            number += 1
    return {prefix + k: v for k, v in out.items()}


def vae_names(config, keys, prefix="first_stage_model."):
    levels, out = len(config["block_out_channels"]), {}
    for key in keys:
        name, how = key, ""
        for side, blocks in (("encoder", "down"), ("decoder", "up")):
            for level in range(levels):
                number = level if side == "encoder" else levels - 1 - level
                name = name.replace(f"{side}.{blocks}_blocks.{level}.resnets.", f"{side}.{blocks}.{number}.block.")
                name = name.replace(f"{side}.{blocks}_blocks.{level}.{blocks}samplers.0.", f"{side}.{blocks}.{number}.{blocks}sample.")
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        if "mid_block.attentions.0" in name:
            head, tail = name.split("mid_block.attentions.0.")
            tail = tail.replace("group_norm", "norm").replace("to_out.0", "proj_out").replace("to_q", "q").replace("to_k", "k").replace("to_v", "v")
            name = head + "mid.attn_1." + tail
            how = "conv" if tail.endswith("weight") and "norm" not in tail else ""
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        out[prefix + name] = ("vae", [key], how)
    return out


def hf_text_names(keys, prefix, part="text_encoder"):
    """Older folders spell the tower text_model.…, newer leave it out; single files have it."""
    return {prefix + (k if k.startswith(("text_model.", "text_projection")) else "text_model." + k): (part, [k], "") for k in keys}


def open_clip_names(layers, keys, prefix, part, extra_layer=False):
    out = {}
    lead = "text_model." if any(k.startswith("text_model.") for k in keys) else ""
    out["positional_embedding"] = (part, [lead + "embeddings.position_embedding.weight"], "")
    out["token_embedding.weight"] = (part, [lead + "embeddings.token_embedding.weight"], "")
    for kind in ("weight", "bias"):
        out[f"ln_final.{kind}"] = (part, [f"{lead}final_layer_norm.{kind}"], "")
        for layer in range(layers + extra_layer):
            source = f"{lead}encoder.layers.{min(layer, layers - 1)}"
            target, how = f"transformer.resblocks.{layer}", "repeat" if layer == layers else ""
            out[f"{target}.attn.in_proj_{kind}"] = (part, [f"{source}.self_attn.{x}_proj.{kind}" for x in "qkv"], "stack")
            for ours, theirs in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                                 ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                out[f"{target}.{theirs}.{kind}"] = (part, [f"{source}.{ours}.{kind}"], how)
    if "text_projection.weight" in keys:
        out["text_projection"] = (part, ["text_projection.weight"], "turn")
    return {prefix + k: v for k, v in out.items()}


def single_names(family, unet_config, vae_config, states, text_layers):
    """family: "sd1", "sd2", "xl"; states: state dict per part; text_layers: of the OpenCLIP tower."""
    names = unet_names(unet_config, states["unet"].keys())
    names.update(vae_names(vae_config, states["vae"].keys()))
    if family == "sd1":
        names.update(hf_text_names(states["text_encoder"].keys(), "cond_stage_model.transformer."))
    elif family == "sd2":
        names.update(open_clip_names(text_layers, states["text_encoder"].keys(), "cond_stage_model.model.", "text_encoder", True))
    else:
        names.update(hf_text_names(states["text_encoder"].keys(), "conditioner.embedders.0.transformer."))
        names.update(open_clip_names(text_layers, states["text_encoder_2"].keys(), "conditioner.embedders.1.model.", "text_encoder_2"))
    return names


def assemble(names, states):
    import torch
    out = {}
    for name, (part, keys, how) in names.items():
        tensors = [states[part][k] for k in keys]
        t = torch.cat(tensors) if how == "stack" else tensors[0]
        if how == "turn":
            t = t.t()
        if how == "conv":
            t = t[:, :, None, None]
        out[name] = t.contiguous().clone()
    return out
