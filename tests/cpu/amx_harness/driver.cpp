// The emulated tiles alone: values chosen so that another order, rounding or flushing would show.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "cpu/machine/amx_tiles.h"

using namespace tmc;

namespace {

int failures = 0;
void expect(const char* what, float got, float wanted) {
  if (std::memcmp(&got, &wanted, sizeof got) == 0) return;
  std::printf("%s: %a, wanted %a\n", what, got, wanted);
  ++failures;
}

uint16_t bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

// sum + the dot product of two lists of 32, through element (3, 5) of the tiles.
float dot(float sum, const float (&a)[32], const float (&b)[32]) {
  uint16_t a_tile[16][32] = {}, b_tile[16][16][2] = {};
  float sums[16][16] = {};
  for (int l = 0; l < 32; ++l) a_tile[3][l] = bfloat16(a[l]), b_tile[l / 2][5][l % 2] = bfloat16(b[l]);
  sums[3][5] = sum;
  configure_tiles(TileConfig{});
  load_tile<0>(sums, 64), load_tile<4>(a_tile, 64), load_tile<6>(b_tile, 64);
  multiply_tiles<0, 4, 6>();
  store_tile<0>(sums, 64);
  release_tiles();
  return sums[3][5];
}

void check_values() {
  constexpr float kTiny = 0x1p-126f, kInfinity = std::numeric_limits<float>::infinity();
  float a[32], b[32];
  for (int l = 0; l < 32; ++l) a[l] = static_cast<float>(l % 7) - 2, b[l] = static_cast<float>(l % 5) - 1;
  float wanted = 10;
  for (int l = 0; l < 32; ++l) wanted += a[l] * b[l];
  expect("a sum of small integers", dot(10, a, b), wanted);
  expect("even and odd terms are added apart: 2^24 swallows the odd 1", dot(0, {0x1p24f, 1, 0, 1}, {1, 1, 0, 1}),
         0x1p24f + 2);
  expect("terms of one parity are added in order", dot(0, {0x1p24f, 0, 1, 0, 1}, {1, 0, 1, 0, 1}), 0x1p24f);
  expect("the terms are added before they join the sum", dot(0x1p24f, {1, 1}, {1, 1}), 0x1p24f + 2);
  expect("to nearest even", dot(0x1p24f, {3}, {1}), 0x1p24f + 4);
  expect("a subnormal operand is zero", dot(1, {0x1p-127f}, {0x1p126f}), 1);
  expect("a subnormal sum is zero", dot(0x1p-130f, {0}, {0}), 0);
  expect("a subnormal product is flushed", dot(0, {0x1p-64f}, {0x1p-64f}), 0);
  expect("... but not one that is added to a normal sum", dot(0, {kTiny, 0, 0x1.8p-75f}, {1, 0, 0x1p-75f}),
         kTiny + 0x1.8p-150f);
  expect("infinity", dot(0, {kInfinity}, {-2}), -kInfinity);
  expect("overflow", dot(0, {0x1p100f}, {0x1p100f}), kInfinity);
  if (!std::isnan(dot(0, {kInfinity}, {0}))) std::printf("infinity times zero is no NaN\n"), ++failures;
  configure_tiles(TileConfig{});
  float poisoned[16][16];
  store_tile<2>(poisoned, 64);
  if (!std::isnan(poisoned[9][9])) std::printf("a tile that was never written holds numbers\n"), ++failures;
}

}  // namespace

int main(int count, char** arguments) {
  const char* mistake = count > 1 ? arguments[1] : "";
  TileConfig config;
  if (std::strcmp(mistake, "unconfigured") == 0) zero_tile<0>();
  if (std::strcmp(mistake, "released") == 0) configure_tiles(config), release_tiles(), zero_tile<0>();
  if (std::strcmp(mistake, "palette") == 0) config.palette = 0, configure_tiles(config);
  if (std::strcmp(mistake, "shapes") == 0) config.rows[4] = 8, configure_tiles(config), multiply_tiles<0, 4, 6>();
  check_values();
  return failures;
}
