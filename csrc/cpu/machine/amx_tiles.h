// AMX: eight registers, each a tile of up to 16 rows of 64 bytes, and one instruction that multiplies two of them.
//
//   tmm<sum>[i][j] += sum_{l < 32} tmm<a>[i][l] * tmm<b>[l / 2][j][l % 2]      16 x 16 floats; a and b hold bfloat16
//
// The hardware body is one instruction a function. The other one (TMC_EMULATE_AMX) computes in plain C++ what Intel's
// manual says that instruction does, so that the kernels are tested on machines without AMX (tests/cpu/test_amx.py),
// and ends the process on what the hardware would fault on.
#pragma once
#include <cstdint>

namespace tmc {
namespace {

constexpr int kTileRows = 16;
constexpr int64_t kTileRowBytes = 64;

// The 64 bytes that ldtilecfg reads: here, all eight tiles at their full size.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

}  // namespace
}  // namespace tmc

#if defined(TMC_EMULATE_AMX)
#include "amx_tiles_emulated.h"
#else

namespace tmc {
namespace {

// Tiles live from configure_tiles to release_tiles; the operating system saves them only then. Each statement is
// volatile and clobbers memory: the compiler knows of no tile register and of none of the memory that these read.
inline void configure_tiles(const TileConfig& config) {
  asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
inline void release_tiles() {
  asm volatile("tilerelease" ::: "memory");
}

template <int kTile>
inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
// Row i of the tile is at from + kOffset + i * stride bytes.
template <int kTile, int kOffset = 0>
inline void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd %c3(%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile), "i"(kOffset) : "memory");
}
template <int kTile>
inline void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
}
template <int kSum, int kA, int kB>
inline void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
}

}  // namespace
}  // namespace tmc
#endif
