// grad_weight by Winograd's algorithm (winograd.h, eq. 29):
//
//   U[block, element] = sum over tiles of (A dy A^T)[tile, k] * (B^T d B)[tile + block, c],    grad_weight = G^T U G
//
// The sum is made in rounds of kRoundTiles tiles, of all images in order: first both transforms of the round, shared by
// all threads, then the 25 products, each thread owning columns of U. So every element of U is one sum in one order.
// A round adds to U once: 2 * kRoundTiles operations for a float that is read from L3 and written back.
#include <atomic>

#include "winograd_plan.h"

namespace tmc::winograd {

constexpr int64_t kRoundTiles = 192;

bool correlate_for_weight(const Image& grad_output, const Image& image, Padding padding, DType dtype,
                          const Image& grad_weight) {
  const WinogradKernels& kernels = kernels_for_this_cpu();
  const Blocks blocks = {grad_weight.h, grad_weight.w};
  const TileGrid grid(grad_output.n, grad_output.h, grad_output.w, kRoundTiles);
  const int64_t c = round_up(image.c, kernels.width), k = round_up(grad_output.c, kernels.width);
  const int64_t halo_rows = blocks.rows() - 1, halo_columns = blocks.columns() - 1;

  // Both operands of a round, and U, in planes; then pixels for each worker.
  const int64_t g_plane = grid.strip_rows * grid.strip_columns * k + kPlanePadding;
  const int64_t v_plane =
      (grid.strip_rows + grid.strip_images() * halo_rows) * (grid.strip_columns + halo_columns) * c + kPlanePadding;
  const int64_t u_plane = grad_weight.n * c + kPlanePadding;
  const int64_t columns = (grid.strip_columns + halo_columns) * kTile + 2;
  const int64_t pixels = (std::min(grid.strip_rows, grid.rows) + halo_rows + 1) * kTile * columns * std::max(c, k);
  const int64_t workers = workers_for(INT64_MAX), size = static_cast<int64_t>(sizeof(float));
  const Workspace memory((kElements * (g_plane + v_plane + blocks.count() * u_plane) + workers * pixels) * size);
  float* const g = reinterpret_cast<float*>(memory.at(0));
  float* const v = g + kElements * g_plane;
  float* const u = v + kElements * v_plane;
  float* const staged = u + kElements * blocks.count() * u_plane;
  std::vector<int64_t> filter_rows(grad_output.c);
  for (int64_t i = 0; i < grad_output.c; ++i) filter_rows[i] = i;

  const auto round = [&](const Strip& strip, bool add) {
    struct Piece {
      int64_t n, begin, end, g_row, v_row;
    };
    std::vector<Piece> pieces;  // the round's tile rows, image by image
    std::vector<int64_t> tile_rows;
    const int64_t input_columns = strip.columns + halo_columns;
    int64_t g_row = 0, v_row = 0;
    grid.for_each_image(strip, [&](int64_t n, int64_t begin, int64_t end) {
      pieces.push_back({n, begin, end, g_row, v_row});
      for (int64_t i = 0; i < end - begin; ++i)
        for (int64_t j = 0; j < strip.columns; ++j) tile_rows.push_back((v_row + i * input_columns + j) * c);
      g_row += (end - begin) * strip.columns, v_row += (end - begin + halo_rows) * input_columns;
    });
    const int64_t tasks = 2 * static_cast<int64_t>(pieces.size());
    for_each_task(tasks, std::min(workers, tasks), [&](int64_t task, int64_t worker) {
      const Piece& piece = pieces[task / 2];
      float* const to = staged + worker * pixels;
      const int64_t rows = piece.end - piece.begin;
      if (task % 2 == 0) {
        const Region region = {piece.begin * kTile, strip.first_column * kTile, rows * kTile, strip.columns * kTile};
        kernels.stage(grad_output, dtype, piece.n, region, k, to);
        kernels.transform_grad_output(to, region.columns, k, rows, strip.columns, {g + piece.g_row * k, g_plane, k});
      } else {
        const int64_t input_rows = rows + halo_rows;
        const Region region = {piece.begin * kTile - padding.top, strip.first_column * kTile - padding.left,
                               input_rows * kTile + 2, input_columns * kTile + 2};
        kernels.stage(image, dtype, piece.n, region, c, to);
        kernels.transform_input(to, region.columns, c, input_rows, input_columns, {v + piece.v_row * c, v_plane, c});
      }
    });
    const int64_t panels = c / kernels.width, products = blocks.count() * kElements * panels;
    for_each_task(products, std::min(workers, products), [&](int64_t task, int64_t) {
      const int64_t panel = task % panels, element = task / panels % kElements, block = task / panels / kElements;
      if (blocks.skipped(block, element)) return;
      kernels.multiply({.rows = grad_output.c,
                        .depth = static_cast<int64_t>(tile_rows.size()),
                        .a = g + element * g_plane,
                        .a_rows = filter_rows.data(),
                        .a_step = k,
                        .b = v + element * v_plane + (blocks.row(block) * input_columns + blocks.column(block)) * c +
                             panel * kernels.width,
                        .b_rows = tile_rows.data(),
                        .tile = u + (block * kElements + element) * u_plane + panel * kernels.width,
                        .tile_row = c,
                        .add = add});
    });
  };
  if (grid.strips() == 0) round({0, 0, 0, 0}, false);  // an empty batch: zeros
  for (int64_t i = 0; i < grid.strips(); ++i) round(grid.strip(i), i > 0);

  std::atomic<bool> finite = true;
  const int64_t tasks = blocks.count() * grad_weight.n;
  for_each_task(tasks, workers_for(tasks), [&](int64_t task, int64_t) {
    const int64_t block = task / grad_weight.n, filter = task % grad_weight.n;
    if (!kernels.transform_grad_weight({u + block * kElements * u_plane, u_plane, c}, filter, filter + 1,
                                       blocks.row(block) * kTile, blocks.column(block) * kTile, dtype, grad_weight))
      finite = false;
  });
  return finite;
}

}  // namespace tmc::winograd
