// Forward and grad_input by Winograd's algorithm (cpu/conv2d/winograd/winograd.h): both are one correlation of
// stride 1. Here for so many tiles that every thread has strips of them.
//
// A task takes a strip of output tiles: it transforms the input tiles the strip reads, multiplies them with all
// transformed filters, and transforms the results back, in parts of kFilterPart filters. What it holds, in floats:
//
//   V   25 x tiles x C              2.1 MB for C = 192: written once, read once for each part, from L3
//   M   25 x tiles x kFilterPart    2.1 MB: written once, read once
//   U   25 x C x K                  7.4 MB for K = 384, common to all tasks: read from L3 once for each strip
//
// A panel of U is loaded once for the 16 strips of the micro-kernel that a strip of 112 tiles makes: 4.4 bytes a
// nanosecond, and the next panel is prefetched while the present one is multiplied. A small U (AlexNet's first layer:
// 48 channels, 64 filters, 0.3 MB) stays in L2; there the pixels are what comes from afar.
#include "cpu/conv2d/winograd/plan.h"

namespace tmc::winograd {
namespace {

// Best of 64, 128, 192 filters on a Zen 5 core over six layers of AlexNet and ResNet, by 1 to 5 %.
constexpr int64_t kFilterPart = 192;

// AxisTiles of a strip such that every thread has equally many strips.
int64_t even_strips(int64_t tiles, int64_t of_strip) {
  const int64_t strips = round_up(std::max<int64_t>(1, ceil_div(tiles, of_strip)), workers_for(INT64_MAX));
  return ceil_div(tiles, strips);
}

// Filters that stay in L2 need no prefetch. Then the pixels of the next strip are prefetched, a piece with every
// product: from memory, where waiting for them would be a tenth of the time of AlexNet's first layer (Zen 5).
constexpr int64_t kFiltersInCache = 512 << 10;  // half of L2

}  // namespace

void correlate_by_strips(const TiledCorrelation& correlation) {
  const auto& [filters, source, bias, dtype, output, spoiled] = correlation;
  const WinogradKernels& kernels = filters.kernels;
  const Blocks& blocks = filters.blocks;
  const TileGrid grid(output, blocks, even_strips(correlation.tiles(), strip_tiles(kernels)));
  const int64_t channels = correlation.channels(), workers = workers_for(grid.strips());
  const int64_t part_panels = std::min(kFilterPart / kernels.width, filters.panels);
  const StripMemory sizes(grid, filters, channels, channels, part_panels * kernels.width);
  const Workspace memory(workers * sizes.bytes());
  const int64_t size = static_cast<int64_t>(sizeof(float));
  const bool in_cache = blocks.count() * kernels.elements() * filters.plane() * size <= kFiltersInCache;
  std::vector<int64_t> panel_rows(filters.channels);
  for (int64_t c = 0; c < filters.channels; ++c) panel_rows[c] = c * kernels.width;

  for_each_task(grid.strips(), workers, [&](int64_t task, int64_t worker) {
    const Strip strip = grid.strip(task);
    const int64_t input_columns = strip.columns + blocks.columns() - 1;
    float* const v = reinterpret_cast<float*>(memory.at(worker * sizes.bytes()));
    float* const m = v + sizes.v;
    float* const pixels = m + sizes.m;
    float* const largest = pixels + sizes.input_pixels + sizes.output_pixels;
    correlation.transform_input(grid, strip, 0, channels, pixels, {v, sizes.v_plane, kernels.lanes, channels}, largest);
    correlation.find_uneven_tiles(grid, strip, largest);
    const Places places = grid.places(strip);
    const std::vector<int64_t> tile_rows = correlation.tile_rows(grid, strip, places, channels);
    const PrefetchedPixels prefetch(source, grid, task + 1, kernels.tile);
    int64_t piece = 0;

    for (int64_t first = 0; first < filters.panels; first += part_panels) {
      const int64_t last = std::min(filters.panels, first + part_panels), part = (last - first) * kernels.width;
      for (int64_t element = 0; element < kernels.elements(); ++element) {
        const auto [begin, end] = places.range(element, kernels.points());
        for (int64_t panel = first; panel < last; ++panel) {
          WinogradProduct product = {
              .rows = end - begin,
              .depth = 0,
              .a_rows = tile_rows.data() + begin,
              .a_step = 1,
              .b_rows = panel_rows.data(),
              .b_vector = kernels.lanes,
              .tile = m + element * sizes.m_plane + begin * part + (panel - first) * kernels.width,
              .tile_row = part,
              .add = false};
          if (blocks.skipped(0, element)) kernels.multiply(product);  // in a kernel of two rows: zeros
          for (int64_t block = 0; block < blocks.count(); ++block) {
            if (blocks.skipped(block, element)) continue;
            product.depth = filters.channels;
            product.a =
                v + element * sizes.v_plane + (blocks.row(block) * input_columns + blocks.column(block)) * channels;
            product.b = filters.at(block, element, panel);
            const int64_t panel_floats = filters.channels * kernels.width;
            product.next = in_cache ? prefetch.piece(piece++, panel_floats, product.b) : product.b + panel_floats;
            kernels.multiply(product);
            product.add = true;
          }
        }
      }
      correlation.transform_output(grid, strip, places, first * kernels.width, part,
                                   {m, sizes.m_plane, kernels.lanes, part}, pixels + sizes.input_pixels);
    }
  });
}

}  // namespace tmc::winograd
