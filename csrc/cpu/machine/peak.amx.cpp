// The peak of AMX: products of tiles, 16 cycles each, in four chains: the 2 x 2 blocking of cpu/gemm/tiles.amx.cpp.
#include "cpu/machine/peak.h"

#include "cpu/machine/amx_tiles.h"

namespace tmc {

int64_t peak_bfloat16_tiles(int64_t rounds) {
  configure_tiles(TileConfig{});  // zeroes them
  for (int64_t round = 0; round < rounds; ++round) {
    multiply_tiles<0, 4, 6>();
    multiply_tiles<1, 4, 7>();
    multiply_tiles<2, 5, 6>();
    multiply_tiles<3, 5, 7>();
  }
  release_tiles();
  return rounds * 4 * 2 * 16 * 16 * 32;
}

}  // namespace tmc
