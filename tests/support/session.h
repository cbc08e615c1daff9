/* A miniature model on the device, as every test of the engine opens it. */
#ifndef ATELIER_TESTS_SESSION_H
#define ATELIER_TESTS_SESSION_H

#include "engine/engine.h"

enum { N_MINIS = 4 };
extern const char *const session_minis[N_MINIS];

/* A kernel class as it can be tested on the CPU device. */
struct session_rig {
    const char *name;
    enum kernel_class cls;
    bool f32;
};
enum { SESSION_CPU, SESSION_GPU_F32, SESSION_GPU_F16, SESSION_RIGS };
extern const struct session_rig session_rigs[SESSION_RIGS];

/* The class to test with where one is enough: cpu, or gpu in f32 where ATELIER_TEST_DEVICE is a real GPU. */
int session_default(void);

/* Skips the running test where the device does not run that class; fails it if the model cannot be opened. ATELIER_VALIDATE=1
 * adds the validation layer. */
struct engine *session_open(const char *mini, int rig);
/* The same with the UNet's weights stored in a type of their own. */
struct engine *session_open_with(const char *mini, int rig, enum engine_weights weights);
/* Fails the test if validation had anything to say. */
void session_close(struct engine **e);

#endif
