// What the kernels of channels share: images in [row][column][channel] order, worked on a vector of channels at a time.
// channels_last tensors are such images; contiguous planes are brought into that order (cpu/pool2d/planes.h). Nothing
// is left of edges and strides then but which pixels to visit.
//
// Included by one source for each instruction set; everything here has internal linkage.
#pragma once
#include "cpu/lanes/pairs.h"
#include "cpu/pool2d/plan.h"

namespace tmc {
namespace {

// Rows of an image in [row][column][channel] order, of which `first_row` is the first that is stored.
template <class T>
struct Rows {
  T* data;
  int64_t first_row, width, channels;
  T* at(int64_t row, int64_t column) const { return data + ((row - first_row) * width + column) * channels; }
};

// Calls body<Block, blocks>(c, count) for all channels, where a block is a vector, or in half precision a pair: as many
// blocks as make four vectors at a time (count is then the lanes of one block), then one, then vectors and the part of
// one that is left.
template <class T, class F>
inline void for_channels(int64_t channels, F body) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  int64_t c = 0;
  if constexpr (sizeof(T) == 2) {
    for (; c + 2 * kPair<T> <= channels; c += 2 * kPair<T>) body.template operator()<LanePair<Real>, 2>(c, kPair<T>);
    for (; c + kPair<T> <= channels; c += kPair<T>) body.template operator()<LanePair<Real>, 1>(c, kPair<T>);
  }
  for (; c + 4 * kCount <= channels; c += 4 * kCount) body.template operator()<Lanes<Real>, 4>(c, kCount);
  for (; c + kCount <= channels; c += kCount) body.template operator()<Lanes<Real>, 1>(c, kCount);
  if (c < channels) body.template operator()<Lanes<Real>, 1>(c, channels - c);
}

// body<rows, columns>(), or body<0, 0>() where the numbers are not those of windows whose stride is their size or half
// of it, or of 3 x 3 at a stride of 1: what is known when this is compiled needs no loop. float64 and the build for any
// CPU have the loops alone, which take half as long to compile.
template <class T, class F>
inline void with_counts(int64_t rows, int64_t columns, F body) {
  if constexpr (sizeof(T) < 8 && kVectorBytes > 16) {
    if (rows == 1 && columns == 1) return body.template operator()<1, 1>();
    if (rows == 1 && columns == 2) return body.template operator()<1, 2>();
    if (rows == 2 && columns == 1) return body.template operator()<2, 1>();
    if (rows == 2 && columns == 2) return body.template operator()<2, 2>();
    if (rows == 3 && columns == 3) return body.template operator()<3, 3>();
  }
  body.template operator()<0, 0>();
}

// Software prefetch for channels_last images: windows start over in each row, and hardware prefetchers do not follow
// such small jumps (without this, max pooling and its gradient take up to 4 times as long). Each output that is written
// prefetches its share of what is read, from row `first` on: a few lines at a time, since larger bursts delay the loads
// that are needed now.
class ReadAhead {
 public:
  // Called `times` times for every element of the rows from `written_row` on.
  template <class T>
  ReadAhead(const PoolPlan& plan, const Rows<const T>& read, int64_t first, int64_t written_row, int64_t times = 1)
      : from_(reinterpret_cast<const char*>(read.at(first, 0))) {
    const PoolShape& shape = plan.shape;
    const int64_t in = shape.h.in * shape.w.in, out = shape.h.out * shape.w.out;
    if (!plan.channels_last || plan.taps != nullptr) return;
    const int64_t read_size = plan.gradient ? out : in, written_size = plan.gradient ? in : out;
    share_ = kParts * read_size * static_cast<int64_t>(sizeof(T)) / (written_size * times);
    fetched_ = due_ = written_row * (plan.gradient ? shape.w.in : shape.w.out) * shape.c * times * share_;
  }
  void operator()(int64_t written) {
    due_ += written * share_;
    for (; fetched_ < due_; fetched_ += 64 * kParts) __builtin_prefetch(from_ + fetched_ / kParts, 0, 2);
  }

 private:
  static constexpr int64_t kParts = 4096;  // of a byte
  const char* from_;
  int64_t share_ = 0, due_ = 0, fetched_ = 0;  // of an element; of all elements so far; of those, prefetched
};

// body(x, count) for vectors that cover [0, size).
template <class Real, class F>
inline void for_vectors(int64_t size, F body) {
  int64_t x = 0;
  for (; x + kLanes<Real> <= size; x += kLanes<Real>) body(x, kLanes<Real>);
  if (x < size) body(x, size - x);
}

// From sums in scratch memory, which goes on past them for a vector.
template <class T>
inline void narrow_row(const accumulate_t<T>* from, T* to, int64_t size) {
  for_vectors<accumulate_t<T>>(size, [=](int64_t x, int64_t count) { store(load(from + x), to + x, count); });
}

template <class T, class Block, int kBlocks>
inline void write_sums(const Block (&sum)[kBlocks], bool streams, T* to, int64_t count) {
  for (int v = 0; v < kBlocks; ++v, to += kLanesOf<Block, accumulate_t<T>>) {
    if (streams) {
      stream_block(sum[v], to);
    } else {
      store_block(sum[v], to, count);
    }
  }
}

}  // namespace
}  // namespace tmc
