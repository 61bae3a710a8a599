// Kernels that test the emulated barriers, TMA and wgmma (emulated_hopper.h), and the mistakes to report.
#include "cuda/gemm/mma_tile.cuh"
#include "cuda/machine/wgmma.h"

namespace tmc {
namespace {

// Boxes in shared memory, and a barrier for their bytes.
struct Tiles {
  alignas(kTileAlignment) char a[8 << 10];
  alignas(kTileAlignment) char b[32 << 10];
  Barrier full;
};
Tiles& tiles_with_barrier() {
  auto& tiles = *reinterpret_cast<Tiles*>(tile_aligned_shared_memory());
  if (threadIdx.x == 0) {
    init_barrier(tiles.full, 1);
    publish_barriers();
  }
  __syncthreads();
  return tiles;
}

// One thread brings a box, and writes it out as it lies in shared memory.
template <class Copy>
void copy_box(int lines, char* result, Copy copy) {
  launch_on_hopper(
      +[](int lines, char* result, const Copy* copy) {
        Tiles& tiles = tiles_with_barrier();
        arrive_expecting(tiles.full, lines * kLineBytes);
        (*copy)(tiles.b, tiles.full);
        wait_for_phase(tiles.full, 0);
        std::memcpy(result, tiles.b, static_cast<std::size_t>(lines) * kLineBytes);
      },
      dim3(1), 1, int(sizeof(Tiles)), nullptr, lines, result, &copy);
}

// A warpgroup multiplies a[64 x 32 bytes of depth] b[columns]: tiles as TMA leaves them. `step` is which 32 bytes of
// the lines, or 16 lines.
template <class T, int kColumns, bool kDepthOuter>
void multiply_kernel(TensorMap a, TensorMap b, int step, int first_bit, float* sums) {
  Tiles& tiles = tiles_with_barrier();
  constexpr int kTileBytes = 8 << 10, kTiles = kDepthOuter ? kColumns / 64 : 1;
  if (threadIdx.x == 0) {
    arrive_expecting(tiles.full, (64 + kColumns) * kLineBytes);
    copy_lines(tiles.a, a, tiles.full, 0, 0, 0);
    for (int i = 0; i < kTiles; ++i) copy_lines(tiles.b + i * kTileBytes, b, tiles.full, i * 64, 0, 0);
  }
  wait_for_phase(tiles.full, 0);
  float own[kColumns / 2];
  for (int i = 0; i < kColumns / 2; ++i) own[i] = sums[threadIdx.x * (kColumns / 2) + i];
  const int bytes = kDepthOuter ? 16 * kLineBytes : 32;
  begin_products();
  const uint64_t planted = uint64_t{1} << first_bit;  // a wrong bit of the second operand; of bit 63 none
  uint64_t second = advanced(operand_of(tiles.b, kTileBytes), step * bytes);
  if (first_bit < 63) second ^= planted;
  multiply_add<kDepthOuter>(T{}, own, advanced(operand_of(tiles.a, kTileBytes), step * bytes), second);
  commit_products();
  wait_for_products<0>();
  products_are_done(own);
  for (int i = 0; i < kColumns / 2; ++i) sums[threadIdx.x * (kColumns / 2) + i] = own[i];
}

template <class T, int kColumns, bool kDepthOuter>
void multiply(const void* a, const void* b, int step, int wrong_bit, float* sums) {
  const int64_t line = kLineElements<T>;
  const TensorMap first = line_map<T>({a, line, 1, 64}, 64);
  const TensorMap second =
      kDepthOuter ? line_map<T>({b, kColumns, 1, 64}, 64) : line_map<T>({b, line, 1, kColumns}, kColumns);
  launch_on_hopper(multiply_kernel<T, kColumns, kDepthOuter>, dim3(1), kWarpgroupThreads, int(sizeof(Tiles)), nullptr,
                   first, second, step, wrong_bit, sums);
}

// Reads its sums while a product is on its way, or begins without wgmma.fence, or does not wait at the end.
void misuse_kernel(int mistake, float* sums) {
  Tiles& tiles = tiles_with_barrier();
  float own[64] = {};
  std::memset(tiles.a, 0, sizeof(tiles.a));
  std::memset(tiles.b, 0, sizeof(tiles.b));
  __syncthreads();
  if (mistake != 1) begin_products();
  multiply_add<false>(bfloat16{}, own, operand_of(tiles.a, 0), operand_of(tiles.b, 0));
  commit_products();
  if (mistake == 0) sums[threadIdx.x] = own[0];
  if (mistake != 2) wait_for_products<0>();
}

void lost_bytes_kernel(int) {
  Tiles& tiles = tiles_with_barrier();
  arrive_expecting(tiles.full, 16);
  wait_for_phase(tiles.full, 0);
}
void no_barrier_kernel(int) {
  wait_for_phase(reinterpret_cast<Tiles*>(tile_aligned_shared_memory())->full, 0);
}
// The parity of a phase that ends, and of the one before the first.
void parity_kernel(int) {
  Tiles& tiles = tiles_with_barrier();
  wait_for_phase(tiles.full, 1);
  for (int phase = 0; phase < 3; ++phase) {
    arrive(tiles.full);
    wait_for_phase(tiles.full, phase & 1);
  }
}

}  // namespace

extern "C" {

// The box at (column, plane, row) of [rows, planes, columns], of bfloat16 or float.
void selftest_copy_lines(DType dtype, const void* data, const int64_t* extents, int column, int plane, int row,
                         int lines, char* result) {
  dispatch_mma(dtype, [=](auto type) {
    const TensorMap map = line_map<decltype(type)>({data, extents[2], extents[1], extents[0]}, lines);
    copy_box(lines, result, [&](void* to, Barrier& full) { copy_lines(to, map, full, column, plane, row); });
  });
}
// grid: n, h, w, channels, then the fields of PixelGrid; at: channel, w, h, n, shift_w, shift_h.
void selftest_copy_pixels(const void* data, const int* grid, const int* at, int pixels, char* result) {
  const PixelGrid of = {data, grid[3], grid[2], grid[1], grid[0], grid[4], grid[5], grid[6], grid[7], grid[8], grid[9]};
  const TensorMap map = pixel_map<bfloat16>(of, pixels);
  copy_box(pixels, result,
           [&](void* to, Barrier& full) { copy_pixels(to, map, full, at[0], at[1], at[2], at[3], at[4], at[5]); });
}

// a: 64 lines along the depth, or 64 depths of 64 rows; b: likewise of `columns`.
void selftest_wgmma(DType dtype, int columns, bool depth_outer, const void* a, const void* b, int step, int wrong_bit,
                    float* sums) {
  dispatch_mma(dtype, [=](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) {
      if (depth_outer)
        return columns == 256 ? multiply<T, 256, true>(a, b, step, wrong_bit, sums)
                              : multiply<T, 128, true>(a, b, step, wrong_bit, sums);
    }
    columns == 256 ? multiply<T, 256, false>(a, b, step, wrong_bit, sums)
                   : multiply<T, 128, false>(a, b, step, wrong_bit, sums);
  });
}

void selftest_wgmma_misuse(int mistake, float* sums) {
  launch_on_hopper(misuse_kernel, dim3(1), kWarpgroupThreads, int(sizeof(Tiles)), nullptr, mistake, sums);
}
void selftest_lost_bytes() {
  launch_on_hopper(lost_bytes_kernel, dim3(1), 1, int(sizeof(Tiles)), nullptr, 0);
}
void selftest_no_barrier() {
  launch_on_hopper(no_barrier_kernel, dim3(1), 1, int(sizeof(Tiles)), nullptr, 0);
}
void selftest_parity() {
  launch_on_hopper(parity_kernel, dim3(1), 1, int(sizeof(Tiles)), nullptr, 0);
}

}  // extern "C"
}  // namespace tmc
