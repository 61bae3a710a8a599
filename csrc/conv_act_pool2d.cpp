#include "conv_act_pool2d.h"

#include <cstring>

namespace tmc {
namespace {

// The place of `value` among `names`.
template <int64_t kCount>
int64_t check_name(const char* argument, const char* value, const char* const (&names)[kCount]) {
  for (int64_t i = 0; i < kCount; ++i)
    if (std::strcmp(value, names[i]) == 0) return i;
  static_assert(kCount == 4);
  fail("conv_act_pool2d: %s must be %s, %s, %s or %s, got %s", argument, names[0], names[1], names[2], names[3], value);
}

constexpr const char* kActivations[] = {"none", "sigmoid", "relu", "tanh"};
constexpr const char* kPoolings[] = {"none", "max", "avg", "sum"};
constexpr int64_t kOnes[] = {1, 1}, kZeros[] = {0, 0};

}  // namespace

ConvActPool2dShape conv_act_pool2d_shape(Dims input, Dims weight, const Dims* bias,
                                         const ConvActPool2dArguments& arguments) {
  ConvActPool2dShape shape;
  shape.conv = conv2d_shape(input, weight, bias, arguments.conv);
  shape.activation = static_cast<Activation>(check_name("activation", arguments.activation, kActivations));
  shape.pooling = static_cast<Pooling>(check_name("pool", arguments.pool, kPoolings));
  const int64_t features[] = {shape.conv.n, shape.conv.k, shape.conv.p, shape.conv.q};
  const PoolArguments single{{kOnes, 2}, {kOnes, 2}, {kZeros, 2}, {kOnes, 2}, false};
  shape.pool =
      pool2d_shape("conv_act_pool2d", {features, 4}, shape.pooling == Pooling::none ? single : arguments.window);
  return shape;
}

}  // namespace tmc
