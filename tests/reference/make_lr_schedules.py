"""Writes tests/data/lr_schedules.json: transformers' learning-rate schedules, for tests/test_lr_schedule.c.

    python tests/reference/make_lr_schedules.py [--out tests/data/lr_schedules.json]
"""
import argparse
import json

import torch
from transformers import optimization as o

T = 40
CASES = [
    dict(kind="constant"), dict(kind="constant", warmup=7), dict(kind="linear", warmup=5), dict(kind="linear", warmup=0.25),
    dict(kind="cosine"), dict(kind="cosine", warmup=10), dict(kind="cosine_with_restarts", warmup=4, cycles=3),
    dict(kind="cosine_with_restarts"), dict(kind="polynomial", warmup=3), dict(kind="polynomial", power=2.5, end=1e-4),
    dict(kind="inverse_sqrt", warmup=6), dict(kind="inverse_sqrt", timescale=20), dict(kind="inverse_sqrt"),
    dict(kind="cosine_with_min_lr", warmup=5, least=0.1), dict(kind="warmup_stable_decay", warmup=5, decay=10),
    dict(kind="warmup_stable_decay", warmup=0.1, decay=0.25, least=0.2), dict(kind="warmup_stable_decay"),
]


def steps(x):
    return int(x * T) if x < 1 else int(x)


def make(case, opt):
    w = steps(case.get("warmup", 0))
    kind = case["kind"]
    if kind == "constant":
        return o.get_constant_schedule_with_warmup(opt, w)
    if kind == "linear":
        return o.get_linear_schedule_with_warmup(opt, w, T)
    if kind == "cosine":
        return o.get_cosine_schedule_with_warmup(opt, w, T)
    if kind == "cosine_with_restarts":
        return o.get_cosine_with_hard_restarts_schedule_with_warmup(opt, w, T, num_cycles=case.get("cycles", 1))
    if kind == "polynomial":
        return o.get_polynomial_decay_schedule_with_warmup(opt, w, T, lr_end=case.get("end", 1e-7), power=case.get("power", 1.0))
    if kind == "inverse_sqrt":
        return o.get_inverse_sqrt_schedule(opt, w, timescale=case.get("timescale"))
    if kind == "cosine_with_min_lr":
        return o.get_cosine_with_min_lr_schedule_with_warmup(opt, w, T, min_lr_rate=case["least"])
    d = steps(case.get("decay", 0.1))
    return o.get_wsd_schedule(opt, num_warmup_steps=w, num_stable_steps=T - w - d, num_decay_steps=d, min_lr_ratio=case.get("least", 0))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="tests/data/lr_schedules.json")
    out = parser.parse_args().out
    results = []
    for case in CASES:
        opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        schedule = make(case, opt)
        factors = []
        for _ in range(T):
            factors.append(opt.param_groups[0]["lr"] / 1e-3)
            opt.step()
            schedule.step()
        results.append(dict(case, total=T, lr=1e-3, factors=factors))
    with open(out, "w") as f:
        json.dump(results, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
