#pragma once
#include "gpu/kern_cpu.h"
