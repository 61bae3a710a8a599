// Winograd's correlation of few tiles, those of one small image for example: the filters are most of the data then.
//
// First all threads share the transforms of the input, V, by channels. Then a task takes a panel of filters: it
// transforms them, kChannelGroup channels at a time, multiplies all tiles with them while they are in L2, and
// transforms the results back. What passes through the cache, in floats:
//
//   V   25 x tiles x C                     0.5 MB for an image of 13 x 13 pixels, C = 192: read once for each panel,
//                                          in the order of memory: a plane holds kChannelGroup channels of all tiles
//   U   25 x kChannelGroup x panel         205 KB: written and read once, where 7.4 MB for K = 384 would go to L3
//   M   25 x tiles x panel                 80 KB
//
// The sums are those of correlate_by_strips, bit for bit: the micro-kernel adds to memory after each kChannelGroup.
#include "cpu/conv2d/winograd/plan.h"

namespace tmc::winograd {

void correlate_by_panels(const TiledCorrelation& correlation) {
  const auto& [filters, source, bias, dtype, output, spoiled] = correlation;
  const WinogradKernels& kernels = filters.kernels;
  const Blocks& blocks = filters.blocks;
  const int64_t width = kernels.width, channels = correlation.channels(), threads = workers_for(INT64_MAX);
  // More threads than panels: several tasks share a panel, each with a strip of the tiles.
  const int64_t strips = ceil_div(threads, std::max<int64_t>(1, filters.panels));
  const TileGrid grid(output, blocks,
                      std::clamp(ceil_div(correlation.tiles(), strips), kLeastStripTiles, few_tiles(kernels)));
  const int64_t slices = ceil_div(channels, width), reads = grid.strips() * slices,
                tasks = grid.strips() * filters.panels;
  const int64_t workers = std::max(workers_for(reads), workers_for(tasks));
  const int64_t groups = ceil_div(channels, kChannelGroup), tile_row = std::min(channels, kChannelGroup);
  const StripMemory sizes(grid, filters, tile_row, width, width);  // sizes.v: of one group
  const int64_t u_plane = kChannelGroup * width + kPlanePadding, size = static_cast<int64_t>(sizeof(float));
  const int64_t worker_floats = sizes.m + sizes.input_pixels + sizes.output_pixels + kernels.elements() * u_plane;
  const Workspace memory((grid.strips() * groups * sizes.v + workers * worker_floats + reads * sizes.largest) * size);
  float* const all_v = reinterpret_cast<float*>(memory.at(0));
  float* const scratch = all_v + grid.strips() * groups * sizes.v;
  float* const largest = scratch + workers * worker_floats;  // of each slice of channels
  const auto v = [&](int64_t strip, int64_t c) { return all_v + (strip * groups + c / kChannelGroup) * sizes.v; };
  int64_t panel_rows[kChannelGroup];
  for (int64_t c = 0; c < kChannelGroup; ++c) panel_rows[c] = c * width;

  for_each_task(reads, workers_for(reads), [&](int64_t task, int64_t worker) {
    const int64_t strip = task / slices, c = task % slices * width;
    correlation.transform_input(
        grid, grid.strip(strip), c, std::min(width, channels - c), scratch + worker * worker_floats,
        {v(strip, c) + c % kChannelGroup, sizes.v_plane, kernels.lanes, tile_row}, largest + task * sizes.largest);
  });
  for_each_task(grid.strips(), workers_for(grid.strips()), [&](int64_t strip, int64_t) {
    float* const all = largest + strip * slices * sizes.largest;
    for (int64_t i = 0; i < sizes.largest; ++i)
      for (int64_t slice = 1; slice < slices; ++slice) all[i] = std::max(all[i], all[slice * sizes.largest + i]);
    correlation.find_uneven_tiles(grid, grid.strip(strip), all);
  });
  for_each_task(tasks, workers_for(tasks), [&](int64_t task, int64_t worker) {
    const int64_t panel = task / grid.strips();
    const Strip strip = grid.strip(task % grid.strips());
    const int64_t input_columns = strip.columns + blocks.columns() - 1;
    const Places places = grid.places(strip);
    const std::vector<int64_t> tile_rows = correlation.tile_rows(grid, strip, places, tile_row);
    float* const m = scratch + worker * worker_floats;
    float* const u = m + sizes.m;
    for (int64_t block = 0; block < blocks.count(); ++block)
      for (int64_t c = 0; c < filters.channels; c += kChannelGroup) {
        const int64_t depth = std::min(kChannelGroup, filters.channels - c);
        if (!filters.is_transformed()) filters.transform(block, panel, c, depth, u, u_plane);
        for (int64_t element = 0; element < kernels.elements(); ++element) {
          const bool first = block == 0 && c == 0, skipped = blocks.skipped(block, element);
          if (skipped && !first) continue;
          const auto [begin, end] = places.range(element, kernels.points());
          const float* const b =
              filters.is_transformed() ? filters.at(block, element, panel) + c * width : u + element * u_plane;
          kernels.multiply({.rows = end - begin,
                            .depth = skipped ? 0 : depth,  // in a kernel of two rows: zeros
                            .a = v(task % grid.strips(), c) + element * sizes.v_plane +
                                 (blocks.row(block) * input_columns + blocks.column(block)) * tile_row,
                            .a_rows = tile_rows.data() + begin,
                            .a_step = 1,
                            .b = b,
                            .b_rows = panel_rows,
                            .b_vector = kernels.lanes,
                            .next = b,
                            .tile = m + element * sizes.m_plane + begin * width,
                            .tile_row = width,
                            .add = !first});
        }
      }
    correlation.transform_output(grid, strip, places, panel * width, width, {m, sizes.m_plane, kernels.lanes, width},
                                 u + kernels.elements() * u_plane);
  });
}

}  // namespace tmc::winograd
