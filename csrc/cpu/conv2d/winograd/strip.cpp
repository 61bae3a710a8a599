// What both orders of a correlation share (cpu/conv2d/winograd/by_strips.cpp, cpu/conv2d/winograd/by_panels.cpp):
// transformed filters, and the transforms of a strip.
#include "cpu/conv2d/winograd/plan.h"

namespace tmc::winograd {

Filters::Filters(const WinogradKernels& kernels_, const Image& weight, DType dtype, bool ahead, bool last_taps_in_all_)
    : kernels(kernels_),
      channels(weight.c),
      count(weight.n),
      blocks(weight, kernels_),
      panels(ceil_div(weight.n, kernels.width)),
      last_taps_in_all(last_taps_in_all_),
      weight_(weight),
      dtype_(dtype),
      plane_(panels * weight.c * kernels.width + kPlanePadding) {
  if (!ahead) return;
  memory_.emplace(blocks.count() * kernels.elements() * plane_ * static_cast<int64_t>(sizeof(float)));
  constexpr int64_t kChannelsPerTask = 32;
  const int64_t parts = ceil_div(channels, kChannelsPerTask), tasks = blocks.count() * panels * parts;
  for_each_task(tasks, workers_for(tasks), [&](int64_t task, int64_t) {
    const int64_t c = task % parts * kChannelsPerTask, panel = task / parts % panels, block = task / parts / panels;
    transform(block, panel, c, std::min(kChannelsPerTask, channels - c), start(block, panel) + c * kernels.width,
              plane_);
  });
}

void Filters::transform(int64_t block, int64_t panel, int64_t c, int64_t depth, float* to, int64_t plane) const {
  kernels.transform_filters(weight_.channels_from(c, depth), dtype_, panel * kernels.width, blocks.tap_row(block),
                            blocks.tap_column(block), to, plane);
}

StripMemory::StripMemory(const TileGrid& grid, const Filters& filters, int64_t channels, int64_t input_channels,
                         int64_t part) {
  const int64_t rows = std::min(grid.strip_rows, grid.rows);  // of one image
  const int64_t input_rows = rows + filters.blocks.rows() - 1;
  const int64_t input_columns = grid.strip_columns + filters.blocks.columns() - 1;
  const int64_t v_rows = grid.strip_rows + grid.strip_images() * (filters.blocks.rows() - 1);
  v_plane = v_rows * input_columns * channels + kPlanePadding;
  m_plane = grid.strip_rows * grid.strip_columns * part + kPlanePadding;
  v = filters.kernels.elements() * v_plane, m = filters.kernels.elements() * m_plane;
  const int64_t tile = filters.kernels.tile, halo = filters.kernels.taps - 1;
  input_pixels = (input_rows * tile + halo) * (input_columns * tile + halo) * input_channels;
  output_pixels = rows * tile * grid.strip_columns * tile * part;
  largest = (v_rows * tile + grid.strip_images() * halo) * (input_columns * tile + halo);
}

Places TileGrid::places(const Strip& strip) const {
  Places places = {};
  std::vector<int> groups;
  for_each_image(strip, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = strip.first_column; j < strip.first_column + strip.columns; ++j) {
        const bool short_down = i >= down.whole, short_across = j >= across.whole;
        groups.push_back(short_down ? 2 + short_across : !short_across);
        ++places.counts[groups.back()];
      }
  });
  int64_t next[4] = {};
  for (int group = 1; group < 4; ++group) next[group] = next[group - 1] + places.counts[group - 1];
  for (const int group : groups) places.of_tiles.push_back(next[group]++);
  return places;
}

// So many pixels are staged, compared and transformed before the next: what fits in L2 beside their transforms.
constexpr int64_t kStagedBytes = 256 << 10;

Region TiledCorrelation::input_region(const TileGrid& grid, const Strip& strip, int64_t begin, int64_t end) const {
  const int64_t tile = filters.kernels.tile, points = filters.kernels.points();
  const AxisTiles down = grid.rows_from(begin, end - begin + filters.blocks.rows() - 1);
  const AxisTiles across = grid.columns_of(strip, filters.blocks.columns() - 1);
  return {grid.down.begin(begin, tile), grid.across.begin(strip.first_column, tile),
          down.begin(down.count - 1, tile) + points, across.begin(across.count - 1, tile) + points};
}

void TiledCorrelation::transform_input(const TileGrid& grid, const Strip& strip, int64_t c, int64_t count,
                                       float* pixels, Planes v, float* largest) const {
  const WinogradKernels& kernels = filters.kernels;
  const StagingKernels& staging = kernels_for_this_cpu<StagingKernels>();
  const AxisTiles across = grid.columns_of(strip, filters.blocks.columns() - 1);
  grid.for_each_image(strip, [&](int64_t n, int64_t begin, int64_t end) {
    const int64_t tile_rows = end - begin + filters.blocks.rows() - 1;
    const Region region = input_region(grid, strip, begin, end);
    const int64_t row = region.columns * count, tile = kernels.tile;
    const int64_t at_once = std::max<int64_t>(1, kStagedBytes / (tile * row * static_cast<int64_t>(sizeof(float))));
    for (int64_t first = 0, staged = 0; first < tile_rows; first += at_once) {
      const AxisTiles down = grid.rows_from(begin + first, std::min(at_once, tile_rows - first));
      const int64_t top = grid.down.begin(begin + first, tile) - region.h0;
      const int64_t next = top + down.begin(down.count - 1, tile) + kernels.points();
      float* const fresh = pixels + staged * row;
      staging.stage(source, dtype, n, {region.h0 + staged, region.w0, next - staged, region.columns}, c, count, fresh);
      kernels.largest_of_pixels(fresh, (next - staged) * region.columns, count, largest);
      kernels.transform_input(pixels + top * row, region.columns, count, down, across, nullptr, v);
      v.data += down.count * across.count * v.tile, largest += (next - staged) * region.columns;
      staged = next;
    }
  });
}

std::vector<int64_t> TiledCorrelation::tile_rows(const TileGrid& grid, const Strip& strip, const Places& places,
                                                 int64_t tile_row) const {
  const int64_t columns = strip.columns + filters.blocks.columns() - 1;
  std::vector<int64_t> result(places.of_tiles.size());
  const int64_t* place = places.of_tiles.data();
  int64_t row = 0;
  grid.for_each_image(strip, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = 0; i < end - begin; ++i)
      for (int64_t j = 0; j < strip.columns; ++j) result[*place++] = ((row + i) * columns + j) * tile_row;
    row += end - begin + filters.blocks.rows() - 1;
  });
  return result;
}

void TiledCorrelation::transform_output(const TileGrid& grid, const Strip& strip, const Places& places, int64_t k,
                                        int64_t count, Planes m, float* pixels) const {
  const StagingKernels& staging = kernels_for_this_cpu<StagingKernels>();
  const Image part = output.channels_from(k, count);
  const int64_t tile = filters.kernels.tile;
  const bool in_place = output.c_stride == 1 && dtype == DType::float32;
  const AxisTiles across = grid.columns_of(strip);
  const int64_t* place = places.of_tiles.data();
  grid.for_each_image(strip, [&](int64_t n, int64_t begin, int64_t end) {
    const AxisTiles down = grid.rows_from(begin, end - begin);
    const Region region = {grid.down.begin(begin, tile), grid.across.begin(strip.first_column, tile),
                           down.begin(down.count, tile), across.begin(across.count, tile)};
    PixelGrid to = {pixels, region.columns * count, count, region.rows, region.columns, count};
    if (in_place)
      to = {reinterpret_cast<float*>(part.data) + n * output.n_stride + region.h0 * output.h_stride +
                region.w0 * output.w_stride,
            output.h_stride,
            output.w_stride,
            std::min(region.rows, output.h - region.h0),
            std::min(region.columns, output.w - region.w0),
            part.c};
    if (!filters.kernels.transform_output(m, place, down, across, bias + k, to))
      spoiled.add(n, {0, 0, output.h, output.w});
    if (!in_place) staging.unstage(pixels, count, region, n, dtype, part);
    place += down.count * across.count;
  });
}

Boxes correlate(const Filters& filters, const PhasedImage& source, const float* bias, DType dtype,
                const Image& output) {
  Spoiled spoiled(output.n);
  const TiledCorrelation correlation = {filters, source, bias, dtype, output, spoiled};
  if (filters.is_transformed() && correlation.tiles() >= kLeastStripTiles * workers_for(INT64_MAX))
    correlate_by_strips(correlation);
  else if (output.n > 0)
    correlate_by_panels(correlation);
  const StagingKernels& staging = kernels_for_this_cpu<StagingKernels>();
  for (const auto& [n, h, w] : spoiled.blind)
    staging.unstage(bias, filters.panels * filters.kernels.width, {h, w, 1, 1}, n, dtype, output);
  return spoiled.boxes;
}

}  // namespace tmc::winograd
