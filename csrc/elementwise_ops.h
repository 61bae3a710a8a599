// The elementwise operators of both backends, from their arguments to dense arrays.
#pragma once
#include <optional>
#include <utility>

#include "elementwise.h"
#include "tensor.h"

namespace tmc {

inline void check_same_sizes(const char* op, const char* name, Dims have, const char* reference_name, Dims wanted) {
  bool same = have.count == wanted.count;
  for (int64_t i = 0; same && i < wanted.count; ++i) same = have[i] == wanted[i];
  if (!same)
    fail("%s: %s must have the shape of %s %s, got %s", op, name, reference_name, text(wanted).chars, text(have).chars);
}

// The result is laid out in memory as the last tensor. Backend::Guard makes a tensor's device the current one.
template <class Backend>
Tensor elementwise(const char* op, const char* const* names, const Tensor* const* tensors, int count,
                   ElementwiseArrays arrays) {
  const char* last_name = names[count - 1];
  const Tensor& last = *tensors[count - 1];
  for (int i = 0; i < count - 1; ++i) check_same_sizes(op, names[i], sizes(*tensors[i]), last_name, sizes(last));
  check_floating(op, last_name, last);
  for (int i = 0; i < count - 1; ++i) check_like(op, names[i], *tensors[i], last_name, last);
  [[maybe_unused]] const typename Backend::Guard guard(last.get_device_index());
  Tensor output = empty_as(last);
  if (output.numel() == 0) return output;
  std::optional<Tensor> ordered[kMaxTensors];
  for (int i = 0; i < count; ++i) {
    ordered[i] = ordered_as(*tensors[i], output);
    arrays.tensors[i] = ordered[i]->const_data_ptr();
  }
  arrays.output = output.mutable_data_ptr();
  Backend::run(op, output, arrays);
  return output;
}

// The operator as torch calls it: tensors, then scalars.
template <class Backend, class Formula, class... Arguments>
struct ElementwiseOperator {
  static Tensor call(Arguments... arguments) {
    const Tensor* tensors[kMaxTensors];
    ElementwiseArrays arrays{};
    int tensor = 0, scalar = 0;
    const auto take = [&](const auto& argument) {
      if constexpr (std::is_same_v<decltype(argument), const Tensor&>)
        tensors[tensor++] = &argument;
      else
        arrays.scalars[scalar++] = argument;
    };
    (take(arguments), ...);
    return elementwise<Backend>(Formula::kName, Formula::kTensorNames, tensors, Formula::kTensors, arrays);
  }
};

template <size_t, class T>
using Each = T;

template <class Backend, class Formula, class Library, size_t... kTensor, size_t... kScalar>
void implement(Library& m, std::index_sequence<kTensor...>, std::index_sequence<kScalar...>) {
  using Operator = ElementwiseOperator<Backend, Formula, Each<kTensor, Tensor>..., Each<kScalar, double>...>;
  m.impl(Formula::kName, TORCH_BOX(&Operator::call));
}

// Registers every formula of the list.
template <class Backend, class Library, class... Formulas>
void implement_elementwise(Library& m, FormulaList<Formulas...>) {
  (implement<Backend, Formulas>(m, std::make_index_sequence<Formulas::kTensors>(),
                                std::make_index_sequence<Formulas::kScalars>()),
   ...);
}

}  // namespace tmc
