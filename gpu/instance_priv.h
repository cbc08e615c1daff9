#pragma once
#include "gpu/gpu_priv.h"
bool gpu_instance_create(struct gpu_device *dev, struct error *err);
/* Sets dev->physical and dev->properties. */
bool gpu_instance_pick(struct gpu_device *dev, struct error *err);
