// The driver of the matrix product: cuts the result into tiles and the sum into depth blocks, and spreads tiles over
// threads. An operand that all tiles share is packed once for all; the others are packed for each tile.
#include "cpu/gemm/gemm.h"

#include <algorithm>

#include "cpu/machine/machine.h"
#include "cpu/machine/tasks.h"

namespace tmc {
namespace {

// [0, extent) cut into equal ranges of at most `largest`, each a multiple of `quantum`.
struct EqualRanges {
  int64_t extent, block, count;
  EqualRanges(int64_t extent_, int64_t largest, int64_t quantum) : extent(extent_) {
    const int64_t wanted = std::max<int64_t>(1, ceil_div(extent, std::max(largest, quantum)));
    block = std::max(quantum, round_up(ceil_div(extent, wanted), quantum));
    count = ceil_div(extent, block);
  }
  IndexRange operator[](int64_t i) const { return {i * block, std::min(block, extent - i * block)}; }
};

struct Extents {
  int64_t rows, columns, depth;
  explicit Extents(const Gemm& gemm)
      : rows(gemm.a.rows.size()), columns(gemm.b.columns.size()), depth(gemm.a.columns.size()) {}
  int64_t depth_blocks() const { return ceil_div(depth, kBlockDepth); }
};

// A whole operand in packed form: depth blocks, each as pack_a or pack_b lays it out.
class PackedOperand {
 public:
  PackedOperand(const GemmKernels& kernels, const Gemm* gemms, int64_t count, bool is_a)
      : kernels_(kernels),
        is_a_(is_a),
        extents_(gemms[0]),
        kept_(is_a ? gemms[0].keep_a : gemms[0].keep_b),
        extent_(padded(is_a ? extents_.rows : extents_.columns)),
        depth_blocks_(extents_.depth_blocks()),
        memory_(kept_ ? count * depth_blocks_ * block_bytes(extent_) : 0) {
    if (!kept_) return;
    const EqualRanges cut(extent_, 64, kernels.panel_width);
    const int64_t tasks = count * depth_blocks_ * cut.count;
    for_each_task(tasks, workers_for(tasks), [&](int64_t task, int64_t) {
      const int64_t i = task % cut.count, l = task / cut.count % depth_blocks_, g = task / cut.count / depth_blocks_;
      IndexRange part = cut[i];
      part.size = std::min(part.size, (is_a_ ? extents_.rows : extents_.columns) - part.begin);
      pack(gemms[g], part, depth_block(l), block(g, l) + block_bytes(part.begin));
    });
  }

  int64_t scratch_bytes(int64_t extent) const { return kept_ ? 0 : round_up(block_bytes(padded(extent)), 64); }
  int64_t padded(int64_t extent) const { return round_up(extent, is_a_ ? kernels_.row_quantum : kernels_.panel_width); }
  int64_t block_bytes(int64_t extent) const { return extent * kernels_.packed_size; }

  // Packed rows (of a) or columns (of b) of depth block l: kept ones, or packed into `scratch` now.
  const char* get(const Gemm& gemm, int64_t g, IndexRange part, int64_t l, IndexRange depth, char* scratch) const {
    if (kept_) return block(g, l) + block_bytes(part.begin);
    pack(gemm, part, depth, scratch);
    return scratch;
  }

 private:
  char* block(int64_t g, int64_t l) const { return memory_.at((g * depth_blocks_ + l) * block_bytes(extent_)); }
  IndexRange depth_block(int64_t l) const {
    return {l * kBlockDepth, std::min(kBlockDepth, extents_.depth - l * kBlockDepth)};
  }
  void pack(const Gemm& gemm, IndexRange part, IndexRange depth, char* to) const {
    if (is_a_)
      kernels_.pack_a(gemm.a, part, depth, to);
    else
      kernels_.pack_b(gemm.b, depth, part, to);
  }

  const GemmKernels& kernels_;
  bool is_a_;
  Extents extents_;
  bool kept_;
  int64_t extent_, depth_blocks_;
  Workspace memory_;
};

struct ResultTiles {
  EqualRanges rows, columns;
  ResultTiles(const Gemm& gemm, const Extents& extents, const GemmKernels& kernels)
      : rows(extents.rows, gemm.tile_rows, kernels.row_quantum),
        columns(extents.columns, gemm.tile_columns, kernels.panel_width) {}
  int64_t count() const { return rows.count * columns.count; }
  int64_t elements() const { return rows.block * columns.block; }
  IndexRange row_block(int64_t tile) const { return rows[tile / columns.count]; }
  IndexRange column_block(int64_t tile) const { return columns[tile % columns.count]; }
};

// A small product in smaller tiles, until there is one for each thread. The results' bits do not depend on it.
ResultTiles enough_tiles(Gemm gemm, const Extents& extents, const GemmKernels& kernels, int64_t count) {
  constexpr int64_t kLeastRows = 28, kLeastColumns = 64;
  const int64_t threads = torch::stable::get_num_threads();
  for (;;) {
    const ResultTiles tiles(gemm, extents, kernels);
    const bool halve_rows = gemm.tile_rows > kLeastRows, halve_columns = gemm.tile_columns > kLeastColumns;
    if (count * tiles.count() >= threads || !(halve_rows || halve_columns)) return tiles;
    if (halve_rows && (gemm.tile_rows >= gemm.tile_columns || !halve_columns))
      gemm.tile_rows /= 2;
    else
      gemm.tile_columns /= 2;
  }
}

// Multiplies one tile over the depth blocks [begin, end).
void accumulate(const GemmKernels& kernels, const PackedOperand& a, const PackedOperand& b, const Gemm& gemm, int64_t g,
                IndexRange rows, IndexRange columns, IndexRange depth_blocks, char* scratch, char* tile) {
  char* const scratch_b = scratch + a.scratch_bytes(rows.size);
  const int64_t depth_end = gemm.a.columns.size();
  for (int64_t l = depth_blocks.begin; l < depth_blocks.begin + depth_blocks.size; ++l) {
    const IndexRange depth = {l * kBlockDepth, std::min(kBlockDepth, depth_end - l * kBlockDepth)};
    const char* packed_a = a.get(gemm, g, rows, l, depth, scratch);
    const char* packed_b = b.get(gemm, g, columns, l, depth, scratch_b);
    kernels.multiply(rows.size, columns.size, depth.size, packed_a, packed_b, tile);
  }
}

}  // namespace

void simplify(MatrixView& view) {
  FactoredIndex &rows = view.rows, &columns = view.columns;
  IndexFactor* const all[] = {&rows.outer, &rows.middle, &rows.inner, &columns.outer, &columns.middle, &columns.inner};
  int64_t low_h = view.h0, high_h = view.h0, low_w = view.w0, high_w = view.w0;
  for (const IndexFactor* factor : all) {
    const int64_t h = (factor->size - 1) * factor->h, w = (factor->size - 1) * factor->w;
    (h < 0 ? low_h : high_h) += h, (w < 0 ? low_w : high_w) += w;
  }
  // Where no position can leave the image, none needs to be followed: the moves become part of the offsets.
  if (low_h >= 0 && high_h < view.h_extent && low_w >= 0 && high_w < view.w_extent)
    for (IndexFactor* factor : all) {
      factor->offset += factor->h * view.h_stride + factor->w * view.w_stride;
      factor->h = factor->w = 0;
    }
  // Merge the innermost factor of the columns with its neighbour as long as the two are one line in memory.
  for (int merges = 0; merges < 2; ++merges) {
    const IndexFactor outer = columns.middle, inner = columns.inner;
    const int64_t outer_stride = outer.offset + outer.h * view.h_stride + outer.w * view.w_stride;
    if (inner.size == 1) {
      columns.inner = outer;
    } else if (outer.size != 1) {
      if (inner.h != 0 || inner.w != 0 || outer_stride != inner.size * inner.offset) break;
      const bool moves = outer.h != 0 || outer.w != 0;
      columns.inner = {outer.size * inner.size, inner.offset, outer.h, outer.w, moves ? inner.size : 1};
    }
    columns.middle = columns.outer, columns.outer = IndexFactor();
  }
}

const GemmKernels& gemm_kernels(DType dtype, [[maybe_unused]] Precision precision, [[maybe_unused]] MatrixUnit unit) {
#if defined(__x86_64__)
  const GemmKernels* special = nullptr;
  unit = std::min(unit, matrix_unit());
  if (unit >= MatrixUnit::amx) special = gemm_kernels_amx(dtype, precision);
  if (unit >= MatrixUnit::avx512_bf16 && !special) special = gemm_kernels_avx512_bf16(dtype, precision);
  if (special) return *special;
#endif
  return kernels_for_this_cpu<GemmKernelTable>()[static_cast<int>(dtype)];
}

void gemm(const Gemm* gemms, int64_t count, const GemmKernels& kernels) {
  const Extents extents(gemms[0]);
  if (extents.rows == 0 || extents.columns == 0) return;
  const ResultTiles tiles = enough_tiles(gemms[0], extents, kernels, count);
  const PackedOperand a(kernels, gemms, count, true), b(kernels, gemms, count, false);
  const int64_t tasks = count * tiles.count(), workers = workers_for(tasks);
  const int64_t tile_bytes = round_up(tiles.elements() * kernels.compute_size, 64);
  const int64_t worker_bytes = tile_bytes + a.scratch_bytes(tiles.rows.block) + b.scratch_bytes(tiles.columns.block);
  const Workspace memory(workers * worker_bytes);
  for_each_task(tasks, workers, [&](int64_t task, int64_t worker) {
    const int64_t g = task / tiles.count(), i = task % tiles.count();
    const IndexRange rows = tiles.row_block(i), columns = tiles.column_block(i);
    char* const tile = memory.at(worker * worker_bytes);
    kernels.start(gemms[g], rows, columns, tile);
    accumulate(kernels, a, b, gemms[g], g, rows, columns, {0, extents.depth_blocks()}, tile + tile_bytes, tile);
    kernels.finish(gemms[g].result, rows, columns, tile);
  });
}

void gemm_long_sum(const Gemm* gemms, int64_t count, const GemmKernels& kernels) {
  constexpr int64_t kWantedTasks = 32, kLeastBlocks = 8;  // enough for that many cores; at least 2048 terms a chunk
  const Extents extents(gemms[0]);
  const ResultTiles tiles(gemms[0], extents, kernels);
  const PackedOperand a(kernels, gemms, count, true), b(kernels, gemms, count, false);
  const int64_t all_tiles = count * tiles.count(), blocks = extents.depth_blocks();
  const int64_t wanted =
      std::clamp<int64_t>(ceil_div(kWantedTasks, all_tiles), 1, std::max<int64_t>(1, blocks / kLeastBlocks));
  const EqualRanges chunks(blocks, ceil_div(blocks, wanted), 1);
  const int64_t partials = std::max<int64_t>(1, chunks.count);
  const int64_t tile_bytes = round_up(tiles.elements() * kernels.compute_size, 64);
  const int64_t tasks = all_tiles * partials, workers = workers_for(tasks);
  const int64_t worker_bytes = a.scratch_bytes(tiles.rows.block) + b.scratch_bytes(tiles.columns.block);
  const Workspace sums(tasks * tile_bytes), scratch(workers * worker_bytes);
  for_each_task(tasks, workers, [&](int64_t task, int64_t worker) {
    const int64_t g = task / partials / tiles.count(), i = task / partials % tiles.count();
    const IndexRange rows = tiles.row_block(i), columns = tiles.column_block(i);
    char* const tile = sums.at(task * tile_bytes);
    kernels.start(gemms[g], rows, columns, tile);
    if (chunks.count > 0)
      accumulate(kernels, a, b, gemms[g], g, rows, columns, chunks[task % partials], scratch.at(worker * worker_bytes),
                 tile);
  });
  for_each_task(all_tiles, workers_for(all_tiles), [&](int64_t task, int64_t) {
    const int64_t g = task / tiles.count(), i = task % tiles.count();
    char* const tile = sums.at(task * partials * tile_bytes);
    for (int64_t chunk = 1; chunk < partials; ++chunk) kernels.add(tiles.elements(), tile + chunk * tile_bytes, tile);
    kernels.finish(gemms[g].result, tiles.row_block(i), tiles.column_block(i), tile);
  });
}

}  // namespace tmc
