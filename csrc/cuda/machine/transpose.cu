#include "cuda/machine/launch.h"
#include "cuda/machine/transpose.h"

namespace tmc {
namespace {

// A block owns kTile x kTile elements of a matrix. Neighbouring threads read neighbours in a row of the source and
// write neighbours in a row of the target; in between lies shared memory, whose padding of 4 bytes a line puts the
// elements of a column into different banks. Bound by memory.
constexpr int kTile = 64, kTransposeThreads = 256, kLines = kTransposeThreads / kTile;

template <class T>
__global__ void __launch_bounds__(kTransposeThreads)
    transpose_kernel(int64_t n, int64_t rows, int64_t columns, const T* source, T* target) {
  struct Tile {
    T elements[kTile][kTile + 4 / sizeof(T)];
  };
  auto& tile = shared_memory<Tile>();
  const int64_t row_tiles = ceil_div(rows, kTile), column_tiles = ceil_div(columns, kTile);
  const int64_t block = block_index(), line_of_tiles = block / column_tiles, matrix = line_of_tiles / row_tiles;
  if (matrix >= n) return;
  const int64_t column = (block - line_of_tiles * column_tiles) * kTile;
  const int64_t row = (line_of_tiles - matrix * row_tiles) * kTile;
  const int lane = threadIdx.x % kTile, line = threadIdx.x / kTile;
  source += matrix * rows * columns, target += matrix * rows * columns;
#pragma unroll
  for (int i = line; i < kTile; i += kLines)
    if (row + i < rows && column + lane < columns) tile.elements[i][lane] = source[(row + i) * columns + column + lane];
  __syncthreads();
#pragma unroll
  for (int i = line; i < kTile; i += kLines)
    if (column + i < columns && row + lane < rows) target[(column + i) * rows + row + lane] = tile.elements[lane][i];
}

}  // namespace

void launch_transpose(int64_t element_bytes, int64_t n, int64_t rows, int64_t columns, const void* source, void* target,
                      void* stream) {
  const auto launch_for = [&](auto element) {
    using T = decltype(element);
    launch(transpose_kernel<T>, grid_of(n * ceil_div(rows, kTile) * ceil_div(columns, kTile)), kTransposeThreads,
           stream, n, rows, columns, static_cast<const T*>(source), static_cast<T*>(target));
  };
  element_bytes == 2 ? launch_for(uint16_t{}) : launch_for(uint32_t{});
}

}  // namespace tmc
