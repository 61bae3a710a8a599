#include <algorithm>

#include "cpu/conv2d/core.h"

namespace tmc {
namespace {

// grad_bias[k] = sum_{n,p,q} grad_output[n,k,p,q]                                                           (eq. 4)
//
// grad_output: any strides. One thread owns channels and adds their pixels in order, in double precision, whatever the
// dtype: the sum is long, and the loop waits for memory anyway. In a channels_last tensor the channels of one pixel are
// added side by side, in a contiguous one kLanes neighbouring pixels of one channel. Bound: memory.
constexpr int64_t kLanes = 16;

template <class T>
void conv2d_grad_bias_kernel(const Tensor& grad_output, double* sums) {
  const T* data = grad_output.const_data_ptr<T>();
  const int64_t n = grad_output.size(0), k = grad_output.size(1), p = grad_output.size(2), q = grad_output.size(3);
  const int64_t n_stride = grad_output.stride(0), k_stride = grad_output.stride(1);
  const int64_t p_stride = grad_output.stride(2), q_stride = grad_output.stride(3);

  torch::stable::parallel_for(0, ceil_div(k, kLanes), 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kLanes, end = std::min(last * kLanes, k);
    if (k_stride == 1) {
      for (int64_t i = 0; i < n; ++i)
        for (int64_t y = 0; y < p; ++y)
          for (int64_t x = 0; x < q; ++x) {
            const T* pixel = data + i * n_stride + y * p_stride + x * q_stride;
            for (int64_t channel = begin; channel < end; ++channel)
              sums[channel] += static_cast<double>(pixel[channel]);
          }
      return;
    }
    for (int64_t channel = begin; channel < end; ++channel) {
      double lanes[kLanes] = {};
      for (int64_t i = 0; i < n; ++i)
        for (int64_t y = 0; y < p; ++y) {
          const T* row = data + i * n_stride + channel * k_stride + y * p_stride;
          int64_t x = 0;
          for (; x + kLanes <= q; x += kLanes)
            for (int64_t lane = 0; lane < kLanes; ++lane)
              lanes[lane] += static_cast<double>(row[(x + lane) * q_stride]);
          for (; x < q; ++x) lanes[x % kLanes] += static_cast<double>(row[x * q_stride]);
        }
      for (const double lane : lanes) sums[channel] += lane;
    }
  });
}

Tensor conv2d_grad_bias_cpu(const Tensor& grad_output) {
  check_rank4("conv2d_grad_bias", "grad_output", sizes(grad_output));
  check_floating("conv2d_grad_bias", "grad_output", grad_output);
  std::vector<double> sums(grad_output.size(1));
  conv2d_add_grad_bias(grad_output, sums.data());
  return conv2d_grad_bias(grad_output, sums);
}

}  // namespace

void conv2d_add_grad_bias(const Tensor& grad_output, double* sums) {
  TMC_DISPATCH_FLOATING(grad_output, "conv2d_grad_bias", [&] { conv2d_grad_bias_kernel<scalar_t>(grad_output, sums); });
}

Tensor conv2d_grad_bias(const Tensor& like, const std::vector<double>& sums) {
  const int64_t k = static_cast<int64_t>(sums.size());
  Tensor grad_bias = empty_list(like, k);
  TMC_DISPATCH_FLOATING(like, "conv2d_grad_bias", [&] {
    std::transform(sums.begin(), sums.end(), grad_bias.mutable_data_ptr<scalar_t>(),
                   [](double sum) { return static_cast<scalar_t>(sum); });
  });
  return grad_bias;
}

}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  m.impl("conv2d_grad_bias", TORCH_BOX(&tmc::conv2d_grad_bias_cpu));
}
