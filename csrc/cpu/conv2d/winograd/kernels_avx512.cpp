#include "cpu/conv2d/winograd/filters.h"

TMC_DEFINE_WINOGRAD_KERNELS(avx512)
