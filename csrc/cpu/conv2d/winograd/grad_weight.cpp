// grad_weight by Winograd's algorithm (cpu/conv2d/winograd/winograd.h, eq. 29):
//
//   U[block, element] = sum over tiles of (A dz A^T)[tile, k] * (B^T x B)[tile + block, c],    grad_weight = G^T U G
//
// The sum is made in rounds of 64 to 192 tiles, of all images in order: first both transforms of the round, of which
// every thread makes those of some channels, then the products, each thread owning columns of U. So every element of U
// is one sum in one order. A round adds to U once: 2 operations a tile for a float that is read from L3 and
// written back. AlexNet's first layer is 48 rows of phases by 64 columns of filters: the other way round a quarter of
// the products would be of columns that do not exist. While a round is multiplied, what the next one reads is
// prefetched from memory: waiting for it would take a quarter of that layer's time (Zen 5).
//
// Where one round holds all tiles, as on nine points for AlexNet's third to fifth layer at batch 32, U need not exist
// as a whole: it is made in shares of kShareRows rows, each of which is transformed back before the worker makes its
// next.
#include <atomic>

#include "cpu/conv2d/winograd/plan.h"

namespace tmc::winograd {

namespace {

// Short rounds leave both operands of a round in L3, long ones add to U less often, which matters where U is large. Of
// 64, 96, 128 and 192 tiles on a Zen 5 core: on nine points AlexNet's second layer and ResNet's of 128 channels take
// 0.83 of the time with 96, a U of 21 MB takes 1.07; on eleven points 64 take 0.9 of the time of 96.
int64_t round_tiles(const WinogradKernels& kernels, int64_t sum_bytes) {
  constexpr int64_t kSumsOfShortRounds = 12 << 20;
  if (sum_bytes > kSumsOfShortRounds) return 192;
  return kernels.points() == 11 ? 64 : 96;
}

// Best of 32 to 128 rows and all at once, on a Zen 5 core: AlexNet, forward and gradients, takes 2 to 3 % less time
// than with all, which for 256 x 384 filters and channels take 32 MB, as much as L3 has. With fewer than the least, V
// is read too often.
constexpr int64_t kShareRows = 128, kLeastShareRows = 32;

// A transformed operand of the products: element e of channel i at place t is at e * plane + i / lanes * tiles * lanes
// + t * lanes + i % lanes.
struct Operand {
  float* data;
  int64_t plane, tiles, count;
};

// What the micro-kernel computes: any number of rows, whole panels of columns.
int64_t computed(int64_t rows, int64_t columns, int64_t width) {
  return rows * round_up(columns, width);
}

}  // namespace

bool correlate_for_weight(const WinogradKernels& kernels, const Image& grad_output, const PhasedImage& source,
                          DType dtype, const Image& grad_weight) {
  const StagingKernels& staging = kernels_for_this_cpu<StagingKernels>();
  const Blocks blocks(grad_weight, kernels);
  const DType rounded_to = grad_weight.element_size == sizeof(float) ? DType::float32 : dtype;
  const int64_t tile = kernels.tile, halo = kernels.taps - 1, elements = kernels.elements();
  const int64_t lanes = kernels.lanes, width = kernels.width;
  // Filters are rows and channels columns, or, where that computes less, the other way round. (The input's tiles must
  // be as many as the output's then.)
  const bool channels_are_rows = blocks.count() == 1 && computed(grad_weight.c, grad_output.c, width) <
                                                            computed(grad_output.c, grad_weight.c, width);
  const int64_t c = round_up(grad_weight.c, channels_are_rows ? lanes : width);
  const int64_t k = round_up(grad_output.c, channels_are_rows ? width : lanes);
  const int64_t sum_bytes = elements * blocks.count() * k * c * static_cast<int64_t>(sizeof(float));
  const TileGrid grid(grad_output, blocks, round_tiles(kernels, sum_bytes));
  const int64_t halo_rows = blocks.rows() - 1, halo_columns = blocks.columns() - 1;

  // Both operands of a round, in planes; then pixels for each worker.
  const int64_t g_tiles = grid.strip_rows * grid.strip_columns;
  const int64_t v_tiles = (grid.strip_rows + grid.strip_images() * halo_rows) * (grid.strip_columns + halo_columns);
  const int64_t g_plane = g_tiles * k + kPlanePadding, v_plane = v_tiles * c + kPlanePadding;
  const int64_t staged_columns = (grid.strip_columns + halo_columns) * tile + halo;
  const int64_t pixels = ((std::min(grid.strip_rows, grid.rows) + halo_rows) * tile + halo) * staged_columns * width;
  const int64_t workers = workers_for(INT64_MAX), size = static_cast<int64_t>(sizeof(float));
  const Workspace memory((elements * (g_plane + v_plane) + workers * pixels) * size);
  float* const g = reinterpret_cast<float*>(memory.at(0));
  float* const v = g + elements * g_plane;
  float* const staged = v + elements * v_plane;
  const Operand filters = {g, g_plane, g_tiles, grad_output.c}, channels = {v, v_plane, v_tiles, grad_weight.c};
  const Operand &rows = channels_are_rows ? channels : filters, &columns = channels_are_rows ? filters : channels;
  std::vector<int64_t> row_starts(rows.count);
  for (int64_t i = 0; i < rows.count; ++i) row_starts[i] = i / lanes * rows.tiles * lanes + i % lanes;

  const int64_t k_slices = ceil_div(k, width), slices = k_slices + ceil_div(c, width);
  const int64_t panels = ceil_div(columns.count, width);

  // Shares of U: of a block of taps, some rows or all.
  const int64_t most_shares = round_up(ceil_div(rows.count, kShareRows), workers);
  const bool in_shares = grid.strips() <= 1 && (most_shares == 1 || most_shares * kLeastShareRows <= rows.count);
  const int64_t block_shares = in_shares ? most_shares : 1, shares = blocks.count() * block_shares;
  const int64_t share_rows = ceil_div(rows.count, block_shares);
  const int64_t u_plane = share_rows * panels * width + kPlanePadding, u_share = elements * u_plane;
  const Workspace sums((in_shares ? std::min(workers, shares) : shares) * u_share * size);
  const auto share_memory = [&](int64_t share, int64_t worker) {
    return reinterpret_cast<float*>(sums.at(0)) + (in_shares ? worker : share) * u_share;
  };
  const auto first_row = [&](int64_t share) { return share % block_shares * rows.count / block_shares; };
  const auto row_count = [&](int64_t share) {
    return (share % block_shares + 1) * rows.count / block_shares - first_row(share);
  };
  std::atomic<bool> finite = true;
  const auto transform_back = [&](int64_t share, int64_t panel, float* u) {
    const int64_t block = share / block_shares;
    const Image taps = (channels_are_rows ? grad_weight : grad_weight.swapped())
                           .channels_from(first_row(share), row_count(share))
                           .swapped()
                           .channels_from(panel * width, width);
    if (!kernels.transform_grad_weight({u + panel * share_rows * width, u_plane, 0, width}, blocks.tap_row(block),
                                       blocks.tap_column(block), rounded_to, taps))
      finite = false;
  };

  const auto round = [&](int64_t index) {
    const Strip strip = grid.strips() == 0 ? Strip{0, 0, 0, 0} : grid.strip(index);
    const PrefetchedPixels image_prefetch(source, grid, index + 1, tile),
        grad_prefetch({grad_output}, grid, index + 1, tile);
    struct Piece {  // tile rows [begin, end) of image n, and the rows of input tiles below them that no other piece has
      int64_t n, begin, end, halo, g_tile, v_tile;
    };
    std::vector<Piece> pieces;
    const Places places = grid.places(strip);
    // Where in a vector's column of V its tiles are: in the same places, or with those of the halo from left to right.
    const bool same_places = blocks.count() == 1;
    std::vector<int64_t> tile_rows(places.of_tiles.size());
    const AxisTiles across = grid.columns_of(strip), input_across = grid.columns_of(strip, halo_columns);
    const int64_t left = grid.across.begin(strip.first_column, tile), input_columns = input_across.count;
    const int64_t most_rows = std::max<int64_t>(1, slices * (strip.end - strip.begin) / workers);
    int64_t g_tile = 0, v_tile = 0;
    grid.for_each_image(strip, [&](int64_t n, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row += most_rows) {
        const int64_t row_end = std::min(end, row + most_rows), halo = row_end == end ? halo_rows : 0;
        pieces.push_back({n, row, row_end, halo, g_tile, v_tile});
        for (int64_t i = 0; i < row_end - row; ++i)
          for (int64_t j = 0; j < strip.columns; ++j) {
            const int64_t place = places.of_tiles[g_tile + i * strip.columns + j];
            tile_rows[place] = (same_places ? place : v_tile + i * input_columns + j) * lanes;
          }
        g_tile += (row_end - row) * strip.columns, v_tile += (row_end - row + halo) * input_columns;
      }
    });
    const int64_t tasks = slices * static_cast<int64_t>(pieces.size());
    for_each_task(tasks, std::min(workers, tasks), [&](int64_t task, int64_t worker) {
      const Piece& piece = pieces[task % pieces.size()];
      const int64_t slice = task / static_cast<int64_t>(pieces.size());
      const int64_t piece_rows = piece.end - piece.begin;
      const int64_t* const piece_places = places.of_tiles.data() + piece.g_tile;
      float* const to = staged + worker * pixels;
      if (slice < k_slices) {
        const int64_t k0 = slice * width, count = std::min(width, k - k0);
        const AxisTiles down = grid.rows_from(piece.begin, piece_rows);
        const Region region = {grid.down.begin(piece.begin, tile), left, down.begin(down.count - 1, tile) + tile,
                               across.begin(across.count - 1, tile) + tile};
        staging.stage({grad_output}, dtype, piece.n, region, k0, count, to);
        kernels.transform_grad_output(to, region.columns, count, down, across, piece_places,
                                      {g + k0 * g_tiles, g_plane, g_tiles * lanes, lanes});
      } else {
        const int64_t c0 = (slice - k_slices) * width, count = std::min(width, c - c0);
        const AxisTiles down = grid.rows_from(piece.begin, piece_rows + piece.halo);
        const Region region = {grid.down.begin(piece.begin, tile), left,
                               down.begin(down.count - 1, tile) + kernels.points(),
                               input_across.begin(input_columns - 1, tile) + kernels.points()};
        staging.stage(source, dtype, piece.n, region, c0, count, to);
        float* const v_c = v + c0 * v_tiles + (same_places ? 0 : piece.v_tile * lanes);
        kernels.transform_input(to, region.columns, count, down, input_across, same_places ? piece_places : nullptr,
                                {v_c, v_plane, v_tiles * lanes, lanes});
      }
    });
    const int64_t depth = static_cast<int64_t>(tile_rows.size()), piece_floats = depth * width;
    // While they multiply they prefetch what the next round reads: first the input, then grad_output.
    const int64_t image_pieces =
        ceil_div(image_prefetch.end - image_prefetch.begin, std::max<int64_t>(1, piece_floats));
    const auto multiply = [&](int64_t share, int64_t element, int64_t panel, float* u) {
      const int64_t block = share / block_shares, product = (element * shares + share) * panels + panel;
      if (blocks.skipped(block, element)) return;
      const auto [begin, end] = places.range(element, kernels.points());
      const float* const b = columns.data + element * columns.plane + panel * columns.tiles * width +
                             (blocks.row(block) * input_columns + blocks.column(block)) * lanes;
      const float* const next_b = b + columns.tiles * width;
      kernels.multiply({.rows = row_count(share),
                        .depth = end - begin,
                        .a = rows.data + element * rows.plane + begin * lanes,
                        .a_rows = row_starts.data() + first_row(share),
                        .a_step = lanes,
                        .b = b,
                        .b_rows = tile_rows.data() + begin,
                        .b_vector = columns.tiles * lanes,
                        .next = image_prefetch.piece(product, piece_floats,
                                                     grad_prefetch.piece(product - image_pieces, piece_floats, next_b)),
                        .tile = u + element * u_plane + panel * share_rows * width,
                        .tile_row = width,
                        .add = index > 0});
    };
    if (in_shares) {
      for_each_task(shares, std::min(workers, shares), [&](int64_t share, int64_t worker) {
        float* const u = share_memory(share, worker);
        for (int64_t element = 0; element < elements; ++element)
          for (int64_t panel = 0; panel < panels; ++panel) multiply(share, element, panel, u);
        for (int64_t panel = 0; panel < panels; ++panel) transform_back(share, panel, u);
      });
      return;
    }
    const int64_t products = elements * shares * panels;
    for_each_task(products, std::min(workers, products), [&](int64_t task, int64_t worker) {
      const int64_t share = task / panels % shares;
      multiply(share, task / panels / shares, task % panels, share_memory(share, worker));
    });
  };
  if (grid.strips() == 0) round(0);  // an empty batch: zeros
  for (int64_t i = 0; i < grid.strips(); ++i) round(i);

  if (!in_shares)
    for_each_task(shares * panels, workers_for(shares * panels), [&](int64_t task, int64_t worker) {
      transform_back(task / panels, task % panels, share_memory(task / panels, worker));
    });
  return finite;
}

}  // namespace tmc::winograd
