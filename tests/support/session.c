#include "tests/support/session.h"

#include <stdlib.h>

#include "tests/support/cm.h"
#include "tests/support/golden.h"
#include "tests/support/test_device.h"

const char *const session_minis[N_MINIS] = {"mini-sd1", "mini-sd2", "mini-xl", "mini-odd"};
const struct session_rig session_rigs[SESSION_RIGS] = {{"cpu", KERNEL_CPU, true}, {"gpu f32", KERNEL_GPU, true},
                                                       {"gpu f16", KERNEL_GPU, false}};

int session_default(void) { return test_device_is_cpu() ? SESSION_CPU : SESSION_GPU_F32; }

struct engine *session_open(const char *mini, int rig) { return session_open_with(mini, rig, ENGINE_WEIGHTS_AUTO); }

struct engine *session_open_with(const char *mini, int rig, enum engine_weights weights) {
    if (!test_device_runs(session_rigs[rig].cls)) skip();
    struct error e = {{0}};
    struct arena *a = arena_create(NULL);
    struct engine_params p = {.model = golden_path(a, mini), .weights = weights,
                              .gpu = {.device = test_device(), .force_class = session_rigs[rig].cls,
                                      .f32 = session_rigs[rig].f32, .validate = getenv("ATELIER_VALIDATE") != NULL,
                                      .cache_dir = ATELIER_BINARY_DIR "/test-cache"}};
    struct engine *engine = engine_open(&p, &e);
    arena_destroy(&a);
    if (!engine) fail_msg("%s", e.text);
    return engine;
}

void session_close(struct engine **e) {
    int messages = gpu_device_messages((*e)->dev);
    engine_close(e);
    if (messages) fail_msg("%d validation messages", messages);
}
