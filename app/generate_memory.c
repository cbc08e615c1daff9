#include <stdio.h>

#include "app/generate.h"
#include "engine/generate.h"

static void print_bytes(const char *what, int64_t bytes, const char *more) {
    char text[COMMON_BYTES_TEXT];
    if (bytes) printf("  %-22s %s%s\n", what, common_bytes_text(bytes, text), more);
}

static void print_choice(const char *what, const struct memory_choice *c) {
    char text[COMMON_BYTES_TEXT];
    printf("%s  %s\n", what, common_bytes_text(memory_choice_bytes(c), text));
    print_bytes("weights", c->weight_bytes, "");
    print_bytes("room for more of them", c->ring_bytes, ": the rest comes in turn, which is slower");
    print_bytes("with the host", c->away_bytes, ", not counted");
    print_bytes("activations", c->activation_bytes, "");
    print_bytes("inputs, outputs", c->io_bytes, "");
    print_bytes("prepared weights", c->prepared_bytes, "");
}

static void print_vae(const char *what, const struct memory_choice *c, int tile, bool in_turn) {
    print_choice(what, c);
    if (tile) printf("  %-22s %d pixels\n", "in tiles of", tile);
    if (in_turn) printf("  %-22s\n", "after the UNet has left");
}

bool generate_print_memory(struct engine *engine, const struct generate_params *p, struct error *e) {
    struct generate_memory m;
    char need[COMMON_BYTES_TEXT], have[COMMON_BYTES_TEXT];
    if (!generate_memory_plan(engine, p, &m, e)) return false;
    printf("size        %dx%d, %s class, weights in %s, activations in %s\n", p->w, p->h,
           gpu_device_caps(engine->dev)->cls == KERNEL_GPU ? "gpu" : "cpu",
           tensor_dtype_names[engine->model->unet_params->set->matrix_dtype],
           tensor_dtype_names[gpu_device_storage(engine->dev)]);
    printf("memory      %s at most, of %s\n", common_bytes_text(m.peak_bytes, need), common_bytes_text(m.device_bytes, have));
    print_bytes("LoRAs", m.adapter_bytes, "");
    print_bytes("text encoders", m.text_bytes, ", gone before the UNet needs the room");
    print_choice("UNet      ", &m.unet);
    print_vae("VAE       ", &m.vae, m.vae_tile, m.in_turn);
    if (m.f32_possible) print_vae("VAE again in f32 if it overflows", &m.vae_f32, m.vae_tile_f32, m.in_turn);
    return true;
}
