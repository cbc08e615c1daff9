#include "app/bench_plan.h"

#include <stdio.h>

#include "engine/footprint.h"

enum { TOKENS = 77, RANK = 16, TILE = 512 };
static double mb(int64_t bytes) { return (double)bytes / 1e6; }

static void print_head(void) {
    printf("%-34s %9s %9s %9s %9s %9s %9s   %s\n", "MB (1e6 bytes)", "total", "weights", "adapter", "grads", "moments",
           "activ.", "most is live at");
}

static void print_row(const char *name, const struct footprint *f) {
    printf("%-34s %9.0f %9.0f %9.0f %9.0f %9.0f %9.0f   %s\n", name, mb(footprint_total(f)), mb(f->weights), mb(f->adapter),
           mb(f->gradients), mb(f->moments), mb(f->activations + f->io + f->prepared), f->peak);
}

static bool plan_unet(struct gpu_device *dev, const struct footprint_family *family, enum tensor_dtype weights,
                      struct error *e) {
    int side = family->side / vae_config_factor(&family->vae);
    struct footprint_params p = {.n = 2, .w = side, .h = side, .tokens = TOKENS, .weights = weights, .no_prepare = true};
    struct footprint f;
    char name[80];
    if (!footprint_unet(dev, &family->unet, &p, &f, e)) return false;
    snprintf(name, sizeof name, "draw %d, guided, %s", family->side, tensor_dtype_names[weights]);
    print_row(name, &f);
    p.n = 1, p.train = true, p.targets = LORA_SELECT_ATTN_MLP, p.rank = RANK;
    for (int remat = 0; remat < 2; remat++) {
        p.remat = remat;
        if (!footprint_unet(dev, &family->unet, &p, &f, e)) return false;
        snprintf(name, sizeof name, "LoRA step %d, %s%s", family->side, tensor_dtype_names[weights],
                 remat ? ", recompute" : "");
        print_row(name, &f);
    }
    return true;
}

static bool plan_vae(struct gpu_device *dev, const struct footprint_family *family, struct error *e) {
    struct footprint f;
    char name[80];
    bool half = gpu_device_storage(dev) == TENSOR_F16;
    for (int f32 = !half; f32 < 2; f32++)
        for (int side = family->side; side; side = side > TILE ? TILE : 0) {
            if (!footprint_vae(dev, &family->vae, false, f32, side, side, &f, e)) return false;
            snprintf(name, sizeof name, "decode %s%d, %s", side < family->side ? "in tiles of " : "", side,
                     f32 ? "f32" : "f16");
            print_row(name, &f);
        }
    return true;
}

static bool plan_family(struct gpu_device *dev, const struct footprint_family *family, struct error *e) {
    printf("\n%s\n", family->name);
    print_head();
    struct footprint f, all = {0};
    for (int i = 0; i < family->n_texts; i++) {
        if (!footprint_text(dev, &family->texts[i], 2, TOKENS, &f, e)) return false;
        all.weights += f.weights;
        if (f.activations > all.activations) all.activations = f.activations, snprintf(all.peak, sizeof all.peak, "%s", f.peak);
    }
    print_row(family->n_texts > 1 ? "text, both encoders" : "text", &all);
    for (enum tensor_dtype w = gpu_device_storage(dev); w <= TENSOR_NF4; w++)
        if (!plan_unet(dev, family, w, e)) return false;
    return plan_vae(dev, family, e);
}

bool bench_plan(struct gpu_device *dev, struct error *e) {
    bool gpu = gpu_device_caps(dev)->cls == KERNEL_GPU;
    printf("Planned for the %s class, activations in %s; LoRA of rank %d on attention and feed-forward layers, batch 1.\n",
           gpu ? "gpu" : "cpu", tensor_dtype_names[gpu_device_storage(dev)], RANK);
    for (int i = 0; i < FOOTPRINT_FAMILIES; i++) {
        struct footprint_family family;
        footprint_family(i, &family);
        if (!plan_family(dev, &family, e)) return false;
    }
    return true;
}
