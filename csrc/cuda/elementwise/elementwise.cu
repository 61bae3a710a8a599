// The kernels of every elementwise operator.
#include <cstring>

#include "cuda/elementwise/elementwise.cuh"
#include "cuda/elementwise/launchers.h"

namespace tmc {
namespace {

template <class... Formulas>
void launch_named(FormulaList<Formulas...>, const char* formula, DType dtype, const ElementwiseArrays& arrays,
                  int64_t count, void* stream) {
  const auto launch_if_named = [=]<class Formula>(Formula) {
    if (std::strcmp(formula, Formula::kName) != 0) return;
    dispatch(dtype, [=](auto type) { launch_formula<Formula, decltype(type)>(arrays, count, stream); });
  };
  (launch_if_named(Formulas{}), ...);
}

}  // namespace

void launch_elementwise(const char* formula, DType dtype, const ElementwiseArrays& arrays, int64_t count,
                        void* stream) {
  launch_named(ElementwiseOperators{}, formula, dtype, arrays, count, stream);
}

}  // namespace tmc
