// Pooling on checked and allocated tensors: what the ops of pool2d.cpp and the fused stage are made of.
#pragma once
#include "pool2d.h"
#include "tensor.h"

namespace tmc {

// Each fills its last tensors. All of them are dense in one memory order, which `channels_last` names; none is empty,
// and winners are valid.
void max_pool(const PoolShape& shape, bool channels_last, const Tensor& input, Tensor& output, Tensor& winners);
void max_pool_gradient(const PoolShape& shape, bool channels_last, const Tensor& grad_output, const Tensor& winners,
                       Tensor& grad_input);
void average_pool(const PoolShape& shape, bool channels_last, const AverageRule& rule, const Tensor& input,
                  Tensor& output);
void average_pool_gradient(const PoolShape& shape, bool channels_last, const AverageRule& rule,
                           const Tensor& grad_output, Tensor& grad_input);

}  // namespace tmc
