#include "winograd_filters.h"

TMC_DEFINE_WINOGRAD_KERNELS(base)
