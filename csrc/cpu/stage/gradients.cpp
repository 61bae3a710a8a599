// The gradients of a whole stage on the CPU (eq. 22), a few images at a time: the gradient of their maps before the
// pool is made in cache and used up there by the three gradients of the convolution (eq. 3, 4, 5).
#include <optional>
#include <tuple>
#include <vector>

#include "conv_act_pool2d_ops.h"
#include "cpu/conv2d/core.h"
#include "cpu/elementwise/activations.h"
#include "cpu/pool2d/core.h"
#include "cpu/pool2d/winners.h"
#include "cpu/stage/stage.h"

namespace tmc {
namespace {

// Makes dJ/dz of one chunk after the other, channels_last, in memory of its own.
class MapGradient {
 public:
  MapGradient(const ConvActPool2dShape& shape, Precision precision, const ConvActPool2dGiven& given, int64_t images)
      : shape_(shape), precision_(precision), given_(given), maps_(empty_maps(given.grad_output, shape, images)) {
    const Tensor& like = given.grad_output;
    if (shape.pooling == Pooling::max) slopes_ = empty_pooled(like, shape, images, true, like.scalar_type());
    if (!recomputes(shape, given)) return;
    activated_ = empty_maps(like, shape, images);
    weight_ = prepare(Conv2dPass::forward, {shape.conv, dtype_of(like), precision}, *given.weight);
  }

  // Adds its sums over positions to bias_sums (eq. 4), unless that is null.
  Tensor compute(const Chunk& chunk, double* bias_sums) {
    const PoolShape pool = chunk.of(shape_).pool;
    const Tensor grad_output = dense(chunk.of(given_.grad_output), true);
    Tensor map = chunk.in_scratch(maps_);
    switch (shape_.pooling) {
      case Pooling::max: {
        const Tensor pooled = times_slope(grad_output, chunk, chunk.in_scratch(slopes_));
        max_pool_gradient(pool, true, pooled, chunk.of(*given_.winners), map);
        if (bias_sums != nullptr) conv2d_add_grad_bias(pooled, bias_sums);  // each of them has gone to one winner
        return map;
      }
      case Pooling::none: map = times_slope(grad_output, chunk, map); break;
      default:
        average_pool_gradient(pool, true, average_rule(shape_), grad_output, map);
        map = times_slope(map, chunk, map);
    }
    if (bias_sums != nullptr) conv2d_add_grad_bias(map, bias_sums);
    return map;
  }

 private:
  // gradient * g'(activated), in `result`; without an activation the gradient itself.
  Tensor times_slope(const Tensor& gradient, const Chunk& chunk, Tensor result) {
    if (shape_.activation == Activation::none) return gradient;
    activation_gradient(shape_.activation, gradient, activated(chunk), result);
    return result;
  }

  // What the slope is written with: given, or computed once more.
  Tensor activated(const Chunk& chunk) {
    if (given_.activated) return dense(chunk.of(*given_.activated), true);
    Tensor map = chunk.in_scratch(activated_);
    conv2d_forward({chunk.of(shape_).conv, dtype_of(map), precision_}, chunk.of(*given_.input), weight_, given_.bias,
                   map);
    activate(shape_.activation, map);
    return map;
  }

  const ConvActPool2dShape& shape_;
  Precision precision_;
  const ConvActPool2dGiven& given_;
  Tensor maps_, slopes_, activated_;
  PreparedWeight weight_;
};

// total += part.
void add(const Tensor& part, Tensor& total) {
  constexpr int64_t kGrain = 32768;
  TMC_DISPATCH_FLOATING(total, "conv_act_pool2d_gradients", [&] {
    const scalar_t* from = part.const_data_ptr<scalar_t>();
    scalar_t* to = total.mutable_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, total.numel(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] += from[i];
    });
  });
}

std::tuple<Tensor, Tensor, Tensor> conv_act_pool2d_gradients_cpu(
    Tensor grad_output, std::optional<Tensor> input, std::optional<Tensor> weight, std::optional<Tensor> bias,
    std::optional<Tensor> activated, std::optional<Tensor> winners, IntList input_size, IntList weight_size,
    IntList geometry, int64_t groups, std::string activation, std::string pool, IntList window,
    std::string precision_name, bool want_input, bool want_weight, bool want_bias) {
  const char* op = "conv_act_pool2d_gradients";
  ConvActPool2dGiven given{grad_output, input, weight, bias, activated, winners};
  const ConvActPool2dShape shape = check_conv_act_pool2d_gradients(
      given, input_size, weight_size, {{geometry, groups}, activation, pool, window}, want_input, want_weight);
  const Precision precision = check_precision(op, precision_name);
  const DType dtype = dtype_of(grad_output);
  const Conv2dShape& conv = shape.conv;
  if (shape.pooling == Pooling::max) given.winners = check_winners(op, *winners, shape.pool, true);

  const bool channels_last = is_channels_last(grad_output) || (weight && is_channels_last(*weight));
  Tensor grad_input =
      want_input ? empty_nchw(grad_output, conv.n, conv.c, conv.h, conv.w, channels_last) : no_elements(grad_output);
  const bool weight_last = is_channels_last(grad_output) || (input && is_channels_last(*input));
  Tensor grad_weight = want_weight
                           ? empty_nchw(grad_output, conv.k, channels_per_group(conv), conv.r, conv.s, weight_last)
                           : no_elements(grad_output);
  if (conv.n == 0 && want_weight) torch::stable::zero_(grad_weight);

  const int64_t images = std::min(conv.n, images_in_chunk(shape, grad_output.element_size()));
  std::vector<double> bias_sums(conv.k);
  MapGradient map_gradient(shape, precision, given, images);
  const PreparedWeight prepared =
      want_input ? prepare(Conv2dPass::grad_input, {conv, dtype, precision}, *weight) : PreparedWeight();
  // Of several chunks, grad_weight is summed in at least float32 and rounded once.
  const bool one_sum = !want_weight || images == conv.n;
  const bool rounds = !one_sum && (dtype == DType::bfloat16 || dtype == DType::float16);
  Tensor sum =
      rounds ? empty_nchw(grad_weight, conv.k, channels_per_group(conv), conv.r, conv.s, weight_last, ScalarType::Float)
             : grad_weight;
  Tensor partial = one_sum ? grad_weight : torch::stable::empty_like(sum);
  for_each_chunk(conv.n, images, [&](const Chunk& chunk) {
    const Conv2dProblem problem{chunk.of(shape).conv, dtype, precision};
    const Tensor grad_map = map_gradient.compute(chunk, want_bias ? bias_sums.data() : nullptr);
    if (want_input) {
      Tensor part = chunk.of(grad_input);
      conv2d_grad_input(problem, grad_map, prepared, part);
    }
    if (!want_weight) return;
    conv2d_grad_weight(problem, grad_map, chunk.of(*input), chunk.begin == 0 ? sum : partial);
    if (chunk.begin > 0) add(partial, sum);
  });
  if (rounds) torch::stable::copy_(grad_weight, sum);
  return {grad_input, grad_weight, want_bias ? conv2d_grad_bias(grad_output, bias_sums) : no_elements(grad_output)};
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  m.impl("conv_act_pool2d_gradients", TORCH_BOX(&tmc::conv_act_pool2d_gradients_cpu));
}
