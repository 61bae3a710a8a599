// The gradient of a convolution by its weight (eq. 3), by the general algorithm. The sum runs over every sample and
// pixel, far more than there are results. It is cut into parts that fill the GPU, which sum_parts_kernel adds in a
// fixed order.
#include "cuda/conv2d/launchers.h"
#include "cuda/gemm/implicit_gemm.cuh"

namespace tmc {
namespace {

// Two blocks for each of an H100's 132 multiprocessors. A constant, not the GPU at hand: the bits depend on it.
constexpr int64_t kBlocksWanted = 264;
constexpr int64_t kMinPartDepth = 256;  // below this a part costs more to add than to compute [estimate]

template <class T>
struct GradWeightProblem : GemmProblem<T> {
  Conv2dShape shape;
  bool channels_last;
  Strides input, weight, output;
  accumulate_t<T>* result;  // [parts, k, c / groups, r, s], each part as the result lies

  __device__ Row row(int64_t group, int64_t i) const {
    const Coordinates tap = coordinates_of(i, channels_per_group(shape), shape.r, shape.s, channels_last);
    const int64_t c = group * channels_per_group(shape) + tap.c;
    return {c * input.c, offset_of(weight, tap), tap.h, tap.w};
  }
  __device__ Column column(int64_t group, int64_t j) const {
    const int64_t k = group * filters_per_group(shape) + j;
    return {k * output.c, k * weight.n, k};
  }
  __device__ Depth depth(int64_t, int64_t d) const {
    const Coordinates pixel = coordinates_of(d, 1, shape.p, shape.q, channels_last);
    return {pixel.n * input.n, offset_of(output, pixel), pixel.h, pixel.w};
  }
  __device__ int64_t image_offset(const Row& row, const Depth& depth) const {
    const int64_t h = input_row(shape, depth.y, row.y), w = input_column(shape, depth.x, row.x);
    if (h < 0 || h >= shape.h || w < 0 || w >= shape.w) return -1;
    return row.image + depth.image + h * input.h + w * input.w;
  }
  __device__ void store(const Row& row, const Column& column, int64_t part, accumulate_t<T> sum) const {
    result[part * shape.k * weight.n + row.result + column.result] = sum;
  }
};

// Thread i owns result[i] = sum over parts of workspace[part, i]. Bound by memory.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    sum_parts_kernel(const accumulate_t<T>* workspace, int64_t parts, int64_t count, T* result) {
  const int64_t i = thread_index();
  if (i >= count) return;
  accumulate_t<T> sum = 0;
  for (int64_t part = 0; part < parts; ++part) sum += workspace[part * count + i];
  result[i] = static_cast<T>(sum);
}

// How many parts of at least kMinPartDepth make kBlocksWanted blocks, when one part is `blocks` of them.
int64_t parts_for(int64_t blocks, int64_t depth) {
  const int64_t wanted = ceil_div(kBlocksWanted, blocks), most = std::max<int64_t>(depth / kMinPartDepth, 1);
  return std::min(wanted, most);
}

template <class Problem>
Problem problem_of(const Conv2dShape& shape) {
  Problem problem{};
  problem.shape = shape;
  problem.groups = shape.groups;
  problem.rows = channels_per_group(shape) * shape.r * shape.s;
  problem.columns = filters_per_group(shape);
  problem.depth_extent = shape.n * shape.p * shape.q;
  problem.parts = parts_for(row_tiles(problem) * column_tiles(problem) * problem.groups, problem.depth_extent);
  problem.part_depth = ceil_div(problem.depth_extent, problem.parts);
  return problem;
}

template <class T>
void launch_sum_parts(const accumulate_t<T>* workspace, int64_t parts, int64_t count, T* result, void* stream) {
  launch(sum_parts_kernel<T>, grid_of_elements(count), kElementThreads, stream, workspace, parts, count, result);
}

}  // namespace

int64_t conv2d_grad_weight_parts(const Conv2dShape& shape) {
  return problem_of<GradWeightProblem<float>>(shape).parts;
}

void launch_conv2d_grad_weight(DType dtype, const Conv2dShape& shape, bool channels_last, bool weight_last,
                               const void* grad_output, const void* input, void* workspace, void* grad_weight,
                               void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    auto problem = problem_of<GradWeightProblem<T>>(shape);
    problem.image = static_cast<const T*>(input);
    problem.matrix = static_cast<const T*>(grad_output);
    problem.result = static_cast<accumulate_t<T>*>(workspace);
    problem.channels_last = channels_last;
    problem.input = dense_strides(shape.c, shape.h, shape.w, channels_last);
    problem.output = dense_strides(shape.k, shape.p, shape.q, channels_last);
    problem.weight = dense_strides(channels_per_group(shape), shape.r, shape.s, weight_last);
    problem.image_depth_is_inner = problem.matrix_depth_is_inner = !channels_last;  // the depth is pixels
    launch_implicit_gemm(problem, stream);
    launch_sum_parts(problem.result, problem.parts, shape.k * problem.weight.n, static_cast<T*>(grad_weight), stream);
  });
}

}  // namespace tmc
