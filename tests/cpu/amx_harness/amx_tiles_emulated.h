// The tiles of amx_tiles.h without AMX, for tests: Intel's description of each instruction, in C++.
//
// tdpbf16ps takes subnormal operands for zero, keeps two float sums an element (of the even and of the odd l), each
// rounded to nearest even and flushed to zero where subnormal after every multiply-add, then adds the two and adds
// that to the tile, flushing again. Tiles hold NaN until they are written; a tile that is not configured, or of shapes
// that do not fit together, ends the process.
#pragma once
#include <cstdio>
#include <cstdlib>

namespace tmc {
namespace {

struct EmulatedTiles {
  bool configured = false;
  TileConfig config;
  uint8_t data[8][16][64];
};
inline thread_local EmulatedTiles emulated;

inline void must(bool holds, const char* rule) {
  if (holds) return;
  std::fprintf(stderr, "AMX would fault: %s\n", rule);
  std::abort();
}

inline void configure_tiles(const TileConfig& config) {
  must(config.palette == 1 && config.start_row == 0, "palette 1 and start row 0");
  for (int t = 0; t < 16; ++t) {
    const bool used = config.rows[t] != 0 && config.row_bytes[t] != 0;
    must(t < 8 ? used : !config.rows[t] && !config.row_bytes[t], "eight tiles, each with rows");
    must(config.rows[t] <= 16 && config.row_bytes[t] <= 64, "16 rows of 64 bytes at most");
  }
  for (const uint8_t zero : config.reserved) must(zero == 0, "reserved bytes are zero");
  emulated.configured = true, emulated.config = config;
  __builtin_memset(emulated.data, 0xFF, sizeof emulated.data);  // NaN
}
inline void release_tiles() {
  emulated.configured = false;
}

template <int kTile>
inline void check_tile() {
  static_assert(kTile >= 0 && kTile < 8);
  must(emulated.configured, "tiles are configured");
}

template <int kTile>
inline void zero_tile() {
  check_tile<kTile>();
  __builtin_memset(emulated.data[kTile], 0, sizeof emulated.data[kTile]);
}
template <int kTile, int kOffset = 0>
inline void load_tile(const void* from, int64_t stride) {
  zero_tile<kTile>();  // what lies beyond the configured rows and bytes
  for (int i = 0; i < emulated.config.rows[kTile]; ++i)
    __builtin_memcpy(emulated.data[kTile][i], static_cast<const char*>(from) + kOffset + i * stride,
                     emulated.config.row_bytes[kTile]);
}
template <int kTile>
inline void store_tile(void* to, int64_t stride) {
  check_tile<kTile>();
  for (int i = 0; i < emulated.config.rows[kTile]; ++i)
    __builtin_memcpy(static_cast<char*>(to) + i * stride, emulated.data[kTile][i], emulated.config.row_bytes[kTile]);
}

// Denormals are zero, with the sign they had.
inline float flushed(float x) {
  return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x;
}
inline float bfloat16_at(const uint8_t* from) {
  uint16_t bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return flushed(__builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16));
}

template <int kSum, int kA, int kB>
inline void multiply_tiles() {
  static_assert(kSum != kA && kSum != kB && kA != kB, "three different tiles");
  check_tile<kSum>(), check_tile<kA>(), check_tile<kB>();
  const TileConfig& config = emulated.config;
  must(config.rows[kSum] == config.rows[kA] && config.row_bytes[kSum] == config.row_bytes[kB] &&
           config.row_bytes[kA] == 4 * config.rows[kB],
       "tdpbf16ps: shapes that fit together");
  const int pairs = config.rows[kB], columns = config.row_bytes[kB] / 4;
  float b[16][2][16];
  for (int l = 0; l < pairs; ++l)
    for (int odd = 0; odd < 2; ++odd)
      for (int j = 0; j < columns; ++j) b[l][odd][j] = bfloat16_at(emulated.data[kB][l] + 4 * j + 2 * odd);
  for (int i = 0; i < config.rows[kSum]; ++i) {
    float sums[2][16] = {};
    for (int l = 0; l < pairs; ++l)
      for (int odd = 0; odd < 2; ++odd) {
        const float a = bfloat16_at(emulated.data[kA][i] + 4 * l + 2 * odd);
        for (int j = 0; j < columns; ++j) sums[odd][j] = flushed(__builtin_fmaf(a, b[l][odd][j], sums[odd][j]));
      }
    for (int j = 0; j < columns; ++j) {
      float total;
      __builtin_memcpy(&total, emulated.data[kSum][i] + 4 * j, sizeof total);
      total = flushed(flushed(total) + flushed(sums[0][j] + sums[1][j]));
      __builtin_memcpy(emulated.data[kSum][i] + 4 * j, &total, sizeof total);
    }
  }
}

}  // namespace
}  // namespace tmc
