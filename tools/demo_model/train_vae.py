"""Train the demo model's VAE on every drawing of both sets, less 64 held out.

--init continues from a diffusers VAE folder; --freeze-encoder trains the decoder
alone, so that latents already exported stay valid. The result is a diffusers VAE
folder whose latents, times the scaling factor, have mean 0 and deviation 1 per
channel (folded into quant_conv and post_quant_conv).

Weights are fp32, the forward and backward pass runs on a bf16 copy.
"""
import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

CONFIG = dict(
    in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, norm_num_groups=8,
    block_out_channels=(16, 32, 64, 128), sample_size=128, scaling_factor=0.18215, force_upcast=False,
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
)
HELD_OUT = 64


def split_drawings(count):
    """Indices trained on, and held out. The same split as the stand-in model's."""
    order = np.random.RandomState(7).permutation(count)
    return order[HELD_OUT:], order[:HELD_OUT]


def to_float(images, index):
    """uint8 [n, h, w, 3] rows as float32 [n, 3, h, w] in -1..1."""
    return (torch.from_numpy(images[index]).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def edges(x):
    return x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]


@torch.no_grad()
def psnr(vae, images, index):
    """Mean over pictures of 10 log10(peak^2 / mean squared error), posterior mean, 8-bit range."""
    values = []
    for i in range(0, len(index), 16):
        x = to_float(images, index[i:i + 16])
        mean = vae.quant_conv(vae.encoder(x)).chunk(2, 1)[0]
        y = vae.decoder(vae.post_quant_conv(mean)).clamp(-1, 1)
        values += (10 * torch.log10(4 / ((y - x) ** 2).flatten(1).mean(1))).tolist()
    return sum(values) / len(values)


@torch.no_grad()
def fold_normalisation(vae, images, index):
    """Makes the latents of these drawings times the scaling factor standard normal per channel."""
    means = torch.cat([
        vae.quant_conv(vae.encoder(to_float(images, index[i:i + 32]))).chunk(2, 1)[0]
        for i in range(0, len(index), 32)])
    centre, spread = means.mean((0, 2, 3)), means.std((0, 2, 3))
    gain = 1 / (spread * vae.config.scaling_factor)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.bias[:4] = (quant.bias[:4] - centre) * gain
    quant.weight[:4] *= gain[:, None, None, None]
    quant.bias[4:] += 2 * gain.log()
    post.bias += post.weight[:, :, 0, 0] @ centre
    post.weight /= gain[None, :, None, None]


class FastNorm(torch.autograd.Function):
    """GroupNorm whose gradient takes two products per channel: torch's own, in bf16 on a
    CPU, is half of the whole training step."""

    @staticmethod
    def forward(ctx, x, gamma, beta, groups, eps):
        n, c, h, w = x.shape
        x = x.contiguous()
        y, mean, rstd = torch.native_group_norm(x, gamma, beta, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, gamma, mean, rstd)
        ctx.groups = groups
        return y

    @staticmethod
    def backward(ctx, dy):
        x, gamma, mean, rstd = ctx.saved_tensors
        n, c, h, w = x.shape
        g, size = ctx.groups, c // ctx.groups * h * w
        dy = dy.contiguous()
        flat = dy.view(n * c, 1, h * w)
        with_x = torch.bmm(flat, x.view(n * c, h * w, 1)).view(n, g, -1).float()
        alone = flat.sum(2, dtype=torch.float32).view(n, g, -1)
        mean, rstd = mean.float().view(n, g, 1), rstd.float().view(n, g, 1)
        scale = gamma.float().view(1, g, -1)
        sum_x, sum_1 = (with_x * scale).sum(2, keepdim=True), (alone * scale).sum(2, keepdim=True)
        of_x = (sum_1 * mean - sum_x) * rstd ** 3 / size
        of_1 = -of_x * mean - sum_1 * rstd / size
        spread = lambda t: t.expand(n, g, c // g).reshape(n, c, 1, 1).to(x.dtype)
        dx = torch.addcmul(spread(of_1), x, spread(of_x)).addcmul_(dy, spread(rstd * scale))
        d_gamma = ((with_x - alone * mean) * rstd).sum(0).view(c)
        return dx, d_gamma.to(gamma.dtype), alone.sum(0).view(c).to(gamma.dtype), None, None


class PlainAttention:
    """The VAE's attention as two matrix products, faster to train on a CPU than torch's fused one."""

    def __call__(self, attn, hidden_states, temb=None, **_):
        n, c, h, w = hidden_states.shape
        x = attn.group_norm(hidden_states).view(n, c, h * w).transpose(1, 2)
        weights = torch.bmm(attn.to_q(x) * c ** -0.5, attn.to_k(x).transpose(1, 2)).softmax(-1)
        return attn.to_out[0](torch.bmm(weights, attn.to_v(x))).transpose(1, 2).reshape(n, c, h, w) + hidden_states


def speed_up(vae):
    """Replaces what torch does slowly in bf16; the arithmetic stays the same."""
    vae.set_attn_processor(PlainAttention())
    for module in vae.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x, m=module: FastNorm.apply(x, m.weight, m.bias, m.num_groups, m.eps)


def train(args, images, vae, ema):
    kept, held = split_drawings(len(images))
    half = copy.deepcopy(vae).bfloat16()
    speed_up(half)
    if args.freeze_encoder:
        for module in (vae.encoder, vae.quant_conv, half.encoder, half.quant_conv):
            module.requires_grad_(False)
    pairs = [(p, q) for p, q in zip(vae.parameters(), half.parameters()) if p.requires_grad]
    params = [p for p, _ in pairs]
    ema_params = [e for e, p in zip(ema.parameters(), vae.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(params, args.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    scale = vae.config.scaling_factor

    def losses(x, noise):
        mean, logvar = half.quant_conv(half.encoder(x.bfloat16())).float().chunk(2, 1)
        logvar = logvar.clamp(-12, 6)
        z = mean + torch.exp(0.5 * logvar) * noise * args.noise
        y = half.decoder(half.post_quant_conv(z.bfloat16())).float()
        error = y - x
        (gy, gx), (hy, hx) = edges(x), edges(y)
        edge = (gy - hy).abs().mean() + (gx - hx).abs().mean()
        kl = 0.5 * ((mean * scale) ** 2 + logvar.exp() * scale ** 2 - 1 - logvar - 2 * math.log(scale)).mean()
        l1, l2 = error.abs().mean(), (error ** 2).mean()
        return args.l1 * l1 + args.l2 * l2 + args.edge * edge + args.kl * kl, l2

    rng = np.random.RandomState(args.seed)
    start, step, order, next_report = time.time(), 0, [], 60.0
    while (part := (time.time() - start) / (60 * args.minutes)) < 1:
        rate = args.lr * min(1, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * part)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if len(order) < args.batch:
            order = list(rng.permutation(kept))
        x = to_float(images, [order.pop() for _ in range(args.batch)])
        if rng.rand() < 0.5:
            x = x.flip(3)
        with torch.no_grad():
            for p, q in pairs:
                q.copy_(p)
                q.grad = None
        loss, l2 = losses(x, torch.randn(args.batch, 4, 16, 16))
        loss.backward()
        for p, q in pairs:
            p.grad = q.grad.float()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(ema_params, params, 1 - decay)
        if time.time() - start > next_report:
            elapsed = time.time() - start
            print(f"{elapsed:.0f}s step {step} {step * args.batch / elapsed:.1f}/s loss {loss.item():.4f} "
                  f"mse {l2.item():.5f} held-out {psnr(ema, images, held[:32]):.2f} dB", flush=True)
            next_report = time.time() - start + 120
    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder that data.py wrote")
    parser.add_argument("--out", required=True, help="diffusers VAE folder to write, fp32")
    parser.add_argument("--init", help="diffusers VAE folder to continue from")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--l1", type=float, default=1.0)
    parser.add_argument("--l2", type=float, default=1.0)
    parser.add_argument("--edge", type=float, default=0.5, help="weight of the loss on pixel differences")
    parser.add_argument("--kl", type=float, default=5e-4)
    parser.add_argument("--noise", type=float, default=1.0, help="1 samples the posterior, 0 takes its mean")
    parser.add_argument("--freeze-encoder", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)

    images = np.load(Path(args.data) / "images.npy")
    if args.init:
        vae = AutoencoderKL.from_pretrained(args.init, torch_dtype=torch.float32)
    else:
        vae = AutoencoderKL(**CONFIG)
    ema = copy.deepcopy(vae).requires_grad_(False)
    kept, held = split_drawings(len(images))
    print(f"before: held out {psnr(ema, images, held):.2f} dB, trained {psnr(ema, images, kept[:128]):.2f} dB", flush=True)
    steps = train(args, images, vae, ema)
    if not args.freeze_encoder:
        fold_normalisation(ema, images, kept)
    ema.save_pretrained(args.out)
    print(f"after {steps} steps: held out {psnr(ema, images, held):.2f} dB, "
          f"trained {psnr(ema, images, kept[:128]):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
