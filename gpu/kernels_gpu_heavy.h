#pragma once
#include "gpu/kern_gpu.h"
