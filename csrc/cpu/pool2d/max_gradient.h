// The gradient of max pooling, gathered from channels_last outputs, a vector of channels at a time: each position asks
// every window that holds it for its winner (cpu/pool2d/cut.h says when; else cpu/pool2d/scatter.h).
// Bound: memory for float and double; in half precision, six instructions for 32 channels of a window and ten to round
// their sums. A position that one window holds, in bits, needs neither.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/pool2d/channels.h"

namespace tmc {
namespace {

// sum += gradient, of the channels that `tap` won.
template <class T, class Winner>
inline void add_won(const Winner* winners, Winner tap, const T* gradient, int64_t count, Lanes<accumulate_t<T>>& sum) {
  using Real = accumulate_t<T>;
  const auto winner = load_winners<Real>(winners, count);
  add_where<Real>(winner, Vector<Winner, kLanes<Real>>{} + tap, load(gradient, count), sum);
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
template <class T, class Winner>
struct Claim {
  const T* gradient;
  const Winner* winner;
  Winner tap;
};

// eq. 8 for one position, of `rows` times `columns` claims: kRows times kColumns of them where these are not 0.
template <int kRows, int kColumns, class T, class Winner>
inline void collect_claims(AxisClaims rows, AxisClaims columns, int64_t channels, const T* grad_output,
                           const Winner* winners, bool streams, T* grad_input) {
  using Real = accumulate_t<T>;
  using Channels = std::conditional_t<sizeof(Winner) == 1, T, Real>;
  constexpr int kClaims = kRows * kColumns;
  const auto claim = [&](int64_t i, int64_t j) -> Claim<T, Winner> {
    const AxisClaim row = rows.first[i], column = columns.first[j];
    const int64_t place = row.place + column.place;
    return {grad_output + place, winners + place, static_cast<Winner>(row.tap + column.tap)};
  };
  Claim<T, Winner> claims[kClaims > 0 ? kClaims : 1];
  for (int i = 0; i < kClaims; ++i) claims[i] = claim(i / kColumns, i % kColumns);
  for_channels<Channels>(channels, [&]<class Block, int kBlocks>(int64_t c, int64_t count) {
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
    const auto add = [&](const Claim<T, Winner>& claim) {
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
template <class T, class Winner>
KERNEL void max_gradient_rows(const PoolPlan& plan, Range h_range, Rows<const T> grad_output,
                              Rows<const Winner> winners, Rows<T> grad_input) {
  const PoolShape shape = plan.shape;
  const bool streams = plan.streams;
  const int64_t next_row = plan.row_outputs[0].last + 1;
  ReadAhead gradients_ahead(plan, grad_output, next_row, h_range.begin);
  ReadAhead winners_ahead(plan, winners, next_row, h_range.begin);
  for (int64_t h = h_range.begin; h < h_range.end; ++h) {
    const AxisClaims rows = plan.row_claims[h];
    for (int64_t w = 0; w < shape.w.in; ++w) {
      const AxisClaims columns = plan.column_claims[w];
      gradients_ahead(shape.c);
      winners_ahead(shape.c);
      with_counts(rows.count, columns.count, [&]<int kRows, int kColumns>() {
        collect_claims<kRows, kColumns>(rows, columns, grad_input.channels, grad_output.at(0, 0), winners.at(0, 0),
                                        streams, grad_input.at(h, w));
      });
    }
  }
}

}  // namespace
}  // namespace tmc
