#include "tensor.h"

#include <algorithm>

#include "large_pages.h"

// torch 2.11 has only the macro that loses the error's own message.
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace tmc {
namespace {

// Straight to the allocator: torch.empty through the dispatcher takes several times as long, by name and boxed.
Tensor empty_strided(const Tensor& like, IntList sizes, IntList strides, ScalarType dtype) {
  int32_t device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  const int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), type, device_type, device_index, &handle));
  Tensor fresh(handle);
  if (fresh.is_cpu()) prefer_large_pages(fresh.mutable_data_ptr(), fresh.numel() * fresh.element_size());
  return fresh;
}

// Are the elements of `tensor`, of which there are some, in memory one after the other in this order of axes,
// innermost first? Axes of one element may have any stride.
bool is_dense(const Tensor& tensor, const int64_t* axes) {
  const IntList sizes = tensor.sizes(), strides = tensor.strides();
  int64_t stride = 1;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t axis = axes == nullptr ? sizes.size() - 1 - i : axes[i];
    if (sizes[axis] == 0 || (sizes[axis] != 1 && strides[axis] != stride)) return false;
    stride *= sizes[axis];
  }
  return true;
}

constexpr int64_t kChannelsLast[] = {1, 3, 2, 0};  // innermost to outermost

template <class Word>
void copy_words(const Word* from, const int64_t* from_strides, Word* to, const int64_t* to_strides, Dims sizes) {
  if (sizes.count == 0) {
    *to = *from;
    return;
  }
  for (int64_t i = 0; i < sizes[0]; ++i)
    copy_words(from + i * from_strides[0], from_strides + 1, to + i * to_strides[0], to_strides + 1,
               {sizes.data + 1, sizes.count - 1});
}

// What is tiny is copied here before torch's copy is found: by name, boxed, which takes as long as these elements.
bool is_tiny(const Tensor& tensor) {
  constexpr int64_t kTiny = 1024;
  return tensor.is_cpu() && tensor.numel() <= kTiny && tensor.element_size() <= 8;
}

// Fills `to` with `from`, which is tiny.
void copy_tiny(const Tensor& from, Tensor& to) {
  const auto words = [&]<class Word>(Word) {
    copy_words(static_cast<const Word*>(from.const_data_ptr()), from.strides().data(),
               static_cast<Word*>(to.mutable_data_ptr()), to.strides().data(), sizes(from));
  };
  switch (from.element_size()) {
    case 1: return words(uint8_t{});
    case 2: return words(uint16_t{});
    case 4: return words(uint32_t{});
    default: return words(uint64_t{});
  }
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

DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return DType::float64;
    case ScalarType::BFloat16: return DType::bfloat16;
    case ScalarType::Half: return DType::float16;
    default: return DType::float32;
  }
}

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
  const IntList sizes = tensor.sizes(), strides = tensor.strides();
  if (sizes.size() != 4 || strides[1] == 0) return false;
  int64_t least = 0;
  for (const int64_t axis : kChannelsLast) {
    if (sizes[axis] == 0 || strides[axis] < least) return false;
    if (axis == 0 && least == strides[1]) return false;  // N,C,1,1: torch calls this contiguous
    least = strides[axis];
    if (sizes[axis] > 1) least *= sizes[axis];
  }
  return true;
}

bool is_dense(const Tensor& tensor, bool channels_last) {
  return is_dense(tensor, channels_last ? kChannelsLast : nullptr);
}

Tensor dense(const Tensor& tensor, bool channels_last) {
  if (is_dense(tensor, channels_last)) return tensor;
  if (tensor.dim() != 4 || tensor.numel() == 0 || !is_tiny(tensor))
    return torch::stable::contiguous(tensor, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const IntList sizes = tensor.sizes();
  Tensor ordered = empty_nchw(tensor, sizes[0], sizes[1], sizes[2], sizes[3], channels_last);
  copy_tiny(tensor, ordered);
  return ordered;
}

Tensor ordered_as(const Tensor& tensor, const Tensor& like) {
  const IntList sizes = like.sizes(), strides = tensor.strides(), wanted = like.strides();
  bool same = true;
  for (size_t axis = 0; axis < sizes.size(); ++axis) same &= sizes[axis] <= 1 || strides[axis] == wanted[axis];
  if (same) return tensor;
  Tensor ordered = empty_as(like);
  copy(tensor, ordered);
  return ordered;
}

void copy(const Tensor& from, Tensor& to) {
  if (is_tiny(from))
    copy_tiny(from, to);
  else
    torch::stable::copy_(to, from);
}

Tensor empty_as(const Tensor& like) {
  if (is_dense(like, nullptr) || (like.dim() == 4 && is_dense(like, kChannelsLast)))
    return empty_strided(like, like.sizes(), like.strides(), like.scalar_type());
  return torch::stable::empty_like(like);  // it knows an order for every tensor
}

Tensor empty_list(const Tensor& like, int64_t size) {
  return empty_list(like, size, like.scalar_type());
}

Tensor empty_list(const Tensor& like, int64_t size, ScalarType dtype) {
  const int64_t stride = 1;
  return empty_strided(like, IntList(&size, 1), IntList(&stride, 1), dtype);
}

Tensor empty_nchw(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last) {
  return empty_nchw(like, n, c, h, w, channels_last, like.scalar_type());
}

Tensor empty_nchw(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last,
                  ScalarType dtype) {
  const auto times = [](int64_t a, int64_t b) { return checked_mul("empty", "a result's stride", a, b); };
  const int64_t sizes[] = {n, c, h, w};
  int64_t strides[4];
  if (channels_last) {
    strides[1] = 1, strides[3] = c;
    strides[2] = times(c, w);
    strides[0] = times(strides[2], h);
  } else {
    strides[3] = 1, strides[2] = std::max<int64_t>(w, 1);
    strides[1] = times(strides[2], std::max<int64_t>(h, 1));
    strides[0] = times(strides[1], std::max<int64_t>(c, 1));
  }
  return empty_strided(like, IntList(sizes, 4), IntList(strides, 4), dtype);
}

}  // namespace tmc
