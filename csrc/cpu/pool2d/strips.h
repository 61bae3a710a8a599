// The gradient of max pooling on contiguous planes, for windows of 3 x 3 at a stride of 1 or 2. A strip of the input,
// as wide as a vector, is walked down once: each row of outputs adds to the three rows of sums below it, which stay in
// registers, and leaves kStride of them complete.
//
// Lane l of the strip from column x on lies under the outputs (x + pad + l) / kStride - j, j < ceil(kKernel / kStride),
// and is a tap of their windows that depends on l and j alone: a table of the winners that each lane waits for takes
// the place of edges and strides. For each j a row of outputs is two loads, of gradients and of winners (at a stride of
// 2 two more, and zips), then one comparison and one addition for each row of the window. Bound: memory; on planes that
// a cache holds, the instructions: 45 for 8 outputs of 3 x 3 at a stride of 2.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/lanes/lanes.h"
#include "cpu/lanes/transpose.h"
#include "cpu/pool2d/plan.h"

namespace tmc {
namespace {

template <class Real>
using ByteLanes = Vector<uint8_t, kLanes<Real>>;

// Software prefetch, so many bytes ahead of what is written, in whole planes: hardware prefetchers do not follow rows
// that are taken a strip at a time (28 x 28 planes at a stride of 1 take 1.5 times as long without).
constexpr int64_t kStripsAhead = 4096;

// What a strip from column x on waits for: [row of the window][j], a tap, or kNoTap where there is none.
constexpr uint8_t kNoTap = 255;
constexpr int kKernel = 3;
template <class Real, int kStride>
struct StripTaps {
  static constexpr int kOver = (kKernel + kStride - 1) / kStride;  // outputs over a column
  ByteLanes<Real> tap[kKernel][kOver];

  void list(const PoolAxis& axis, int64_t x) {
    for (int64_t lane = 0; lane < kLanes<Real>; ++lane)
      for (int64_t j = 0; j < kOver; ++j) {
        const int64_t padded = x + lane + axis.pad, q = padded / kStride - j, s = padded - q * kStride;
        for (int64_t r = 0; r < kKernel; ++r)
          tap[r][j][lane] = q >= 0 && q < axis.out && s < kKernel ? static_cast<uint8_t>(r * kKernel + s) : kNoTap;
      }
  }
};

// What stands over each lane: at the places that follow, or at a stride of 2 every one twice.
template <int kStride, class Load>
inline auto spread(Load load, int64_t odd) {
  const auto even = load(0);
  if constexpr (kStride == 1) return even;
  return zip<0>(even, load(odd), AllLanes<sizeof(even) / sizeof(even[0])>{});
}

// What is computed at once: planes, or the rows `h_range` of one, from the outputs `p_range` over them.
template <class T>
struct StripBlock {
  int64_t planes;
  Range h_range, p_range;
  const T* gradients;
  const uint8_t* winners;
  T* result;
};

// eq. 8 for the strip from column x on. Taps and block are copies that nothing written here can be thought to change.
template <class T, int kStride>
KERNEL void gather_strip(const PoolPlan& plan, const StripTaps<accumulate_t<T>, kStride> taps,
                         const StripBlock<T> block, int64_t x) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const int64_t out_w = plan.shape.w.out, in_w = plan.shape.w.in, padded = x + plan.shape.w.pad;
  const int64_t odd = (padded + 1) / kStride - padded / kStride, left = least(in_w - x, kCount);
  const int64_t rows = block.h_range.size(), inputs = rows * in_w, outputs = block.p_range.size();
  const int64_t planes_ahead = ceil_div(kStripsAhead, inputs * static_cast<int64_t>(sizeof(T)));
  const int64_t inputs_ahead = planes_ahead * inputs, outputs_ahead = planes_ahead * outputs * out_w;
  const T* gradients = block.gradients + padded / kStride;
  const uint8_t* winners = block.winners + padded / kStride;
  const T* const block_end = block.result + block.planes * inputs;

  // The outputs of a plane: some `above` it that complete no row, or not only rows of it; then whole ones. In the last
  // plane those are not that write vectors past its end.
  const int64_t first_row = block.p_range.begin * kStride - plan.shape.h.pad - block.h_range.begin;  // 0 or less
  const int64_t above = least(outputs, ceil_div(-first_row, kStride)), top = first_row + above * kStride;
  const int64_t fitting = inputs - x < kCount ? 0 : (inputs - x - kCount) / in_w + 1;
  const auto whole = [&](int64_t end) { return end < top ? 0 : least(outputs - above, (end - top) / kStride); };
  const int64_t whole_in_most = whole(rows), whole_in_last = whole(least(rows, fitting));

  for (T* plane = block.result; plane < block_end; plane += inputs) {
    T* to = plane + first_row * in_w + x;
    Lanes<Real> sum[kKernel] = {};
    const auto shift = [&](int count) {
      for (int i = 0; i < kKernel; ++i) sum[i] = i + count < kKernel ? sum[i + count] : Lanes<Real>{};
    };
    const auto write_row = [&] {
      if (to >= plane && to < plane + inputs) store(sum[0], to, block_end - to < kCount ? left : kCount);
      to += in_w;
      shift(1);
    };
    const auto for_outputs = [&]<bool kWhole>(int64_t count) {
      for (; count > 0; --count, gradients += out_w, winners += out_w) {
        __builtin_prefetch(gradients + outputs_ahead);
        __builtin_prefetch(winners + outputs_ahead);
        for (int j = taps.kOver - 1; j >= 0; --j) {
          const auto gradient = in_register(spread<kStride>([=](int64_t at) { return load(gradients - j + at); }, odd));
          const auto winner =
              spread<kStride>([=](int64_t at) { return load_winners<Real>(winners - j + at, kCount); }, odd);
          for (int r = 0; r < kKernel; ++r) add_where<Real>(winner, taps.tap[r][j], gradient, sum[r]);
        }
        if constexpr (kWhole) {
          for (int i = 0; i < kStride; ++i, to += in_w) {
            __builtin_prefetch(to + inputs_ahead, 1);
            store(sum[i], to);
          }
          shift(kStride);
        } else {
          for (int i = 0; i < kStride; ++i) write_row();
        }
      }
    };
    const int64_t inside = plane + inputs < block_end ? whole_in_most : whole_in_last;
    for_outputs.template operator()<false>(above);
    for_outputs.template operator()<true>(inside);
    for_outputs.template operator()<false>(outputs - above - inside);
    while (to < plane + inputs) write_row();
  }
}

// Vectors reach past the outputs that they are for, by less than kSlack: the first and the last planes are read
// from a copy with room around it, where there are winners that no lane waits for.
//
// Strips go from right to left: the vectors at the end of a row run into the next one, where the strips to come and the
// rows to come write over them.
template <class T, int kStride>
void gather_planes(const PoolPlan& plan, int64_t number, char* scratch) {
  using Real = accumulate_t<T>;
  using Taps = StripTaps<Real, kStride>;
  const PoolShape& shape = plan.shape;
  const PoolPart part = part_of(plan, number);
  const Range above = rows_above(plan, part.rows);
  const int64_t size = above.size() * shape.w.out, strips = ceil_div(shape.w.in, kLanes<Real>);
  const int64_t outputs = shape.h.out * shape.w.out, inputs = shape.h.in * shape.w.in;
  Taps* const taps = reinterpret_cast<Taps*>(scratch);
  for (int64_t strip = 0; strip < strips; ++strip) taps[strip].list(shape.w, strip * kLanes<Real>);
  T* const gradients = reinterpret_cast<T*>(taps + strips) + kSlack;
  uint8_t* const winners = reinterpret_cast<uint8_t*>(gradients + size + kSlack) + kSlack;
  const Range read_in_place{ceil_div(kSlack, outputs), plan.planes - ceil_div(kSlack, outputs)};
  const int64_t most = plan.row_blocks > 1 ? 1 : ceil_div(kSmallPlane, inputs * static_cast<int64_t>(sizeof(T)));
  const int64_t end = part.first_plane + part.planes;
  for (int64_t plane = part.first_plane, planes; plane < end; plane += planes) {
    const int64_t first = plane * outputs + above.begin * shape.w.out;
    planes = 1;
    StripBlock<T> block{planes,
                        part.rows,
                        above,
                        static_cast<const T*>(plan.source) + first,
                        static_cast<const uint8_t*>(plan.winners) + first,
                        static_cast<T*>(plan.result) + plane * inputs + part.rows.begin * shape.w.in};
    if (plane < read_in_place.begin || plane >= read_in_place.end) {
      __builtin_memset(winners - kSlack, 0, size + 2 * kSlack);
      __builtin_memcpy(gradients, block.gradients, size * sizeof(T));
      __builtin_memcpy(winners, block.winners, size);
      block.gradients = gradients;
      block.winners = winners;
    } else {
      const int64_t in_place = (read_in_place.end < end ? read_in_place.end : end) - plane;
      block.planes = planes = in_place < most ? in_place : most;
    }
    for (int64_t strip = strips - 1; strip >= 0; --strip)
      gather_strip<T, kStride>(plan, taps[strip], block, strip * kLanes<Real>);
  }
}

template <class T>
void max_gradient_in_strips(const PoolPlan& plan, int64_t number, char* scratch) {
  if (plan.shape.w.stride == 1) return gather_planes<T, 1>(plan, number, scratch);
  gather_planes<T, 2>(plan, number, scratch);
}

}  // namespace
}  // namespace tmc
