"""Train the demo model's UNet and text encoder together on exported VAE latents.

Writes to --out: unet/ and text_encoder/ (diffusers and transformers folders, fp32,
averaged weights), again every five minutes, so that the model can be exported at
any time. The text encoder is trained over the tokens that occur in captions and
written over the whole vocabulary: tokens never seen get the mean embedding.
Weights are fp32; forward and backward pass run on a bf16 copy, channels last.
"""
import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from common import alphas_cumprod, load_drawings, trained_indices

UNET_CONFIG = dict(
    in_channels=4, out_channels=4, sample_size=16, cross_attention_dim=128, block_out_channels=(64, 128, 192),
    layers_per_block=1, attention_head_dim=(2, 4, 6), norm_num_groups=16, use_linear_projection=True,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
)
TEXT_CONFIG = dict(
    vocab_size=49408, hidden_size=128, intermediate_size=512, num_attention_heads=4, num_hidden_layers=3,
    projection_dim=128, hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
)


def embedding_of(text):
    return text.get_input_embeddings()


class Both(torch.nn.Module):
    """UNet and text encoder as one, so that one optimizer and one average cover them."""

    def __init__(self, unet, text):
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, latents, timesteps, ids):
        context = self.text(ids).last_hidden_state
        return self.unet(latents, timesteps, context, return_dict=False)[0]


def make_models(args, used, seen):
    """UNet and text encoder, the latter over the tokens `used` only; `seen` marks those --init knows."""
    if args.init:
        unet = UNet2DConditionModel.from_pretrained(args.init, subfolder="unet", torch_dtype=torch.float32)
        text = CLIPTextModel.from_pretrained(args.init, subfolder="text_encoder", torch_dtype=torch.float32,
                                             attn_implementation="eager")
    else:
        unet = UNet2DConditionModel(**UNET_CONFIG)
        text = CLIPTextModel(CLIPTextConfig(**TEXT_CONFIG, attn_implementation="eager"))
        start_quiet(unet, text)
    full = embedding_of(text).weight.data
    compact = torch.nn.Embedding(len(used), full.shape[1])
    compact.weight.data.copy_(full[used])
    if seen is not None:
        spread = compact.weight.data[seen].std(0)
        fresh = ~torch.from_numpy(seen)
        compact.weight.data[fresh] += 0.5 * spread * torch.randn(int(fresh.sum()), full.shape[1])
    text.set_input_embeddings(compact)
    return Both(unet, text)


@torch.no_grad()
def start_quiet(unet, text):
    """Start values for training from nothing: residual branches at zero, and a text encoder
    whose first layer looks away from start, end and padding, so that names count early."""
    for name, module in unet.named_modules():
        if name.split(".")[-1] in ("conv2", "proj_out", "conv_out"):
            module.weight.zero_()
            module.bias.zero_()
    tower = getattr(text, "text_model", text)
    position = tower.embeddings.position_embedding.weight
    position.mul_(0.5)
    tokens = embedding_of(text).weight
    marks = torch.stack([tokens[49406] + position[0], tokens[49407]])
    marks = marks - marks.mean(1, keepdim=True)
    marks = marks / marks.norm(dim=1, keepdim=True)
    attention = tower.encoder.layers[0].self_attn
    size = tokens.shape[1] // attention.num_heads
    for head in range(attention.num_heads):
        first = head * size
        attention.q_proj.bias[first:first + size] = 0
        attention.q_proj.bias[first] = 2.0
        attention.q_proj.weight[first] = 0
        attention.k_proj.weight[first] = -2.0 * marks.sum(0)


def vae_stamp(vae_dir):
    """Changes when train_vae.py has written the VAE again."""
    return (Path(vae_dir) / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns


@torch.no_grad()
def encode_latents(args):
    """Posterior means of the trained drawings times the scaling factor, [n, 4, 16, 16]."""
    images = np.load(Path(args.data) / "images.npy", mmap_mode="r")
    indices = trained_indices(load_drawings(args.data))
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32)
    parts = []
    for i in range(0, len(indices), 16):
        x = torch.from_numpy(images[indices[i:i + 16]]).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts.append(vae.encode(x).latent_dist.mean * vae.config.scaling_factor)
    return torch.cat(parts)


def save(out, model, state, used):
    """Writes both parts with averaged weights, the embedding spread over the whole vocabulary."""
    averaged = copy.deepcopy(model)
    state.copy_to(averaged, state.average)
    averaged.unet.save_pretrained(Path(out) / "unet")
    text = averaged.text
    compact = embedding_of(text).weight.data
    words = compact[torch.from_numpy(used < 49406)]
    whole = torch.nn.Embedding(49408, compact.shape[1])
    whole.weight.data.copy_(words.mean(0, keepdim=True).expand(49408, -1))
    whole.weight.data[used] = compact
    text.set_input_embeddings(whole)
    text.config.vocab_size = 49408
    text.save_pretrained(Path(out) / "text_encoder")


class PlainAttention:
    """Attention as two matrix products: on a CPU twice as fast, trained, as torch's fused one at these sizes."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, tokens, channels = hidden_states.shape
        heads, keys, size = attn.heads, context.shape[1], channels // attn.heads
        q = attn.to_q(hidden_states).view(batch, tokens, heads, size).transpose(1, 2).reshape(-1, tokens, size)
        k = attn.to_k(context).view(batch, keys, heads, size).permute(0, 2, 3, 1).reshape(-1, size, keys)
        v = attn.to_v(context).view(batch, keys, heads, size).transpose(1, 2).reshape(-1, keys, size)
        mixed = torch.bmm(torch.bmm(q * size ** -0.5, k).softmax(-1), v)
        return attn.to_out[0](mixed.view(batch, heads, tokens, size).transpose(1, 2).reshape(batch, tokens, channels))


class SharedState:
    """Weights, gradients and their averages as flat arrays in shared memory.

    Each worker computes a gradient on its part of the batch, then updates its own
    slice of the weights. One worker with one thread per core beats one worker with
    a thread pool by far when other programs use the cores too.
    """

    def __init__(self, model, workers):
        params = list(model.parameters())
        self.sizes = [p.numel() for p in params]
        self.weights = torch.cat([p.detach().reshape(-1) for p in params]).share_memory_()
        self.average = self.weights.clone().share_memory_()
        self.gradients = torch.zeros(workers, len(self.weights)).share_memory_()
        self.norms = torch.zeros(workers).share_memory_()
        self.report = torch.zeros(workers, 2).share_memory_()
        self.stop = torch.zeros(1).share_memory_()
        self.clock = torch.zeros(1, dtype=torch.float64).share_memory_()
        # No decay on vectors and embeddings; the token embedding learns 2.5 times as fast.
        token = embedding_of(model.text).weight
        decay = [0.0 if p.ndim < 2 or "embedding.weight" in n or p is token else 0.01
                 for n, p in model.named_parameters()]
        speed = [2.5 if p is token else 1.0 for p in params]
        repeats = torch.tensor(self.sizes)
        self.decay = torch.tensor(decay).repeat_interleave(repeats).share_memory_()
        self.speed = torch.tensor(speed).repeat_interleave(repeats).share_memory_()

    @torch.no_grad()
    def copy_to(self, model, flat):
        for p, part in zip(model.parameters(), flat.split(self.sizes)):
            p.copy_(part.view(p.shape))


class SliceAdam:
    """AdamW with bias correction over one worker's slice of the flat weights."""

    def __init__(self, state, part, betas=(0.9, 0.99), eps=1e-8):
        self.weights, self.average = state.weights[part], state.average[part]
        self.decay, self.speed = state.decay[part], state.speed[part]
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.betas, self.eps, self.step = betas, eps, 0

    @torch.no_grad()
    def update(self, gradient, rate, average_decay):
        self.step += 1
        b1, b2 = self.betas
        self.first.lerp_(gradient, 1 - b1)
        self.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        spread = (self.second / (1 - b2 ** self.step)).sqrt_().add_(self.eps)
        move = (self.first / (1 - b1 ** self.step)).div_(spread).addcmul_(self.decay, self.weights)
        self.weights.addcmul_(move, self.speed, value=-rate)
        decay = min(average_decay, (1 + self.step) / (10 + self.step))
        self.average.lerp_(self.weights, 1 - decay)


def work(rank, args, model, state, latents, ids, used, barrier):
    """One worker. latents [n, 4, 16, 16]; ids [n + 1, 77], the last row being the empty caption."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed * 1000 + rank)
    count, batch, total = len(latents), args.batch // args.workers, len(state.weights)
    half = copy.deepcopy(model).bfloat16().to(memory_format=torch.channels_last)
    half.unet.set_attn_processor(PlainAttention())
    part = slice(total * rank // args.workers, total * (rank + 1) // args.workers)
    adam = SliceAdam(state, part)
    alphas = alphas_cumprod()
    snr = alphas / (1 - alphas)
    weight = (snr.clamp(max=5) / snr / alphas).clamp(max=25)
    rng = np.random.RandomState(args.seed)  # the same order in every worker: each takes its share
    order, start, step, next_report, next_save = [], time.time(), 0, 20.0, 300.0
    vae_seen = vae_stamp(args.vae)
    while True:
        if rank == 0:
            state.clock[0] = time.time() - start
            state.stop[0] = float(state.clock[0] >= 60 * args.minutes)
        barrier.wait()
        elapsed = float(state.clock[0])
        if state.stop[0]:
            break
        done = elapsed / (60 * args.minutes)
        rate = args.lr * min(1, (step + 1) / 100) * min(1, max(0.02, (1 - done) / args.decay_part))
        state.copy_to(half, state.weights)
        if len(order) < args.batch:
            order = list(rng.permutation(count))
        drawn = [order.pop() for _ in range(args.batch)]
        index = torch.tensor(drawn[rank * batch:(rank + 1) * batch])
        timesteps = ((torch.rand(1) + torch.arange(batch) / batch) % 1 * 1000).long()[torch.randperm(batch)]
        noise = torch.randn(batch, *latents.shape[1:])
        alpha = alphas[timesteps][:, None, None, None]
        noisy = (alpha.sqrt() * latents[index] + (1 - alpha).sqrt() * noise).bfloat16()
        caption = torch.where(torch.rand(batch) < 0.1, torch.full((batch,), count), index)
        for p in half.parameters():
            p.grad = None
        guess = half(noisy.contiguous(memory_format=torch.channels_last), timesteps, ids[caption]).float()
        each = ((guess - noise) ** 2).mean((1, 2, 3))
        loss = (each * weight[timesteps]).mean()
        loss.backward()
        with torch.no_grad():
            for target, p in zip(state.gradients[rank].split(state.sizes), half.parameters()):
                target.copy_(p.grad.reshape(-1)) if p.grad is not None else target.zero_()
        state.report[rank] += torch.tensor([loss.item(), each.mean().item()])
        barrier.wait()
        gradient = state.gradients[:, part].mean(0)
        state.norms[rank] = gradient.square().sum()
        barrier.wait()
        norm = float(state.norms.sum().sqrt())
        adam.update(gradient.mul_(min(1.0, 1.0 / (norm + 1e-6))), rate, args.ema)
        step += 1
        if rank == 0 and elapsed > next_report:
            loss_sum, mse_sum = (state.report.sum(0) / args.workers).tolist()
            steps = max(1, step - getattr(adam, "reported", 0))
            adam.reported = step
            state.report.zero_()
            print(f"{elapsed:.0f}s step {step} {step * args.batch / elapsed:.1f}/s passes "
                  f"{step * args.batch / count:.1f} loss {loss_sum / steps:.4f} mse {mse_sum / steps:.4f} "
                  f"gradient {norm:.2f} lr {rate:.1e}", flush=True)
            next_report = elapsed + 60
        if rank == 0 and elapsed > next_save:
            save(args.out, model, state, used)
            next_save = elapsed + 300
            if (stamp := vae_stamp(args.vae)) != vae_seen:
                vae_seen = stamp
                latents.copy_(encode_latents(args))
                print(f"latents encoded anew, deviation {latents.std():.3f}", flush=True)
    if rank == 0:
        save(args.out, model, state, used)
        print(f"{step} steps of {args.batch}, {step * args.batch / count:.0f} passes in {elapsed / 60:.1f} min", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder that data.py wrote")
    parser.add_argument("--vae", required=True, help="diffusers VAE folder that train_vae.py wrote")
    parser.add_argument("--tokenizer", required=True, help="CLIP tokenizer folder")
    parser.add_argument("--out", required=True, help="folder for unet/ and text_encoder/")
    parser.add_argument("--init", help="pipeline folder to continue from")
    parser.add_argument("--minutes", type=float, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--ema", type=float, default=0.9985)
    parser.add_argument("--decay-part", type=float, default=0.25, help="the last part of the time, in which the rate falls")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each; the batch is split")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)

    drawings = load_drawings(args.data)
    indices = trained_indices(drawings)
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    captions = [drawings[i]["caption"] for i in indices] + [""]
    whole = np.array(tokenizer(captions, padding="max_length", max_length=77)["input_ids"])
    used = np.unique(whole)
    ids = torch.from_numpy(np.searchsorted(used, whole)).share_memory_()
    seen = known_tokens(args.init, used) if args.init else None
    latents = encode_latents(args).share_memory_()
    model = make_models(args, used, seen)
    print(f"{len(indices)} drawings, {len(used)} tokens, latents mean {latents.mean():.3f} "
          f"deviation {latents.std():.3f}, fresh tokens {0 if seen is None else int((~seen).sum())}", flush=True)
    state = SharedState(model, args.workers)
    context = torch.multiprocessing.get_context("spawn")
    barrier = context.Barrier(args.workers)
    torch.multiprocessing.spawn(work, (args, model, state, latents, ids, used, barrier), nprocs=args.workers)


def known_tokens(init, used):
    """Which of `used` have an embedding of their own in --init (save() gives the others one common row)."""
    text = CLIPTextModel.from_pretrained(init, subfolder="text_encoder", torch_dtype=torch.float32)
    rows = embedding_of(text).weight.data
    common = rows.median(0).values
    return ((rows[used] - common).abs().max(1).values > 1e-4).numpy()


if __name__ == "__main__":
    main()
