// grad_weight of depthwise.h, and the weights' packed form.
#pragma once
#include "depthwise_kernels.h"

namespace tmc {
namespace {

// sums[t] += sum over kCount columns of grad * in, for one row of taps. Eight products are added to each other before
// they join the sum, which keeps both the chain of additions and the rounding errors short.
template <int kCount, class T, class In>
void add_products(const In* grad, int64_t grad_step, const In* in, const ColumnClass& columns, int64_t in_pixel,
                  T* sums) {
  const int64_t step = columns.in_step * in_pixel;
#pragma GCC unroll 8
  for (int64_t part = 0; part < kParts<T>; ++part, grad += kLanes<T>, in += kLanes<T>, sums += kLanes<T>) {
    Lanes<T> g[kCount];
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) g[j] = load(grad + j * grad_step);
    const In* tap = in;
    for (int64_t t = 0; t < columns.taps; ++t, tap += columns.in_tap_step * in_pixel) {
      Lanes<T> sum = g[0] * load(tap);
#pragma GCC unroll 8
      for (int j = 1; j < kCount; ++j) sum += g[j] * load(tap + j * step);
      store(Lanes<T>(load(sums + t * kBlock) + sum), sums + t * kBlock);
    }
  }
}

template <int kCount, class... Arguments>
void add_last_products(int64_t count, const Arguments&... arguments) {
  if constexpr (kCount > 1) {
    if (count < kCount) return add_last_products<kCount - 1>(count, arguments...);
  }
  add_products<kCount>(arguments...);
}

constexpr int64_t kProducts = 8;

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
  for (int64_t y = band.out_begin; y < band.out_end; ++y)
    for (int64_t d = 0; d < plan.depth; ++d)
      for (int64_t u = 0; u < plan.shape.r; ++u) {
        const int64_t row = source_row(plan, y, u);
        if (row < 0) continue;
        const T* in =
            copies + d * copy_size + (row - band.in_begin) * row_size + (plan.left + columns.in_begin) * kBlock;
        const T* grad = grads + (y - band.out_begin) * plan.out.w * kBlock;
        T* const row_sums = static_cast<T*>(sums) + (d * plan.taps() + u * plan.shape.s) * kBlock;
        for (int64_t x = 0; x < plan.out.w; x += kProducts)
          add_last_products<kProducts>(min(kProducts, plan.out.w - x), grad + x * kBlock, kBlock,
                                       in + x * columns.in_step * kBlock, columns, kBlock, row_sums);
      }
}

// One band of all blocks, where the images are.
template <class T, class Stored>
void grad_weight_in_place(const DepthwisePlan& plan, int64_t n, int64_t band_index, void* sums) {
  const int64_t band_end = min((band_index + 1) * plan.band_rows, plan.out.h);
  for (int64_t y = band_index * plan.band_rows; y < band_end; ++y)
    for (const ColumnClass* c = plan.columns; c < plan.columns + plan.column_classes; ++c)
      for (int64_t i = 0; i < c->count; i += kProducts)
        for (int64_t block = 0; block < plan.blocks; ++block) {
          prefetch<Stored>(plan, n, plan.channel(block), y + 1, *c, i, min(kProducts, c->count - i));
          for (int64_t u = 0; u < plan.shape.r; ++u) {
            const int64_t row = source_row(plan, y, u), channel = plan.channel(block);
            if (row < 0) continue;
            const Stored* grad =
                element<const Stored>(plan.out, n, channel, y) + (c->out_begin + i) * plan.out.w_stride;
            const Stored* in =
                element<const Stored>(plan.in, n, channel, row) + (c->in_begin + i * c->in_step) * plan.in.w_stride;
            T* const row_sums =
                static_cast<T*>(sums) + (block * plan.taps() + u * plan.shape.s + c->first_tap) * kBlock;
            add_last_products<kProducts>(min(kProducts, c->count - i), grad, plan.out.w_stride, in, *c,
                                         plan.in.w_stride, row_sums);
          }
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

#define TMC_DEFINE_DEPTHWISE_KERNELS(isa)                                      \
  const tmc::DepthwiseKernelTable tmc::depthwise_kernels_##isa = {             \
      tmc::depthwise_kernels_of<double>(), tmc::depthwise_kernels_of<float>(), \
      tmc::depthwise_kernels_of<tmc::BFloat16>(), tmc::depthwise_kernels_of<tmc::Float16>()};
