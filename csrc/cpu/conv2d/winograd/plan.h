// How Winograd's convolution is cut into blocks of the kernel, strips of tiles and panels of filters: what its drivers
// share.
#pragma once
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "cpu/conv2d/algorithms.h"
#include "cpu/conv2d/winograd/winograd.h"
#include "cpu/machine/tasks.h"

namespace tmc::winograd {

// Planes, of which 25 or 81 are written at once, begin at different lines of a page: else all of them would compete for
// the same set of the L1 cache.
inline constexpr int64_t kPlanePadding = 16;

inline constexpr int64_t kAllWhole = INT64_MAX / 2;

// The form of the algorithm that makes the fewest products of those that are accurate enough.
const WinogradKernels& kernels_for(Conv2dPass pass, const Conv2dProblem& problem);

// A kernel cut into blocks of taps, numbered row by row; the last ones may have fewer.
struct Blocks {
  int64_t taps_h, taps_w, taps, points;  // of the kernel; of a block along an axis, and the points of its transform

  Blocks(const Image& kernel, const WinogradKernels& kernels)
      : taps_h(kernel.h), taps_w(kernel.w), taps(kernels.taps), points(kernels.points()) {}
  int64_t tile() const { return points - taps + 1; }  // outputs
  int64_t rows() const { return ceil_div(taps_h, taps); }
  int64_t columns() const { return ceil_div(taps_w, taps); }
  int64_t count() const { return rows() * columns(); }
  int64_t row(int64_t block) const { return block / columns(); }
  int64_t column(int64_t block) const { return block % columns(); }
  // The first tap.
  int64_t tap_row(int64_t block) const { return row(block) * taps; }
  int64_t tap_column(int64_t block) const { return column(block) * taps; }
  // Whether this element of the block's transform is zero: at infinity, where the last tap is missing.
  bool skipped(int64_t block, int64_t element) const {
    return (element / points == points - 1 && taps_h - tap_row(block) < taps) ||
           (element % points == points - 1 && taps_w - tap_column(block) < taps);
  }
};

// As many tiles as cover the outputs of an axis. The blocks of a larger kernel read the same tiles, which are then
// equally far from each other.
inline AxisTiles cover(int64_t outputs, int64_t tile, bool single_block) {
  const int64_t count = ceil_div(outputs, tile);
  return {count, single_block ? std::max<int64_t>(0, outputs - count * (tile - 1)) : kAllWhole};
}

// AxisTiles [first_column, first_column + columns) of the tile rows [begin, end), which are counted through all images.
struct Strip {
  int64_t begin, end, first_column, columns;
};

// A strip's tiles, numbered such that those with a product at infinity adjoin: first those that are short across, then
// the whole ones, then those that are short down, then those that are short both ways.
struct Places {
  std::vector<int64_t> of_tiles;  // from left to right and down, image by image
  int64_t counts[4];

  struct PlaceRange {
    int64_t begin, end;
  };
  // Those that have a product of this element.
  PlaceRange range(int64_t element, int64_t points) const {
    const bool whole_down = element / points == points - 1, whole_across = element % points == points - 1;
    return {whole_across ? counts[0] : 0,
            counts[0] + counts[1] + (whole_down ? 0 : counts[2]) + (whole_down || whole_across ? 0 : counts[3])};
  }
};

// The tiles of a batch of output images, cut into strips of about `tiles` of them.
struct TileGrid {
  int64_t images;
  AxisTiles down, across;  // of an image
  int64_t rows, columns;   // their counts
  int64_t strip_rows, strip_columns, strips_down, strips_across;

  TileGrid(const Image& output, const Blocks& blocks, int64_t tiles)
      : images(output.n),
        down(cover(output.h, blocks.tile(), blocks.rows() == 1)),
        across(cover(output.w, blocks.tile(), blocks.columns() == 1)),
        rows(down.count),
        columns(across.count) {
    strips_across = ceil_div(columns, tiles);
    strip_columns = ceil_div(columns, strips_across);
    strips_down = ceil_div(images * rows * strip_columns, tiles);
    strip_rows = ceil_div(images * rows, std::max<int64_t>(1, strips_down));
  }
  int64_t strips() const { return strips_down * strips_across; }
  int64_t strip_images() const { return ceil_div(strip_rows - 1, rows) + 1; }  // at most
  Strip strip(int64_t i) const {
    const int64_t down = i / strips_across, across = i % strips_across, total = images * rows;
    const int64_t begin = down * total / strips_down, end = (down + 1) * total / strips_down;
    const int64_t left = across * columns / strips_across, right = (across + 1) * columns / strips_across;
    return {begin, end, left, right - left};
  }
  // `count` tile rows from `begin` on, and a strip's columns with `more` to the right of them.
  AxisTiles rows_from(int64_t begin, int64_t count) const { return {count, std::max<int64_t>(0, down.whole - begin)}; }
  AxisTiles columns_of(const Strip& strip, int64_t more = 0) const {
    return {strip.columns + more, std::max<int64_t>(0, across.whole - strip.first_column)};
  }
  // Calls body(n, begin, end) for the strip's tile rows [begin, end) of each image n.
  template <class Body>
  void for_each_image(const Strip& strip, const Body& body) const {
    for (int64_t row = strip.begin; row < strip.end;) {
      const int64_t begin = row % rows, end = std::min(rows, begin + strip.end - row);
      body(row / rows, begin, end);
      row += end - begin;
    }
  }
  Places places(const Strip& strip) const;
};

// The pixels that a strip reads, as far as the rows of the image adjoin in memory: what is prefetched while the
// strip before it is multiplied.
struct PrefetchedPixels {
  const float *begin = nullptr, *end = nullptr;

  PrefetchedPixels(const PhasedImage& source, const TileGrid& grid, int64_t strip, int64_t tile) {
    const Image& image = source.image;
    if (strip >= grid.strips() || image.c_stride != 1 || image.w_stride != image.c) return;
    const Strip rows = grid.strip(strip);
    const int64_t n = rows.begin / grid.rows, step = tile * source.step_h;  // rows of the image for one of tiles
    const int64_t h = std::max<int64_t>(0, rows.begin % grid.rows * step - source.top);
    const int64_t row_bytes = image.h_stride * image.element_size;
    const char* const first = image.data + n * image.n_stride * image.element_size + h * row_bytes;
    begin = reinterpret_cast<const float*>(first);
    end = reinterpret_cast<const float*>(first + (rows.end - rows.begin) * step * row_bytes);
  }
  // The i-th piece of so many floats; after the last one `other`.
  const float* piece(int64_t i, int64_t floats, const float* other) const {
    return i * floats < end - begin ? begin + i * floats : other;
  }
};

// The transformed filters U: for each block and element, panels of `kernels.width` filters x all channels. Either all
// are made ahead, or each panel when it is needed: then U never leaves the cache.
class Filters {
 public:
  Filters(const WinogradKernels& kernels, const Image& weight, DType dtype, bool ahead, bool last_taps_in_all);
  bool is_transformed() const { return memory_.has_value(); }
  const float* at(int64_t block, int64_t element, int64_t panel) const {
    return start(block, panel) + element * plane_;
  }
  int64_t plane() const { return plane_; }  // from one element to the next
  // Channels [c, c + depth) of a panel; element e goes to `to` + e * plane.
  void transform(int64_t block, int64_t panel, int64_t c, int64_t depth, float* to, int64_t plane) const;

  const WinogradKernels& kernels;
  int64_t channels, count;
  Blocks blocks;
  int64_t panels;
  bool last_taps_in_all;  // or, in phases of a strided kernel, only in some channels

 private:
  float* start(int64_t block, int64_t panel) const {
    return reinterpret_cast<float*>(memory_->at(0)) + block * kernels.elements() * plane_ +
           panel * channels * kernels.width;
  }
  Image weight_;
  DType dtype_;
  int64_t plane_;
  std::optional<Workspace> memory_;
};

// winograd::prepare for a weight whose last taps are zero in some channels, as those of a strided kernel's phases are.
std::shared_ptr<const void> prepare_phases(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight);

// What winograd::prepare makes: the filters of each group.
inline const std::deque<Filters>& filters_of(const std::shared_ptr<const void>& made) {
  return *static_cast<const std::deque<Filters>*>(made.get());
}

// Tiles of a strip: best of 56, 84, 112 on a Zen 5 core over six layers of AlexNet and ResNet, by 1 to 5 %. On eleven
// points a tile has half as many values again, and AlexNet's second layer takes 0.84 to 0.9 of the time so.
inline int64_t strip_tiles(const WinogradKernels& kernels) {
  return kernels.points() == 11 ? 64 : 112;
}

// The fewest that are worth a strip where threads need more of them.
inline constexpr int64_t kLeastStripTiles = 28;

// Up to so many tiles the transform of the filters takes about as long as their products, and is made on the way. On
// nine points and more a filter has three times as many values: there 128 tiles, AlexNet's conv3 to conv5 at batch 32,
// are 5 to 15 % faster so.
inline int64_t few_tiles(const WinogradKernels& kernels) {
  return kernels.points() > 5 ? 160 : 112;
}

// What one strip needs at most, in floats.
struct StripMemory {
  int64_t v_plane, m_plane, v, m, input_pixels, output_pixels, largest;
  // `input_channels` are transformed at once, results of `part` filters back.
  StripMemory(const TileGrid& grid, const Filters& filters, int64_t channels, int64_t input_channels, int64_t part);
  int64_t bytes() const {
    return (v + m + input_pixels + output_pixels + largest) * static_cast<int64_t>(sizeof(float));
  }
};

// Of each image, the box of outputs that have to be computed again, or an empty one.
using Boxes = std::vector<Region>;
inline Region joined(const Region& a, const Region& b) {
  if (a.rows == 0 || b.rows == 0) return a.rows == 0 ? b : a;
  const int64_t h0 = std::min(a.h0, b.h0), w0 = std::min(a.w0, b.w0);
  return {h0, w0, std::max(a.h0 + a.rows, b.h0 + b.rows) - h0, std::max(a.w0 + a.columns, b.w0 + b.columns) - w0};
}

// Which results are not those of eq. 1, within rounding: found out by all threads, in any order.
struct Spoiled {
  struct Output {
    int64_t n, h, w;
  };
  Boxes boxes;
  std::vector<Output> blind;  // their windows hold nothing but zeros: they are the bias

  explicit Spoiled(int64_t images) : boxes(images) {}
  void add(int64_t n, const Region& box) {
    const std::lock_guard<std::mutex> lock(mutex_);
    boxes[n] = joined(boxes[n], box);
  }
  void add(const std::vector<Output>& outputs) {
    const std::lock_guard<std::mutex> lock(mutex_);
    blind.insert(blind.end(), outputs.begin(), outputs.end());
  }

 private:
  std::mutex mutex_;
};

// One correlation, cut into strips of output tiles.
struct TiledCorrelation {
  const Filters& filters;
  const PhasedImage& source;
  const float* bias;  // as many as the panels hold filters
  DType dtype;
  Image output;
  Spoiled& spoiled;

  int64_t tiles() const {
    return output.n * ceil_div(output.h, filters.kernels.tile) * ceil_div(output.w, filters.kernels.tile);
  }
  int64_t channels() const { return round_up(filters.channels, filters.kernels.lanes); }
  // What the tile rows [begin, end) of a strip read of one image.
  Region input_region(const TileGrid& grid, const Strip& strip, int64_t begin, int64_t end) const;
  // B^T x B of channels [c, c + count) of the tiles that a strip reads, and the largest magnitude in these channels of
  // each pixel of each input_region.
  void transform_input(const TileGrid& grid, const Strip& strip, int64_t c, int64_t count, float* pixels, Planes v,
                       float* largest) const;
  // Tells `spoiled` of the strip's tiles whose pixels differ too much in magnitude (cpu/conv2d/winograd/locality.cpp).
  // `largest`, of all channels, is overwritten.
  void find_uneven_tiles(const TileGrid& grid, const Strip& strip, float* largest) const;
  // Where in a plane of V the strip's tiles are, in the order of their places, if a tile takes `tile_row` floats.
  std::vector<int64_t> tile_rows(const TileGrid& grid, const Strip& strip, const Places& places,
                                 int64_t tile_row) const;
  // A^T m A of the strip's tiles, for filters [k, k + count).
  void transform_output(const TileGrid& grid, const Strip& strip, const Places& places, int64_t k, int64_t count,
                        Planes m, float* pixels) const;
};
void correlate_by_strips(const TiledCorrelation& correlation);  // filters transformed ahead
void correlate_by_panels(const TiledCorrelation& correlation);

// eq. 1 and eq. 5 as a matrix product, in these boxes alone. grad_input: for a stride and a dilation of 1.
void forward_in(const Boxes& boxes, const Conv2dProblem& problem, const Tensor& input, const Tensor& weight,
                const std::optional<Tensor>& bias, Tensor& output);
void grad_input_in(const Boxes& boxes, const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& weight,
                   Tensor& grad_input);

// output = source correlated with the filters, + bias (as many floats as the panels hold filters), but for the boxes
// that it returns: uneven tiles, and images whose result is not finite everywhere.
Boxes correlate(const Filters& filters, const PhasedImage& source, const float* bias, DType dtype, const Image& output);

// grad_weight of one group; whether it is finite.
bool correlate_for_weight(const WinogradKernels& kernels, const Image& grad_output, const PhasedImage& source,
                          DType dtype, const Image& grad_weight);

// `count` values of a dense bias as float32, zeros where there is none, then zeros up to whole panels.
std::vector<float> padded_bias(const std::optional<Tensor>& bias, DType dtype, int64_t begin, int64_t count,
                               const Filters& filters);

}  // namespace tmc::winograd
