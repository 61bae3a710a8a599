// The loops of the elementwise formulas, over flat dense memory (csrc/elementwise.h).
//
// Bound: memory; where tensors are in a cache, and in double, the exponential.
//
// Included by one source for each instruction set; everything here has internal linkage.
#include "cpu/elementwise/kernels.h"

#include "cpu/elementwise/math.h"
#include "cpu/lanes/pairs.h"
#include "cpu/machine/machine.h"

namespace tmc {
namespace {

template <class Formula, class T>
KERNEL void elementwise_range(const ElementwiseArrays& arrays, int64_t begin, int64_t end, bool streams) {
  using Real = accumulate_t<T>;
  Real scalars[kMaxScalars];
  for (int i = 0; i < kMaxScalars; ++i) scalars[i] = static_cast<Real>(arrays.scalars[i]);
  const auto formula = [&](auto... x) { return Formula::template of<LaneMath<T>>(x..., scalars); };
  const auto tensor = [&](int i) { return static_cast<const T*>(arrays.tensors[i]) + begin; };
  T* output = static_cast<T*>(arrays.output) + begin;
  constexpr Ties kTies = Formula::kMayTie ? Ties::to_even : Ties::up;
  if constexpr (Formula::kTensors == 1)
    map_elements<kTies>(streams, end - begin, formula, output, tensor(0));
  else
    map_elements<kTies>(streams, end - begin, formula, output, tensor(0), tensor(1));
}

template <class Formula>
constexpr ElementwiseLoops kLoops = {Formula::kName, elementwise_range<Formula, double>,
                                     elementwise_range<Formula, float>, elementwise_range<Formula, BFloat16>,
                                     elementwise_range<Formula, Float16>};

template <class... Operators, class... OfStage>
const ElementwiseKernels& kernels_of(FormulaList<Operators...>, FormulaList<OfStage...>) {
  static constexpr ElementwiseLoops loops[] = {kLoops<Operators>..., kLoops<OfStage>...};
  static constexpr ElementwiseKernels kernels = {loops};
  return kernels;
}

}  // namespace

template <>
const ElementwiseKernels& compiled<ElementwiseKernels, kCompiledIsa>() {
  return kernels_of(ElementwiseOperators{}, StageFormulas{});
}

}  // namespace tmc
