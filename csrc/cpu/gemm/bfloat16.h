// Operands packed for instructions that multiply pairs of bfloat16 and add both products to a float: the dot products
// of AVX512-BF16 and the tiles of AMX.
//
//   packed a   [rows][kBlockDepth]                      a pair (l, l + 1) lies together: what a broadcast loads
//   packed b   [panels][kBlockDepth / 2][width][2]      so do the pairs of `width` columns, side by side
//
// Zeros fill the depth up to a multiple of kTileDepth. An operand is read along the index that is contiguous in memory
// and staged as rows. Its pairs, of 32 bits, are then interleaved or transposed in registers. Bound: memory.
#pragma once
#include "cpu/gemm/kernels.h"

namespace tmc {
namespace {

constexpr int64_t kPanel = 32;      // columns of a panel: two vectors of float sums
constexpr int64_t kTileDepth = 32;  // of one AMX instruction
constexpr int64_t kPairRow = kBlockDepth / 2;

int64_t padded_depth(int64_t depth) {
  return (depth + kTileDepth - 1) / kTileDepth * kTileDepth;
}

void clear(BFloat16* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) from[i] = BFloat16{};
}

using PanelRow = Vector<int16_t, kPanel>;

// Rows l and l + 1 of a panel [depth][kPanel] become pairs [kPanel][2], in place.
void interleave_panel(int64_t depth, BFloat16* panel) {
  for (int64_t l = 0; l < depth; l += 2) {
    BFloat16 *const row = panel + l * kPanel, *const next = row + kPanel;
    const PanelRow first = load_raw<int16_t, kPanel>(row, kPanel), second = load_raw<int16_t, kPanel>(next, kPanel);
    store_raw<int16_t, kPanel>(zip<0>(first, second, AllLanes<kPanel>{}), row, kPanel);
    store_raw<int16_t, kPanel>(zip<kPanel / 2>(first, second, AllLanes<kPanel>{}), next, kPanel);
  }
}

// Pairs from[i][l / 2] -> to[l / 2][i] of `lanes` i, a multiple of 16, and depth l; strides in pairs.
void transpose_pairs(int64_t lanes, int64_t pairs, const BFloat16* from, int64_t from_stride, BFloat16* to,
                     int64_t to_stride) {
  const float* source = reinterpret_cast<const float*>(from);  // 32 bits that nobody calculates with
  float* target = reinterpret_cast<float*>(to);
  for (int64_t i = 0; i < lanes; i += kLanes<float>)
    for (int64_t l = 0; l < pairs; l += kLanes<float>)
      transpose_tile(source + i * from_stride + l, from_stride, target + l * to_stride + i, to_stride);
}

template <class Stored>
void pack_a_bfloat16(const MatrixView& a, IndexRange rows, IndexRange depth, void* packed) {
  BFloat16* to = static_cast<BFloat16*>(packed);
  const int64_t padded = padded_depth(depth.size);
  if (!columns_are_runs(a)) {
    pack_rows<kBlockDepth, BFloat16, Stored>(a, rows, depth, to);
    for (int64_t i = 0; i < rows.size; ++i) clear(to + i * kBlockDepth + depth.size, padded - depth.size);
    return;
  }
  // Some columns of the transposed matrix at a time. The last panel may have fewer than kPanel: it is transposed whole,
  // into memory of its own, and what is there is copied.
  constexpr int64_t kStaged = 4 * kPanel;
  alignas(kVectorBytes) BFloat16 stage[kStaged * kBlockDepth], last[kPanel * kBlockDepth];
  const MatrixView view = transposed(a);
  for (int64_t i = 0; i < rows.size; i += kStaged) {
    const int64_t staged = min(kStaged, rows.size - i);
    pack_rows<kPanel, BFloat16, Stored>(view, depth, {rows.begin + i, staged}, stage);
    for (int64_t j = 0; j < staged; j += kPanel) {
      BFloat16* panel = stage + j * kBlockDepth;
      clear(panel + depth.size * kPanel, (padded - depth.size) * kPanel);
      interleave_panel(padded, panel);
      const int64_t there = min(kPanel, staged - j);
      BFloat16* target = there == kPanel ? to + (i + j) * kBlockDepth : last;
      transpose_pairs(padded / 2, kPanel, panel, kPanel, target, kPairRow);
      if (target == last) __builtin_memcpy(to + (i + j) * kBlockDepth, last, there * kBlockDepth * sizeof(BFloat16));
    }
  }
}

template <class Stored>
void pack_b_bfloat16(const MatrixView& b, IndexRange depth, IndexRange columns, void* packed) {
  BFloat16* to = static_cast<BFloat16*>(packed);
  const int64_t padded = padded_depth(depth.size);
  const bool turn = columns_are_runs(b);
  if (!turn) pack_rows<kPanel, BFloat16, Stored>(b, depth, columns, to);
  const MatrixView view = transposed(b);
  for (int64_t j = 0; j < columns.size; j += kPanel) {
    BFloat16* panel = to + j * kBlockDepth;
    const int64_t there = min(kPanel, columns.size - j);
    if (turn) {
      alignas(kVectorBytes) BFloat16 stage[kPanel * kBlockDepth];
      pack_rows<kBlockDepth, BFloat16, Stored>(view, {columns.begin + j, there}, depth, stage);
      for (int64_t i = 0; i < there; ++i) clear(stage + i * kBlockDepth + depth.size, padded - depth.size);
      clear(stage + there * kBlockDepth, (kPanel - there) * kBlockDepth);
      transpose_pairs(kPanel, padded / 2, stage, kPairRow, panel, kPanel);
    } else {
      for (int64_t l = 0; l < depth.size && there < kPanel; ++l) clear(panel + l * kPanel + there, kPanel - there);
      clear(panel + depth.size * kPanel, (padded - depth.size) * kPanel);
      interleave_panel(padded, panel);
    }
  }
}

template <class Stored>
constexpr GemmKernels bfloat16_kernels(const char* name, int64_t row_quantum,
                                       void (*multiply)(int64_t, int64_t, int64_t, const void*, const void*, void*)) {
  GemmKernels kernels = kernels_of<Stored>();
  kernels.name = name;
  kernels.packed_size = kBlockDepth * sizeof(BFloat16);
  kernels.row_quantum = row_quantum;
  kernels.panel_width = kPanel;
  kernels.pack_a = pack_a_bfloat16<Stored>, kernels.pack_b = pack_b_bfloat16<Stored>;
  kernels.multiply = multiply;
  return kernels;
}

}  // namespace
}  // namespace tmc
