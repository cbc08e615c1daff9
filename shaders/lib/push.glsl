#define REF uvec2
// The push block as a global p. Lavapipe reads push constants once outside of control flow, but lane by lane inside of
// loops and after an early return; so the cpu class copies them before anything else.
#ifdef GPU_CLASS
#define PUSH(type) layout(push_constant) uniform Push { type p; };
#else
#define PUSH(type) layout(push_constant) uniform Push { type values; } pushed; type p = pushed.values;
#endif
