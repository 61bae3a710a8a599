#include "cpu/gemm/kernels.h"

TMC_DEFINE_GEMM_KERNELS(avx512)
