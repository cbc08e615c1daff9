#ifndef ATELIER_APP_BENCH_PLAN_H
#define ATELIER_APP_BENCH_PLAN_H

#include "engine/engine.h"

/* `atelier bench --plan`: what SD1.5 and SDXL take on a device of this class, by parts, without running anything. */
bool bench_plan(struct gpu_device *dev, struct error *e);

#endif
