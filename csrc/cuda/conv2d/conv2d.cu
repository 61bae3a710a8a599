// Convolution and its gradient by the input (eq. 1 and 5): what the rows, columns and depths of
// cuda/gemm/implicit_gemm.cuh are.
#include "cuda/conv2d/launchers.h"
#include "cuda/gemm/implicit_gemm.cuh"

namespace tmc {
namespace {

template <class T>
struct OutputProblem : GemmProblem<T> {
  Conv2dShape shape;
  bool channels_last;
  Strides input, weight, output;
  const T* bias;
  T* result;

  __device__ Row row(int64_t, int64_t i) const {
    const Coordinates pixel = coordinates_of(i, 1, shape.p, shape.q, channels_last);
    return {pixel.n * input.n, offset_of(output, pixel), pixel.h, pixel.w};
  }
  __device__ Column column(int64_t group, int64_t j) const {
    const int64_t k = group * filters_per_group(shape) + j;
    return {k * weight.n, k * output.c, k};
  }
  __device__ Depth depth(int64_t group, int64_t d) const {
    const Coordinates tap = coordinates_of(d, channels_per_group(shape), shape.r, shape.s, channels_last);
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
struct GradInputProblem : GemmProblem<T> {
  Conv2dShape shape;
  bool channels_last;
  Strides input, weight, output;
  T* result;

  __device__ Row row(int64_t, int64_t i) const {
    const Coordinates pixel = coordinates_of(i, 1, shape.h, shape.w, channels_last);
    return {pixel.n * output.n, offset_of(input, pixel), pixel.h, pixel.w};
  }
  __device__ Column column(int64_t group, int64_t j) const {
    const int64_t c = group * channels_per_group(shape) + j;
    return {j * weight.c, c * input.c, c};
  }
  __device__ Depth depth(int64_t group, int64_t d) const {
    const Coordinates tap = coordinates_of(d, filters_per_group(shape), shape.r, shape.s, channels_last);
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

// What both problems hold alike.
template <class Problem>
Problem problem_of(const Conv2dShape& shape, bool channels_last) {
  Problem problem{};
  problem.shape = shape;
  problem.channels_last = channels_last;
  problem.input = dense_strides(shape.c, shape.h, shape.w, channels_last);
  problem.weight = dense_strides(channels_per_group(shape), shape.r, shape.s, channels_last);
  problem.output = dense_strides(shape.k, shape.p, shape.q, channels_last);
  problem.groups = shape.groups;
  problem.image_depth_is_inner = channels_last;
  problem.parts = 1;
  return problem;
}

}  // namespace

void launch_conv2d(DType dtype, const Conv2dShape& shape, bool channels_last, const void* input, const void* weight,
                   const void* bias, void* output, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    auto problem = problem_of<OutputProblem<T>>(shape, channels_last);
    problem.image = static_cast<const T*>(input);
    problem.matrix = static_cast<const T*>(weight);
    problem.bias = static_cast<const T*>(bias);
    problem.result = static_cast<T*>(output);
    problem.matrix_depth_is_inner = true;
    problem.rows = shape.n * shape.p * shape.q;
    problem.columns = filters_per_group(shape);
    problem.depth_extent = problem.part_depth = channels_per_group(shape) * shape.r * shape.s;
    launch_implicit_gemm(problem, stream);
  });
}

void launch_conv2d_grad_input(DType dtype, const Conv2dShape& shape, bool channels_last, const void* grad_output,
                              const void* weight, void* grad_input, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    auto problem = problem_of<GradInputProblem<T>>(shape, channels_last);
    problem.image = static_cast<const T*>(grad_output);
    problem.matrix = static_cast<const T*>(weight);
    problem.result = static_cast<T*>(grad_input);
    problem.matrix_depth_is_inner = !channels_last;  // channels_last: the columns, input channels, stand side by side
    problem.rows = shape.n * shape.h * shape.w;
    problem.columns = channels_per_group(shape);
    problem.depth_extent = problem.part_depth = filters_per_group(shape) * shape.r * shape.s;
    launch_implicit_gemm(problem, stream);
  });
}

}  // namespace tmc
