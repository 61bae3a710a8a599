#include "winograd_transforms.h"

TMC_DEFINE_WINOGRAD_KERNELS(base)
