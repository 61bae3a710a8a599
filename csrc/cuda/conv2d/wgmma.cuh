// How cuda/conv2d/mma.cu and cuda/conv2d/grad_weight_mma.cu hand a convolution on to wgmma. The operands are prepared
// as for mma.sync: packed, flipped.
#pragma once
#include "cuda/conv2d/mma.cuh"

namespace tmc {

// conv2d and, window by window of a residue, conv2d_grad_input.
void launch_windows_wgmma(DType dtype, int samples, const MmaConv2d& conv, const Lattice& lattice,
                          const WindowOperands& operands, void* stream);

// image: channels_last. workspace: as many bytes as it says. grad_weight: of the unpacked `shape`, channels_last if
// `weight_last`, else contiguous.
int64_t grad_weight_wgmma_workspace(const Conv2dShape& packed);
void launch_grad_weight_wgmma(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool weight_last,
                              const void* grad_output, const void* image, void* workspace, void* grad_weight,
                              void* stream);

}  // namespace tmc
