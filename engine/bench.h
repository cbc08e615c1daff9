#pragma once
/* Timed single operators and whole UNets, for `atelier bench` and for guesses of how long something takes. */
#include "engine/engine.h"

enum bench_kind { BENCH_GEMM, BENCH_CONV, BENCH_ATTENTION, BENCH_ATTENTION_DX };
struct bench_op {
    enum bench_kind kind;
    int size[3]; /* gemm: rows, outputs, inputs; conv 3x3: channels, side; attention: heads, tokens, head width */
};
struct bench_result {
    double best, median; /* seconds per run, waiting included */
    int runs;
    double flops;        /* per run, multiply-adds counted twice */
    char variant[64];    /* kernel row of the op itself */
};
/* Runs the op for about `seconds`, at least five times after the first. kernel: gpu_program_params.force_kernel, or NULL. */
bool bench_run_op(struct gpu_device *dev, const struct bench_op *op, const char *kernel, double seconds,
                  struct bench_result *r, struct error *err);
double bench_op_flops(const struct bench_op *op);

/* Where the time of a program goes: nodes summed by operator and kernel row, most first. */
struct bench_share {
    const char *op, *variant;
    double seconds, flops;
    int nodes;
};
int bench_shares(const struct gpu_program *prog, struct bench_share *out, int max);
/* One run to warm up, then `runs` timed ones. */
bool bench_time_program(struct gpu_program *prog, int runs, struct bench_result *r, struct error *err);

/* Stable Diffusion 1.5's UNet with random weights. */
struct unet_config bench_unet_sd15(void);
/* Random numbers of the size that keeps activations near 1, in every slot. */
bool bench_fill_random(struct gpu_set *data, const struct tensor_set *set, struct error *err);

struct bench_unet_result {
    struct bench_result time;
    struct bench_share shares[64];
    int n_shares;
    int64_t peak_bytes, activation_bytes, weight_bytes, prepared_bytes;
    int64_t n_weights;
};
struct bench_unet_params {
    int side, runs;  /* latents side x side */
    enum tensor_dtype weights;
    bool no_prepare; /* gpu/program.h */
    bool remat;      /* training: recompute activations */
};
/* Forward of one picture with 77 tokens. */
bool bench_unet_forward(struct gpu_device *dev, const struct unet_config *cfg, const struct bench_unet_params *p,
                        struct bench_unet_result *r, struct error *err);
/* LoRA step (forward, backward, AdamW) of one picture: attention projections, rank 8. */
bool bench_unet_train(struct gpu_device *dev, const struct unet_config *cfg, const struct bench_unet_params *p,
                      struct bench_unet_result *r, struct error *err);
