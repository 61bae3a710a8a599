// Host glue between LibTorch's stable ABI and our checks: used by the entry points of both backends, by no kernel.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch_v2.h>
#include <torch/headeronly/core/ScalarType.h>

#include "common.h"
#include "dtype.h"

namespace tmc {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using IntList = torch::headeronly::IntHeaderOnlyArrayRef;

inline Dims dims(IntList list) {
  return {list.data(), static_cast<int64_t>(list.size())};
}
inline Dims sizes(const Tensor& tensor) {
  return dims(tensor.sizes());
}

// Fails unless `tensor` holds float64, float32, bfloat16 or float16.
void check_floating(const char* op, const char* name, const Tensor& tensor);

// Of a tensor that has passed check_floating.
DType dtype_of(const Tensor& tensor);

// Fails unless `tensor` has dtype `wanted`; `rule` says when that is asked for.
void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType wanted, const char* rule);

// Fails unless `tensor` has the dtype and the device of `reference`.
void check_like(const char* op, const char* name, const Tensor& tensor, const char* reference_name,
                const Tensor& reference);

// Fails unless `tensor` is on the device of `reference` (dtypes may differ).
void check_device(const char* op, const char* name, const Tensor& tensor, const char* reference_name,
                  const Tensor& reference);

// torch's suggest_memory_format for 4 dimensions: do the strides order the data as N, H, W, C?
bool is_channels_last(const Tensor& tensor);

// Do the elements of a tensor with 4 dimensions lie side by side in this order? Not if there are none.
bool is_dense(const Tensor& tensor, bool channels_last);

// `tensor` itself if it is dense in the wanted layout, else a dense copy.
Tensor dense(const Tensor& tensor, bool channels_last);

// `tensor`, or a copy of it, with its elements in the order of `like`, which is dense: for elementwise ops.
Tensor ordered_as(const Tensor& tensor, const Tensor& like);

// Fills `to`, of any strides, with `from`, of its sizes and dtype.
void copy(const Tensor& from, Tensor& to);

// A new uninitialised tensor of the sizes, strides, dtype and device of `like`.
Tensor empty_as(const Tensor& like);

// A new uninitialised tensor [size] beside `like`: its device and, unless given, its dtype.
Tensor empty_list(const Tensor& like, int64_t size);
Tensor empty_list(const Tensor& like, int64_t size, ScalarType dtype);

// A new uninitialised tensor [n, c, h, w] beside `like`: its device and, unless given, its dtype.
Tensor empty_nchw(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last);
Tensor empty_nchw(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last, ScalarType dtype);

// Runs the body once with `scalar_t` set to the tensor's C++ type. THO_DISPATCH_V2 does not protect commas:
// none may stand outside parentheses in the body.
#define TMC_DISPATCH_FLOATING(tensor, op, ...)                                                    \
  THO_DISPATCH_V2((tensor).scalar_type(), op, AT_WRAP(__VA_ARGS__), AT_EXPAND(AT_FLOATING_TYPES), \
                  torch::headeronly::ScalarType::Half, torch::headeronly::ScalarType::BFloat16)

}  // namespace tmc
