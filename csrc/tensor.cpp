#include "tensor.h"

#include "large_pages.h"

namespace tmc {
namespace {

Tensor in_large_pages(Tensor fresh) {
  if (fresh.is_cpu()) prefer_large_pages(fresh.mutable_data_ptr(), fresh.numel() * fresh.element_size());
  return fresh;
}

const char* name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double: return "float64";
    case ScalarType::Float: return "float32";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    case ScalarType::ComplexHalf: return "complex32";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    default: return "an unsupported dtype";
  }
}

}  // namespace

void check_floating(const char* op, const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
    case ScalarType::Float:
    case ScalarType::BFloat16:
    case ScalarType::Half: return;
    default:
      fail("%s: %s must be float64, float32, bfloat16 or float16, got %s", op, name, name_of(tensor.scalar_type()));
  }
}

void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType wanted, const char* rule) {
  if (tensor.scalar_type() != wanted)
    fail("%s: %s must be %s (%s), got %s", op, name, name_of(wanted), rule, name_of(tensor.scalar_type()));
}

void check_device(const char* op, const char* name, const Tensor& tensor, const char* reference_name,
                  const Tensor& reference) {
  if (tensor.is_cpu() && reference.is_cpu()) return;
  if (tensor.is_cuda() && reference.is_cuda() && tensor.get_device_index() == reference.get_device_index()) return;
  const auto kind = [](const Tensor& t) { return t.is_cpu() ? "cpu" : t.is_cuda() ? "cuda" : "another device"; };
  fail("%s: %s must be on the device of %s (%s, index %d), got %s, index %d", op, name, reference_name, kind(reference),
       static_cast<int>(reference.get_device_index()), kind(tensor), static_cast<int>(tensor.get_device_index()));
}

void check_like(const char* op, const char* name, const Tensor& tensor, const char* reference_name,
                const Tensor& reference) {
  check_device(op, name, tensor, reference_name, reference);
  if (tensor.scalar_type() != reference.scalar_type())
    fail("%s: %s must have the dtype of %s (%s), got %s", op, name, reference_name, name_of(reference.scalar_type()),
         name_of(tensor.scalar_type()));
}

bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4 || tensor.stride(1) == 0) return false;
  int64_t least = 0;
  for (const int64_t axis : {1, 3, 2, 0}) {  // innermost to outermost
    if (tensor.size(axis) == 0 || tensor.stride(axis) < least) return false;
    if (axis == 0 && least == tensor.stride(1)) return false;  // N,C,1,1: torch calls this contiguous
    least = tensor.stride(axis);
    if (tensor.size(axis) > 1) least *= tensor.size(axis);
  }
  return true;
}

Tensor ordered_as(const Tensor& tensor, const Tensor& like) {
  bool same_strides = true;
  for (int64_t axis = 0; axis < like.dim(); ++axis)
    if (like.size(axis) > 1 && tensor.stride(axis) != like.stride(axis)) same_strides = false;
  if (same_strides) return tensor;
  Tensor copy = empty_as(like);
  torch::stable::copy_(copy, tensor);
  return copy;
}

Tensor empty_as(const Tensor& like) {
  return in_large_pages(torch::stable::empty_like(like));
}

Tensor empty_nchw(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last) {
  return empty_nchw(like, n, c, h, w, channels_last, like.scalar_type());
}

Tensor empty_nchw(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last,
                  ScalarType dtype) {
  const int64_t sizes[] = {n, c, h, w};
  return in_large_pages(torch::stable::empty(IntList(sizes, 4), dtype, std::nullopt, like.device(), std::nullopt,
                                             memory_format(channels_last)));
}

}  // namespace tmc
