// How pooling is cut into threads, and how a thread finds its windows.
//
// Here a dense tensor is [image][row][column][channel]: channels_last as it stands, contiguous with each plane as an
// image of one channel. A thread owns a tile of the result: some lanes of one pixel, or of a block of pixels. Lanes are
// neighbouring channels, or the same place in neighbouring planes; they share what it costs to find a window. Tiles are
// numbered in memory order, so that neighbouring threads touch neighbouring memory.
//
// There are two kinds of windows. AnyWindow loops over what the axes say. FixedWindow knows extent and stride at
// compile time: its loops are unrolled and all its loads are in flight at once. For a gradient it takes a block of 2 x
// 2 pixels, and loads a window once for all of them. Both hide sliding and adaptive, padded and clipped windows.
#pragma once
#include "cuda/machine/divisor.h"
#include "cuda/machine/launch.h"
#include "cuda/machine/vector.h"
#include "cuda/pool2d/launchers.h"

namespace tmc {

template <class Integer>
struct PoolProblem {
  using Index = index_t<Integer>;
  PoolShapeOf<Integer> shape;
  int64_t input_image, output_image;      // elements of an image
  Index input_row, output_row, channels;  // elements of a row, and of a pixel
  Index tiles;                            // of the result, and how many of them lie along each axis of an image
  Integer vectors, columns, rows;

  __device__ Index input_offset(Index h, Index w) const { return h * input_row + w * channels; }
  __device__ Index output_offset(Index p, Index q) const { return p * output_row + q * channels; }
};

template <class Index>
struct PoolTile {
  int64_t image;
  Index row, column, channel;  // row and column count tiles, channel counts channels
};

// The lanes of a thread: kCount channels that lie side by side, in one access.
template <int kCount>
struct Channels {
  static constexpr int kLanes = kCount, kChannels = kCount, kImages = 1;

  static bool fit(const PoolShape& shape) { return shape.c % kChannels == 0; }
  template <class T>
  static __device__ Vector<T, kLanes> load(const T* source, int64_t) {
    return tmc::load<kLanes>(source);
  }
  template <class T>
  static __device__ Vector<T, kLanes> load_or_zero(bool condition, const T* source, int64_t) {
    return tmc::load_or_zero<kLanes>(condition, source);
  }
  template <class T>
  static __device__ void store(T* target, int64_t, const Vector<T, kLanes>& vector) {
    tmc::store(target, vector);
  }
};

// kCount planes, `image` elements apart. Rows of a plane have any length, so that vectors along them would seldom be
// aligned; a warp's accesses to each plane are neighbours all the same.
template <int kCount>
struct Planes {
  static constexpr int kLanes = kCount, kChannels = 1, kImages = kCount;

  static bool fit(const PoolShape& shape) { return shape.c == 1 && shape.n % kImages == 0; }
  template <class T>
  static __device__ Vector<T, kLanes> load(const T* source, int64_t image) {
    Vector<T, kLanes> vector;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) vector.lanes[lane] = source[lane * image];
    return vector;
  }
  template <class T>
  static __device__ Vector<T, kLanes> load_or_zero(bool condition, const T* source, int64_t image) {
    Vector<T, kLanes> vector;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) vector.lanes[lane] = condition ? source[lane * image] : T(0.0f);
    return vector;
  }
  template <class T>
  static __device__ void store(T* target, int64_t image, const Vector<T, kLanes>& vector) {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) target[lane * image] = vector.lanes[lane];
  }
};

template <class Lanes, class Integer>
__device__ PoolTile<index_t<Integer>> tile_at(const PoolProblem<Integer>& problem, index_t<Integer> i) {
  using Index = index_t<Integer>;
  const Index columns = i / problem.vectors, rows = columns / problem.columns, images = rows / problem.rows;
  return {int64_t{images} * Lanes::kImages, rows - images * problem.rows, columns - rows * problem.columns,
          (i - columns * problem.vectors) * Lanes::kChannels};
}

template <class Index, class Integer>
__device__ bool is_inside(Index position, const Integer& extent) {
  return position >= 0 && position < static_cast<Index>(extent);
}
template <class Index, class Integer>
__device__ Index nearest_inside(Index position, const Integer& extent) {
  const Index last = extent - 1;
  return position < 0 ? 0 : position > last ? last : position;
}

// What the two kinds of windows have in common:
//
// taps(shape, p, q, body)          calls body(h, w, inside) for the taps of window (p, q); one that is not inside the
//                                  input has to be skipped
// nearest_taps(shape, p, q, body)  calls body(tap, h, w) in order, the nearest inside standing for a tap outside: no
//                                  harm to a maximum, and its load needs no condition
// windows(shape, tile, body)       calls body(p, q, inside, top, left) for the windows that may hold a pixel of the
//                                  tile; (top, left) is the tap that reads the tile's first pixel; a window that is not
//                                  inside the output has to be skipped, and (p, q) is then the nearest that is
// tap_of(shape, r, s)              the number of tap (r, s), or -1 if there is none
// known(shape)                     the shape, with all that is known when the kernel is compiled as constants
template <class Count>
struct AnyWindow {
  using Integer = Count;
  using Index = index_t<Integer>;
  static constexpr int kBlock = 1;  // a gradient's tile has kBlock x kBlock pixels

  static int64_t gradient_tiles(const PoolAxis& axis) { return axis.in; }
  static __device__ Index first_pixel(const PoolAxisOf<Integer>&, Index tile) { return tile; }
  static __device__ const PoolShapeOf<Integer>& known(const PoolShapeOf<Integer>& shape) { return shape; }
  static __device__ Index tap_of(const PoolShapeOf<Integer>& shape, Index r, Index s) { return winner_of(shape, r, s); }

  template <class Body>
  static __device__ void nearest_taps(const PoolShapeOf<Integer>& shape, Index p, Index q, Body body) {
    const WindowOf<Index> rows = window(shape.h, p), columns = window(shape.w, q);
#pragma unroll 1
    for (Index r = rows.begin; r < rows.end; ++r)
#pragma unroll 2  // four, the compiler's own choice, need more registers than there are
      for (Index s = columns.begin; s < columns.end; ++s)
        body(winner_of(shape, r, s), rows.start + r * shape.h.dilation, columns.start + s * shape.w.dilation);
  }
  template <class Body>
  static __device__ void taps(const PoolShapeOf<Integer>& shape, Index p, Index q, Body body) {
    nearest_taps(shape, p, q, [&](Index, Index h, Index w) { body(h, w, true); });
  }

  template <class Body>
  static __device__ void windows(const PoolShapeOf<Integer>& shape, const PoolTile<Index>& at, Body body) {
    const CoveringOf<Index> rows = covering(shape.h, at.row), columns = covering(shape.w, at.column);
    for (Index p = rows.first; p <= rows.last; ++p) {
      const Index r = tap_at(shape.h, p, at.row);
      if (r < 0) continue;
#pragma unroll 1
      for (Index q = columns.first; q <= columns.last; ++q) {
        const Index s = tap_at(shape.w, q, at.column);
        if (s >= 0) body(p, q, true, r, s);
      }
    }
  }
};

template <int kKernel, int kStride>
struct FixedWindow {
  using Integer = Divisor;
  using Index = int32_t;
  static constexpr int kBlock = 2;
  static_assert(kBlock % kStride == 0);

  static bool fits(const PoolAxis& axis) {
    return axis.kernel == kKernel && axis.stride == kStride && axis.dilation == 1;
  }

  // Tiles start at even positions of the padded input: with a stride of 1 or 2, every tile then meets its windows in
  // the same places. The first row and column of tiles may begin in the padding.
  static int64_t gradient_tiles(const PoolAxis& axis) { return ceil_div(axis.in + axis.pad, int64_t{kBlock}); }
  static __device__ Index first_pixel(const PoolAxisOf<Integer>& axis, Index tile) { return tile * kBlock - axis.pad; }
  static __device__ PoolAxisOf<Index> known(const PoolAxisOf<Integer>& axis) {
    return {axis.in, axis.out, kKernel, kStride, axis.pad, 1};
  }
  static __device__ PoolShapeOf<Index> known(const PoolShapeOf<Integer>& shape) {
    return {shape.n, shape.c, known(shape.h), known(shape.w)};
  }
  static __device__ Index tap_of(const PoolShapeOf<Integer>&, Index r, Index s) {
    return r >= 0 && r < kKernel && s >= 0 && s < kKernel ? r * kKernel + s : -1;
  }

  template <class Body>
  static __device__ void taps(const PoolShapeOf<Integer>& shape, Index p, Index q, Body body) {
    const Index top = p * kStride - shape.h.pad, left = q * kStride - shape.w.pad;
#pragma unroll 1  // a row of loads in flight; all of them, each with its condition, take too many registers
    for (int r = 0; r < kKernel; ++r)
#pragma unroll
      for (int s = 0; s < kKernel; ++s)
        body(top + r, left + s, is_inside(top + r, shape.h.in) && is_inside(left + s, shape.w.in));
  }
  template <class Body>
  static __device__ void nearest_taps(const PoolShapeOf<Integer>& shape, Index p, Index q, Body body) {
    const Index top = p * kStride - shape.h.pad, left = q * kStride - shape.w.pad;
#pragma unroll
    for (int r = 0; r < kKernel; ++r)
#pragma unroll
      for (int s = 0; s < kKernel; ++s) {
        const Index h = nearest_inside(top + r, shape.h.in), w = nearest_inside(left + s, shape.w.in);
        body((h - top) * kKernel + (w - left), h, w);
      }
  }

  template <class Body>
  static __device__ void windows(const PoolShapeOf<Integer>& shape, const PoolTile<Index>& at, Body body) {
    constexpr int kFirst = -((kKernel - 1) / kStride), kLast = (kBlock - 1) / kStride;
#pragma unroll
    for (int u = kFirst; u <= kLast; ++u)
#pragma unroll
      for (int v = kFirst; v <= kLast; ++v) {
        const Index p = at.row * (kBlock / kStride) + u, q = at.column * (kBlock / kStride) + v;
        body(nearest_inside(p, shape.h.out), nearest_inside(q, shape.w.out),
             is_inside(p, shape.h.out) && is_inside(q, shape.w.out), -u * kStride, -v * kStride);
      }
  }
};

// Blocks on a multiprocessor, for __launch_bounds__: they leave a thread 128, 80 or 64 registers. ptxas by itself aims
// for more blocks, and spills.
template <class Lanes, class Windows>
constexpr int kResidentBlocks = sizeof(typename Windows::Index) == 8 ? 2
                                : Lanes::kImages > 1                 ? 3
                                                                     : 4;

// Rounds and stores a gradient's tile, but for what of it lies in the padding.
template <class Windows, class Lanes, class A, class T>
__device__ void store_block(const PoolProblem<typename Windows::Integer>& problem,
                            const PoolTile<typename Windows::Index>& at,
                            const A (&sum)[Windows::kBlock][Windows::kBlock][Lanes::kLanes], T* grad_input) {
  using Index = typename Windows::Index;
  T* image = grad_input + at.image * problem.input_image + at.channel;
  const Index top = Windows::first_pixel(problem.shape.h, at.row);
  const Index left = Windows::first_pixel(problem.shape.w, at.column);
#pragma unroll
  for (int a = 0; a < Windows::kBlock; ++a)
#pragma unroll
    for (int b = 0; b < Windows::kBlock; ++b) {
      if (!is_inside(top + a, problem.shape.h.in) || !is_inside(left + b, problem.shape.w.in)) continue;
      Vector<T, Lanes::kLanes> rounded;
#pragma unroll
      for (int lane = 0; lane < Lanes::kLanes; ++lane) rounded.lanes[lane] = static_cast<T>(sum[a][b][lane]);
      Lanes::store(image + problem.input_offset(top + a, left + b), problem.input_image, rounded);
    }
}

template <class Windows>
__device__ typename Windows::Index tile_number() {
  return static_cast<typename Windows::Index>(thread_index());
}

}  // namespace tmc
