// What hopper.h and wgmma.h offer, on a CPU: barriers that count bytes, TMA, wgmma, with the layouts of the PTX ISA.
//
//   - a copy by TMA lands at a random time before its barrier's phase ends; it is refused where the driver or the
//     hardware would refuse it;
//   - a product reads its operands at once or when it is waited for, at random, warp by warp; until then the registers
//     that it sums in are NaN. Products that are begun without wgmma.fence, or never waited for, are reported.
#pragma once
#include <source_location>

#include "emulated_tensor_cores.h"
#include "recorder.h"

#define __grid_constant__

namespace tmc {

constexpr bool kIsHopper = true;
constexpr bool compiled_for_hopper() {
  return true;
}
inline int multiprocessors() {
  return static_cast<int>(kMultiprocessors);
}

template <class... Parameters, class... Arguments>
void launch_on_hopper(void (*kernel)(Parameters...), dim3 grid, unsigned threads, int bytes, void* stream,
                      Arguments&&... arguments) {
  recorder::launched(stream);
  constexpr std::size_t kMostBytes = 227 << 10;
  fibers::run_grid(grid, threads, bytes, [&] { kernel(arguments...); }, kMostBytes);
}
inline char* tile_aligned_shared_memory() {
  return static_cast<char*>(fibers::dynamic_shared_memory());
}

struct TensorMap {
  bool pixels;
  int element_bytes, box_rows;
  const char* data;
  int64_t extents[4], strides[4];  // elements; bytes
  PixelCorners corners;
  int steps[2];  // w, h
};

namespace emulated {
using Site = std::source_location;
void check_map(const TensorMap& map);
void init_barrier(void* barrier, int arrivals);
void publish_barriers();
void arrive(void* barrier, int bytes, Site site);
void wait_for_phase(void* barrier, int parity, Site site);
void copy(void* tile, const TensorMap& map, void* barrier, const int (&at)[4], const int (&shift)[2]);
void wait_for_threads(int number, int threads, Site site);

void begin_products();
void commit_products();
void wait_for_products(int pending);

// One warp's rows of a product: sums[lane * count + i].
using Multiply = void (*)(unsigned warp, uint64_t a, uint64_t b, float* sums);
void start_product(float* sums, int count, uint64_t a, uint64_t b, Multiply multiply);
}  // namespace emulated

template <class T>
TensorMap line_map(const LineMatrix& matrix, int box_rows) {
  const int64_t line = matrix.columns * int64_t{sizeof(T)};
  TensorMap map = {false,
                   sizeof(T),
                   box_rows,
                   static_cast<const char*>(matrix.data),
                   {matrix.columns, matrix.planes, matrix.rows, 1},
                   {sizeof(T), line, line * matrix.planes, 0},
                   {},
                   {1, 1}};
  emulated::check_map(map);
  return map;
}
template <class T>
TensorMap pixel_map(const PixelGrid& grid, int box_pixels) {
  const int64_t pixel = grid.channels * int64_t{sizeof(T)};
  TensorMap map = {true,
                   sizeof(T),
                   box_pixels,
                   static_cast<const char*>(grid.data),
                   {grid.channels, grid.w, grid.h, grid.n},
                   {sizeof(T), pixel, pixel * grid.w, pixel * grid.w * grid.h},
                   corners_of(grid),
                   {grid.step_w, grid.step_h}};
  emulated::check_map(map);
  return map;
}

struct alignas(8) Barrier {
  uint64_t bits;
};

inline void init_barrier(Barrier& barrier, int arrivals) {
  emulated::init_barrier(&barrier, arrivals);
}
inline void publish_barriers(emulated::Site site = emulated::Site::current()) {
  if (!fibers::is_left_out(site)) emulated::publish_barriers();
}
inline void arrive(Barrier& barrier, emulated::Site site = emulated::Site::current()) {
  emulated::arrive(&barrier, 0, site);
}
inline void arrive_expecting(Barrier& barrier, int bytes, emulated::Site site = emulated::Site::current()) {
  emulated::arrive(&barrier, bytes, site);
}
inline void wait_for_phase(Barrier& barrier, int parity, emulated::Site site = emulated::Site::current()) {
  emulated::wait_for_phase(&barrier, parity, site);
}
inline void wait_for_threads(int number, int threads, emulated::Site site = emulated::Site::current()) {
  emulated::wait_for_threads(number, threads, site);
}

template <int kCount>
void give_up_registers() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
}
template <int kCount>
void take_registers() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
}

inline void copy_lines(void* tile, const TensorMap& map, Barrier& barrier, int column, int plane, int row) {
  emulated::copy(tile, map, &barrier, {column, plane, row, 0}, {});
}
inline void copy_pixels(void* tile, const TensorMap& map, Barrier& barrier, int channel, int w, int h, int n,
                        int shift_w, int shift_h) {
  emulated::copy(tile, map, &barrier, {channel, w, h, n}, {shift_w, shift_h});
}

namespace emulated {

inline void store_matrices_transposed(const fibers::WarpArguments& lanes) {
  check_rows(lanes);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix)
      for (int half = 0; half < 2; ++half)
        std::memcpy(const_cast<char*>(load_of(lanes, matrix * 8 + lane % 4 * 2 + half).row) + lane / 4 * 2,
                    reinterpret_cast<char*>(load_of(lanes, lane).registers + matrix) + half * 2, 2);
}

// Where 16 bytes of a swizzled tile are: bits 4 to 6 of the address are changed by bits 7 to 9.
inline unsigned swizzled(unsigned address) {
  return address ^ (address >> 7 & 7) << 4;
}

inline unsigned start_of(uint64_t operand) {
  return static_cast<unsigned>(operand & 0x3FFF) << 4;
}
inline unsigned distance(uint64_t operand, int first_bit) {
  return static_cast<unsigned>(operand >> first_bit & 0x3FFF) << 4;
}
void check_operand(uint64_t operand);

// Element (line of the result, depth) of an operand, 2 or 4 bytes. PTX ISA, "Strides"; CUTLASS, make_gmma_desc.
template <class T, bool kDepthOuter>
double element_of(uint64_t operand, int line, int depth) {
  const unsigned leading = distance(operand, 16), stride = distance(operand, 32);
  unsigned at = start_of(operand);
  if (kDepthOuter)
    at += line / 64 * leading + depth / 8 * stride + depth % 8 * 128 + line % 64 * sizeof(T);
  else
    at += line / 8 * stride + line % 8 * 128 + depth * sizeof(T);
  uint32_t bits = 0;
  std::memcpy(&bits, fibers::shared_pointer("wgmma", swizzled(at), sizeof(T)), sizeof(T));
  return element<T>(bits, 0);
}

template <class T, int kColumns, bool kDepthOuter>
void multiply(unsigned warp, uint64_t a, uint64_t b, float* sums) {
  constexpr int kDepth = 32 / sizeof(T), kCount = kColumns / 2;
  check_operand(a), check_operand(b);
  double rows[16][kDepth], column[kDepth];
  for (int row = 0; row < 16; ++row)
    for (int d = 0; d < kDepth; ++d) rows[row][d] = element_of<T, kDepthOuter>(a, warp % 4 * 16 + row, d);
  for (int c = 0; c < kColumns; ++c) {
    for (int d = 0; d < kDepth; ++d) column[d] = element_of<T, kDepthOuter>(b, c, d);
    for (int row = 0; row < 16; ++row) {
      float& total = sums[(row % 8 * 4 + c % 8 / 2) * kCount + c / 8 * 4 + row / 8 * 2 + c % 2];
      double sum = total;
      for (int d = 0; d < kDepth; ++d) sum += rows[row][d] * column[d];
      total = truncated(sum);
    }
  }
}

}  // namespace emulated

inline void store_matrices_transposed(void* column, const uint32_t (&m)[4]) {
  uint32_t registers[4] = {m[0], m[1], m[2], m[3]};
  emulated::MatrixLoad arguments{registers, static_cast<const char*>(column)};
  fibers::warp_instruction("stmatrix.trans", &arguments, emulated::store_matrices_transposed);
}

// ---- wgmma.h

inline void begin_products(emulated::Site site = emulated::Site::current()) {
  if (!fibers::is_left_out(site)) emulated::begin_products();
}
inline void commit_products(emulated::Site site = emulated::Site::current()) {
  if (!fibers::is_left_out(site)) emulated::commit_products();
}
template <int kPending>
void wait_for_products(emulated::Site site = emulated::Site::current()) {
  if (!fibers::is_left_out(site)) emulated::wait_for_products(kPending);
}
template <int kCount>
void products_are_done(float (&)[kCount]) {}

// Descriptors keep 14 bits of an address, without its lowest 4.
inline uint64_t operand_of(const void* tile, int tile_bytes) {
  return wgmma_operand(fibers::shared_address(tile), tile_bytes);
}

template <bool kDepthOuter, class T, int kCount>
void multiply_add(T, float (&sums)[kCount], uint64_t a, uint64_t b) {
  static_assert(kCount == 64 || kCount == 128);
  static_assert(!kDepthOuter || sizeof(T) == 2, "tf32 has only lines along the depth");
  emulated::start_product(sums, kCount, a, b, emulated::multiply<T, kCount * 2, kDepthOuter>);
}

}  // namespace tmc
