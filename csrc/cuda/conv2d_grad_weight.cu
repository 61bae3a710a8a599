// The gradients of a convolution by its parameters (eq. 3 and 4). Both sum over every sample and pixel, far more than
// there are results, so the sum is cut into parts that fill the GPU; sum_parts_kernel adds them in a fixed order.
#include "conv2d.h"
#include "implicit_gemm.cuh"

namespace tmc {
namespace {

// Two blocks for each of an H100's 132 multiprocessors. A constant, not the GPU at hand: the bits depend on it.
constexpr int64_t kBlocksWanted = 264;
constexpr int64_t kMinPartDepth = 256;  // below this a part costs more to add than to compute [estimate]

template <class T>
struct GradWeightMap : GemmProblem<T> {
  Conv2dShape shape;
  bool channels_last;
  Strides input, weight, output;
  accumulate_t<T>* result;  // [parts, k, c / groups, r, s]

  __device__ Row row(int64_t group, int64_t i) const {
    const Place tap = place_of(i, channels_per_group(shape), shape.r, shape.s, channels_last);
    const int64_t c = group * channels_per_group(shape) + tap.c;
    return {c * input.c, offset_of(weight, tap), tap.h, tap.w};
  }
  __device__ Column column(int64_t group, int64_t j) const {
    const int64_t k = group * filters_per_group(shape) + j;
    return {k * output.c, k * weight.n, k};
  }
  __device__ Depth depth(int64_t, int64_t d) const {
    const Place pixel = place_of(d, 1, shape.p, shape.q, channels_last);
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

// eq. 4. A block owns `lanes` neighbouring channels and one part of the n * plane pixels; its threads walk the pixels
// side by side, so that they read neighbours in memory: lanes = 1 if pixels are innermost, kLanes if channels are.
// workspace: [parts, k]. Bound by memory.
constexpr int kBiasThreads = 256, kLanes = 32;

struct BiasProblem {
  int64_t n, k, plane;
  Strides strides;  // of grad_output as [n, k, plane, 1]
  int lanes;
  int64_t parts, part_pixels;
};

template <class T>
__global__ void __launch_bounds__(kBiasThreads)
    sum_pixels_kernel(const BiasProblem problem, const T* grad_output, accumulate_t<T>* workspace) {
  struct Sums {
    accumulate_t<T> of[kBiasThreads];
  };
  auto& sums = shared_memory<Sums>();
  const int thread = threadIdx.x, lane = thread % problem.lanes;
  const int64_t channel_blocks = ceil_div(problem.k, problem.lanes), block = block_index();
  const int64_t k = block % channel_blocks * problem.lanes + lane, part = block / channel_blocks;
  if (part >= problem.parts) return;

  const int64_t pixels = problem.n * problem.plane, begin = part * problem.part_pixels;
  const int64_t end = begin + problem.part_pixels < pixels ? begin + problem.part_pixels : pixels;
  accumulate_t<T> sum = 0;
  if (k < problem.k)
    for (int64_t pixel = begin + thread / problem.lanes; pixel < end; pixel += kBiasThreads / problem.lanes)
      sum += static_cast<accumulate_t<T>>(
          grad_output[offset_of(problem.strides, {pixel / problem.plane, k, pixel % problem.plane, 0})]);
  sums.of[thread] = sum;
  for (int half = kBiasThreads / 2; half >= problem.lanes; half /= 2) {
    __syncthreads();
    if (thread < half) sums.of[thread] += sums.of[thread + half];
  }
  if (thread < problem.lanes && k < problem.k) workspace[part * problem.k + k] = sums.of[thread];
}

// How many parts of at least kMinPartDepth make kBlocksWanted blocks, when one part is `blocks` of them.
int64_t parts_for(int64_t blocks, int64_t depth) {
  const int64_t wanted = ceil_div(kBlocksWanted, blocks), most = std::max<int64_t>(depth / kMinPartDepth, 1);
  return std::min(wanted, most);
}

template <class Map>
Map map_of(const Conv2dShape& shape) {
  Map map{};
  map.shape = shape;
  map.groups = shape.groups;
  map.rows = channels_per_group(shape) * shape.r * shape.s;
  map.columns = filters_per_group(shape);
  map.depth_extent = shape.n * shape.p * shape.q;
  map.parts = parts_for(row_tiles(map) * column_tiles(map) * map.groups, map.depth_extent);
  map.part_depth = ceil_div(map.depth_extent, map.parts);
  return map;
}

BiasProblem bias_problem(int64_t n, int64_t k, int64_t plane, bool channels_last) {
  BiasProblem problem{n, k, plane, dense_strides(k, plane, 1, channels_last), channels_last ? kLanes : 1};
  problem.parts = parts_for(k, n * plane);
  problem.part_pixels = ceil_div(n * plane, problem.parts);
  return problem;
}

template <class T>
void launch_sum_parts(const accumulate_t<T>* workspace, int64_t parts, int64_t count, T* result, void* stream) {
  launch(sum_parts_kernel<T>, grid_of_elements(count), kElementThreads, stream, workspace, parts, count, result);
}

}  // namespace

int64_t conv2d_grad_weight_parts(const Conv2dShape& shape) {
  return map_of<GradWeightMap<float>>(shape).parts;
}

void launch_conv2d_grad_weight(Dtype dtype, const Conv2dShape& shape, bool channels_last, const void* grad_output,
                               const void* input, void* workspace, void* grad_weight, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    auto map = map_of<GradWeightMap<T>>(shape);
    map.image = static_cast<const T*>(input);
    map.matrix = static_cast<const T*>(grad_output);
    map.result = static_cast<accumulate_t<T>*>(workspace);
    map.channels_last = channels_last;
    map.input = dense_strides(shape.c, shape.h, shape.w, channels_last);
    map.output = dense_strides(shape.k, shape.p, shape.q, channels_last);
    map.weight = dense_strides(channels_per_group(shape), shape.r, shape.s, false);
    map.image_depth_is_inner = map.matrix_depth_is_inner = !channels_last;  // the depth is pixels
    launch_implicit_gemm(map, stream);
    launch_sum_parts(map.result, map.parts, shape.k * map.weight.n, static_cast<T*>(grad_weight), stream);
  });
}

int64_t conv2d_grad_bias_parts(int64_t n, int64_t k, int64_t plane) {
  return bias_problem(n, k, plane, false).parts;
}

void launch_conv2d_grad_bias(Dtype dtype, int64_t n, int64_t k, int64_t plane, bool channels_last,
                             const void* grad_output, void* workspace, void* grad_bias, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    const BiasProblem problem = bias_problem(n, k, plane, channels_last);
    auto* sums = static_cast<accumulate_t<T>*>(workspace);
    launch(sum_pixels_kernel<T>, grid_of(ceil_div(k, problem.lanes) * problem.parts), kBiasThreads, stream, problem,
           static_cast<const T*>(grad_output), sums);
    launch_sum_parts(sums, problem.parts, k, static_cast<T*>(grad_bias), stream);
  });
}

}  // namespace tmc
