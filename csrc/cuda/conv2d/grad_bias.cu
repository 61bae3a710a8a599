// The gradient of a convolution by its bias, eq. 4: grad_bias[k] = sum over n, p, q of grad_output[n, k, p, q].
#include "cuda/conv2d/launchers.h"
#include "cuda/machine/launch.h"
#include "cuda/machine/layout.h"
#include "cuda/machine/vector.h"

namespace tmc {
namespace {

// `parts` sums over pixels for each channel. Twice the same kernel: the pixels are cut into parts that fill the GPU,
// and the parts' sums are the pixels of the second launch.
//
// A block owns one part and `columns` neighbouring vectors of kLanes channels. Its threads stand `columns` side by
// side, which read neighbours in memory, and kBiasThreads / columns deep, which take the part's pixels in turns;
// kUnrolled loads of a thread are on their way at once. If the pixels are innermost, there is one column. Bound by
// memory.
constexpr int kBiasThreads = 256, kBiasBlocks = 4, kColumns = 32, kUnrolled = 4;

struct PixelSum {
  int64_t plane;  // pixel i is pixel i % plane of image i / plane
  int64_t image_stride, pixel_stride, channel_stride;
  int64_t channels, pixels;
  int columns, column_blocks;
  int64_t step_images, step_pixels;  // what kBiasThreads / columns pixels are
  int64_t part_pixels;
};

template <class T, class Result, int kLanes>
__global__ void __launch_bounds__(kBiasThreads, kBiasBlocks)
    sum_pixels_kernel(const PixelSum sum, const T* source, Result* result) {
  using A = accumulate_t<T>;
  struct Sums {
    A of[kLanes][kBiasThreads];
  };
  auto& sums = shared_memory<Sums>();
  const int thread = threadIdx.x, column = thread % sum.columns, depth = kBiasThreads / sum.columns;
  const int block = blockIdx.x, part = block / sum.column_blocks;
  const int64_t channel = (int64_t{block - part * sum.column_blocks} * sum.columns + column) * kLanes;

  A total[kLanes] = {};
  if (channel < sum.channels) {
    const int64_t begin = part * sum.part_pixels + thread / sum.columns;
    const int64_t left = sum.pixels - begin, share = sum.part_pixels - thread / sum.columns;
    int64_t count = left < share ? left : share;  // pixels from here to the end of the part
    int64_t image = begin / sum.plane, pixel = begin - image * sum.plane;
    source += channel * sum.channel_stride;
    const auto next = [&] {
      const T* const at = source + image * sum.image_stride + pixel * sum.pixel_stride;
      image += sum.step_images, pixel += sum.step_pixels, count -= depth;
      if (pixel >= sum.plane) pixel -= sum.plane, ++image;
      return load<kLanes>(at);
    };
    const auto add = [&](const Vector<T, kLanes>& vector) {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) total[lane] += static_cast<A>(vector.lanes[lane]);
    };
    while (count > (kUnrolled - 1) * depth) {
      Vector<T, kLanes> loaded[kUnrolled];
#pragma unroll
      for (int i = 0; i < kUnrolled; ++i) loaded[i] = next();
#pragma unroll
      for (int i = 0; i < kUnrolled; ++i) add(loaded[i]);
    }
    while (count > 0) add(next());
  }
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) sums.of[lane][thread] = total[lane];
  for (int half = kBiasThreads / 2; half >= sum.columns; half /= 2) {
    __syncthreads();
    if (thread < half)
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) sums.of[lane][thread] += sums.of[lane][thread + half];
  }
  if (thread < sum.columns && channel < sum.channels)
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane)
      result[part * sum.channels + channel + lane] = static_cast<Result>(sums.of[lane][thread]);
}

// A part of fewer pixels would cost more to add than to read [estimate].
constexpr int64_t kBlocksWanted = kBiasBlocks * kMultiprocessors, kMinPartPixels = 256;

// [pixels, channels], summed as a whole.
PixelSum channels_inside(int64_t pixels, int64_t channels, int lanes) {
  PixelSum sum{};
  sum.plane = sum.pixels = pixels;
  sum.channels = sum.pixel_stride = channels;
  sum.channel_stride = sum.columns = 1;
  while (sum.columns < kColumns && sum.columns * lanes < channels) sum.columns *= 2;
  return sum;
}

// [n, channels, plane]
PixelSum pixels_inside(int64_t n, int64_t channels, int64_t plane) {
  PixelSum sum{};
  sum.plane = sum.channel_stride = plane;
  sum.pixels = n * plane;
  sum.channels = channels, sum.image_stride = channels * plane;
  sum.pixel_stride = sum.columns = 1;
  return sum;
}

template <class T, class Result, int kLanes>
void launch_sum(PixelSum sum, int64_t parts, const T* source, Result* result, void* stream) {
  sum.plane = std::max<int64_t>(sum.plane, 1);
  sum.part_pixels = ceil_div(sum.pixels, parts);
  sum.column_blocks = static_cast<int>(ceil_div(sum.channels, int64_t{kLanes} * sum.columns));
  const int64_t depth = kBiasThreads / sum.columns;
  sum.step_images = depth / sum.plane, sum.step_pixels = depth % sum.plane;
  launch(sum_pixels_kernel<T, Result, kLanes>, dim3(static_cast<unsigned>(sum.column_blocks * parts)), kBiasThreads,
         stream, sum, source, result);
}

}  // namespace

int64_t conv2d_grad_bias_parts(int64_t n, int64_t k, int64_t plane, bool channels_last) {
  const int64_t blocks = channels_last ? ceil_div(k, int64_t{kColumns}) : k, most = n * plane / kMinPartPixels;
  return std::max<int64_t>(std::min(ceil_div(kBlocksWanted, blocks), most), 1);
}

void launch_conv2d_grad_bias(DType dtype, int64_t n, int64_t k, int64_t plane, bool channels_last,
                             const void* grad_output, void* workspace, void* grad_bias, void* stream) {
  dispatch(dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kLanes = kVectorLanes<T>;
    auto* const sums = static_cast<accumulate_t<T>*>(workspace);
    const auto* const source = static_cast<const T*>(grad_output);
    const int64_t parts = conv2d_grad_bias_parts(n, k, plane, channels_last);
    if (!channels_last)
      launch_sum<T, accumulate_t<T>, 1>(pixels_inside(n, k, plane), parts, source, sums, stream);
    else if (k % kLanes != 0)
      launch_sum<T, accumulate_t<T>, 1>(channels_inside(n * plane, k, 1), parts, source, sums, stream);
    else
      launch_sum<T, accumulate_t<T>, kLanes>(channels_inside(n * plane, k, kLanes), parts, source, sums, stream);
    launch_sum<accumulate_t<T>, T, 1>(channels_inside(parts, k, 1), 1, sums, static_cast<T*>(grad_bias), stream);
  });
}

}  // namespace tmc
