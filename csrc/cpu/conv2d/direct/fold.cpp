// grad_input of few channels (cpu/conv2d/direct/direct.h). The products of each pixel of grad_output with all taps,
//
//   products[p, q; u, v, c] = sum_k grad_output[k, p, q] * weight[k, c, u, v]
//
// is a correlation of one tap, whose R * S * C columns fill the vectors that C channels would leave almost empty. A
// pixel of grad_input is the sum over the taps that met it (eq. 2): rows of `products` are summed (the fold). Every
// product is one that eq. 5 has, whatever the stride (eq. 24).
//
// A task computes rows of one sample, in a tile of columns, and keeps the rows of `products` that the next one needs in
// a ring buffer, which stays in L2. Bound: compute, the products.
#include <vector>

#include "cpu/conv2d/direct/operands.h"
#include "cpu/conv2d/windows.h"
#include "cpu/lanes/prefetch.h"
#include "cpu/machine/tasks.h"

namespace tmc::direct {
namespace {

constexpr int64_t kLineFloats = kCacheLine / sizeof(float);
// The ring fills up to a half of L2 (1 MiB on Zen 5), and twice as much where a tile has the fewest columns.
constexpr int64_t kRingFloats = 128 << 10, kLeastColumns = 32;

// Output rows, or columns, from the first to the last that one row, or column, of the image gave to.
int64_t span(int64_t taps, int64_t dilation, int64_t stride) {
  return (taps - 1) * dilation / stride + 1;
}

// Columns [w0, w0 + columns) of the result; the columns [low, high) of grad_output that their taps met, and those of
// them, [begin, end), that there are.
struct ColumnTile {
  int64_t w0, columns;
  std::vector<Windows> residues;
  int64_t low = 0, high = 0, begin = 0, end = 0;

  ColumnTile(const Conv2dShape& shape, int64_t w0_, int64_t w1) : w0(w0_), columns(w1 - w0_) {
    // A part of a row is a row with so much more padding.
    for_each_residue(columns, shape.pad_left + w0, shape.stride_w, shape.s, shape.dilation_w, [&](const Windows& w) {
      residues.push_back(w);
      if (w.image.taps == 0) return;
      const int64_t last = w.image.origin + w.image.count - 1 + (w.image.taps - 1) * w.image.tap_step;
      low = low == high ? w.image.origin : std::min(low, w.image.origin);
      high = std::max(low + 1, std::max(high, last + 1));
    });
    begin = std::clamp<int64_t>(0, low, high), end = std::clamp(shape.q, begin, high);
  }
};

// One group.
struct FoldPlan {
  const DirectKernels& kernels;
  Conv2dShape shape;
  Image grad, result;
  DType dtype;
  bool staged;                  // grad_output, row by row; else `grad` are its words
  int64_t words, staged_pitch;  // of a pixel of grad_output
  int64_t panels, pitch,
      pixel;     // of `products`; floats of a pixel of `products`, and of the result before it is rounded
  int64_t ring;  // rows
  std::vector<Windows> residues;
  std::vector<ColumnTile> tiles;
  int64_t products_floats = 0, row_floats = 0, staged_floats = 0;  // of a row

  FoldPlan(const DirectKernels& kernels_, const Conv2dShape& shape_, const Image& grad_, bool staged_,
           const Image& result_, DType dtype_)
      : kernels(kernels_), shape(shape_), grad(grad_), result(result_), dtype(dtype_), staged(staged_) {
    words = ceil_div(filters_per_group(shape), kernels.per_word), staged_pitch = round_up(words, kernels.width / 2);
    panels = ceil_div(shape.r * shape.s * result.c, kernels.width), pitch = panels * kernels.width;
    pixel = round_up(result.c, kFoldLanes);
    ring = span(shape.r, shape.dilation_h, shape.stride_h);
    for_each_residue(shape.h, shape.pad_top, shape.stride_h, shape.r, shape.dilation_h,
                     [&](const Windows& h) { residues.push_back(h); });
    const int64_t columns = std::max(kLeastColumns, kRingFloats * shape.stride_w / (ring * pitch));
    const int64_t count = ceil_div(shape.w, columns);
    for (int64_t i = 0; i < count; ++i) {
      const ColumnTile& tile = tiles.emplace_back(shape, i * shape.w / count, (i + 1) * shape.w / count);
      products_floats = std::max(products_floats, (tile.high - tile.low) * pitch + kLineFloats);
      row_floats = std::max(row_floats, round_up(tile.columns * pixel, kLineFloats) + kLineFloats);
      if (staged) staged_floats = std::max(staged_floats, (tile.end - tile.begin) * staged_pitch);
    }
  }
  int64_t pointer_floats() const { return shape.r * 2; }
  int64_t scratch_floats() const { return ring * products_floats + row_floats + staged_floats + pointer_floats(); }
};

// Row p of `products`, zeros where grad_output ends.
void compute_products(const FoldPlan& fold, const ColumnTile& tile, int64_t n, int64_t p, const float* packed,
                      const float* no_bias, float* staged, float* products) {
  const int64_t there = tile.end - tile.begin;
  std::fill_n(products, (tile.begin - tile.low) * fold.pitch, 0.f);
  std::fill_n(products + (tile.end - tile.low) * fold.pitch, (tile.high - tile.end) * fold.pitch, 0.f);
  if (there == 0) return;
  const float* from = reinterpret_cast<const float*>(fold.grad.data) + n * fold.grad.n_stride + p * fold.grad.h_stride +
                      tile.begin * fold.grad.w_stride;
  if (fold.staged) {
    if (fold.kernels.per_word == 2)
      fold.kernels.pair_channels(fold.grad, n, p, tile.begin, there, fold.staged_pitch, staged);
    else
      kernels_for_this_cpu<StagingKernels>().stage({fold.grad}, fold.dtype, n, {p, tile.begin, 1, there}, 0,
                                                   fold.staged_pitch, staged);
    from = staged;
  }
  // Two strips of the micro-kernel, which reads so many pixels side by side that they have to be asked for: two times
  // two strips ahead, into the next row.
  constexpr int64_t kPixels = 28, kAhead = 2 * kPixels;
  const int64_t step = fold.staged ? fold.staged_pitch : fold.grad.w_stride;
  float* out = products + (tile.begin - tile.low) * fold.pitch;
  for (int64_t q = 0; q < there; q += kPixels, from += kPixels * step, out += kPixels * fold.pitch) {
    if (!fold.staged) prefetch_run(from + kAhead * step, kPixels * step);
    for (int64_t panel = 0; panel < fold.panels; ++panel)
      fold.kernels.correlate({.rows = std::min(kPixels, there - q),
                              .columns = fold.kernels.width,
                              .a = from,
                              .a_step = step,
                              .u_count = 1,
                              .v_count = 1,
                              .run = fold.words,
                              .b = packed + panel * fold.words * fold.kernels.width,
                              .bias = no_bias,
                              .out = out + panel * fold.kernels.width,
                              .out_step = fold.pitch * static_cast<int64_t>(sizeof(float))});
  }
}

// Row h of the result, from rows of `products` in the ring. `rows` has room for one pointer to each.
void fold_row(const FoldPlan& fold, const ColumnTile& tile, int64_t h, const float* ring, const float** rows,
              float* row) {
  const Conv2dShape& shape = fold.shape;
  const Windows& along_h = fold.residues[h % shape.stride_h];
  const int64_t y = (h - along_h.output.origin) / shape.stride_h + along_h.image.origin;
  for (const Windows& along_w : tile.residues) {
    int64_t count = 0;
    for (int64_t t = 0; t < along_h.image.taps; ++t) {
      const int64_t p = y + t * along_h.image.tap_step, u = along_h.weight.origin + t * along_h.weight.tap_step;
      if (p < 0 || p >= shape.p) continue;
      rows[count++] = ring + p % fold.ring * fold.products_floats + (along_w.image.origin - tile.low) * fold.pitch +
                      (u * shape.s + along_w.weight.origin) * fold.result.c;
    }
    fold.kernels.fold({.pixels = along_w.output.count,
                       .channels = fold.pixel,
                       .rows = rows,
                       .u_count = count,
                       .v_count = along_w.image.taps,
                       .v_step = along_w.image.tap_step * fold.pitch + along_w.weight.tap_step * fold.result.c,
                       .step = fold.pitch,
                       .out = row + along_w.output.origin * fold.pixel,
                       .out_step = shape.stride_w * fold.pixel});
  }
}

void compute(const FoldPlan& fold, const float* packed, const float* no_bias) {
  const Conv2dShape& shape = fold.shape;
  const int64_t tiles = static_cast<int64_t>(fold.tiles.size()), threads = workers_for(INT64_MAX);
  // Each range of rows computes the first rows of its ring anew: as few as keep the threads busy.
  const int64_t ranges = std::min(shape.h, ceil_div(threads, std::max<int64_t>(1, shape.n * tiles)));
  const int64_t tasks = shape.n * tiles * ranges, workers = workers_for(tasks);
  const int64_t worker_floats = round_up(fold.scratch_floats(), kLineFloats);
  const Workspace memory(workers * worker_floats * static_cast<int64_t>(sizeof(float)));
  for_each_task(tasks, workers, [&](int64_t task, int64_t worker) {
    const int64_t range = task % ranges, n = task / ranges / tiles;
    const ColumnTile& tile = fold.tiles[task / ranges % tiles];
    float* const ring = reinterpret_cast<float*>(memory.at(0)) + worker * worker_floats;
    float* const row = ring + fold.ring * fold.products_floats;
    float* const staged = row + fold.row_floats;
    const float** const rows = reinterpret_cast<const float**>(staged + fold.staged_floats);
    const int64_t h0 = range * shape.h / ranges, reach = (shape.r - 1) * shape.dilation_h;
    int64_t p = std::max<int64_t>(0, ceil_div(h0 + shape.pad_top - reach, shape.stride_h));
    for (int64_t h = h0; h < (range + 1) * shape.h / ranges; ++h) {
      for (; p < shape.p && p * shape.stride_h <= h + shape.pad_top; ++p)
        compute_products(fold, tile, n, p, packed, no_bias, staged, ring + p % fold.ring * fold.products_floats);
      fold_row(fold, tile, h, ring, rows, row);
      fold.kernels.write_row(row, fold.pixel, fold.dtype, fold.result, n, h, tile.w0, tile.columns);
    }
  });
}

}  // namespace

bool is_folded(const Conv2dShape& shape) {
  const int64_t c = channels_per_group(shape), width = kernels_for_this_cpu<DirectKernels>().width;
  if (shape.r * shape.s == 1 || c > width / 4) return false;
  // Windows spread far apart, or large ones, would outgrow L2. (Divided one by one: the product may not fit 64 bits.)
  const int64_t pixels = 2 * kRingFloats / round_up(shape.r * shape.s * c, width);
  return pixels / span(shape.r, shape.dilation_h, shape.stride_h) >=
         kLeastColumns / shape.stride_w + span(shape.s, shape.dilation_w, shape.stride_w);
}

void fold_grad_input(const Operands& by, const Conv2dShape& shape, const Tensor& grad_output, const Tensor& kernel,
                     Tensor& grad_input) {
  const DirectKernels& kernels = by.kernels;
  const Image grad = image_of(grad_output);
  const bool pairs = kernels.per_word == 2, planes = grad.c_stride != 1 && grad.w_stride == 1;
  const bool staged = pairs ? planes : grad.c_stride != 1 || dtype_of(grad_output) != DType::float32;
  const Tensor ordered = staged ? grad_output : by.image(grad_output);
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape), taps = shape.r * shape.s * c;
  const std::vector<float> no_bias(kernels.width);
  for (int64_t g = 0; g < shape.groups; ++g) {
    const FoldPlan fold(kernels, shape, staged ? grad.channels(g, k) : by.words(ordered, g, k), staged,
                        mutable_image_of(grad_input).channels(g, c), dtype_of(grad_input));
    Image columns = image_of(kernel).filters(g, k);  // (r, s, c) in place of filters, filters in place of channels
    columns.n = taps, columns.n_stride = 1, columns.c = k, columns.c_stride = taps;
    const int64_t panel_floats = fold.words * kernels.width;
    const Workspace packed(fold.panels * panel_floats * static_cast<int64_t>(sizeof(float)));
    float* const to = reinterpret_cast<float*>(packed.at(0));
    for (int64_t panel = 0; panel < fold.panels; ++panel)
      kernels.pack_tap(columns, panel * kernels.width, 0, 0, to + panel * panel_floats);
    compute(fold, to, no_bias.data());
  }
}

}  // namespace tmc::direct
