// Forward and grad_input by Winograd's algorithm (winograd.h): both are one correlation of stride 1.
//
// A task takes a strip of output tiles: it transforms the input tiles the strip reads, multiplies them with all
// transformed filters, and transforms the results back, in parts of kFilterPart filters. What a task holds:
//
//   V   25 x strip x C floats           written once, read once for each part
//   M   25 x strip x kFilterPart floats, read back while it is in L2
//   U   25 x C x K floats, common to all tasks: streamed from L3 once for each strip, 2 * kStripTiles operations a
//   float
#include <atomic>
#include <memory>
#include <vector>

#include "winograd_plan.h"

namespace tmc::winograd {

// Strips of 56 tiles: 8 strips of the micro-kernel for each load of a filter panel, 9 bytes of U a nanosecond at full
// speed.
constexpr int64_t kStripTiles = 56, kFilterPart = 128;

Filters::Filters(const Image& weight, DType dtype)
    : kernels(kernels_for_this_cpu()),
      channels(weight.c),
      count(weight.n),
      blocks{weight.h, weight.w},
      panels(ceil_div(weight.n, kernels.width)),
      plane_(panels * weight.c * kernels.width + kPlanePadding),
      memory_(blocks.count() * kElements * plane_ * static_cast<int64_t>(sizeof(float))) {
  constexpr int64_t kChannelsPerTask = 32;
  const int64_t parts = ceil_div(channels, kChannelsPerTask), tasks = blocks.count() * panels * parts;
  for_each_task(tasks, workers_for(tasks), [&](int64_t task, int64_t) {
    const int64_t c = task % parts * kChannelsPerTask, panel = task / parts % panels, block = task / parts / panels;
    Image part = weight;
    part.data += c * weight.c_stride * weight.element_size;
    part.c = std::min(kChannelsPerTask, channels - c);
    kernels.transform_filters(part, dtype, panel * kernels.width, blocks.row(block) * kTile,
                              blocks.column(block) * kTile, at(block, 0, panel) + c * kernels.width, plane_);
  });
}

namespace {

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
    v = kElements * v_plane, m = kElements * m_plane;
    input_pixels = (input_rows * kTile + 2) * (input_columns * kTile + 2) * channels;
    output_pixels = std::min(grid.strip_rows, grid.rows) * kTile * grid.strip_columns * kTile * part;
  }
  int64_t bytes() const { return (v + m + input_pixels + output_pixels) * static_cast<int64_t>(sizeof(float)); }
};

}  // namespace

std::vector<int64_t> correlate(const Filters& filters, const Image& image, Padding padding, const float* bias,
                               DType dtype, const Image& output) {
  const WinogradKernels& kernels = filters.kernels;
  const Blocks& blocks = filters.blocks;
  const TileGrid grid(output.n, output.h, output.w, kStripTiles);
  const int64_t channels = round_up(filters.channels, kernels.width);
  const int64_t part_panels = std::min(kFilterPart / kernels.width, filters.panels);
  // Too few strips for the threads: several tasks share a strip, each with some of the filters.
  const int64_t parts = ceil_div(filters.panels, std::max<int64_t>(1, part_panels));
  const int64_t shares = std::clamp<int64_t>(workers_for(INT64_MAX) / std::max<int64_t>(1, grid.strips()), 1, parts);
  const int64_t tasks = grid.strips() * shares, workers = workers_for(tasks);
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
      const Region region = {begin * kTile - padding.top, strip.first_column * kTile - padding.left, rows * kTile + 2,
                             input_columns * kTile + 2};
      kernels.stage(image, dtype, n, region, channels, input_pixels);
      kernels.transform_input(input_pixels, region.columns, channels, rows, input_columns,
                              {v + v_row * channels, sizes.v_plane, channels});
      for (int64_t i = 0; i < end - begin; ++i)
        for (int64_t j = 0; j < strip.columns; ++j) tile_rows.push_back((v_row + i * input_columns + j) * channels);
      v_row += rows * input_columns;
    });
    const int64_t tiles = static_cast<int64_t>(tile_rows.size());

    for (int64_t p = share * parts / shares; p < (share + 1) * parts / shares; ++p) {
      const int64_t first = p * part_panels, last = std::min(filters.panels, first + part_panels);
      const int64_t part = (last - first) * kernels.width;
      for (int64_t element = 0; element < kElements; ++element)
        for (int64_t panel = first; panel < last; ++panel) {
          WinogradProduct product = {.rows = tiles,
                                     .depth = 0,
                                     .a_rows = tile_rows.data(),
                                     .a_step = 1,
                                     .b_rows = panel_rows.data(),
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
            kernels.multiply(product);
            product.add = true;
          }
        }
      Image filters_of_part = output;
      filters_of_part.data += first * kernels.width * output.c_stride * output.element_size;
      filters_of_part.c = std::min(part, filters.count - first * kernels.width);
      const float* tiles_of_image = m;
      grid.for_each_image(strip, [&](int64_t n, int64_t begin, int64_t end) {
        Planes planes = {const_cast<float*>(tiles_of_image), sizes.m_plane, part};
        if (!kernels.transform_output(planes, part, bias + first * kernels.width, end - begin, strip.columns,
                                      output_pixels))
          finite[n] = false;
        const Region region = {begin * kTile, strip.first_column * kTile, (end - begin) * kTile, strip.columns * kTile};
        kernels.unstage(output_pixels, part, region, n, dtype, filters_of_part);
        tiles_of_image += (end - begin) * strip.columns * part;
      });
    }
  });
  std::vector<int64_t> not_finite;
  for (int64_t n = 0; n < output.n; ++n)
    if (!finite[n]) not_finite.push_back(n);
  return not_finite;
}

}  // namespace tmc::winograd
