// Bands of an image -> vectors of kBlock channels, [row][column][lane], and results back.
//
// For sources compiled per instruction set (see cpu/lanes/lanes.h).
#pragma once
#include "cpu/conv2d/depthwise/depthwise.h"
#include "cpu/lanes/transpose.h"

namespace tmc {
namespace {

constexpr int64_t kBlock = kDepthwiseBlock;
template <class T>
constexpr int64_t kParts = kBlock / kLanes<T>;  // vectors of a block

template <class Stored>
Stored* element(const Image& image, int64_t n, int64_t c, int64_t h) {
  return reinterpret_cast<Stored*>(image.data) + n * image.n_stride + c * image.c_stride + h * image.h_stride;
}

// Lane i of a pixel is channel first + from_first[i]; lanes beyond the last repeat it.
struct LaneSources {
  int64_t first, span;
  bool identity;
  int32_t from_first[kBlock];
};

template <class T, class Stored>
void copy_pixels(const Stored* from, int64_t step, int64_t count, const LaneSources& sources, T* to) {
  if (sources.identity) {
    for (int64_t x = 0; x < count; ++x, from += step, to += kBlock)
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts<T>; ++part) store(load(from + part * kLanes<T>), to + part * kLanes<T>);
    return;
  }
#if !defined(__clang__)
  if constexpr (kParts<T> == 1) {
    if (sources.span <= 2 * kBlock) {  // one permutation of two vectors
      IntegerLanes<T> order;
      for (int64_t lane = 0; lane < kBlock; ++lane) order[lane] = sources.from_first[lane];
      const int64_t low = min(sources.span, kBlock), high = sources.span - low;
      for (int64_t x = 0; x < count; ++x, from += step, to += kBlock)
        store(Lanes<T>(__builtin_shuffle(load(from, low), load(from + low, high), order)), to);
      return;
    }
  }
#endif
  for (int64_t x = 0; x < count; ++x, from += step, to += kBlock)
    for (int64_t lane = 0; lane < kBlock; ++lane) convert(from[sources.from_first[lane]], to[lane]);
}

// Calls tile(x, width) for tiles of kLanes that cover [0, size), the last overlapping its neighbour, or for one
// narrower tile.
template <class T, class Tile>
void for_tiles(int64_t size, const Tile& tile) {
  if (size < kLanes<T>) return tile(0, size);
  for (int64_t x = 0; x < size; x += kLanes<T>) tile(min(x, size - kLanes<T>), kLanes<T>);
}

// The place in rows of `width` pixels of the pixels that follow each other in rows of `line`.
template <class T>
struct PaddedRows {
  T* pixel;
  int64_t line, width, column;
  PaddedRows(T* rows, int64_t line_, int64_t width_, int64_t x)
      : pixel(rows + (x / line_ * width_ + x % line_) * kBlock), line(line_), width(width_), column(x % line_) {}
  void next() {
    pixel += kBlock;
    if (++column == line) column = 0, pixel += (width - line) * kBlock;
  }
};

// `size` pixels of contiguous planes, in rows of `line`.
template <class T, class Stored>
void copy_planes(const Stored* from, int64_t plane, int64_t size, int64_t line, const LaneSources& sources, T* to,
                 int64_t to_width) {
  for (int64_t part = 0; part < kParts<T>; ++part) {
    const int32_t* source = sources.from_first + part * kLanes<T>;
    for_tiles<T>(size, [&](int64_t x, int64_t width) {
      Lanes<T> rows[kLanes<T>];
      PaddedRows<T> place(to + part * kLanes<T>, line, to_width, x);
      if (width == kLanes<T>) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes<T>; ++i) rows[i] = load(from + source[i] * plane + x);
        transpose(rows);
#pragma GCC unroll 16
        for (int64_t j = 0; j < kLanes<T>; ++j, place.next()) store(rows[j], place.pixel);
      } else {
        for (int64_t j = 0; j < width; ++j, place.next())
          for (int64_t i = 0; i < kLanes<T>; ++i) convert(from[source[i] * plane + j], place.pixel[i]);
      }
    });
  }
}

// copies[row][column][lane] of the image's rows [begin, end), `left` zeros before each and zeros up to `width`.
template <class T, class Stored>
void copy_band(const Image& image, int64_t n, const LaneSources& sources, int64_t begin, int64_t end, int64_t left,
               int64_t width, T* copies) {
  const Stored* row = element<const Stored>(image, n, sources.first, begin);
  const int64_t right = width - left - image.w;
  if (left + right > 0)
    for (int64_t h = begin; h < end; ++h) {
      T* const to = copies + (h - begin) * width * kBlock;
      for (int64_t i = 0; i < left * kBlock; ++i) to[i] = 0;
      for (int64_t i = (width - right) * kBlock; i < width * kBlock; ++i) to[i] = 0;
    }
  T* const to = copies + left * kBlock;
  if (image.c_stride != 1 && image.h_stride == image.w)
    return copy_planes(row, image.c_stride, (end - begin) * image.w, image.w, sources, to, width);
  for (int64_t h = 0; h < end - begin; ++h, row += image.h_stride)
    if (image.c_stride == 1)
      copy_pixels(row, image.w_stride, image.w, sources, to + h * width * kBlock);
    else
      copy_planes(row, image.c_stride, image.w, image.w, sources, to + h * width * kBlock, width);
}

// `size` pixels [pixel][lane] to planes.
template <class T, class Stored>
void write_planes(const T* results, int64_t size, int64_t lanes, Stored* to, int64_t plane) {
  for (int64_t part = 0; part * kLanes<T> < lanes; ++part) {
    const int64_t count = min(kLanes<T>, lanes - part * kLanes<T>);
    for_tiles<T>(size, [&](int64_t x, int64_t width) {
      const T* from = results + x * kBlock + part * kLanes<T>;
      Stored* first = to + part * kLanes<T> * plane + x;
      if (width == kLanes<T>) {
        Lanes<T> rows[kLanes<T>];
#pragma GCC unroll 16
        for (int64_t j = 0; j < kLanes<T>; ++j) rows[j] = load(from + j * kBlock);
        transpose(rows);
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes<T>; ++i)
          if (i < count) store(rows[i], first + i * plane);
      } else {
        for (int64_t i = 0; i < count; ++i)
          for (int64_t j = 0; j < width; ++j) convert(from[j * kBlock + i], first[i * plane + j]);
      }
    });
  }
}

// Results [row][column][lane] to `rows` rows of the output from row `begin` on.
template <class T, class Stored>
void write_band(const Image& out, int64_t n, int64_t channel, int64_t begin, int64_t rows, const T* results) {
  const int64_t lanes = min(kBlock, out.c - channel);
  Stored* row = element<Stored>(out, n, channel, begin);
  if (out.c_stride != 1 && out.h_stride == out.w) return write_planes(results, rows * out.w, lanes, row, out.c_stride);
  for (int64_t y = 0; y < rows; ++y, row += out.h_stride, results += out.w * kBlock)
    if (out.c_stride == 1)
      for (int64_t x = 0; x < out.w; ++x)
        for (int64_t part = 0; part * kLanes<T> < lanes; ++part)
          store(load(results + x * kBlock + part * kLanes<T>), row + x * out.w_stride + part * kLanes<T>,
                min(kLanes<T>, lanes - part * kLanes<T>));
    else
      write_planes(results, out.w, lanes, row, out.c_stride);
}

}  // namespace
}  // namespace tmc
