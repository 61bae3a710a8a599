#include "sigmoid.h"

namespace tmc {

void sigmoid_check_gradient(Dims grad_output, Dims output) {
  bool same = grad_output.count == output.count;
  for (int64_t i = 0; same && i < output.count; ++i) same = grad_output[i] == output[i];
  if (!same)
    fail("sigmoid_grad_input: grad_output must have the shape of output %s, got %s", text(output).chars,
         text(grad_output).chars);
}

}  // namespace tmc
