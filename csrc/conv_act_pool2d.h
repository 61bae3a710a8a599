// One stage of a convolutional network, convolution, activation and pooling as one operator: what is computed.
//
//   eq. 21   y = pool(o),   o = g(z),   z = conv2d(x, w) + b
//   eq. 22   dJ/dz = g'(o) * pool's gradient of dJ/dy; from there eq. 3, 4 and 5
//   eq. 23   max: y = g(max z), because no activation ever decreases. g is evaluated, and its slope taken, on the
//            pooled map; the winner of a window is that of its z
//
// The activations and their slopes are in activation.h.
#pragma once
#include "activation.h"
#include "conv2d.h"
#include "pool2d.h"

namespace tmc {

enum class Pooling { none, max, avg, sum };

struct ConvActPool2dShape {
  Conv2dShape conv;
  Activation activation;
  Pooling pooling;
  PoolShape pool;  // with Pooling::none its windows are single positions
};

// Whether the map that is activated is the output itself (eq. 23), else it is the map before the pool.
HOST_DEVICE bool activates_output(const ConvActPool2dShape& shape) {
  return shape.pooling == Pooling::none || shape.pooling == Pooling::max;
}

// torch's defaults: an average counts the padding; a sum divides by 1.
HOST_DEVICE AverageRule average_rule(const ConvActPool2dShape& shape) {
  return {true, shape.pooling == Pooling::sum ? 1 : 0};
}

// The arguments that both ops share. activation: none, sigmoid, relu or tanh; pool: none, max, avg or sum.
struct ConvActPool2dArguments {
  Conv2dArguments conv;
  const char *activation, *pool;
  PoolArguments window;
};

// Every check of the sizes, then the shape. bias may be null.
ConvActPool2dShape conv_act_pool2d_shape(Dims input, Dims weight, const Dims* bias,
                                         const ConvActPool2dArguments& arguments);

}  // namespace tmc
