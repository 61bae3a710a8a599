#include "gemm_bfloat16.h"
const tmc::GemmKernels* tmc::gemm_kernels_amx(DType, Precision) {
  return nullptr;
}
