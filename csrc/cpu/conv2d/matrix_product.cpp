// conv2d, conv2d_grad_input and conv2d_grad_weight (conv2d.h, eq. 1, 5, 3) as one matrix product with three maps
// (eq. 17).
//
// The one map is the patch matrix of an image (im2col, never stored): a row for each position (n, y, x) of a window,
// a column for each tap (c, u, v) in it; its element is image[n, c, origin + y * step + u * tap_step, likewise w],
// zero outside. With P(input; output positions x kernel taps), O(output; its pixels x its channels) and
// W(weight; filters x kernel taps), all of them patch matrices:
//
//   forward       O = P W^T + bias          grad_weight   W = O^T P
//   grad_input    again O = P W^T, with grad_output as the image, grad_input as the output and the kernel turned
//                 round; a stride splits it into dense products, one for each residue of the position (eq. 24)
//
// Each product is computed as it stands when the image is channels_last (a patch row is then contiguous: taps in the
// order u, v, c) and transposed when it is contiguous (a patch column is: c, u, v), so that packing always copies
// runs, and results are written along the axis that is contiguous in them.
#include <vector>

#include "cpu/conv2d/algorithms.h"
#include "cpu/conv2d/windows.h"
#include "cpu/gemm/gemm.h"

namespace tmc::matrix_product {
namespace {

// Which of a patch's axes runs fastest: the channel (u, v, c) or the tap column (c, u, v).
enum class TapOrder { channels_last, channels_first };

MatrixView patches(const Image& image, Window along_h, Window along_w, TapOrder order) {
  const IndexFactor n = {image.n, image.n_stride}, c = {image.c, image.c_stride};
  const IndexFactor y = {along_h.count, 0, along_h.step, 0}, u = {along_h.taps, 0, along_h.tap_step, 0};
  const IndexFactor x = {along_w.count, 0, 0, along_w.step}, v = {along_w.taps, 0, 0, along_w.tap_step};
  return {
      .data = image.data,
      .rows = {n, y, x},
      .columns = order == TapOrder::channels_last ? FactoredIndex{u, v, c} : FactoredIndex{c, u, v},
      .h0 = along_h.origin,
      .w0 = along_w.origin,
      .h_extent = image.h,
      .w_extent = image.w,
      .h_stride = image.h_stride,
      .w_stride = image.w_stride,
  };
}

// Tile extents. Pixels: the packed patches (168 x 1 KiB) and the tile of results stay in 1 MiB of L2 while the packed
// weights pass by; 28, 56 and 84 were no faster (Zen 5, torch_manual_conv.bench). Filters: all of a usual layer at
// once, so that a patch is packed once. In grad_weight both operands are packed for each tile: large tiles pack less
// often.
constexpr int64_t kPixelTile = 168, kFilterTile = 512;
constexpr int64_t kGradTapTile = 768, kGradFilterTile = 384;

// The product O = P W^T of one group.
Gemm correlation(const Image& image, const Image& weight, const Image& output, const Windows& h, const Windows& w,
                 TapOrder order) {
  const MatrixView p = patches(image, h.image, w.image, order);
  const MatrixView f = patches(weight, h.weight, w.weight, order);
  const MatrixView o = patches(output, h.output, w.output, TapOrder::channels_first);
  Gemm gemm;
  if (order == TapOrder::channels_last) {
    gemm = {.a = p, .b = transposed(f), .result = o, .tile_rows = kPixelTile, .tile_columns = kFilterTile};
    gemm.keep_b = true;
  } else {
    gemm = {.a = f, .b = transposed(p), .result = transposed(o), .tile_rows = kFilterTile, .tile_columns = kPixelTile};
    gemm.keep_a = true;
  }
  for (MatrixView* view : {&gemm.a, &gemm.b, &gemm.result}) simplify(*view);
  return gemm;
}

TapOrder tap_order(const Image& image) {
  return image.c_stride == 1 && image.c > 1 ? TapOrder::channels_last : TapOrder::channels_first;
}

// The image in the order that packing likes: long runs. A patch of a contiguous image is made of runs as short as the
// kernel's rows, and every pixel is packed once for each tap: copying the image to channels_last first makes the 7 x 7
// layers of lecture_net twice as fast and AlexNet's no slower. A single tap is packed as whole planes, and a group of
// one channel has its longest runs along the rows. A tiny image is packed before torch's copy of it would be made.
Tensor in_packing_order(const Tensor& image, const Conv2dShape& shape, int64_t group_channels) {
  constexpr int64_t kTinyImage = 1024;
  if (image.size(1) * image.size(2) * image.size(3) <= kTinyImage) return image;
  if (group_channels == 1) return shape.c == 1 ? image : dense(image, false);
  return shape.r * shape.s == 1 ? image : dense(image, true);
}

}  // namespace

void forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& output, MatrixUnit unit) {
  const Conv2dShape& shape = problem.shape;
  const Tensor ordered = in_packing_order(input, shape, channels_per_group(shape));
  const Image image = image_of(ordered), kernel = image_of(weight), result = mutable_image_of(output);
  const Tensor dense_bias = bias ? dense(*bias, false) : output;
  const Windows h = forward_windows(shape.p, shape.pad_top, shape.stride_h, shape.r, shape.dilation_h);
  const Windows w = forward_windows(shape.q, shape.pad_left, shape.stride_w, shape.s, shape.dilation_w);
  const TapOrder order = tap_order(image);
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape);
  std::vector<Gemm> gemms;
  for (int64_t g = 0; g < shape.groups; ++g) {
    gemms.push_back(correlation(image.channels(g, c), kernel.filters(g, k), result.channels(g, k), h, w, order));
    if (!bias) continue;
    gemms.back().bias = static_cast<const char*>(dense_bias.const_data_ptr()) + g * k * image.element_size;
    gemms.back().bias_along = order == TapOrder::channels_last ? BiasAlong::columns : BiasAlong::rows;
  }
  gemm(gemms.data(), shape.groups, gemm_kernels(problem.dtype, problem.precision, unit));
}

namespace {

// All residues of one axis that occur. A group of few channels would leave most of a vector empty: there, all
// residues are computed as one product. (There the zeros that fill up a kernel are multiplied too: an infinite
// grad_output turns up to stride - 1 pixels beyond its reach into NaN.)
std::vector<Windows> residues(int64_t channels, int64_t extent, int64_t pad, int64_t stride, int64_t kernel,
                              int64_t dilation) {
  constexpr int64_t kFewChannels = 8;
  if (channels <= kFewChannels && dilation == 1 && stride <= kernel)
    return {residue_windows(0, stride, extent, pad, stride, kernel, dilation)};
  std::vector<Windows> all;
  for_each_residue(extent, pad, stride, kernel, dilation, [&](const Windows& windows) { all.push_back(windows); });
  return all;
}

}  // namespace

void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight, Tensor& grad_input,
                MatrixUnit unit) {
  const Conv2dShape& shape = problem.shape;
  const Tensor ordered = in_packing_order(grad_output, shape, filters_per_group(shape));
  const Image image = image_of(ordered), kernel = image_of(weight).swapped(), result = mutable_image_of(grad_input);
  const TapOrder order = tap_order(image);
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape);
  for (const Windows& h : residues(c, shape.h, shape.pad_top, shape.stride_h, shape.r, shape.dilation_h))
    for (const Windows& w : residues(c, shape.w, shape.pad_left, shape.stride_w, shape.s, shape.dilation_w)) {
      std::vector<Gemm> gemms;
      for (int64_t g = 0; g < shape.groups; ++g)
        gemms.push_back(correlation(image.channels(g, k), kernel.channels(g, k), result.channels(g, c), h, w, order));
      gemm(gemms.data(), shape.groups, gemm_kernels(problem.dtype, problem.precision, unit));
    }
}

void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight,
                 MatrixUnit unit) {
  const Conv2dShape& shape = problem.shape;
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape);
  const Tensor ordered_grad = in_packing_order(grad_output, shape, filters_per_group(shape));
  const Tensor ordered = in_packing_order(input, shape, channels_per_group(shape));
  const Image grad = image_of(ordered_grad), image = image_of(ordered), result = mutable_image_of(grad_weight);
  const TapOrder order = tap_order(image);
  std::vector<Gemm> gemms;
  for (int64_t g = 0; g < shape.groups; ++g) {
    const MatrixView o = patches(grad.channels(g, k), pixels(shape.p), pixels(shape.q), order);
    const MatrixView p =
        patches(image.channels(g, c), {shape.p, -shape.pad_top, shape.stride_h, shape.r, shape.dilation_h},
                {shape.q, -shape.pad_left, shape.stride_w, shape.s, shape.dilation_w}, order);
    const MatrixView f = patches(result.filters(g, k), all_taps(shape.r), all_taps(shape.s), order);
    Gemm gemm;
    if (order == TapOrder::channels_last)
      gemm = {.a = transposed(o), .b = p, .result = f, .tile_rows = kGradFilterTile, .tile_columns = kGradTapTile};
    else
      gemm = {.a = transposed(p),
              .b = o,
              .result = transposed(f),
              .tile_rows = kGradTapTile,
              .tile_columns = kGradFilterTile};
    for (MatrixView* view : {&gemm.a, &gemm.b, &gemm.result}) simplify(*view);
    gemms.push_back(gemm);
  }
  GemmKernels kernels = gemm_kernels(problem.dtype, problem.precision, unit);
  kernels.finish = gemm_kernels(dtype_of(grad_weight), problem.precision, unit).finish;
  gemm_long_sum(gemms.data(), shape.groups, kernels);
}

}  // namespace tmc::matrix_product
