// Outputs that Winograd's algorithm would spoil: found from the input alone, and computed again as a matrix product.
//
// The transforms mix the pixels of a tile. Each output of a tile is rounded as if its window held the largest pixel of
// the whole tile (eq. 28); a direct sum is rounded as the window's own pixels are. So one large pixel would spoil
// results that do not see it, and zeros beside it would give results other than zero. A tile is uneven if the largest
// pixels of its windows differ by more than kMostUneven. The bits of a sample depend neither on its batch nor on the
// order of its tiles.
//
// In: the largest magnitude of each pixel that a strip has staged. Out: for each image the box of its uneven tiles,
// mostly empty, and the outputs whose windows hold only zeros. Bound: finding those magnitudes, one read of what is
// staged in L2; the rest has one value a pixel.
#include "cpu/conv2d/winograd/plan.h"

namespace tmc::winograd {
namespace {

// An output's error grows by this factor at most. Measured beside a direct sum's in float32 (3 x 3 taps, 64 channels):
// 1.8 times as large at 8, 2.7 at 16, 28 at 128. The maps of a trained detector (YOLOv8n, eight photographs) had such
// tiles in 1.8 % of its layers at 8, and in none at 16. Gradients of small maps reach 8 in one image of fifty, and
// computing these alone took a tenth of their layers' time.
constexpr float kMostUneven = 16;

// values[i] becomes the largest of values[i], values[i + step], ... : as many as there are taps.
void largest_of_windows(float* values, int64_t count, int64_t step, int64_t taps) {
  for (int64_t known = 1; known < taps;) {
    const int64_t more = std::min(known, taps - known);
    known += more;
    for (int64_t i = 0; i < count + (taps - known) * step; ++i)
      values[i] = std::max(values[i], values[i + more * step]);
  }
}

// What `count` outputs from `first` on read along one axis of the input.
struct Reads {
  int64_t first, count, pad;

  Reads(int64_t output, int64_t outputs, int64_t stride, int64_t pad_before, int64_t reach, int64_t extent) {
    const int64_t low = output * stride - pad_before, high = low + (outputs - 1) * stride + reach + 1;
    first = std::clamp<int64_t>(low, 0, extent - 1);  // one at least, also of outputs that see only padding
    count = std::max<int64_t>(1, std::min(high, extent) - first), pad = first - low;
  }
};

Tensor part_of(const Tensor& tensor, int64_t n, int64_t h, int64_t rows, int64_t w, int64_t columns) {
  Tensor part = tensor;
  part = torch::stable::narrow(part, 0, n, 1);
  part = torch::stable::narrow(part, 2, h, rows);
  return torch::stable::narrow(part, 3, w, columns);
}

// Calls compute(n, box, dense result) for each box that is not empty.
template <class Compute>
void compute_boxes(const Boxes& boxes, Tensor& result, const Compute& compute) {
  for (int64_t n = 0; n < static_cast<int64_t>(boxes.size()); ++n) {
    const Region& box = boxes[n];
    if (box.rows == 0) continue;
    Tensor part = empty_nchw(result, 1, result.size(1), box.rows, box.columns, is_channels_last(result));
    compute(n, box, part);
    Tensor to = part_of(result, n, box.h0, box.rows, box.w0, box.columns);
    copy(part, to);
  }
}

// How many pixels a tile reads beside its windows, at most, along an axis. All points but infinity read as many as the
// last block would have taps. Its windows have fewer; a tile that is an output short has one less again (eq. 28).
int64_t pixels_beside(int64_t taps, int64_t block) {
  const int64_t rest = taps % block;
  return rest == 0 ? 0 : block - 1 - rest + (taps < block);
}

}  // namespace

// A tile is judged by the windows beside it too where it reads their pixels. Where the last taps are in some channels
// only, an output's own window may be one tap smaller, on either side: then by all such smaller windows, but for those
// in the padding, which every image has.
void TiledCorrelation::find_uneven_tiles(const TileGrid& grid, const Strip& strip, float* largest) const {
  const int64_t tile = filters.kernels.tile, optional = filters.last_taps_in_all ? 0 : 1;
  const int64_t taps_h = std::max<int64_t>(1, filters.blocks.taps_h - optional);
  const int64_t taps_w = std::max<int64_t>(1, filters.blocks.taps_w - optional);
  const int64_t more_h = optional + pixels_beside(filters.blocks.taps_h, filters.kernels.taps);
  const int64_t more_w = optional + pixels_beside(filters.blocks.taps_w, filters.kernels.taps);
  std::vector<Spoiled::Output> blind;
  grid.for_each_image(strip, [&](int64_t n, int64_t begin, int64_t end) {
    const Region region = input_region(grid, strip, begin, end);
    const int64_t rows = std::min(grid.down.begin(end, tile), output.h) + more_h - region.h0;
    float* const windows = largest;
    largest += region.rows * region.columns;
    largest_of_windows(windows, region.rows * region.columns - taps_w + 1, 1, taps_w);
    largest_of_windows(windows, rows * region.columns - taps_w + 1, region.columns, taps_h);
    const auto window = [&](int64_t h, int64_t w) { return windows[(h - region.h0) * region.columns + w - region.w0]; };
    const auto touches_image = [&](int64_t h, int64_t w) {
      const int64_t top = h * source.step_h - source.top, left = w * source.step_w - source.left;
      return top + taps_h * source.step_h > 0 && top < source.image.h && left + taps_w * source.step_w > 0 &&
             left < source.image.w;
    };
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = strip.first_column; j < strip.first_column + strip.columns; ++j) {
        const int64_t h0 = grid.down.begin(i, tile), h1 = std::min(grid.down.begin(i + 1, tile), output.h);
        const int64_t w0 = grid.across.begin(j, tile), w1 = std::min(grid.across.begin(j + 1, tile), output.w);
        float most = 0, least = INFINITY;  // of the windows that hold something
        bool zeros = false;
        for (int64_t h = h0; h < h1 + more_h; ++h)
          for (int64_t w = w0; w < w1 + more_w; ++w) {
            const float own = window(h, w);
            most = std::max(most, own), zeros |= own == 0 && (optional == 0 || touches_image(h, w));
            if (own > 0) least = std::min(least, own);
          }
        if (most == 0) continue;
        if (most > kMostUneven * least || (zeros && optional > 0)) {
          spoiled.add(n, {h0, w0, h1 - h0, w1 - w0});
        } else if (zeros) {
          for (int64_t h = h0; h < h1; ++h)
            for (int64_t w = w0; w < w1; ++w)
              if (window(h, w) == 0) blind.push_back({n, h, w});
        }
      }
  });
  if (!blind.empty()) spoiled.add(blind);
}

void forward_in(const Boxes& boxes, const Conv2dProblem& problem, const Tensor& input, const Tensor& weight,
                const std::optional<Tensor>& bias, Tensor& output) {
  compute_boxes(boxes, output, [&](int64_t n, const Region& box, Tensor& part) {
    Conv2dProblem one = problem;
    Conv2dShape& shape = one.shape;
    const Reads rows(box.h0, box.rows, shape.stride_h, shape.pad_top, (shape.r - 1) * shape.dilation_h, shape.h);
    const Reads columns(box.w0, box.columns, shape.stride_w, shape.pad_left, (shape.s - 1) * shape.dilation_w, shape.w);
    shape.n = 1, shape.h = rows.count, shape.w = columns.count, shape.p = box.rows, shape.q = box.columns;
    shape.pad_top = rows.pad, shape.pad_left = columns.pad;
    const Tensor source = part_of(input, n, rows.first, rows.count, columns.first, columns.count);
    matrix_product::forward(one, source, weight, bias, part);
  });
}

// Row h of grad_input is reached by the outputs from h + pad - (r - 1) to h + pad: what a correlation with a padding of
// r - 1 - pad reads for output h.
void grad_input_in(const Boxes& boxes, const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight,
                   Tensor& grad_input) {
  compute_boxes(boxes, grad_input, [&](int64_t n, const Region& box, Tensor& part) {
    Conv2dProblem one = problem;
    Conv2dShape& shape = one.shape;
    const Reads rows(box.h0, box.rows, 1, shape.r - 1 - shape.pad_top, shape.r - 1, shape.p);
    const Reads columns(box.w0, box.columns, 1, shape.s - 1 - shape.pad_left, shape.s - 1, shape.q);
    shape.pad_top += box.h0 - rows.first, shape.pad_left += box.w0 - columns.first;
    shape.n = 1, shape.h = box.rows, shape.w = box.columns, shape.p = rows.count, shape.q = columns.count;
    const Tensor source = part_of(grad_output, n, rows.first, rows.count, columns.first, columns.count);
    matrix_product::grad_input(one, source, weight, part);
  });
}

}  // namespace tmc::winograd
