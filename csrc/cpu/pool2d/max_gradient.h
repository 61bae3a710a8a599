// The gradient of max pooling, two ways.
//
//   gather   each position asks every window that holds it for its winner, a vector of channels at a time
//   scatter  each output adds its gradient where its winner stands, in the order of the outputs: one step for an
//            output, however many positions its window has; a task owns whole planes, so sums have no other writer
//
// Bound: gather, memory for float and double; in half precision, six instructions for 32 channels of a window and ten
// to round their sums (a position that one window holds, in bits, needs neither). scatter, the additions, one at a
// time.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/lanes/shuffle.h"
#include "cpu/pool2d/channels.h"
#include "cpu/pool2d/planes.h"

namespace tmc {
namespace {

// sum += gradient, of the channels that `tap` won.
template <class T>
inline void add_won(const uint8_t* winners, uint8_t tap, const T* gradient, int64_t count,
                    Lanes<accumulate_t<T>>& sum) {
  using Real = accumulate_t<T>;
  const auto winner = load_winners<Real>(winners, count);
  add_where<Real>(winner, Vector<uint8_t, kLanes<Real>>{} + tap, load(gradient, count), sum);
}
// In half precision: the bits of the gradients, or of +0, which changes no sum that began at +0.
template <class T>
inline PairBits won_bits(const uint8_t* winners, uint8_t tap, const T* gradient, int64_t count) {
  const auto winner = load_raw<uint8_t, kPair<T>>(winners, count);
#if defined(__AVX512F__)
  const __mmask32 won = _mm256_cmpeq_epi8_mask(bits_as<__m256i>(winner), _mm256_set1_epi8(static_cast<char>(tap)));
  return bits_as<PairBits>(_mm512_maskz_loadu_epi16(won, gradient));
#else
  const PairBits won = resize<PairBits>(winner) == tap;
  return load_raw<uint16_t, kPair<T>>(gradient, count) & won;
#endif
}
template <class T>
inline void add_won(const uint8_t* winners, uint8_t tap, const T* gradient, int64_t count, LanePair<float>& sum) {
  sum += widen_pair(won_bits(winners, tap, gradient, count), T{});
}

// An output whose window holds a position, and the tap that stands there.
template <class T>
struct Claim {
  const T* gradient;
  const uint8_t* winner;
  uint8_t tap;
};

// eq. 8 for one position, of `rows` times `columns` claims: kRows times kColumns of them where these are not 0.
template <int kRows, int kColumns, class T>
inline void collect_claims(AxisClaims rows, AxisClaims columns, int64_t channels, const T* grad_output,
                           const uint8_t* winners, bool streams, T* grad_input) {
  using Real = accumulate_t<T>;
  constexpr int kClaims = kRows * kColumns;
  const auto claim = [&](int64_t i, int64_t j) -> Claim<T> {
    const AxisClaim row = rows.first[i], column = columns.first[j];
    const int64_t place = row.place + column.place;
    return {grad_output + place, winners + place, static_cast<uint8_t>(row.tap + column.tap)};
  };
  Claim<T> claims[kClaims > 0 ? kClaims : 1];
  for (int i = 0; i < kClaims; ++i) claims[i] = claim(i / kColumns, i % kColumns);
  for_channels<T>(channels, [&]<class Block, int kBlocks>(int64_t c, int64_t count) {
    if constexpr (kClaims == 1 && __is_same(Block, LanePair<float>)) {  // one summand is written as it is
      for (int v = 0; v < kBlocks; ++v, c += count) {
        const PairBits bits = won_bits(claims[0].winner + c, claims[0].tap, claims[0].gradient + c, count);
        if (streams) {
          stream_raw(bits, grad_input + c);
        } else {
          store_raw<uint16_t, kPair<T>>(bits, grad_input + c, count);
        }
      }
      return;
    }
    Block sum[kBlocks] = {};
    const auto add = [&](const Claim<T>& claim) {
      for (int v = 0; v < kBlocks; ++v) {
        const int64_t first = c + v * kLanesOf<Block, Real>;
        add_won(claim.winner + first, claim.tap, claim.gradient + first, count, sum[v]);
      }
    };
    if constexpr (kClaims > 0) {
      for (int i = 0; i < kClaims; ++i) add(claims[i]);
    } else {
      for (int64_t i = 0; i < rows.count; ++i)
        for (int64_t j = 0; j < columns.count; ++j) add(claim(i, j));
    }
    write_sums<T>(sum, streams, grad_input + c, count);
  });
}

// eq. 8 for input rows `h_range`: each position collects from the windows that hold it and that it won, in order. The
// usual numbers of windows are loops of their own: how often short ones turn costs more to find out than what they do.
template <class T>
KERNEL void max_gradient_rows(const PoolPlan& plan, Range h_range, Rows<const T> grad_output,
                              Rows<const uint8_t> winners, Rows<T> grad_input) {
  const PoolShape shape = plan.shape;
  const bool streams = plan.streams;
  const int64_t next_row = plan.row_outputs[0].last + 1;
  ReadAhead gradients_ahead(plan, grad_output, next_row, h_range.begin);
  ReadAhead winners_ahead(plan, winners, next_row, h_range.begin);
  for (int64_t h = h_range.begin; h < h_range.end; ++h) {
    const AxisClaims rows = plan.row_claims[h];
    for (int64_t w = 0; w < shape.w.in; ++w) {
      const AxisClaims columns = plan.column_claims[w];
      gradients_ahead(grad_input.channels);
      winners_ahead(grad_input.channels);
      with_counts<T>(rows.count, columns.count, [&]<int kRows, int kColumns>() {
        collect_claims<kRows, kColumns>(rows, columns, grad_input.channels, grad_output.at(0, 0), winners.at(0, 0),
                                        streams, grad_input.at(h, w));
      });
    }
  }
}

// ---- Scatter.

// The rows or columns of outputs whose windows hold any input.
inline Range with_input(const Window* windows, int64_t out) {
  Range range{0, out};
  while (range.begin < out && windows[range.begin].begin == windows[range.begin].end) ++range.begin;
  while (range.end > range.begin && windows[range.end - 1].begin == windows[range.end - 1].end) --range.end;
  return range;
}

// The place of a winner from the start of its window, in positions.
template <class Winner>
inline int64_t offset_of(const PoolPlan& plan, Winner winner) {
  if constexpr (sizeof(Winner) == 1) return plan.offsets[winner];
  const PoolShape& shape = plan.shape;
  return winner / shape.w.kernel * shape.h.dilation * shape.w.in + winner % shape.w.kernel * shape.w.dilation;
}

// Where windows do not overlap, a sum has one summand: it is written as it is, and needs neither the old value nor, in
// half precision, rounding.
template <bool kOverlapping, class T, class Sum>
inline void add_to(T gradient, Sum& sum) {
  if constexpr (kOverlapping) {
    accumulate_t<T> wide;
    convert(gradient, wide);
    sum += wide;
  } else {
    sum = gradient;
  }
}

// eq. 8 for one plane, into `sums`: T or, where windows overlap, the precision of sums.
template <bool kOverlapping, class T, class Sum, class Winner>
inline void scatter_plane(const PoolPlan& plan, Range rows, Range columns, const T* grad_output, const Winner* winners,
                          Sum* sums) {
  const PoolShape& shape = plan.shape;
  const int64_t inner = plan.channels_last ? shape.c : 1, row = shape.w.in * inner;
  const Window* window = plan.columns;
  int64_t zeroed = 0;
  const auto zero_rows = [&](int64_t end) {
    if (end <= zeroed) return;
    if (shape.h.in * row * static_cast<int64_t>(sizeof(Sum)) <= kSmallPlane) end = shape.h.in;
    __builtin_memset(sums + zeroed * row, 0, (end - zeroed) * row * sizeof(Sum));
    zeroed = end;
  };
  for (int64_t p = rows.begin; p < rows.end; ++p) {
    const Window taps = plan.rows[p];
    zero_rows(taps.start + (taps.end - 1) * shape.h.dilation + 1);  // just ahead: still in cache when added to
    const T* gradient = grad_output + p * shape.w.out * inner;
    const Winner* winner = winners + p * shape.w.out * inner;
    Sum* first = sums + taps.start * row;
    if (inner == 1) {
      for (int64_t q = columns.begin; q < columns.end; ++q)
        add_to<kOverlapping>(gradient[q], first[window[q].start + offset_of(plan, winner[q])]);
      continue;
    }
    for (int64_t q = columns.begin; q < columns.end; ++q)
      for (int64_t c = 0; c < inner; ++c)
        add_to<kOverlapping>(gradient[q * inner + c],
                             first[(window[q].start + offset_of(plan, winner[q * inner + c])) * inner + c]);
  }
  zero_rows(shape.h.in);
}

// Where the winners of `size` windows stand, given where the windows start: vector code, with a multiplication for the
// quotient by the window's width, exact for bytes and widths of up to 256.
template <class Winner>
inline void list_places(const PoolPlan& plan, const Winner* winners, int64_t size, const int32_t* starts,
                        int32_t* places) {
  if constexpr (sizeof(Winner) == 1) {
    const PoolAxis &h = plan.shape.h, &w = plan.shape.w;
    const int32_t reciprocal = static_cast<int32_t>(65536 / w.kernel + 1), step = static_cast<int32_t>(w.dilation);
    const int32_t next_row = static_cast<int32_t>(h.dilation * w.in - w.kernel * w.dilation);
    for (int64_t i = 0; i < size; ++i)
      places[i] = starts[i] + winners[i] * step + (winners[i] * reciprocal >> 16) * next_row;
  } else {
    for (int64_t i = 0; i < size; ++i) places[i] = starts[i] + static_cast<int32_t>(offset_of(plan, winners[i]));
  }
}

// The same for `size` outputs of small planes, which hold `inputs` positions together.
template <bool kOverlapping, class T, class Sum, class Winner>
inline void scatter_small_planes(const PoolPlan& plan, int64_t size, int64_t inputs, const T* grad_output,
                                 const Winner* winners, Sum* sums) {
  constexpr int64_t kListed = 256;
  int32_t places[kListed];
  __builtin_memset(sums, 0, inputs * sizeof(Sum));
  for (int64_t first = 0; first < size; first += kListed) {
    const int64_t count = size - first < kListed ? size - first : kListed;
    list_places(plan, winners + first, count, plan.starts + first, places);
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; ++i) add_to<kOverlapping>(grad_output[first + i], sums[places[i]]);
  }
}

// 2 x 2 windows side by side, on contiguous planes of which a row of outputs fills a vector, or half of one that masks
// cut short: the gradients, zipped with zeros as their winners say, are two vectors of each of two rows. Elements are
// only moved.
template <class Element>
inline bool suits_pairs(const PoolPlan& plan) {
  const auto is_halved = [](const PoolAxis& axis) {
    return axis.kernel == 2 && axis.stride == 2 && axis.pad == 0 && axis.dilation == 1 && 2 * axis.out <= axis.in;
  };
  return !plan.channels_last && is_halved(plan.shape.h) && is_halved(plan.shape.w) &&
         plan.shape.w.out >= kRaw<Element> / (kVectorBytes == 64 ? 2 : 1);
}
template <class Element>
inline void scatter_pairs(const PoolPlan& plan, const Element* gradients, const uint8_t* winners, Element* plane) {
  constexpr int64_t kCount = kRaw<Element>;
  using Elements = Vector<Element, kCount>;
  const int64_t in_w = plan.shape.w.in, out_w = plan.shape.w.out, rows = 2 * plan.shape.h.out;
  const int64_t count = min(kCount, out_w), left = min(kCount, 2 * count), right = 2 * count - left;
  for (int64_t h = 0; h < rows; h += 2, gradients += out_w, winners += out_w) {
    for (int64_t first = 0; first < out_w; first += kCount) {
      const int64_t q = min(first, out_w - count);  // the last overlaps its neighbour
      const Elements gradient = load_raw<Element, kCount>(gradients + q, count);
      const Elements winner = resize<Elements>(load_raw<uint8_t, kCount>(winners + q, count));
      for (int64_t r = 0; r < 2; ++r) {
        const Elements even = winner == static_cast<Element>(2 * r) ? gradient : Elements{};
        const Elements odd = winner == static_cast<Element>(2 * r + 1) ? gradient : Elements{};
        Element* const to = plane + (h + r) * in_w + 2 * q;
        store_raw<Element, kCount>(zip<0>(even, odd, AllLanes<kCount>{}), to, left);
        store_raw<Element, kCount>(zip<kCount / 2>(even, odd, AllLanes<kCount>{}), to + kCount, right);
      }
    }
    for (int64_t w = 2 * out_w; w < in_w; ++w) plane[h * in_w + w] = plane[(h + 1) * in_w + w] = 0;
  }
  __builtin_memset(plane + rows * in_w, 0, (plan.shape.h.in - rows) * in_w * sizeof(Element));
}

// A task's planes are small ones, or a single one.
template <class T, class Winner>
KERNEL void scatter_task(const PoolPlan& given, int64_t task, char* scratch) {
  using Real = accumulate_t<T>;
  const PoolPlan plan = given;  // a copy that no sum written can be thought to change
  const PoolPart part = part_of(plan, task);
  const Range rows = with_input(plan.rows, plan.shape.h.out), columns = with_input(plan.columns, plan.shape.w.out);
  const int64_t inner = plan.channels_last ? plan.shape.c : 1;
  const int64_t in = plan.shape.h.in * plan.shape.w.in * inner, out = plan.shape.h.out * plan.shape.w.out * inner;
  const T* grad_output = static_cast<const T*>(plan.source) + part.first_plane * out;
  const Winner* winners = static_cast<const Winner*>(plan.winners) + part.first_plane * out;
  T* grad_input = static_cast<T*>(plan.result) + part.first_plane * in;
  const auto scatter = [&]<bool kOverlapping>(auto* sums) {
    if (plan.starts != nullptr) {
      scatter_small_planes<kOverlapping>(plan, part.planes * out, part.planes * in, grad_output, winners, sums);
    } else {
      scatter_plane<kOverlapping>(plan, rows, columns, grad_output, winners, sums);
    }
  };
  if constexpr (sizeof(T) < 8 && sizeof(Winner) == 1) {
    using Element = typename Unsigned<sizeof(T)>::type;
    if (suits_pairs<Element>(plan)) {
      for (int64_t plane = 0; plane < part.planes; ++plane)
        scatter_pairs(plan, reinterpret_cast<const Element*>(grad_output + plane * out), winners + plane * out,
                      reinterpret_cast<Element*>(grad_input + plane * in));
      return;
    }
  }
  if (!plan.overlapping) {
    scatter.template operator()<false>(grad_input);
  } else if constexpr (sizeof(T) == sizeof(Real)) {
    scatter.template operator()<true>(grad_input);
  } else {
    Real* sums = reinterpret_cast<Real*>(scratch);
    scatter.template operator()<true>(sums);
    narrow_row(sums, grad_input, part.planes * in);
  }
}

}  // namespace
}  // namespace tmc
