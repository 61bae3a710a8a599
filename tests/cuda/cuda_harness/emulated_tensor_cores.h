// Tensor cores, ldmatrix and cp.async on a CPU, with the layouts of the PTX ISA: what csrc/cuda/machine/primitives.h
// offers.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulated_types.h"
#include "fibers.h"

#define __forceinline__ inline

namespace tmc {

// Small, so that small tests reach every path.
constexpr int64_t kMultiprocessors = 2, kMaxLaunchResults = 50'000;

inline char* dynamic_shared_memory() {
  return static_cast<char*>(fibers::dynamic_shared_memory());
}

inline void copy_async(void* shared, const void* global, bool valid) {
  fibers::copy_async(shared, global, valid);
}
template <int kBytes = 16>
void copy_async_through_cache(void* shared, const void* global, bool valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  fibers::copy_async(shared, global, valid, kBytes);
}
inline void commit_copies() {
  fibers::commit_copies();
}
template <int kPending>
void wait_for_copies(std::source_location site = std::source_location::current()) {
  fibers::wait_for_copies(kPending, site);
}

namespace emulated {

constexpr int kLanes = fibers::kWarp;

struct MatrixLoad {
  uint32_t* registers;
  const char* row;
};

inline const MatrixLoad& load_of(const fibers::WarpArguments& lanes, int lane) {
  return *static_cast<const MatrixLoad*>(lanes[lane]);
}

// The eight rows of a matrix are read at once: each should come from other banks.
inline void check_rows(const fibers::WarpArguments& lanes) {
  for (int lane = 0; lane < kLanes; ++lane) fibers::check_shared("ldmatrix", load_of(lanes, lane).row);
  for (int matrix = 0; matrix < 4; ++matrix) {
    unsigned banks = 0;
    for (int row = 0; row < 8; ++row)
      banks |= 1u << reinterpret_cast<std::uintptr_t>(load_of(lanes, matrix * 8 + row).row) / 16 % 8;
    if (banks != 0xFF) fibers::fail("ldmatrix: bank conflict");
  }
}

inline void load_matrices(const fibers::WarpArguments& lanes) {
  check_rows(lanes);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix)
      std::memcpy(load_of(lanes, lane).registers + matrix, load_of(lanes, matrix * 8 + lane / 4).row + lane % 4 * 4, 4);
}

inline void load_matrices_transposed(const fibers::WarpArguments& lanes) {
  check_rows(lanes);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix)
      for (int half = 0; half < 2; ++half)
        std::memcpy(reinterpret_cast<char*>(load_of(lanes, lane).registers + matrix) + half * 2,
                    load_of(lanes, matrix * 8 + lane % 4 * 2 + half).row + lane / 4 * 2, 2);
}

struct Multiplication {
  float* sums;
  const uint32_t *a, *b;
};

// Element `place` of the depths that a register holds.
template <class T>
double element(uint32_t bits, int place) {
  T value;
  value.bits = static_cast<uint16_t>(bits >> (16 * place));
  return static_cast<float>(value);
}
template <>
inline double element<float>(uint32_t bits, int) {
  return std::bit_cast<float>(bits & 0xFFFFE000);  // tf32: the rest is not read
}

// The sum of all products and the old sum, cut off towards zero: what tensor cores are known to do, or worse. What is
// too large becomes infinite [assumed].
inline float truncated(double value) {
  const float nearest = static_cast<float>(value);
  return std::isfinite(nearest) && std::fabs(nearest) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

template <class T>
void multiply_add(const fibers::WarpArguments& lanes) {
  constexpr int kPlaces = 4 / sizeof(T), kHalf = 4 * kPlaces, kDepth = 2 * kHalf;  // depths: in 32 bits, 16 bytes, all
  const auto of = [&](int lane) -> const Multiplication& { return *static_cast<const Multiplication*>(lanes[lane]); };
  double a[16][kDepth], b[8][kDepth];
  for (int d = 0; d < kDepth; ++d) {
    const int t = d % kHalf / kPlaces, place = d % kPlaces, second = d / kHalf;
    for (int row = 0; row < 16; ++row) a[row][d] = element<T>(of(row % 8 * 4 + t).a[row / 8 + 2 * second], place);
    for (int column = 0; column < 8; ++column) b[column][d] = element<T>(of(column * 4 + t).b[second], place);
  }
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      double sum = of(lane).sums[i];
      for (int d = 0; d < kDepth; ++d) sum += a[row][d] * b[column][d];
      of(lane).sums[i] = truncated(sum);
    }
}

template <class T>
void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Multiplication arguments{sums, a, b};
  fibers::warp_instruction("mma.sync", &arguments, multiply_add<T>);
}

}  // namespace emulated

inline void load_matrices(uint32_t (&m)[4], const void* row) {
  emulated::MatrixLoad arguments{m, static_cast<const char*>(row)};
  fibers::warp_instruction("ldmatrix", &arguments, emulated::load_matrices);
}
inline void load_matrices_transposed(uint32_t (&m)[4], const void* row) {
  emulated::MatrixLoad arguments{m, static_cast<const char*>(row)};
  fibers::warp_instruction("ldmatrix.trans", &arguments, emulated::load_matrices_transposed);
}

inline void multiply_add(bfloat16, float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulated::multiply_add<bfloat16>(sums, a, b);
}
inline void multiply_add(float16, float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulated::multiply_add<float16>(sums, a, b);
}
inline void multiply_add(float, float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulated::multiply_add<float>(sums, a, b);
}

inline float round_to_tf32(float value) {
  if (std::isnan(value)) return std::bit_cast<float>(0x7FFFFFFF);
  return std::bit_cast<float>((std::bit_cast<uint32_t>(value) + 0x1000) & 0xFFFFE000);
}

}  // namespace tmc
