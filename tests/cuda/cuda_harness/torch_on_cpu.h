// Included before each file of CUDA entry points, so that these register themselves for CPU tensors, as
// torch.ops.tmc_cuda_on_cpu.*: the way from a torch call to a launch, tested without a GPU.
#pragma once
#include <torch/csrc/stable/library.h>

#undef STABLE_TORCH_LIBRARY
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY(ns, m) STABLE_TORCH_LIBRARY_FRAGMENT(tmc_cuda_on_cpu, m)
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) _STABLE_TORCH_LIBRARY_IMPL(tmc_cuda_on_cpu, CPU, m, C10_UID)
