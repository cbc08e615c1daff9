#include "base/arena.h"
#include "lora/file.h"
#include "tests/fuzz/fuzz.h"
#include "unet/build.h"
#include "textenc/clip_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Layers as a small Stable Diffusion has them. */
static struct lora_keys *make_keys(void) {
    static struct nn_target_list lists[2];
    static struct arena *a;
    struct error e;
    struct unet_config unet = {.in_channels = 4, .out_channels = 4, .n_levels = 2, .mid = UNET_MID_CROSS, .mid_scale = 1,
                               .norm_groups = 8, .norm_eps = 1e-5f, .context_dim = 16, .time_dim = 64, .conv_in_kernel = 3,
                               .conv_out_kernel = 3,
                               .downsample_padding = 1};
    struct unet_stage stage = {.channels = 16, .layers = 1, .attention = true, .heads = 2, .depth = {1, 1}};
    unet.mid_stage = unet.down[0] = unet.down[1] = stage;
    stage.layers = 2;
    unet.up[0] = unet.up[1] = stage;
    struct clip_config clip = {.width = 16, .mlp_width = 16, .layers = 2, .heads = 2, .vocabulary = 8, .positions = 4,
                               .norm_eps = 1e-5f};
    a = arena_create(NULL);
    lists[0].arena = lists[1].arena = a;
    struct nn_params *p = nn_params_create(a, "unet", TENSOR_F32, false, 0),
                     *q = nn_params_create(a, "text", TENSOR_F32, false, 0);
    if (!unet_declare(p, &unet, &lists[0], &e) || !clip_declare(q, &clip, &lists[1], &e)) abort();
    return lora_keys_create(&(struct lora_model){{&lists[0], &lists[1], NULL}});
}

static void use(const char *path, const struct lora_keys *keys) {
    struct error e;
    struct lora_file *f = lora_file_open(path, keys, &e);
    if (!f) return;
    struct arena *a = arena_create(NULL);
    lora_file_report(f, a);
    lora_file_is_whole(f);
    if (keys) lora_file_require_match(f, keys, &e);
    arena_destroy(&a);
    lora_file_close(&f);
}

/* Lines of a tensor name and its dimensions, "NAME 4 16"; "@KEY VALUE" is metadata. Values are zero or the line's hash. */
void fuzz_adapter(const uint8_t *data, size_t n) {
    static struct lora_keys *keys;
    static uint16_t values[1 << 12];
    if (!keys) keys = make_keys();
    struct st_writer *w = st_writer_create();
    char line[400];
    for (const uint8_t *at = data, *end = data + n; at < end;) {
        const uint8_t *stop = memchr(at, '\n', (size_t)(end - at));
        size_t bytes = (size_t)((stop ? stop : end) - at), k = bytes < sizeof line - 1 ? bytes : sizeof line - 1;
        memcpy(line, at, k);
        line[k] = 0;
        at += bytes + 1;
        char *rest = strchr(line, ' ');
        if (rest) *rest++ = 0;
        if (line[0] == '@') {
            st_writer_meta(w, line + 1, rest ? rest : "");
            continue;
        }
        int64_t dims[4] = {0}, total = 1;
        int rank = 0;
        for (char *d = rest; d && *d && rank < 4; rank++) dims[rank] = strtoll(d, &d, 10) & 63;
        for (int i = 0; i < rank; i++) total *= dims[i];
        if (total <= (int64_t)(sizeof values / sizeof *values)) st_writer_add(w, line, ST_F16, rank, dims, values);
    }
    char path[128];
    struct error e;
    snprintf(path, sizeof path, "%s/a.safetensors", fuzz_folder());
    if (st_writer_save(w, path, &e)) {
        use(path, keys);
        use(path, NULL);
    }
    st_writer_destroy(&w);
}
