// How pooling is cut into threads, and how a thread finds its windows.
//
// A dense tensor is [image][row][column][channel] here: channels_last as it stands, contiguous with each plane as an
// image of one channel. A thread owns a tile of the result: kLanes channels, which lie side by side, of one pixel or
// of a block of pixels. Tiles are numbered in memory order, so that neighbouring threads touch neighbouring memory.
//
// Windows come in two kinds. AnyWindow loops over what the axes say; FixedWindow knows its extent and stride when it
// is compiled: its loops are unrolled, all its loads are in flight at once, and for a gradient it takes a block of
// 2 x 2 pixels, so that a window is loaded once for all of them. Both hide sliding and adaptive, padded and clipped.
#pragma once
#include <algorithm>

#include "divisor.h"
#include "launch.h"
#include "pool2d.h"
#include "vector.h"

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

template <int kLanes, class Integer>
__device__ PoolTile<index_t<Integer>> tile_at(const PoolProblem<Integer>& problem, index_t<Integer> i) {
  using Index = index_t<Integer>;
  const Index columns = i / problem.vectors, rows = columns / problem.columns, images = rows / problem.rows;
  return {images, rows - images * problem.rows, columns - rows * problem.columns,
          (i - columns * problem.vectors) * kLanes};
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

// taps(shape, p, q, body)           calls body(h, w, inside) for the taps of window (p, q); one that is not inside the
//                                   input has to be skipped
// nearest_taps(shape, p, q, body)   calls body(tap, h, w) in order, where one outside is replaced by the nearest
// inside:
//                                   no harm to a maximum, and the load needs no condition
// windows(shape, tile, body)        calls body(p, q, inside, top, left) for the windows that may hold a pixel of the
//                                   tile; (top, left) is the tap that reads the tile's first pixel; a window that is
//                                   not inside the output has to be skipped, (p, q) is then the nearest that is
// tap_of(shape, r, s)               the number of tap (r, s), or -1 if there is none
// known(shape)                      the shape, with all that is known when the kernel is compiled as constants
template <class Count>
struct AnyWindow {
  using Integer = Count;
  using Index = index_t<Integer>;
  static constexpr int kBlock = 1;  // a gradient's tile has kBlock x kBlock pixels
  // Blocks on a multiprocessor: four leave a thread 64 registers. ptxas by itself aims higher, and spills.
  static constexpr int kResidentBlocks = sizeof(Index) == 4 ? 4 : 2;

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
  static constexpr int kBlock = 2, kResidentBlocks = 4;
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
#pragma unroll
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

// Rounds and stores a gradient's tile, but for what of it lies in the padding.
template <class Windows, class A, int kLanes, class T>
__device__ void store_block(const PoolProblem<typename Windows::Integer>& problem,
                            const PoolTile<typename Windows::Index>& at,
                            const A (&sum)[Windows::kBlock][Windows::kBlock][kLanes], T* grad_input) {
  using Index = typename Windows::Index;
  T* image = grad_input + at.image * problem.input_image + at.channel;
  const Index top = Windows::first_pixel(problem.shape.h, at.row);
  const Index left = Windows::first_pixel(problem.shape.w, at.column);
#pragma unroll
  for (int a = 0; a < Windows::kBlock; ++a)
#pragma unroll
    for (int b = 0; b < Windows::kBlock; ++b) {
      if (!is_inside(top + a, problem.shape.h.in) || !is_inside(left + b, problem.shape.w.in)) continue;
      Vector<T, kLanes> rounded;
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) rounded.lanes[lane] = static_cast<T>(sum[a][b][lane]);
      store(image + problem.input_offset(top + a, left + b), rounded);
    }
}

// ---- Host: from a shape to a kernel's arguments.

template <int kCount>
struct Lanes {
  static constexpr int kLanes = kCount;
};

// Below this, positions, offsets inside an image and numbers of tiles fit 32 bits, with room for the threads that have
// no tile. Tests lower it, so that small tensors go the way of the largest.
#ifndef TMC_POOL_NARROW_LIMIT
#define TMC_POOL_NARROW_LIMIT ((int64_t{1} << 31) - (int64_t{1} << 16))
#endif
constexpr int64_t kNarrowLimit = TMC_POOL_NARROW_LIMIT;

inline bool is_narrow(const PoolAxis& axis) {
  if (is_adaptive(axis)) return (axis.in + 1) * (axis.out + 1) < kNarrowLimit;
  const int64_t reach = axis.dilation * (axis.kernel - 1);
  return std::max({axis.out * axis.stride + reach, axis.in + 2 * axis.pad, axis.dilation}) < kNarrowLimit;
}
inline bool is_narrow(const PoolShape& shape) {
  const int64_t pixels = std::max(shape.h.in * shape.w.in, shape.h.out * shape.w.out);
  return is_narrow(shape.h) && is_narrow(shape.w) && pixels * shape.c < kNarrowLimit;
}

template <class Integer>
Integer converted(int64_t value) {
  if constexpr (std::is_same_v<Integer, Divisor>)
    return divisor(value);
  else
    return value;
}
template <class Integer>
PoolAxisOf<Integer> converted(const PoolAxis& axis) {
  return {converted<Integer>(axis.in),     converted<Integer>(axis.out), converted<Integer>(axis.kernel),
          converted<Integer>(axis.stride), converted<Integer>(axis.pad), converted<Integer>(axis.dilation)};
}

enum class Result { output, input };

// Calls body(lanes, windows, problem) if the problem can be counted in the integers of `windows`; tells whether.
template <Result kResult, class LaneCount, class Windows, class Body>
bool attempt(const PoolShape& shape, LaneCount lanes, Windows windows, Body body) {
  using Integer = typename Windows::Integer;
  const int64_t rows = kResult == Result::output ? shape.h.out : Windows::gradient_tiles(shape.h);
  const int64_t columns = kResult == Result::output ? shape.w.out : Windows::gradient_tiles(shape.w);
  const int64_t vectors = shape.c / lanes.kLanes, tiles = shape.n * rows * columns * vectors;
  if (std::is_same_v<Integer, Divisor> && !(is_narrow(shape) && tiles < kNarrowLimit)) return false;
  body(lanes, windows,
       PoolProblem<Integer>{
           .shape = {shape.n, shape.c, converted<Integer>(shape.h), converted<Integer>(shape.w)},
           .input_image = shape.c * shape.h.in * shape.w.in,
           .output_image = shape.c * shape.h.out * shape.w.out,
           .input_row = static_cast<index_t<Integer>>(shape.c * shape.w.in),
           .output_row = static_cast<index_t<Integer>>(shape.c * shape.w.out),
           .channels = static_cast<index_t<Integer>>(shape.c),
           .tiles = static_cast<index_t<Integer>>(tiles),
           .vectors = converted<Integer>(vectors),
           .columns = converted<Integer>(columns),
           .rows = converted<Integer>(rows),
       });
  return true;
}

// The shape as the kernels see it.
inline PoolShape folded(const PoolShape& shape, bool channels_last) {
  return channels_last ? shape : PoolShape{shape.n * shape.c, 1, shape.h, shape.w};
}

// Calls body with one channel a thread and AnyWindow: for what is rare.
template <Result kResult, class Body>
void choose_plain(const PoolShape& shape, Body body) {
  attempt<kResult>(shape, Lanes<1>{}, AnyWindow<Divisor>{}, body) ||
      attempt<kResult>(shape, Lanes<1>{}, AnyWindow<int64_t>{}, body);
}

// Calls body with the best that the shape allows: vectors of T where `aligned` tells that all arrays start at a
// multiple of a vector, and the windows of AlexNet (3 x 3, stride 2) and of most others (2 x 2, stride 2) fixed.
template <Result kResult, class T, class Body>
void choose(const PoolShape& shape, bool aligned, Body body) {
  const auto choose_windows = [&](auto lanes) {
    using Overlapping = FixedWindow<3, 2>;
    using Tiling = FixedWindow<2, 2>;
    if (Overlapping::fits(shape.h) && Overlapping::fits(shape.w))
      return attempt<kResult>(shape, lanes, Overlapping{}, body);
    if (Tiling::fits(shape.h) && Tiling::fits(shape.w)) return attempt<kResult>(shape, lanes, Tiling{}, body);
    return attempt<kResult>(shape, lanes, AnyWindow<Divisor>{}, body);
  };
  const bool vectors = aligned && shape.c % kVectorLanes<T> == 0;
  if (!(vectors ? choose_windows(Lanes<kVectorLanes<T>>{}) : choose_windows(Lanes<1>{})))
    attempt<kResult>(shape, Lanes<1>{}, AnyWindow<int64_t>{}, body);
}

template <class Windows>
__device__ typename Windows::Index tile_number() {
  return static_cast<typename Windows::Index>(thread_index());
}

}  // namespace tmc
