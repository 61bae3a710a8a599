// grad_weight by direct convolution (cpu/conv2d/direct/direct.h, eq. 3): rows are taps and channels, columns filters,
// and the sum runs over output pixels. Both factors are read from the images where they are; pairs of bfloat16 pixels
// have to be copied: of grad_output, pixels 2j and 2j + 1 of a row; of the image, whose window moves on by stride * C
// elements from one output pixel to the next, element i is paired with element i + stride * C. One word then
// holds the same tap of output pixels 2j and 2j + 1.
//
// The sum is made in blocks of output rows of one sample, each added to memory once. A fixed number of partial sums,
// which depends on the shapes only, take every so many blocks and are added in order at the end.
#include <vector>

#include "cpu/conv2d/direct/operands.h"
#include "cpu/lanes/prefetch.h"
#include "cpu/machine/tasks.h"

namespace tmc::direct {
namespace {

// Words of a block: the filters' part of it, a panel wide, is 32 KiB and stays in L1 for all taps.
constexpr int64_t kBlockWords = 256;
constexpr int64_t kLineFloats = kCacheLine / sizeof(float);
// Fewer channels than this are multiplied together with those of the neighbouring taps, which must then be there.
constexpr int64_t kFewChannels = 12;

struct WeightSum {
  Conv2dShape shape;
  Image image, grad;  // of one group
  DType dtype;        // of grad
  int64_t c, k;       // channels and filters of a group
  int64_t width, panels, panel_size;
  int64_t line_words;          // of an output row
  int64_t block_rows, blocks;  // output rows of a block, blocks of a sample
  bool pairs;                  // both are bfloat16, and copied as words of two pixels
  bool pad_image, pad_grad;    // copied with zeros around, or beside the filters

  WeightSum(const Conv2dProblem& problem, const Image& image_, const Image& grad_, const DirectKernels& kernels)
      : shape(problem.shape),
        image(image_),
        grad(grad_),
        dtype(problem.dtype),
        c(image_.c),
        k(grad_.c),
        width(kernels.width) {
    panels = ceil_div(k, width), panel_size = shape.r * shape.s * c * width;
    pairs = kernels.per_word == 2;
    line_words = pairs ? ceil_div(shape.q, 2) : shape.q;
    block_rows = std::clamp<int64_t>(kBlockWords / std::max<int64_t>(1, line_words), 1, std::max<int64_t>(1, shape.p));
    blocks = ceil_div(shape.p, block_rows);
    pad_image = pairs || (c < kFewChannels && (shape.pad_left > 0 || shape.pad_right > 0 || image.c_stride != 1));
    // Kernels read whole vectors of words.
    pad_grad = pairs || k % (width / 2) != 0 || dtype != DType::float32 || grad.c_stride != 1;
  }
  // The copied part of the image for one block.
  int64_t image_rows() const { return (block_rows - 1) * shape.stride_h + (shape.r - 1) * shape.dilation_h + 1; }
  int64_t image_columns() const { return shape.w + shape.pad_left + shape.pad_right; }
  int64_t image_floats() const { return pad_image ? round_up(image_rows() * image_columns() * c, kLineFloats) : 0; }
  // A window spread so far over padding that its copy would be mostly zeros.
  bool is_spread() const {
    constexpr double kMostCopied = 4 << 20;
    return pad_image && static_cast<double>(image_rows()) * image_columns() * c > kMostCopied;
  }
  int64_t grad_floats() const { return pad_grad ? block_rows * line_words * panels * width : 0; }
  // One row of the image with its padding, before it is turned into words: elements as far as the second of the last
  // word.
  int64_t row_floats() const { return pairs ? ceil_div((image_columns() + shape.stride_w) * c, 2) : 0; }
};

// Pixels that are windows by themselves, and adjoin from the first image to the last, are cut into rows anew: short
// rows and small images would end runs of the sum, and blocks, early (1280 filters at 7 x 7: 1.1 times as fast).
void regroup_pixels(Conv2dShape& shape, Image& image, Image& grad) {
  const auto adjoin = [](const Image& all) {
    return all.h_stride == all.w * all.w_stride && all.n_stride == all.h * all.h_stride;
  };
  const bool dense = shape.stride_h == 1 && shape.stride_w == 1 && shape.pad_top + shape.pad_bottom == 0 &&
                     shape.pad_left + shape.pad_right == 0;
  if (shape.r * shape.s != 1 || !dense || !adjoin(image) || !adjoin(grad)) return;
  const int64_t pixels = shape.n * shape.h * shape.w;
  int64_t columns = std::min(kBlockWords, pixels);
  while (columns > shape.w && pixels % columns != 0) --columns;
  if (columns <= shape.w) return;
  shape.n = 1, shape.h = shape.p = pixels / columns, shape.w = shape.q = columns;
  for (Image* all : {&image, &grad})
    all->n = 1, all->h = shape.h, all->w = columns, all->h_stride = columns * all->w_stride;
}

// Row h of the image with its padding; zeros outside.
template <class T>
void copy_padded_row(const WeightSum& sum, int64_t n, int64_t h, T* to) {
  const Image& image = sum.image;
  const int64_t left = sum.shape.pad_left * sum.c, right = sum.shape.pad_right * sum.c, inside = image.w * sum.c;
  if (h < 0 || h >= image.h) {
    std::fill_n(to, left + inside + right, T{});
    return;
  }
  const T* const from = reinterpret_cast<const T*>(image.data) + n * image.n_stride + h * image.h_stride;
  std::fill_n(to, left, T{});
  to += left;
  if (image.c_stride == 1 && image.w_stride == sum.c) {
    std::copy_n(from, inside, to);
  } else {
    for (int64_t c = 0; c < sum.c; ++c)
      for (int64_t w = 0; w < image.w; ++w) to[w * sum.c + c] = from[c * image.c_stride + w * image.w_stride];
  }
  std::fill_n(to + inside, right, T{});
}

// The rows from h0 on that a block needs.
void copy_padded(const DirectKernels& kernels, const WeightSum& sum, int64_t n, int64_t h0, float* to,
                 uint16_t* elements) {
  const int64_t row = sum.image_columns() * sum.c, apart = sum.shape.stride_w * sum.c;
  for (int64_t h = h0; h < h0 + sum.image_rows(); ++h, to += row) {
    if (sum.pairs) {
      copy_padded_row(sum, n, h, elements);
      std::fill_n(elements + row, apart, uint16_t{0});
      kernels.pair_elements(elements, apart, row, to);
    } else {
      copy_padded_row(sum, n, h, to);
    }
  }
}

// The block's part of grad_output, filters from panel `first` on, beside each other.
const float* copy_grad(const DirectKernels& kernels, const WeightSum& sum, int64_t n, Region block, int64_t first,
                       int64_t pitch, float* to) {
  if (!sum.pairs) {
    kernels_for_this_cpu<StagingKernels>().stage({sum.grad}, sum.dtype, n, block, first * sum.width, pitch, to);
    return to;
  }
  const Image filters = sum.grad.channels_from(first * sum.width, pitch);
  for (int64_t i = 0; i < block.rows; ++i)
    kernels.pair_pixels(filters, n, block.h0 + i, 1, block.columns, pitch, to + i * sum.line_words * pitch);
  return to;
}

// Output positions [begin, end) within [low, high) for which position * step + offset is in [0, extent).
struct Positions {
  int64_t begin, end;
  Positions(int64_t low, int64_t high, int64_t step, int64_t offset, int64_t extent)
      : begin(offset < 0 ? std::max(low, ceil_div(-offset, step)) : low),
        end(offset < extent ? std::min(high, ceil_div(extent - offset, step)) : low) {}
};

// sums[panel][u][v][c][width] += the block's part, for panels [first, last).
void add_block(const DirectKernels& kernels, const WeightSum& sum, int64_t n, int64_t block, int64_t first,
               int64_t last, float* sums, float* scratch) {
  const Conv2dShape& shape = sum.shape;
  const int64_t p0 = block * sum.block_rows, p1 = std::min(p0 + sum.block_rows, shape.p);
  Conv2dShape from = shape;  // as the copy is: no padding
  const float* image = reinterpret_cast<const float*>(sum.image.data) + n * sum.image.n_stride;
  int64_t h_stride = sum.image.h_stride, w_stride = sum.image.w_stride, h_first = 0;
  if (sum.pad_image) {
    h_first = input_row(shape, p0, 0);
    copy_padded(kernels, sum, n, h_first, scratch,
                reinterpret_cast<uint16_t*>(scratch + sum.image_floats() + sum.grad_floats()));
    image = scratch, w_stride = sum.c, h_stride = sum.image_columns() * sum.c;
    from.pad_left = 0, from.w = sum.image_columns();
  }
  const float* grad = reinterpret_cast<const float*>(sum.grad.data) + n * sum.grad.n_stride + p0 * sum.grad.h_stride +
                      first * sum.width;
  int64_t grad_line = sum.grad.h_stride, grad_pixel = sum.grad.w_stride;
  if (sum.pad_grad) {
    grad_pixel = (last - first) * sum.width, grad_line = sum.line_words * grad_pixel;
    grad = copy_grad(kernels, sum, n, {p0, 0, p1 - p0, shape.q}, first, grad_pixel, scratch + sum.image_floats());
  }
  // Taps that adjoin, all of them inside the image wherever the window is, are one run.
  const bool joined = from.pad_left == 0 && input_column(from, shape.q - 1, shape.s - 1) < from.w &&
                      shape.dilation_w * w_stride == sum.c;
  const int64_t runs = joined ? 1 : shape.s, run = joined ? shape.s * sum.c : sum.c;
  for (int64_t panel = first; panel < last; ++panel)
    for (int64_t u = 0; u < shape.r; ++u) {
      const Positions p(p0, p1, shape.stride_h, input_row(shape, 0, u), shape.h);
      if (p.begin >= p.end) continue;
      for (int64_t v = 0; v < runs; ++v) {
        const Positions q(0, shape.q, shape.stride_w, input_column(from, 0, v), from.w);
        if (q.begin >= q.end) continue;
        kernels.add_products(
            {.rows = run,
             .columns = std::min(sum.width, sum.k - panel * sum.width),
             .lines = p.end - p.begin,
             .pixels = sum.pairs ? sum.line_words : q.end - q.begin,
             .a = image + (input_row(shape, p.begin, u) - h_first) * h_stride +
                  input_column(from, q.begin, v) * w_stride,
             .a_line = shape.stride_h * h_stride,
             .a_pixel = (sum.pairs ? 2 : 1) * shape.stride_w * w_stride,
             .b = grad + (p.begin - p0) * grad_line + q.begin * grad_pixel + (panel - first) * sum.width,
             .b_line = grad_line,
             .b_pixel = grad_pixel,
             .sums = sums + (panel - first) * sum.panel_size + (u * shape.s + v) * sum.c * sum.width,
             .sums_step = sum.width});
      }
    }
}

// One panel's sums to the weight.
void write_panel(const DirectKernels& kernels, const WeightSum& sum, int64_t panel, const float* sums, DType dtype,
                 const Image& weight) {
  Image tap = {.data = weight.data + panel * sum.width * weight.n_stride * weight.element_size,
               .element_size = weight.element_size,
               .n = 1,
               .c = std::min(sum.width, sum.k - panel * sum.width),
               .h = 1,
               .w = sum.c,
               .n_stride = 0,
               .c_stride = weight.n_stride,
               .h_stride = 0,
               .w_stride = weight.c_stride};
  char* const first = tap.data;
  for (int64_t u = 0; u < sum.shape.r; ++u)
    for (int64_t v = 0; v < sum.shape.s; ++v, sums += sum.c * sum.width) {
      tap.data = first + (u * weight.h_stride + v * weight.w_stride) * weight.element_size;
      kernels_for_this_cpu<StagingKernels>().unstage(sums, sum.width, {0, 0, 1, sum.c}, 0, dtype, tap);
    }
}

void correlate_for_weight(const DirectKernels& kernels, const WeightSum& sum, DType dtype, const Image& weight) {
  // Panels whose sums stay in L2 are computed together: what is copied is copied once for them. Partial sums: enough
  // tasks for 32 cores.
  constexpr int64_t kSumFloats = 128 << 10, kTasks = 32;
  const int64_t together = std::clamp<int64_t>(kSumFloats / sum.panel_size, 1, sum.panels);
  const int64_t groups = ceil_div(sum.panels, together), all_blocks = sum.shape.n * sum.blocks;
  const int64_t partials = std::clamp<int64_t>(ceil_div(kTasks, groups), 1, std::max<int64_t>(1, all_blocks));
  const int64_t size = sum.panels * sum.panel_size, tasks = groups * partials, workers = workers_for(tasks);
  const int64_t scratch_floats = round_up(sum.image_floats() + sum.grad_floats() + sum.row_floats(), kLineFloats);
  const Workspace memory((partials * size + workers * scratch_floats) * static_cast<int64_t>(sizeof(float)));
  float* const sums = reinterpret_cast<float*>(memory.at(0));
  for_each_task(tasks, workers, [&](int64_t task, int64_t worker) {
    const int64_t partial = task / groups, first = task % groups * together;
    const int64_t last = std::min(first + together, sum.panels);
    float* const to = sums + partial * size + first * sum.panel_size;
    float* const scratch = sums + partials * size + worker * scratch_floats;
    std::fill_n(to, (last - first) * sum.panel_size, 0.f);
    for (int64_t i = partial * all_blocks / partials; i < (partial + 1) * all_blocks / partials; ++i)
      add_block(kernels, sum, i / sum.blocks, i % sum.blocks, first, last, to, scratch);
  });
  for_each_task(sum.panels, workers_for(sum.panels), [&](int64_t panel, int64_t) {
    float* const to = sums + panel * sum.panel_size;
    for (int64_t partial = 1; partial < partials; ++partial)
      for (int64_t i = 0; i < sum.panel_size; ++i) to[i] += to[partial * size + i];
    write_panel(kernels, sum, panel, to, dtype, weight);
  });
}

}  // namespace

void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight) {
  const Conv2dShape& shape = problem.shape;
  if (planes_are_packed(problem, input)) return matrix_product::grad_weight(problem, grad_output, input, grad_weight);
  const DirectKernels& kernels = kernels_for_weight(problem);
  const bool pairs = kernels.per_word == 2;
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape);
  // Few channels are copied by blocks, and so is grad_output, where they are not as the kernels read them.
  const bool few = c < kFewChannels && shape.r * shape.s > 1 && (pairs || problem.dtype == DType::float32);
  const Tensor image = few ? input : pairs ? dense(input, true) : float_channels_last(input);
  const Tensor grad = pairs && image_of(grad_output).w_stride != 1 ? dense(grad_output, true) : grad_output;
  Conv2dProblem regrouped = problem;
  Image pixels = image_of(image), grads = image_of(grad);
  regroup_pixels(regrouped.shape, pixels, grads);
  for (int64_t g = 0; g < shape.groups; ++g) {
    const WeightSum sum(regrouped, pixels.channels(g, c), grads.channels(g, k), kernels);
    if (sum.is_spread()) return matrix_product::grad_weight(problem, grad_output, input, grad_weight);
    correlate_for_weight(kernels, sum, dtype_of(grad_weight), mutable_image_of(grad_weight).filters(g, k));
  }
  // What lies in the padding is left out above, but zero times infinity is NaN.
  if (!all_finite(grad_weight)) matrix_product::grad_weight(problem, grad_output, input, grad_weight);
}

}  // namespace tmc::direct
