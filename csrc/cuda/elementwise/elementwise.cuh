// The kernel of the elementwise operators. A Formula makes each value of the output from the values at the same place
// of its inputs. It has
//
//   kInputs    how many inputs there are
//   of<T>(x)   the output, from x[kInputs]; T is the stored type, x and the result have the type that is computed in
//
// Thread i < vectors owns the i-th 16-byte vector; each later thread owns one of the values that are left. The output
// may be an input. Half types are computed in float. Bound: memory; 16 bytes are the widest access there is.
#pragma once
#include "cuda/machine/launch.h"
#include "cuda/machine/vector.h"

namespace tmc {

template <class T, int kCount>
struct ElementwiseInputs {
  const T* data[kCount];
};

template <class Formula, class T>
__global__ void __launch_bounds__(kElementThreads)
    elementwise_kernel(const Formula formula, ElementwiseInputs<T, Formula::kInputs> inputs, T* output, int64_t vectors,
                       int64_t count) {
  constexpr int kInputs = Formula::kInputs, kLanes = kVectorLanes<T>;
  const int64_t thread = thread_index();
  accumulate_t<T> x[kInputs];
  if (thread < vectors) {
    Vector<T, kLanes> loaded[kInputs], result;
#pragma unroll
    for (int j = 0; j < kInputs; ++j) loaded[j] = load<kLanes>(inputs.data[j] + thread * kLanes);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
#pragma unroll
      for (int j = 0; j < kInputs; ++j) x[j] = static_cast<accumulate_t<T>>(loaded[j].lanes[lane]);
      result.lanes[lane] = static_cast<T>(formula.template of<T>(x));
    }
    store(output + thread * kLanes, result);
    return;
  }
  const int64_t i = vectors * kLanes + (thread - vectors);
  if (i >= count) return;
#pragma unroll
  for (int j = 0; j < kInputs; ++j) x[j] = static_cast<accumulate_t<T>>(inputs.data[j][i]);
  output[i] = static_cast<T>(formula.template of<T>(x));
}

// From an address that is not aligned on, every value is a lone one.
template <class T, class Formula>
void launch_elementwise(const Formula& formula, const ElementwiseInputs<T, Formula::kInputs>& inputs, T* output,
                        int64_t count, void* stream) {
  bool aligned = is_aligned(output);
  for (const T* input : inputs.data) aligned = aligned && is_aligned(input);
  const int64_t vectors = aligned ? count / kVectorLanes<T> : 0;
  const int64_t threads = vectors + (count - vectors * kVectorLanes<T>);
  launch(elementwise_kernel<Formula, T>, grid_of_elements(threads), kElementThreads, stream, formula, inputs, output,
         vectors, count);
}

}  // namespace tmc
