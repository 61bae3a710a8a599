// Convolution and its gradient by the input (eq. 1 and 5): what the rows, columns and depths of
// cuda/gemm/implicit_gemm.cuh are.
#include "cuda/conv2d/launchers.h"
#include "cuda/gemm/implicit_gemm.cuh"

namespace tmc {
namespace {

template <class T>
struct OutputMap : GemmProblem<T> {
  Conv2dShape shape;
  bool channels_last;
  Strides input, weight, output;
  const T* bias;
  T* result;

  __device__ Row row(int64_t, int64_t i) const {
    const Place pixel = place_of(i, 1, shape.p, shape.q, channels_last);
    return {pixel.n * input.n, offset_of(output, pixel), pixel.h, pixel.w};
  }
  __device__ Column column(int64_t group, int64_t j) const {
    const int64_t k = group * filters_per_group(shape) + j;
    return {k * weight.n, k * output.c, k};
  }
  __device__ Depth depth(int64_t group, int64_t d) const {
    const Place tap = place_of(d, channels_per_group(shape), shape.r, shape.s, channels_last);
    const int64_t c = group * channels_per_group(shape) + tap.c;
    return {c * input.c, offset_of(weight, tap), tap.h, tap.w};
  }
  __device__ int64_t image_offset(const Row& row, const Depth& depth) const {
    const int64_t h = input_row(shape, row.y, depth.y), w = input_column(shape, row.x, depth.x);
    if (h < 0 || h >= shape.h || w < 0 || w >= shape.w) return -1;
    return row.image + depth.image + h * input.h + w * input.w;
  }
  __device__ void store(const Row& row, const Column& column, int64_t, accumulate_t<T> sum) const {
    if (bias != nullptr) sum += static_cast<accumulate_t<T>>(bias[column.channel]);
    result[row.result + column.result] = static_cast<T>(sum);
  }
};

template <class T>
struct GradInputMap : GemmProblem<T> {
  Conv2dShape shape;
  bool channels_last;
  Strides input, weight, output;
  T* result;

  __device__ Row row(int64_t, int64_t i) const {
    const Place pixel = place_of(i, 1, shape.h, shape.w, channels_last);
    return {pixel.n * output.n, offset_of(input, pixel), pixel.h, pixel.w};
  }
  __device__ Column column(int64_t group, int64_t j) const {
    const int64_t c = group * channels_per_group(shape) + j;
    return {j * weight.c, c * input.c, c};
  }
  __device__ Depth depth(int64_t group, int64_t d) const {
    const Place tap = place_of(d, filters_per_group(shape), shape.r, shape.s, channels_last);
    const int64_t k = group * filters_per_group(shape) + tap.c;
    return {k * output.c, k * weight.n + tap.h * weight.h + tap.w * weight.w, tap.h, tap.w};
  }
  __device__ int64_t image_offset(const Row& row, const Depth& depth) const {
    const int64_t p = output_row(shape, row.y, depth.y), q = output_column(shape, row.x, depth.x);
    if (p < 0 || q < 0) return -1;
    return row.image + depth.image + p * output.h + q * output.w;
  }
  __device__ void store(const Row& row, const Column& column, int64_t, accumulate_t<T> sum) const {
    result[row.result + column.result] = static_cast<T>(sum);
  }
};

// What both maps hold alike.
template <class Map>
Map map_of(const Conv2dShape& shape, bool channels_last) {
  Map map{};
  map.shape = shape;
  map.channels_last = channels_last;
  map.input = dense_strides(shape.c, shape.h, shape.w, channels_last);
  map.weight = dense_strides(channels_per_group(shape), shape.r, shape.s, channels_last);
  map.output = dense_strides(shape.k, shape.p, shape.q, channels_last);
  map.groups = shape.groups;
  map.image_depth_is_inner = channels_last;
  map.parts = 1;
  return map;
}

}  // namespace

void launch_conv2d(DType dtype, const Conv2dShape& shape, bool channels_last, const void* input, const void* weight,
                   const void* bias, void* output, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    auto map = map_of<OutputMap<T>>(shape, channels_last);
    map.image = static_cast<const T*>(input);
    map.matrix = static_cast<const T*>(weight);
    map.bias = static_cast<const T*>(bias);
    map.result = static_cast<T*>(output);
    map.matrix_depth_is_inner = true;
    map.rows = shape.n * shape.p * shape.q;
    map.columns = filters_per_group(shape);
    map.depth_extent = map.part_depth = channels_per_group(shape) * shape.r * shape.s;
    launch_implicit_gemm(map, stream);
  });
}

void launch_conv2d_grad_input(DType dtype, const Conv2dShape& shape, bool channels_last, const void* grad_output,
                              const void* weight, void* grad_input, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    auto map = map_of<GradInputMap<T>>(shape, channels_last);
    map.image = static_cast<const T*>(grad_output);
    map.matrix = static_cast<const T*>(weight);
    map.result = static_cast<T*>(grad_input);
    map.matrix_depth_is_inner = !channels_last;  // channels_last: the columns, input channels, stand side by side
    map.rows = shape.n * shape.h * shape.w;
    map.columns = channels_per_group(shape);
    map.depth_extent = map.part_depth = filters_per_group(shape) * shape.r * shape.s;
    launch_implicit_gemm(map, stream);
  });
}

}  // namespace tmc
