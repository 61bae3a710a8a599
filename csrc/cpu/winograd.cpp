// Forward and grad_input by Winograd's algorithm (winograd.h): both are one correlation of stride 1.
//
// A task takes a strip of output tiles: it transforms the input tiles the strip reads, multiplies them with all
// transformed filters, and transforms the results back, in parts of kFilterPart filters. What it holds, in floats:
//
//   V   25 x tiles x C              2.1 MB for C = 192: written once, read once for each part, from L3
//   M   25 x tiles x kFilterPart    2.1 MB: written once, read once
//   U   25 x C x K                  7.4 MB for K = 384, common to all tasks: read from L3 once for each strip
//
// A panel of U is loaded once for the 16 strips of the micro-kernel that a strip of 112 tiles makes: 4.4 bytes a
// nanosecond, and the next panel is fetched while the present one is multiplied.
#include <atomic>
#include <memory>
#include <vector>

#include "winograd_plan.h"

namespace tmc::winograd {

// Best of 56, 84, 112 tiles x 64, 128, 192 filters on a Zen 5 core over six layers of AlexNet and ResNet, by 1 to 5 %.
// Where images of a few large tiles leave threads without work the strips are shorter.
constexpr int64_t kStripTiles = 112, kLeastStripTiles = 28, kFilterPart = 192;

Filters::Filters(const WinogradKernels& kernels_, const Image& weight, DType dtype)
    : kernels(kernels_),
      channels(weight.c),
      count(weight.n),
      blocks(weight, kernels_),
      panels(ceil_div(weight.n, kernels.width)),
      plane_(panels * weight.c * kernels.width + kPlanePadding),
      memory_(blocks.count() * kernels.elements() * plane_ * static_cast<int64_t>(sizeof(float))) {
  constexpr int64_t kChannelsPerTask = 32;
  const int64_t parts = ceil_div(channels, kChannelsPerTask), tasks = blocks.count() * panels * parts;
  for_each_task(tasks, workers_for(tasks), [&](int64_t task, int64_t) {
    const int64_t c = task % parts * kChannelsPerTask, panel = task / parts % panels, block = task / parts / panels;
    Image part = weight;
    part.data += c * weight.c_stride * weight.element_size;
    part.c = std::min(kChannelsPerTask, channels - c);
    kernels.transform_filters(part, dtype, panel * kernels.width, blocks.tap_row(block), blocks.tap_column(block),
                              at(block, 0, panel) + c * kernels.width, plane_);
  });
}

namespace {

// Tiles of a strip such that every thread has equally many strips.
int64_t strip_tiles(int64_t tiles) {
  const int64_t strips = round_up(std::max<int64_t>(1, ceil_div(tiles, kStripTiles)), workers_for(INT64_MAX));
  return std::max(kLeastStripTiles, ceil_div(tiles, strips));
}

// What one worker needs for the largest strip, in floats.
struct StripMemory {
  int64_t v_plane, m_plane, v, m, input_pixels, output_pixels;
  StripMemory(const TileGrid& grid, const Filters& filters, int64_t channels, int64_t part) {
    const int64_t tiles = grid.strip_rows * grid.strip_columns, images = grid.strip_images();
    const int64_t input_rows = std::min(grid.strip_rows, grid.rows) + filters.blocks.rows() - 1;
    const int64_t input_columns = grid.strip_columns + filters.blocks.columns() - 1;
    const int64_t v_rows = grid.strip_rows + images * (filters.blocks.rows() - 1);
    v_plane = v_rows * input_columns * channels + kPlanePadding;
    m_plane = tiles * part + kPlanePadding;
    v = filters.kernels.elements() * v_plane, m = filters.kernels.elements() * m_plane;
    const int64_t tile = filters.kernels.tile, halo = filters.kernels.taps - 1;
    input_pixels = (input_rows * tile + halo) * (input_columns * tile + halo) * channels;
    output_pixels = std::min(grid.strip_rows, grid.rows) * tile * grid.strip_columns * tile * part;
  }
  int64_t bytes() const { return (v + m + input_pixels + output_pixels) * static_cast<int64_t>(sizeof(float)); }
};

}  // namespace

std::vector<int64_t> correlate(const Filters& filters, const Image& image, Padding padding, const float* bias,
                               DType dtype, const Image& output) {
  const WinogradKernels& kernels = filters.kernels;
  const Blocks& blocks = filters.blocks;
  const int64_t tile = kernels.tile, halo = kernels.taps - 1;
  const TileGrid grid(output, tile, strip_tiles(output.n * ceil_div(output.h, tile) * ceil_div(output.w, tile)));
  const int64_t channels = round_up(filters.channels, kernels.width);
  const int64_t part_panels = std::min(kFilterPart / kernels.width, filters.panels);
  // Too few strips for the threads: several tasks share a strip, each with some of the panels.
  const int64_t shares = std::clamp<int64_t>(workers_for(INT64_MAX) / std::max<int64_t>(1, grid.strips()), 1,
                                             std::max<int64_t>(1, filters.panels));
  const int64_t tasks = grid.strips() * shares, workers = workers_for(tasks);
  const bool in_place = output.c_stride == 1 && dtype == DType::float32;
  const StripMemory sizes(grid, filters, channels, part_panels * kernels.width);
  const Workspace memory(workers * sizes.bytes());
  const std::unique_ptr<std::atomic<bool>[]> finite(new std::atomic<bool>[output.n]);
  for (int64_t n = 0; n < output.n; ++n) finite[n] = true;
  std::vector<int64_t> panel_rows(filters.channels);
  for (int64_t c = 0; c < filters.channels; ++c) panel_rows[c] = c * kernels.width;

  for_each_task(tasks, workers, [&](int64_t task, int64_t worker) {
    const Strip strip = grid.strip(task / shares);
    const int64_t share = task % shares, input_columns = strip.columns + blocks.columns() - 1;
    float* const v = reinterpret_cast<float*>(memory.at(worker * sizes.bytes()));
    float* const m = v + sizes.v;
    float* const input_pixels = m + sizes.m;
    float* const output_pixels = input_pixels + sizes.input_pixels;
    std::vector<int64_t> tile_rows;  // where in a plane of V the tiles of the strip are
    int64_t v_row = 0;
    grid.for_each_image(strip, [&](int64_t n, int64_t begin, int64_t end) {
      const int64_t rows = end - begin + blocks.rows() - 1;
      const Region region = {begin * tile - padding.top, strip.first_column * tile - padding.left, rows * tile + halo,
                             input_columns * tile + halo};
      kernels.stage(image, dtype, n, region, channels, input_pixels);
      kernels.transform_input(input_pixels, region.columns, channels, rows, input_columns,
                              {v + v_row * channels, sizes.v_plane, kernels.lanes, channels});
      for (int64_t i = 0; i < end - begin; ++i)
        for (int64_t j = 0; j < strip.columns; ++j) tile_rows.push_back((v_row + i * input_columns + j) * channels);
      v_row += rows * input_columns;
    });
    const int64_t tiles = static_cast<int64_t>(tile_rows.size());

    const int64_t last_of_share = (share + 1) * filters.panels / shares;
    for (int64_t first = share * filters.panels / shares; first < last_of_share; first += part_panels) {
      const int64_t last = std::min(last_of_share, first + part_panels);
      const int64_t part = (last - first) * kernels.width;
      for (int64_t element = 0; element < kernels.elements(); ++element)
        for (int64_t panel = first; panel < last; ++panel) {
          WinogradProduct product = {.rows = tiles,
                                     .depth = 0,
                                     .a_rows = tile_rows.data(),
                                     .a_step = 1,
                                     .b_rows = panel_rows.data(),
                                     .b_vector = kernels.lanes,
                                     .tile = m + element * sizes.m_plane + (panel - first) * kernels.width,
                                     .tile_row = part,
                                     .add = false};
          if (blocks.skipped(0, element)) kernels.multiply(product);  // in a kernel of two rows: zeros
          for (int64_t block = 0; block < blocks.count(); ++block) {
            if (blocks.skipped(block, element)) continue;
            product.depth = filters.channels;
            product.a =
                v + element * sizes.v_plane + (blocks.row(block) * input_columns + blocks.column(block)) * channels;
            product.b = filters.at(block, element, panel);
            product.next = product.b + filters.channels * kernels.width;
            kernels.multiply(product);
            product.add = true;
          }
        }
      Image filters_of_part = output;
      filters_of_part.data += first * kernels.width * output.c_stride * output.element_size;
      filters_of_part.c = std::min(part, filters.count - first * kernels.width);
      Planes tiles_of_image = {m, sizes.m_plane, kernels.lanes, part};
      grid.for_each_image(strip, [&](int64_t n, int64_t begin, int64_t end) {
        const Region region = {begin * tile, strip.first_column * tile, (end - begin) * tile, strip.columns * tile};
        Pixels pixels = {output_pixels, region.columns * part, part, region.rows, region.columns, part};
        if (in_place) {
          pixels = {reinterpret_cast<float*>(filters_of_part.data) + n * output.n_stride + region.h0 * output.h_stride +
                        region.w0 * output.w_stride,
                    output.h_stride,
                    output.w_stride,
                    std::min(region.rows, output.h - region.h0),
                    std::min(region.columns, output.w - region.w0),
                    filters_of_part.c};
        }
        if (!kernels.transform_output(tiles_of_image, bias + first * kernels.width, pixels)) finite[n] = false;
        if (!in_place) kernels.unstage(output_pixels, part, region, n, dtype, filters_of_part);
        tiles_of_image.data += (end - begin) * strip.columns * part;
      });
    }
  });
  std::vector<int64_t> not_finite;
  for (int64_t n = 0; n < output.n; ++n)
    if (!finite[n]) not_finite.push_back(n);
  return not_finite;
}

}  // namespace tmc::winograd
