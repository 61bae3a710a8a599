// A whole stage on the CPU (eq. 21, 23), a few images at a time: while the map before the pool is in cache, it is
// pooled and activated. Memory sees the input, the weights and the pooled map.
#include <optional>
#include <string>
#include <tuple>

#include "conv_act_pool2d_ops.h"
#include "cpu/conv2d/core.h"
#include "cpu/elementwise/activations.h"
#include "cpu/pool2d/core.h"
#include "cpu/stage/stage.h"

namespace tmc {
namespace {

std::tuple<Tensor, Tensor> conv_act_pool2d_cpu(Tensor input, Tensor weight, std::optional<Tensor> bias,
                                               IntList geometry, int64_t groups, std::string activation,
                                               std::string pool, IntList window, std::string precision_name,
                                               bool keep_activated) {
  const ConvActPool2dShape shape =
      check_conv_act_pool2d(input, weight, bias, {{geometry, groups}, activation, pool, window});
  const Precision precision = check_precision("conv_act_pool2d", precision_name);
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  const bool pools = shape.pooling != Pooling::none, keeps_winners = shape.pooling == Pooling::max;
  const bool keeps_map = keep_activated && shape.activation != Activation::none && !activates_output(shape);
  const int64_t n = shape.conv.n, images = std::min(n, images_in_chunk(shape, input.element_size()));

  Tensor output = empty_pooled(input, shape, n, channels_last, input.scalar_type());
  Tensor kept = keeps_winners ? empty_pooled(input, shape, n, true, winners_dtype(shape.pool))
                : keeps_map   ? empty_maps(input, shape, n)
                              : no_elements(input);
  if (output.numel() == 0) return {output, kept};

  // The convolution writes into the output or into what is kept, else into scratch memory; a contiguous output is
  // written once its pooled images are complete.
  const bool rearranges = pools && !channels_last;
  Tensor maps = pools && !keeps_map ? empty_maps(input, shape, images) : output;
  Tensor pooled = rearranges ? empty_pooled(input, shape, images, true, input.scalar_type()) : output;
  const PreparedWeight prepared = prepare(Conv2dPass::forward, {shape.conv, dtype_of(input), precision}, weight);
  for_each_chunk(n, images, [&](const Chunk& chunk) {
    const ConvActPool2dShape part = chunk.of(shape);
    Tensor result = chunk.of(output);
    Tensor y = rearranges ? chunk.in_scratch(pooled) : result;
    Tensor z = !pools ? y : keeps_map ? chunk.of(kept) : chunk.in_scratch(maps);
    conv2d_forward({part.conv, dtype_of(input), precision}, chunk.of(input), prepared, bias, z);
    if (keeps_winners) {
      Tensor winners = chunk.of(kept);
      max_pool(part.pool, true, z, y, winners);
    }
    activate(shape.activation, activates_output(shape) ? y : z);
    if (pools && !keeps_winners) average_pool(part.pool, true, average_rule(shape), z, y);
    if (rearranges) copy(y, result);
  });
  return {output, kept};
}

std::string conv_act_pool2d_algorithm_cpu(Tensor input, Tensor weight, IntList geometry, int64_t groups,
                                          std::string activation, std::string pool, IntList window,
                                          std::string precision_name, bool) {
  const ConvActPool2dShape shape =
      check_conv_act_pool2d(input, weight, std::nullopt, {{geometry, groups}, activation, pool, window});
  check_precision("conv_act_pool2d_algorithm", precision_name);
  const int64_t images = std::min(shape.conv.n, images_in_chunk(shape, input.element_size()));
  return "fused: " + std::to_string(images) + " images at a time, whose maps stay in cache";
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CPU, m) {
  m.impl("conv_act_pool2d", TORCH_BOX(&tmc::conv_act_pool2d_cpu));
  m.impl("conv_act_pool2d_algorithm", TORCH_BOX(&tmc::conv_act_pool2d_algorithm_cpu));
}
