// Winners that come from outside: their checks, and the two ops that only follow them.
#pragma once
#include <vector>

#include "pool2d.h"
#include "tensor.h"

namespace tmc {

// The windows of all outputs along one axis.
std::vector<Window> windows_of(const PoolAxis& axis);

// `winners`, dense in the wanted layout: shape and dtype as the forward op makes them, every value a tap of its
// window inside the input (or, in a window without any input, the tap that the forward op stores there).
Tensor check_winners(const char* op, const Tensor& winners, const PoolShape& shape, bool channels_last);

// Op entries after the shape checks: eq. 10, and the winners as torch's flat positions h * in_w + w.
Tensor select_winners(const char* op, const Tensor& input, const Tensor& winners, const PoolShape& shape);
Tensor winner_indices(const char* op, const Tensor& winners, const PoolShape& shape);

}  // namespace tmc
