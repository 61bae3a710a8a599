#include "direct_kernels.h"

TMC_DEFINE_DIRECT_KERNELS(avx2)
