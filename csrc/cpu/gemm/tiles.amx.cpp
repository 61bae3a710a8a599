// The micro-kernel on AMX: bfloat16 as it is, float16 and float32 as sums of bfloat16 (cpu/gemm/split.h).
//
//   tile[i, j] += sum_l a[i, l] * b[l, j]       32 x 32 sums in four of the eight tiles; 32 l an instruction
//
// A product of two elements of three parts each is the sum of the six largest products of parts; the other three
// together are below 2^-24 of it ("highest"). Two parts give three products and 2^-15 ("high"), one gives one and 2^-7
// ("medium") (eq. 30).
// float16 is two parts exactly, and all four of their products are added.
//
// Tiles: 4 of sums, 2 of a (16 rows each), 2 of b (16 columns each). A loaded part serves as long as it can: per 32 l,
//
//   products  1    3    4    6        tdpbf16ps (16 cycles each)    4   12   16   24
//                                     tileloadd (8 cycles each)     4    8   10   16
//
// Bound: the multiplier, 2048 multiply-adds in 16 cycles, divided by the number of products; loads take half of that
// time for one product and a third for six. Cache: a panel of b is 16 KiB a part (one and two parts stay in L1, three
// in L2), 32 rows of a are 16 KiB a part, from L2. These are budgets: not measured on AMX.
#include "cpu/gemm/split.h"
#include "cpu/machine/amx_tiles.h"

namespace tmc {
namespace {

constexpr int64_t kStrip = 2 * kTileRows;

// One packed operand as the tiles see it: 64 bytes every kRowBytes. So many bytes further on are the second of a pair
// of tiles, the next 32 of the depth, the next part, and the next row of a or panel of b.
template <int kRowBytes_, int kSecondTile_, int kStep_, int kPart_, int64_t kNext_>
struct TileOperand {
  static constexpr int kRowBytes = kRowBytes_, kSecondTile = kSecondTile_, kStep = kStep_, kPart = kPart_;
  static constexpr int64_t kNext = kNext_;
};

template <class Operand, int kFirst, int kPart>
void load_pair(const char* from) {
  load_tile<kFirst, kPart * Operand::kPart>(from, Operand::kRowBytes);
  load_tile<kFirst + 1, kPart * Operand::kPart + Operand::kSecondTile>(from, Operand::kRowBytes);
}

void multiply_pairs() {
  multiply_tiles<0, 4, 6>();
  multiply_tiles<1, 4, 7>();
  multiply_tiles<2, 5, 6>();
  multiply_tiles<3, 5, 7>();
}

// The products of 32 l; neighbours share an operand.
template <class A, class B, int kProducts>
void multiply_step(const char* a, const char* b) {
  if constexpr (kProducts == 1) {
    load_pair<A, 4, 0>(a), load_pair<B, 6, 0>(b), multiply_pairs();
  } else if constexpr (kProducts == 3) {
    load_pair<A, 4, 1>(a), load_pair<B, 6, 0>(b), multiply_pairs();
    load_pair<A, 4, 0>(a), multiply_pairs();
    load_pair<B, 6, 1>(b), multiply_pairs();
  } else if constexpr (kProducts == 4) {
    load_pair<A, 4, 1>(a), load_pair<B, 6, 1>(b), multiply_pairs();
    load_pair<B, 6, 0>(b), multiply_pairs();
    load_pair<A, 4, 0>(a), multiply_pairs();
    load_pair<B, 6, 1>(b), multiply_pairs();
  } else {
    static_assert(kProducts == 5, "all of three parts but the first one's with the first one");
    load_pair<A, 4, 2>(a), load_pair<B, 6, 0>(b), multiply_pairs();
    load_pair<A, 4, 1>(a), multiply_pairs();
    load_pair<B, 6, 1>(b), multiply_pairs();
    load_pair<A, 4, 0>(a), multiply_pairs();
    load_pair<B, 6, 2>(b), multiply_pairs();
  }
}

template <class A, class B, int kProducts>
void multiply_steps(int64_t steps, const char* a, const char* b) {
  for (; steps > 0; --steps, a += A::kStep, b += B::kStep) multiply_step<A, B, kProducts>(a, b);
}

// sums[32][32] = the products of 32 rows of a and 32 columns of b.
template <class A, class B, int kProducts>
void multiply_strip(int64_t steps, const char* a, const char* b, float* sums) {
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  if constexpr (kProducts == 6) {
    // The small products of all l first, then the large ones: a tile's sum is rounded once every 32 l at its full size
    // instead of six times. Sums of few terms have 0.75 times torch's error so, and had 1.6 times (test_amx.py,
    // sparse).
    multiply_steps<A, B, 5>(steps, a, b);
    multiply_steps<A, B, 1>(steps, a, b);
  } else {
    multiply_steps<A, B, kProducts>(steps, a, b);
  }
  constexpr int64_t kRowBytes = kPanel * sizeof(float);
  char* const to = reinterpret_cast<char*>(sums);
  store_tile<0>(to, kRowBytes), store_tile<1>(to + kTileRowBytes, kRowBytes);
  char* const lower = to + kTileRows * kRowBytes;
  store_tile<2>(lower, kRowBytes), store_tile<3>(lower + kTileRowBytes, kRowBytes);
}

// Strips inside, panels outside: a panel of b stays in the caches while the rows of a pass by.
// add(i, j, sums) joins sums to the tile at row i and column j.
template <class A, class B, int kProducts, class Add>
void multiply_strips(int64_t rows, int64_t columns, int64_t depth, const void* packed_a, const void* packed_b,
                     const Add& add) {
  const char *a = static_cast<const char*>(packed_a), *b = static_cast<const char*>(packed_b);
  const int64_t steps = padded_depth(depth) / kTileDepth;
  alignas(64) float sums[kStrip * kPanel];
  configure_tiles(TileConfig{});
  for (int64_t j = 0; j < columns; j += kPanel, b += B::kNext)
    for (int64_t i = 0; i < rows; i += kStrip) {
      multiply_strip<A, B, kProducts>(steps, a + i * A::kNext, b, sums);
      add(i, j, sums);
    }
  release_tiles();
}

constexpr int kStepBytes = kTileDepth * sizeof(BFloat16), kPairBytes = 2 * sizeof(BFloat16) * kPanel;
template <int64_t kRow, int kPart>
using TilesOfA = TileOperand<kRow, kTileRows * kRow, kStepBytes, kPart, kRow>;
template <int kPart, int64_t kPanelBytes>
using TilesOfB = TileOperand<kPairBytes, kTileRowBytes, kTileRows * kPairBytes, kPart, kPanelBytes>;

// bfloat16 operands, packed as cpu/gemm/bfloat16.h says.
void multiply_bfloat16(int64_t rows, int64_t columns, int64_t depth, const void* packed_a, const void* packed_b,
                       void* tile) {
  constexpr int64_t kRow = kBlockDepth * sizeof(BFloat16);
  const int64_t stride = tile_stride<float>(columns);
  const auto add = [=](int64_t i, int64_t j, const float* sums) {
    for (int64_t r = 0; r < min(kStrip, rows - i); ++r, sums += kPanel) {
      float* to = static_cast<float*>(tile) + (i + r) * stride + j;
      for (int64_t half = 0; half < kPanel; half += kLanes<float>)
        store(load(to + half) + load(sums + half), to + half);
    }
  };
  multiply_strips<TilesOfA<kRow, 0>, TilesOfB<0, kPanel * kRow>, 1>(rows, columns, depth, packed_a, packed_b, add);
}

// Operands split into kParts.
template <int kParts, int kProducts>
void multiply_split(int64_t rows, int64_t columns, int64_t depth, const void* packed_a, const void* packed_b,
                    void* tile) {
  using Row = SplitRow<kParts>;
  using Panel = SplitPanel<kParts>;
  const Row* split_rows = static_cast<const Row*>(packed_a);
  const Panel* panels = static_cast<const Panel*>(packed_b);
  const int64_t stride = tile_stride<float>(columns);
  const auto add = [=](int64_t i, int64_t j, const float* sums) {
    const Panel& panel = panels[j / kPanel];
    for (int64_t r = 0; r < min(kStrip, rows - i); ++r, sums += kPanel) {
      const Row& row = split_rows[i + r];
      float* to = static_cast<float*>(tile) + (i + r) * stride + j;
      for (int64_t half = 0; half < kPanel; half += kLanes<float>) {
        const FloatLanes exponent = load(panel.scale.exponent + half) + row.scale.exponent;
        store(load(to + half) + times_power_of_two(load(sums + half), exponent), to + half);
      }
      if (row.scale.unsplit || panel.scale.any_unsplit) add_unsplit(depth, row, panel, to);
    }
  };
  using A = TilesOfA<sizeof(Row), sizeof(Row::parts[0])>;
  using B = TilesOfB<sizeof(Panel::parts[0]), sizeof(Panel)>;
  multiply_strips<A, B, kProducts>(rows, columns, depth, packed_a, packed_b, add);
}

template <class Stored, int kParts, int kProducts>
constexpr GemmKernels split_kernels(const char* name) {
  static_assert(sizeof(SplitPanel<kParts>) == kPanel * sizeof(SplitRow<kParts>));
  GemmKernels kernels = kernels_of<Stored>();
  kernels.name = name;
  kernels.packed_size = sizeof(SplitRow<kParts>);
  kernels.row_quantum = kStrip;
  kernels.panel_width = kPanel;
  kernels.multiply = multiply_split<kParts, kProducts>;
  kernels.pack_a = pack_a_split<kParts, Stored>, kernels.pack_b = pack_b_split<kParts, Stored>;
  return kernels;
}

constexpr GemmKernels kBFloat16 = bfloat16_kernels<BFloat16>("AMX tiles", kStrip, multiply_bfloat16);
constexpr GemmKernels kFloat16 = split_kernels<Float16, 2, 4>("AMX tiles, float16 as two bfloat16");
constexpr GemmKernels kHighest = split_kernels<float, 3, 6>("AMX tiles, float32 as three bfloat16, six products");
constexpr GemmKernels kHigh = split_kernels<float, 2, 3>("AMX tiles, float32 as two bfloat16, three products");
constexpr GemmKernels kMedium = split_kernels<float, 1, 1>("AMX tiles, float32 rounded to bfloat16");

}  // namespace

const GemmKernels* gemm_kernels_amx(DType dtype, Precision precision) {
  switch (dtype) {
    case DType::float64: return nullptr;
    case DType::bfloat16: return &kBFloat16;
    case DType::float16: return &kFloat16;
    case DType::float32: break;
  }
  return precision == Precision::highest ? &kHighest : precision == Precision::high ? &kHigh : &kMedium;
}

}  // namespace tmc
