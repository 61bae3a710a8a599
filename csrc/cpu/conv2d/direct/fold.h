// The fold of cpu/conv2d/direct/fold.cpp, for sources compiled per instruction set: sums over taps, four channels at a
// time, and rows of such quads of channels to an image.
//
// Bound: loads, one for each tap of a pixel; of a row, shuffles, half of one for each pixel.
#pragma once
#include "cpu/conv2d/direct/direct.h"
#include "cpu/image/kernels.h"
#include "cpu/lanes/shuffle.h"

namespace tmc {
namespace {

using Quad = Vector<float, kFoldLanes>;
inline Quad load_quad(const float* from) {
  return load_raw<float, kFoldLanes>(from, kFoldLanes);
}
inline void store_quad(const Quad& values, float* to) {
  store_raw<float, kFoldLanes>(values, to, kFoldLanes);
}

// Four pixels at a time: their sums do not wait for each other's.
template <int kPixels>
void fold_pixels(const DirectFold& f, int64_t first, int64_t c) {
  Quad sums[kPixels] = {};
  for (int64_t u = 0; u < f.u_count; ++u) {
    const float* from = f.rows[u] + first * f.step + c;
    for (int64_t v = 0; v < f.v_count; ++v, from += f.v_step)
#pragma GCC unroll 4
      for (int i = 0; i < kPixels; ++i) sums[i] += load_quad(from + i * f.step);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kPixels; ++i) store_quad(sums[i], f.out + (first + i) * f.out_step + c);
}

void fold(const DirectFold& f) {
  for (int64_t c = 0; c < f.channels; c += kFoldLanes) {
    int64_t i = 0;
    for (; i + 4 <= f.pixels; i += 4) fold_pixels<4>(f, i, c);
    for (; i < f.pixels; ++i) fold_pixels<1>(f, i, c);
  }
}

// The even lanes of a and b, and the odd ones.
inline void split_lanes(FloatLanes& a, FloatLanes& b) {
  const FloatLanes first = a;
  a = unzip<0>(first, b, AllLanes<kLanes<float>>{}), b = unzip<1>(first, b, AllLanes<kLanes<float>>{});
}

// `count` pixels of one quad each to planes.
template <class T>
void write_planes(const float* row, const Image& image, int64_t count, T* to) {
  for (int64_t w = 0; w < count; w += kLanes<float>) {
    FloatLanes values[kFoldLanes];  // four channels of a part of the pixels; then one channel of all of them
#pragma GCC unroll 4
    for (int64_t i = 0; i < kFoldLanes; ++i) values[i] = load(row + w * kFoldLanes + i * kLanes<float>);
    split_lanes(values[0], values[1]), split_lanes(values[2], values[3]);
    split_lanes(values[0], values[2]), split_lanes(values[1], values[3]);
#pragma GCC unroll 4
    for (int64_t c = 0; c < kFoldLanes; ++c)
      if (c < image.c) store(values[c], to + c * image.c_stride + w, min(count - w, kLanes<float>));
  }
}

// `count` pixels of whole quads to adjoining pixels of image.c channels. First in place: what a quad is stored over has
// been read before.
template <class T>
void write_pixels(float* row, int64_t quads, const Image& image, int64_t count, T* to) {
  for (int64_t w = 0; w < count; ++w)
    for (int64_t c = 0; c < quads; c += kFoldLanes) store_quad(load_quad(row + w * quads + c), row + w * image.c + c);
  for (int64_t i = 0; i < count * image.c; i += kLanes<float>) {
    const int64_t there = min(count * image.c - i, kLanes<float>);
    store(load(row + i, there), to + i, there);
  }
}

template <class T>
void write_row_as(float* row, int64_t quads, const Image& image, int64_t n, int64_t h, int64_t w0, int64_t count) {
  T* const to = reinterpret_cast<T*>(image.data) + n * image.n_stride + h * image.h_stride + w0 * image.w_stride;
  if (image.w_stride == 1 && quads == kFoldLanes)
    write_planes(row, image, count, to);
  else if (image.c_stride == 1 && image.w_stride == image.c)
    write_pixels(row, quads, image, count, to);
  else
    unstage_row(row, quads, image, count, to);
}

void write_row(float* row, int64_t quads, DType dtype, const Image& image, int64_t n, int64_t h, int64_t w0,
               int64_t count) {
  switch (dtype) {
    case DType::bfloat16: return write_row_as<BFloat16>(row, quads, image, n, h, w0, count);
    case DType::float16: return write_row_as<Float16>(row, quads, image, n, h, w0, count);
    default: return write_row_as<float>(row, quads, image, n, h, w0, count);
  }
}

}  // namespace
}  // namespace tmc
