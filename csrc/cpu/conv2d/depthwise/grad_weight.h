// grad_weight of cpu/conv2d/depthwise/depthwise.h, and the weights' packed form.
#pragma once
#include "cpu/conv2d/depthwise/kernels.h"

namespace tmc {
namespace {

// sums[u][t] += sum over x of grad[x] * in[u][x][t], for some rows of taps and some taps of each.
//
// Registers: 3 x 3 sums, one vector of grad. Bound: memory; in L1 it would be the loads, 10 of them to 9 multiply-adds.
// A run of at most kSumTerms pixels is added to memory at its end, which keeps rounding errors short.
template <class T, class In>
struct Products {
  int64_t pixels;
  const In* grad;
  int64_t grad_pixel;
  const In* in;
  int64_t in_row, in_tap, in_pixel;
  T* sums;
  int64_t sums_row;
  int64_t blocks;  // that many, one after the other
};

// kCount pixels; kStep as for add_neighbours, whose columns are these.
template <int kCount, int kStep, int kRows, int kTaps, class T, class In>
[[gnu::always_inline]] inline void add_pixels(const Products<T, In>& p, const In* grad, const In* in,
                                              Lanes<T> (&sum)[kRows][kTaps]) {
  Lanes<T> g[kCount];
#pragma GCC unroll 4
  for (int j = 0; j < kCount; ++j) g[j] = load_pixel(grad + j * p.grad_pixel);
#pragma GCC unroll 3
  for (int u = 0; u < kRows; ++u, in += p.in_row)
    if constexpr (kStep == 0) {
#pragma GCC unroll 3
      for (int t = 0; t < kTaps; ++t) sum[u][t] += g[0] * load_pixel(in + t * p.in_tap);
    } else {
      const In* pixel = in;
#pragma GCC unroll 9
      for (int column = 0; column < (kCount - 1) * kStep + kTaps; ++column, pixel += p.in_pixel / kStep) {
        const Lanes<T> value = load_pixel(pixel);
#pragma GCC unroll 3
        for (int t = 0; t < kTaps; ++t)
          if (column >= t && (column - t) % kStep == 0 && (column - t) / kStep < kCount)
            sum[u][t] += g[(column - t) / kStep] * value;
      }
    }
}

// Of every block; each is a visit of `prefetched`.
template <int kStep, int kRows, int kTaps, class T, class In>
void add_products(const DepthwisePlan& plan, const Products<T, In>& p, PrefetchedRows& prefetched) {
  constexpr int kCount = kStep == 0 ? 1 : 4;
  for (int64_t block = 0; block < p.blocks; ++block) {
    const int64_t channel = p.blocks == 1 ? 0 : plan.channel(block);
    prefetched.advance();
    for (int64_t lane = 0; lane < kBlock; lane += kLanes<T>) {
      Lanes<T> sum[kRows][kTaps] = {};
      const In *grad = p.grad + channel + lane, *in = p.in + channel + lane;
      int64_t left = p.pixels;
      for (; left >= kCount; left -= kCount, grad += kCount * p.grad_pixel, in += kCount * p.in_pixel)
        add_pixels<kCount, kStep>(p, grad, in, sum);
      for (; left > 0; --left, grad += p.grad_pixel, in += p.in_pixel) add_pixels<1, kStep>(p, grad, in, sum);
      T* const sums = p.sums + block * plan.taps() * kBlock + lane;
#pragma GCC unroll 3
      for (int u = 0; u < kRows; ++u)
#pragma GCC unroll 3
        for (int t = 0; t < kTaps; ++t) {
          T* const at = sums + u * p.sums_row + t * kBlock;
          store(Lanes<T>(load(at) + sum[u][t]), at);
        }
    }
  }
}

// The same for any number of rows and taps, 3 x 3 at a time: nine sums hide the latency of an addition. An image's edge
// leaves two of either, and a kernel of 5 x 5 too.
template <int kStep, class T, class In>
void add_all_products(const DepthwisePlan& plan, int64_t rows, int64_t taps, const Products<T, In>& all,
                      PrefetchedRows& prefetched) {
  static constexpr void (*kInstances[3][3])(const DepthwisePlan&, const Products<T, In>&, PrefetchedRows&) = {
      {add_products<kStep, 1, 1, T, In>, add_products<kStep, 1, 2, T, In>, add_products<kStep, 1, 3, T, In>},
      {add_products<kStep, 2, 1, T, In>, add_products<kStep, 2, 2, T, In>, add_products<kStep, 2, 3, T, In>},
      {add_products<kStep, 3, 1, T, In>, add_products<kStep, 3, 2, T, In>, add_products<kStep, 3, 3, T, In>}};
  for (int64_t u = 0; u < rows; u += 3)
    for (int64_t t = 0; t < taps; t += 3) {
      Products<T, In> some = all;
      some.in += u * all.in_row + t * all.in_tap;
      some.sums += u * all.sums_row + t * kBlock;
      kInstances[min(3, rows - u) - 1][min(3, taps - t) - 1](plan, some, prefetched);
    }
}
template <class T, class In>
void add_all_products(const DepthwisePlan& plan, const ColumnClass& columns, int64_t rows, const Products<T, In>& all,
                      PrefetchedRows& prefetched) {
  const int step = unrolled_step(columns);
  if (step == 1) return add_all_products<1>(plan, rows, columns.taps, all, prefetched);
  if (step == 2) return add_all_products<2>(plan, rows, columns.taps, all, prefetched);
  add_all_products<0>(plan, rows, columns.taps, all, prefetched);
}

// The taps [first, first + count) of output row y that are inside the image; the first one reads image row `row`.
struct TapRows {
  int64_t first, count, row;
};
TapRows tap_rows(const DepthwisePlan& plan, int64_t y) {
  TapRows rows = {0, 0, 0};
  for (int64_t u = 0; u < plan.shape.r; ++u) {
    const int64_t row = source_row(plan, y, u);
    if (row < 0) continue;
    if (rows.count++ == 0) rows.first = u, rows.row = row;
  }
  return rows;
}

// One band of one block, from copies.
template <class T, class Stored>
void grad_weight_copied(const DepthwisePlan& plan, int64_t n, int64_t block, int64_t band_index, void* sums,
                        void* scratch) {
  const Band band = band_of(plan, band_index);
  const int64_t row_size = plan.width * kBlock, copy_size = (band.in_end - band.in_begin) * row_size;
  T* const copies = static_cast<T*>(scratch);
  T* const grads = copies + plan.depth * copy_size;
  for (int64_t d = 0; d < plan.depth; ++d)
    copy_band<T, Stored>(plan.in, n, lane_sources(plan, block, d), band.in_begin, band.in_end, plan.left, plan.width,
                         copies + d * copy_size);
  DepthwisePlan depthwise = plan;  // of grad_output, lane o is channel o
  depthwise.depth = depthwise.group_outputs = 1;
  copy_band<T, Stored>(plan.out, n, lane_sources(depthwise, block, 0), band.out_begin, band.out_end, 0, plan.out.w,
                       grads);
  const ColumnClass& columns = plan.columns[0];
  PrefetchedRows none;
  for (int64_t y = band.out_begin; y < band.out_end; ++y) {
    const TapRows taps = tap_rows(plan, y);
    for (int64_t d = 0; d < plan.depth; ++d)
      for (int64_t x = 0; x < plan.out.w; x += kSumTerms)
        add_all_products<T, T>(plan, columns, taps.count,
                               {.pixels = min(kSumTerms, plan.out.w - x),
                                .grad = grads + ((y - band.out_begin) * plan.out.w + x) * kBlock,
                                .grad_pixel = kBlock,
                                .in = copies + d * copy_size + (taps.row - band.in_begin) * row_size +
                                      (plan.left + columns.in_begin + x * columns.in_step) * kBlock,
                                .in_row = plan.shape.dilation_h * row_size,
                                .in_tap = columns.in_tap_step * kBlock,
                                .in_pixel = columns.in_step * kBlock,
                                .sums = static_cast<T*>(sums) + (d * plan.taps() + taps.first * plan.shape.s) * kBlock,
                                .sums_row = plan.shape.s * kBlock,
                                .blocks = 1},
                               none);
  }
}

// One band of all blocks, where the images are.
template <class T, class Stored>
void grad_weight_in_place(const DepthwisePlan& plan, int64_t n, int64_t band_index, void* sums) {
  const int64_t band_end = min((band_index + 1) * plan.band_rows, plan.out.h);
  for (int64_t y = band_index * plan.band_rows; y < band_end; ++y) {
    const TapRows taps = tap_rows(plan, y);
    const Stored* const in_row = element<const Stored>(plan.in, n, 0, taps.row);
    const Stored* const grad_row = element<const Stored>(plan.out, n, 0, y);
    PrefetchedRows prefetched = PrefetchedRows::after<Stored>(plan, n, y, visits(plan, kSumTerms));
    for (const ColumnClass* c = plan.columns; c < plan.columns + plan.column_classes; ++c)
      for (int64_t i = 0; i < c->count; i += kSumTerms)
        add_all_products<T, Stored>(
            plan, *c, taps.count,
            {.pixels = min(kSumTerms, c->count - i),
             .grad = grad_row + (c->out_begin + i) * plan.out.w_stride,
             .grad_pixel = plan.out.w_stride,
             .in = in_row + (c->in_begin + i * c->in_step) * plan.in.w_stride,
             .in_row = plan.shape.dilation_h * plan.in.h_stride,
             .in_tap = c->in_tap_step * plan.in.w_stride,
             .in_pixel = c->in_step * plan.in.w_stride,
             .sums = static_cast<T*>(sums) + (taps.first * plan.shape.s + c->first_tap) * kBlock,
             .sums_row = plan.shape.s * kBlock,
             .blocks = plan.blocks},
            prefetched);
  }
}

// ---- Weights.

// Calls visit(place, offset) for each weight of a block: its place in the packed form and its offset in the weight.
// Lanes that an earlier block has too are left out unless `all`.
template <class Visit>
void for_each_weight(const DepthwisePlan& plan, int64_t block, bool all, const Visit& visit) {
  const Image& w = plan.weight;
  const int64_t channel = plan.channel(block), first = all ? 0 : block * kBlock - channel;
  for (int64_t lane = first; lane < min(kBlock, plan.out.c - channel); ++lane) {
    const int64_t o = channel + lane, group = o / plan.group_outputs, within = o % plan.group_outputs;
    for (int64_t d = 0; d < plan.depth; ++d) {
      const int64_t filter = plan.transposed ? group * plan.depth + d : o;
      const int64_t offset = filter * w.n_stride + (plan.transposed ? within : d) * w.c_stride;
      for (int64_t u = 0; u < plan.shape.r; ++u)
        for (int64_t v = 0; v < plan.shape.s; ++v)
          visit((d * plan.taps() + u * plan.shape.s + v) * kBlock + lane, offset + u * w.h_stride + v * w.w_stride);
    }
  }
}

template <class T, class Stored>
void pack_weight(const DepthwisePlan& plan, int64_t block, void* packed) {
  T* const to = static_cast<T*>(packed);
  const int64_t taps = plan.depth * plan.taps() * kBlock, channel = plan.channel(block);
  for (int64_t i = 0; i < taps + kBlock; ++i) to[i] = 0;
  if (plan.bias != nullptr)
    for (int64_t lane = 0; lane < min(kBlock, plan.out.c - channel); ++lane)
      convert(static_cast<const Stored*>(plan.bias)[channel + lane], to[taps + lane]);
  for_each_weight(plan, block, true, [&](int64_t place, int64_t offset) {
    convert(reinterpret_cast<const Stored*>(plan.weight.data)[offset], to[place]);
  });
}

template <class T, class Stored>
void finish_weight(const DepthwisePlan& plan, int64_t block, void* sums, int64_t count, int64_t distance) {
  T* const total = static_cast<T*>(sums);
  const int64_t size = plan.depth * plan.taps() * kBlock;
  for (int64_t part = 1; part < count; ++part)
    for (int64_t i = 0; i < size; ++i) total[i] += total[part * distance + i];
  for_each_weight(plan, block, false, [&](int64_t place, int64_t offset) {
    convert(total[place], reinterpret_cast<Stored*>(plan.weight.data)[offset]);
  });
}

template <class Stored, class T = accumulate_t<Stored>>
constexpr DepthwiseKernels depthwise_kernels_of() {
  return {sizeof(T),
          pack_weight<T, Stored>,
          correlate_copied<T, Stored>,
          correlate_in_place<T, Stored>,
          grad_weight_copied<T, Stored>,
          grad_weight_in_place<T, Stored>,
          finish_weight<T, Stored>};
}

}  // namespace
}  // namespace tmc
