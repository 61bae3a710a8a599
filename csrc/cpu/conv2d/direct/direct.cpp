// Forward and grad_input by direct convolution (cpu/conv2d/direct/direct.h).
//
// grad_input is the same correlation, of grad_output with the flipped kernel; a stride splits it into one for each
// residue of the position (eq. 24). A task computes a tile of output pixels, all filters of it, panel by panel: the
// part of the image that its windows cover stays in L2.
#include <vector>

#include "cpu/conv2d/direct/operands.h"
#include "cpu/conv2d/windows.h"
#include "cpu/machine/tasks.h"

namespace tmc::direct {
namespace {

// Output positions [begin, end) along one axis, whose windows have the taps [first, last) inside the image.
struct Segment {
  int64_t begin, end, first, last;
};

std::vector<Segment> segments(const Window& window, int64_t extent) {
  std::vector<Segment> all;
  for (int64_t i = 0; i < window.count; ++i) {
    const int64_t start = window.origin + i * window.step;
    const int64_t first = start < 0 ? std::min(window.taps, ceil_div(-start, window.tap_step)) : 0;
    const int64_t end = start < extent ? std::min(window.taps, ceil_div(extent - start, window.tap_step)) : 0;
    const int64_t last = std::max(first, end);
    if (!all.empty() && all.back().first == first && all.back().last == last)
      all.back().end = i + 1;
    else
      all.push_back({i, i + 1, first, last});
  }
  return all;
}

// One group, and for grad_input one residue of it.
struct GroupCorrelation {
  Image image, weight, output;  // of the output only the positions of the windows
  Window h, w, weight_h, weight_w;
  std::vector<Segment> rows, columns;
  const float* bias;  // of whole panels
  const float* packed = nullptr;

  GroupCorrelation(const Image& image_, const Image& weight_, const Image& output_, const Windows& along_h,
                   const Windows& along_w, const float* bias_)
      : image(image_),
        weight(weight_),
        output(output_),
        h(along_h.image),
        w(along_w.image),
        weight_h(along_h.weight),
        weight_w(along_w.weight),
        bias(bias_) {
    const Window &to_h = along_h.output, &to_w = along_w.output;
    output.data += (to_h.origin * output.h_stride + to_w.origin * output.w_stride) * output.element_size;
    output.h = to_h.count, output.h_stride *= to_h.step;
    output.w = to_w.count, output.w_stride *= to_w.step;
    // Pixels that are windows by themselves are one line, whatever row they are in.
    const bool single = h.taps == 1 && w.taps == 1 && h.step == 1 && w.step == 1 && h.origin == 0 && w.origin == 0;
    if (single && image.h == output.h && image.w == output.w && image.h_stride == image.w * image.w_stride &&
        output.h_stride == output.w * output.w_stride) {
      image.w = output.w = w.count = image.h * image.w;
      image.h = output.h = h.count = 1;
    }
    rows = segments(h, image.h), columns = segments(w, image.w);
  }
  int64_t taps() const { return h.taps * w.taps; }
};

struct PositionRange {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};
PositionRange common(PositionRange a, const Segment& b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// A tile of results: its first pixel, and the bytes to the next row and the next pixel.
struct Result {
  char* data;
  int64_t row, pixel;
  bool rounded;  // bfloat16, else float
  bool stream;   // past the caches
};

// A tile of pixels, one panel of `columns` filters: a rectangle for each pair of segments, in lines along its longer
// side.
void correlate_tile(const DirectKernels& kernels, const GroupCorrelation& c, int64_t n, PositionRange tile_h,
                    PositionRange tile_w, int64_t panel, int64_t columns, Result out) {
  const int64_t channels = c.image.c, tap_size = channels * kernels.width;
  const float* image = reinterpret_cast<const float*>(c.image.data) + n * c.image.n_stride;
  const float* packed = c.packed + panel * c.taps() * tap_size;
  const bool adjoin = c.w.tap_step * c.image.w_stride == channels;
  DirectLine line = {.columns = columns,
                     .a_u_step = c.h.tap_step * c.image.h_stride,
                     .a_v_step = c.w.tap_step * c.image.w_stride,
                     .b_u_step = c.w.taps * tap_size,
                     .b_v_step = tap_size,
                     .bias = c.bias + panel * kernels.width,
                     .rounded = out.rounded,
                     .stream = out.stream && columns % (kernels.width / 2) == 0};
  for (const Segment& row : c.rows)
    for (const Segment& column : c.columns) {
      const PositionRange h = common(tile_h, row), w = common(tile_w, column);
      if (h.size() <= 0 || w.size() <= 0) continue;
      line.u_count = row.last - row.first, line.v_count = adjoin ? 1 : column.last - column.first;
      line.run = adjoin ? (column.last - column.first) * channels : channels;
      line.b = packed + (row.first * c.w.taps + column.first) * tap_size;
      const bool across = w.size() >= h.size();
      const int64_t image_down = c.h.step * c.image.h_stride, image_across = c.w.step * c.image.w_stride;
      line.rows = across ? w.size() : h.size();
      line.a_step = across ? image_across : image_down, line.out_step = across ? out.pixel : out.row;
      const int64_t h0 = c.h.origin + h.begin * c.h.step + row.first * c.h.tap_step;
      const int64_t w0 = c.w.origin + w.begin * c.w.step + column.first * c.w.tap_step;
      const bool any = line.u_count > 0 && line.run > 0;  // else the address may be outside the image
      line.a = any ? image + h0 * c.image.h_stride + w0 * c.image.w_stride : image;
      char* to = out.data + (h.begin - tile_h.begin) * out.row + (w.begin - tile_w.begin) * out.pixel;
      for (int64_t i = 0; i < (across ? h.size() : w.size()); ++i) {
        line.out = to;
        kernels.correlate(line);
        if (any) line.a += across ? image_down : image_across;
        to += across ? out.row : out.pixel;
      }
    }
}

// Whether all filters of a few pixels are computed before the next pixels: where their packed weights stay in L1.
bool weights_stay(const DirectKernels& kernels, const GroupCorrelation& c) {
  constexpr int64_t kWeightFloats = 8 << 10;
  const auto whole = [](const std::vector<Segment>& all) { return all.size() == 1 && all[0].first < all[0].last; };
  return kernels.correlate_pixels != nullptr && c.taps() == 1 && whole(c.rows) && whole(c.columns) &&
         c.image.c <= kPairRun && c.output.w_stride == c.output.c &&
         c.image.c * round_up(c.output.c, kernels.width) <= kWeightFloats;
}

// All filters of a tile's pixels, of one tap each.
void correlate_pixels(const DirectKernels& kernels, const GroupCorrelation& c, int64_t n, PositionRange tile_h,
                      PositionRange tile_w, Result out) {
  const int64_t h0 = c.h.origin + tile_h.begin * c.h.step, w0 = c.w.origin + tile_w.begin * c.w.step;
  DirectLine line = {.rows = tile_w.size(),
                     .columns = c.output.c,
                     .a = reinterpret_cast<const float*>(c.image.data) + n * c.image.n_stride + h0 * c.image.h_stride +
                          w0 * c.image.w_stride,
                     .a_step = c.w.step * c.image.w_stride,
                     .run = c.image.c,
                     .b = c.packed,
                     .bias = c.bias,
                     .out = out.data,
                     .out_step = out.pixel,
                     .rounded = true};
  for (int64_t h = tile_h.begin; h < tile_h.end; ++h) {
    kernels.correlate_pixels(line);
    line.a += c.h.step * c.image.h_stride;
    line.out = static_cast<char*>(line.out) + out.row;
  }
}

// The largest tile of any of the correlations.
struct OutputTiling {
  int64_t rows = 0, columns = 0, down, across, size_h, size_w;

  // Image and results of a tile fill a part of L2 that leaves room for the filters passing by.
  OutputTiling(const std::vector<GroupCorrelation>& all, int64_t n) {
    constexpr int64_t kTileFloats = 96 << 10, kLeastColumns = 28;
    for (const GroupCorrelation& c : all) rows = std::max(rows, c.output.h), columns = std::max(columns, c.output.w);
    const GroupCorrelation& c = all[0];
    const int64_t pixel = c.h.step * c.w.step * c.image.c + c.output.c;
    size_w = std::clamp<int64_t>(kTileFloats / pixel, std::min(kLeastColumns, columns), columns);
    size_h = std::clamp<int64_t>(kTileFloats / (pixel * size_w), 1, rows);
    const int64_t threads = workers_for(INT64_MAX), batch = n * static_cast<int64_t>(all.size());
    while (size_h > 1 && batch * ceil_div(rows, size_h) * ceil_div(columns, size_w) < threads) size_h /= 2;
    while (size_w > kLeastColumns && batch * ceil_div(rows, size_h) * ceil_div(columns, size_w) < threads) size_w /= 2;
    down = ceil_div(rows, size_h), across = ceil_div(columns, size_w);
  }
  int64_t count() const { return down * across; }
  PositionRange h(int64_t tile, const Image& output) const { return cut(tile / across, size_h, output.h); }
  PositionRange w(int64_t tile, const Image& output) const { return cut(tile % across, size_w, output.w); }

 private:
  static PositionRange cut(int64_t i, int64_t size, int64_t extent) {
    return {std::min(i * size, extent), std::min((i + 1) * size, extent)};
  }
};

// The weights' taps that the windows pick, packed: bytes, and making them.
int64_t packed_bytes(const DirectKernels& kernels, const std::vector<GroupCorrelation>& all) {
  int64_t taps = 0;
  for (const GroupCorrelation& c : all) taps += c.taps();
  return taps * round_up(all[0].weight.n, kernels.width) * all[0].image.c * static_cast<int64_t>(sizeof(float));
}
void pack_weights(const DirectKernels& kernels, std::vector<GroupCorrelation>& all, float* to) {
  const int64_t panels = ceil_div(all[0].weight.n, kernels.width), tap_size = all[0].image.c * kernels.width;
  for (GroupCorrelation& c : all) {
    c.packed = to;
    const int64_t tasks = panels * c.taps();
    for_each_task(tasks, workers_for(tasks), [&](int64_t task, int64_t) {
      const int64_t tap = task % c.taps(), panel = task / c.taps();
      kernels.pack_tap(c.weight, panel * kernels.width, c.weight_h.origin + tap / c.w.taps * c.weight_h.tap_step,
                       c.weight_w.origin + tap % c.w.taps * c.weight_w.tap_step, to + task * tap_size);
    });
    to += tasks * tap_size;
  }
}

// All correlations have the same image and filters of one number, and share tiles so that the image stays in cache.
void correlate(const DirectKernels& kernels, std::vector<GroupCorrelation> all, DType dtype) {
  if (all.empty() || all[0].output.n == 0) return;
  const Image& output = all[0].output;
  const Workspace weights(packed_bytes(kernels, all));
  pack_weights(kernels, all, reinterpret_cast<float*>(weights.at(0)));
  const OutputTiling tiles(all, output.n);
  const bool rounded = kernels.per_word == 2, pixels_adjoin = output.c_stride == 1 || output.c == 1;
  const bool in_place = pixels_adjoin && (dtype == DType::float32 || rounded);
  const int64_t count = static_cast<int64_t>(all.size());
  const bool by_pixels = in_place && count == 1 && weights_stay(kernels, all[0]);
  // Float results that outgrow the caches: an ordinary store would read their lines first, one missed line after the
  // other. 1 x 1 layers of 10 to 60 MB are 1.2 to 1.6 times as fast for it (Zen 5), of 7 to 8 MB 1.3 to 2.1 times (Zen
  // 4, one thread, medians of 3 runs, each the least of 25 calls, 2026-11-30).
  constexpr int64_t kVector = 64;
  const bool streams = in_place && !rounded && output.n * output.n_stride * output.element_size >= kStreamedBytes &&
                       output.w_stride * output.element_size % kVector == 0;
  const int64_t panels = ceil_div(output.c, kernels.width), pixel = panels * kernels.width;
  const int64_t tasks = output.n * tiles.count() * count;
  const int64_t workers = workers_for(tasks), size = static_cast<int64_t>(sizeof(float));
  const int64_t worker_bytes = in_place ? 0 : round_up(tiles.size_h * tiles.size_w * pixel * size, 64);
  const Workspace memory(workers * worker_bytes);
  for_each_task(tasks, workers, [&](int64_t task, int64_t worker) {
    const GroupCorrelation& c = all[task % count];
    const int64_t tile = task / count % tiles.count(), n = task / count / tiles.count();
    const PositionRange h = tiles.h(tile, c.output), w = tiles.w(tile, c.output);
    if (h.size() <= 0 || w.size() <= 0) return;
    char* const scratch = memory.at(worker * worker_bytes);
    const Image& to = c.output;
    const int64_t first = n * to.n_stride + h.begin * to.h_stride + w.begin * to.w_stride, bytes = to.element_size;
    Result result = {scratch, w.size() * pixel * size, pixel * size, false, false};
    if (in_place) {
      result = {to.data + first * bytes, to.h_stride * bytes, to.w_stride * bytes, rounded, streams};
      result.stream &= reinterpret_cast<uintptr_t>(result.data) % kVector == 0;
    }
    if (by_pixels) return correlate_pixels(kernels, c, n, h, w, result);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t there = std::min(kernels.width, output.c - panel * kernels.width);
      correlate_tile(kernels, c, n, h, w, panel, in_place ? there : kernels.width, result);
      result.data += kernels.width * (in_place ? bytes : size);
    }
    if (!in_place)
      kernels_for_this_cpu<StagingKernels>().unstage(reinterpret_cast<float*>(scratch), pixel,
                                                     {h.begin, w.begin, h.size(), w.size()}, n, dtype, to);
  });
}

}  // namespace

bool can_compute(const Conv2dProblem& problem) {
  return problem.dtype != DType::float64;
}

void forward(const Conv2dProblem& problem, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
             Tensor& output) {
  const Conv2dShape& shape = problem.shape;
  if (planes_are_packed(problem, input)) return matrix_product::forward(problem, input, weight, bias, output);
  const Operands by(problem.dtype, channels_per_group(shape), shape.groups);
  const Tensor ordered = by.image(input), kernel = by.weight(weight);
  // Padding is left out below, but zero times infinity is NaN.
  if (!all_finite(kernel)) return matrix_product::forward(problem, input, weight, bias, output);
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape), width = by.kernels.width;
  const Windows h = forward_windows(shape.p, shape.pad_top, shape.stride_h, shape.r, shape.dilation_h);
  const Windows w = forward_windows(shape.q, shape.pad_left, shape.stride_w, shape.s, shape.dilation_w);
  std::vector<float> biases(round_up(k, width) * shape.groups);
  if (bias)
    for (int64_t g = 0; g < shape.groups; ++g) read_floats(*bias, g * k, k, biases.data() + g * round_up(k, width));
  std::vector<GroupCorrelation> all;
  for (int64_t g = 0; g < shape.groups; ++g)
    all.emplace_back(by.words(ordered, g, c), image_of(kernel).filters(g, k), mutable_image_of(output).channels(g, k),
                     h, w, biases.data() + g * round_up(k, width));
  correlate(by.kernels, std::move(all), problem.dtype);
}

void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight, Tensor& grad_input) {
  const Conv2dShape& shape = problem.shape;
  if (planes_are_packed(problem, grad_output))
    return matrix_product::grad_input(problem, grad_output, weight, grad_input);
  const Operands by(problem.dtype, filters_per_group(shape), shape.groups);
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape);
  const Tensor kernel = by.weight(weight);
  if (!all_finite(kernel)) return matrix_product::grad_input(problem, grad_output, weight, grad_input);
  if (is_folded(shape)) return fold_grad_input(by, shape, grad_output, kernel, grad_input);
  const Tensor ordered = by.image(grad_output);
  const std::vector<float> no_bias(round_up(c, by.kernels.width));
  std::vector<GroupCorrelation> all;
  for (int64_t g = 0; g < shape.groups; ++g)
    for_each_residue(shape.h, shape.pad_top, shape.stride_h, shape.r, shape.dilation_h, [&](const Windows& h) {
      for_each_residue(shape.w, shape.pad_left, shape.stride_w, shape.s, shape.dilation_w, [&](const Windows& w) {
        all.emplace_back(by.words(ordered, g, k), image_of(kernel).filters(g, k).swapped(),
                         mutable_image_of(grad_input).channels(g, c), h, w, no_bias.data());
      });
    });
  correlate(by.kernels, std::move(all), problem.dtype);
}

}  // namespace tmc::direct
