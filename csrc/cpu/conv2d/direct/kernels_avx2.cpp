#include "cpu/conv2d/direct/kernels.h"

TMC_DEFINE_DIRECT_KERNELS(avx2)
