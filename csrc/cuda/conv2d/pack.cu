#include "cuda/conv2d/pack.h"
#include "cuda/gemm/mma_tile.cuh"

namespace tmc {
namespace {

// Values are only moved: two types for all dtypes.
template <class Body>
void dispatch_size(DType dtype, Body body) {
  return dtype == DType::float32 ? body(uint32_t{}) : body(uint16_t{});
}

// What pack_image_kernel knows of a sample, in 32 bits: divisions are what it spends its time on.
struct PackedImage {
  int c, h, w, pad_top, pad_left;
  int block_h, block_w;
  int packed_w, row_chunks, chunks;  // chunks of 16 bytes: of a packed row, of a packed sample
  Strides input;
};

// A thread owns a chunk of neighbouring channels of a packed pixel. Bound by memory.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    pack_image_kernel(const PackedImage image, int64_t count, const T* input, Chunk* packed) {
  const int64_t index = thread_index();
  if (index >= count) return;
  const int64_t n = index / image.chunks;
  const int chunk = static_cast<int>(index - n * image.chunks), y = chunk / image.row_chunks;
  const int pixel_chunks = image.row_chunks / image.packed_w, in_row = chunk - y * image.row_chunks;
  const int x = in_row / pixel_chunks, channel = (in_row - x * pixel_chunks) * kChunkElements<T>;
  int pixel = channel / image.c, c = channel - pixel * image.c;
  int i = pixel / image.block_w, j = pixel - i * image.block_w;
  alignas(Chunk) T elements[kChunkElements<T>];
#pragma unroll
  for (int e = 0; e < kChunkElements<T>; ++e) {
    const int h = y * image.block_h + i - image.pad_top, w = x * image.block_w + j - image.pad_left;
    const bool inside = i < image.block_h && h >= 0 && h < image.h && w >= 0 && w < image.w;
    elements[e] = inside ? input[offset_of(image.input, {n, c, h, w})] : T{};
    if (++c == image.c) {
      c = 0;
      if (++j == image.block_w) j = 0, ++i;
    }
  }
  packed[index] = *reinterpret_cast<const Chunk*>(elements);
}

// A thread owns an element of the packed weight.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    pack_weight_kernel(const Conv2dShape shape, const Conv2dPlan plan, Strides strides, const T* weight, T* packed) {
  const int64_t index = thread_index();
  if (index >= plan.shape.k * plan.shape.r * plan.shape.s * plan.shape.c) return;
  const Coordinates at = coordinates_of(index, plan.shape.c, plan.shape.r, plan.shape.s, true);
  const WeightPlace from = unpacked(shape, plan.packing, at.c, at.h, at.w);
  packed[index] = from.c < 0 ? T{} : weight[offset_of(strides, {at.n, from.c, from.r, from.s})];
}

// A thread owns an element of the weight.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    flip_weight_kernel(const Conv2dShape shape, const T* weight, T* flipped) {
  const int64_t index = thread_index(), channels = channels_per_group(shape), filters = filters_per_group(shape);
  if (index >= shape.k * shape.r * shape.s * channels) return;
  const Coordinates from = coordinates_of(index, channels, shape.r, shape.s, true);
  const int64_t group = from.n / filters, k = from.n - group * filters;
  const int64_t f = from.h % shape.stride_h, g = from.w % shape.stride_w;
  const int64_t taps_h = taps_from(f, shape.r, shape.stride_h), r = taps_h - 1 - from.h / shape.stride_h;
  const int64_t taps_w = taps_from(g, shape.s, shape.stride_w), s = taps_w - 1 - from.w / shape.stride_w;
  const int64_t begin = taps_before_residue(shape, f, g) * shape.c * filters;
  flipped[begin + (((group * channels + from.c) * taps_h + r) * taps_w + s) * filters + k] = weight[index];
}

}  // namespace

void pack_image(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last, const void* input,
                void* packed, void* stream) {
  if (shape.n == 0) return;  // conv2d_grad_weight of an empty batch
  dispatch_size(dtype, [&](auto type) {
    using T = decltype(type);
    PackedImage image;
    image.c = static_cast<int>(shape.c), image.h = static_cast<int>(shape.h), image.w = static_cast<int>(shape.w);
    image.pad_top = static_cast<int>(shape.pad_top), image.pad_left = static_cast<int>(shape.pad_left);
    image.block_h = static_cast<int>(plan.packing.block_h), image.block_w = static_cast<int>(plan.packing.block_w);
    image.packed_w = static_cast<int>(plan.shape.w);
    image.row_chunks = static_cast<int>(plan.shape.w * plan.shape.c / kChunkElements<T>);
    image.chunks = static_cast<int>(plan.shape.h) * image.row_chunks;
    image.input = dense_strides(shape.c, shape.h, shape.w, channels_last);
    const int64_t count = shape.n * image.chunks;
    launch(pack_image_kernel<T>, grid_of_elements(count), kElementThreads, stream, image, count,
           static_cast<const T*>(input), static_cast<Chunk*>(packed));
  });
}

void pack_weight(DType dtype, const Conv2dShape& shape, const Conv2dPlan& plan, bool channels_last, const void* weight,
                 void* packed, void* stream) {
  dispatch_size(dtype, [&](auto type) {
    using T = decltype(type);
    launch(pack_weight_kernel<T>, grid_of_elements(plan.shape.k * plan.shape.r * plan.shape.s * plan.shape.c),
           kElementThreads, stream, shape, plan, dense_strides(shape.c, shape.r, shape.s, channels_last),
           static_cast<const T*>(weight), static_cast<T*>(packed));
  });
}

void flip_weight(DType dtype, const Conv2dShape& shape, const void* weight, void* flipped, void* stream) {
  dispatch_size(dtype, [&](auto type) {
    using T = decltype(type);
    launch(flip_weight_kernel<T>, grid_of_elements(shape.k * shape.r * shape.s * channels_per_group(shape)),
           kElementThreads, stream, shape, static_cast<const T*>(weight), static_cast<T*>(flipped));
  });
}

}  // namespace tmc
