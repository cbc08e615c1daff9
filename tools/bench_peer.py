#!/usr/bin/env python3
"""Times what `atelier bench` is held against: torch, diffusers and peft on the CPU, OpenBLAS, numpy's OpenBLAS.

Every item runs in a fresh process, so that its peak memory is its own. Prints JSON; progress goes to stderr.
Needs torch, diffusers and peft for Python, and libopenblas-dev and a C compiler for OpenBLAS.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
GEMM = [(4096, 320, 320), (4096, 320, 2880), (1024, 1280, 1280), (2048, 2048, 2048)]  # M, N, K
CONV = [(320, 64), (640, 32), (1280, 8)]  # channels, side
ATTENTION = [(8, 4096, 40), (8, 1024, 80)]  # heads, tokens, width of a head
ATTENTION_BACKWARD = [(8, 4096, 40), (8, 1024, 64), (8, 1024, 80)]
SD15 = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
        "cross_attention_dim": 768, "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3}


def shape_name(shape):
    return "x".join(map(str, shape))


def best_seconds(run, seconds, least):
    run()
    best, runs, end = float("inf"), 0, time.perf_counter() + seconds
    while runs < least or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return {"ms": round(best * 1e3, 4), "runs": runs}


def with_rate(result, flop):
    return dict(result, gflop=round(flop / 1e9, 3), gflops=round(flop / result["ms"] / 1e6, 1))


def torch_gemm(args, m, n, k):
    import torch
    x, w = torch.rand(m, k) - 0.5, torch.rand(n, k) - 0.5
    with torch.inference_mode():
        return with_rate(best_seconds(lambda: torch.nn.functional.linear(x, w), args.seconds, 5), 2 * m * n * k)


def numpy_gemm(args, m, n, k):
    import numpy as np
    rng = np.random.default_rng(1)
    x, w = rng.random((m, k), dtype=np.float32) - 0.5, rng.random((n, k), dtype=np.float32) - 0.5
    out = np.empty((m, n), dtype=np.float32)
    return with_rate(best_seconds(lambda: np.matmul(x, w.T, out=out), args.seconds, 5), 2 * m * n * k)


def torch_conv(args, layout, channels, side):
    """The weight is prepared for the layout beforehand, as in a frozen network."""
    import torch
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = (torch.rand(1, channels, side, side) - 0.5).to(memory_format=memory)
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=memory)
    with torch.inference_mode():
        return with_rate(best_seconds(lambda: conv(x), args.seconds, 5), 2 * 9 * channels * channels * side * side)


def torch_attention(args, heads, tokens, width):
    import torch
    q, k, v = (torch.rand(1, heads, tokens, width) - 0.5 for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    with torch.inference_mode():
        with torch.profiler.profile() as profile:
            attend(q, k, v)
        inner = [e.key for e in profile.key_averages() if "attention" in e.key and e.key != "aten::scaled_dot_product_attention"]
        result = best_seconds(lambda: attend(q, k, v), args.seconds, 5)
    return dict(with_rate(result, 4 * heads * tokens * tokens * width), kernel=", ".join(inner) or "unfused")


def torch_attention_backward(args, heads, tokens, width):
    """The gradients to q, k and v alone; the forward pass stands."""
    import torch
    q, k, v = (torch.rand(1, heads, tokens, width, requires_grad=True) for _ in range(3))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    g = torch.rand_like(out) - 0.5
    result = best_seconds(lambda: torch.autograd.grad(out, (q, k, v), g, retain_graph=True), args.seconds, 5)
    return with_rate(result, 10 * heads * tokens * tokens * width)


def sd15_unet():
    """SD 1.5's UNet with random weights, without paying for its default initialisation."""
    import torch
    from diffusers import UNet2DConditionModel
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)
    unet.to_empty(device="cpu")
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if p.dim() == 1:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                bound = (3.0 / p[0].numel()) ** 0.5
                p.uniform_(-bound, bound)
    return unet.requires_grad_(False)


def count_flop(run):
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def torch_unet(args, layout):
    import torch
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    unet = sd15_unet().eval().to(memory_format=memory)
    x, t, context = torch.randn(1, 4, 64, 64).to(memory_format=memory), torch.tensor([500]), torch.randn(1, 77, 768)
    with torch.inference_mode():
        flop = count_flop(lambda: unet(x, t, context))
        return with_rate(best_seconds(lambda: unet(x, t, context), args.seconds, args.runs), flop)


def torch_lora_step(args, checkpointing):
    import torch
    from peft import LoraConfig
    unet = sd15_unet().train()
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    if checkpointing == "checkpointing":
        unet.enable_gradient_checkpointing()
    params = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=1e-4)
    x, noise, t, context = torch.randn(1, 4, 32, 32), torch.randn(1, 4, 32, 32), torch.tensor([500]), torch.randn(1, 77, 768)

    def step():
        loss = torch.nn.functional.mse_loss(unet(x, t, context).sample, noise)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()

    flop = count_flop(step)
    result = with_rate(best_seconds(step, args.seconds, args.runs), flop)
    return dict(result, trained_parameters=sum(p.numel() for p in params))


def items():
    """Name of each item -> (function, its arguments, environment)."""
    table = {}
    for shape in GEMM:
        table[f"torch gemm {shape_name(shape)}"] = (torch_gemm, shape, {})
    for core in ("", "SkylakeX"):
        for shape in GEMM:
            label = f"numpy{' ' + core if core else ''} gemm {shape_name(shape)}"
            table[label] = (numpy_gemm, shape, {"OPENBLAS_CORETYPE": core} if core else {})
    for layout in ("contiguous", "channels_last"):
        for channels, side in CONV:
            table[f"torch conv3x3 {channels}@{side}x{side} {layout}"] = (torch_conv, (layout, channels, side), {})
    for shape in ATTENTION:
        table[f"torch sdpa {shape_name(shape)}"] = (torch_attention, shape, {})
    for shape in ATTENTION_BACKWARD:
        table[f"torch sdpa backward {shape_name(shape)}"] = (torch_attention_backward, shape, {})
    for layout in ("contiguous", "channels_last"):
        table[f"torch unet sd15 forward 64x64 {layout}"] = (torch_unet, (layout,), {})
    for mode in ("plain", "checkpointing"):
        table[f"torch+peft lora step 32x32 rank 8 {mode}"] = (torch_lora_step, (mode,), {})
    return table


def run_item(args):
    function, arguments, _ = items()[args.item]
    if function is not numpy_gemm:
        import torch
        torch.set_num_threads(args.threads)
        torch.manual_seed(1)
    result = function(args, *arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(dict(result, name=args.item, peak_rss_mib=round(peak))))


def spawn(args, name, environment):
    words = [sys.executable, os.path.abspath(__file__), "--item", name, "--threads", str(args.threads),
             "--seconds", str(args.seconds), "--runs", str(args.runs)]
    threads = {v: str(args.threads) for v in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    result = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **threads, **environment})
    if result.returncode:
        return {"name": name, "error": (result.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(result.stdout.strip().splitlines()[-1])


def run_openblas(args):
    with tempfile.TemporaryDirectory() as work:
        program = os.path.join(work, "bench_openblas")
        built = subprocess.run(["cc", "-O2", os.path.join(HERE, "bench_openblas.c"), "-o", program, "-lopenblas"],
                               capture_output=True, text=True)
        if built.returncode:
            return [{"name": "openblas", "error": "not built: is libopenblas-dev installed?"}]
        out = []
        for core in ("", "SkylakeX"):
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(args.threads)}
            if core:
                environment["OPENBLAS_CORETYPE"] = core
            lines = subprocess.run([program, *map(shape_name, GEMM)], capture_output=True, text=True, env=environment,
                                   check=True).stdout.splitlines()
            for line in lines:
                item = json.loads(line)
                out.append(dict(item, name=f"openblas {item['name']}", asked=core or "own choice"))
        return out


def cpu_name():
    with open("/proc/cpuinfo") as f:
        return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "unknown")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="items whose name contains this; 'openblas' for the C program alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to repeat each item")
    parser.add_argument("--runs", type=int, default=3, help="least repeats of the UNet items")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--item", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        print("\n".join(["openblas", *items()]))
        return
    if args.item:
        run_item(args)
        return
    results = run_openblas(args) if args.only in "openblas" else []
    for name, (_, _, environment) in items().items():
        if args.only in name:
            results.append(spawn(args, name, environment))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    versions = subprocess.run([sys.executable, "-c", "import torch, diffusers, peft, numpy; "
                               "print(torch.__version__, diffusers.__version__, peft.__version__, numpy.__version__)"],
                              capture_output=True, text=True).stdout.split()
    print(json.dumps({"cpu": cpu_name(), "threads": args.threads,
                      "versions": dict(zip(("torch", "diffusers", "peft", "numpy"), versions)),
                      "items": results}, indent=1))


if __name__ == "__main__":
    main()
