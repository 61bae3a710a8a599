// Staging: between images of any layout and dtype and the float32 pixels, channels innermost, that the transforms load
// as vectors. A staged region is small (L2), so that turning planes into pixels costs one pass over the cache, and the
// padding is written once here instead of being asked for at each load.
#pragma once
#include "transpose.h"
#include "winograd.h"

namespace tmc {
namespace {

inline int64_t at_most(int64_t a, int64_t limit) {
  return a < limit ? a : limit;
}

// The part of [begin, begin + count) inside [0, extent), counted from begin.
struct Inside {
  int64_t begin, end;
};
inline Inside inside(int64_t begin, int64_t count, int64_t extent) {
  const int64_t first = begin < 0 ? at_most(-begin, count) : 0, last = at_most(extent - begin, count);
  return {first, last > first ? last : first};
}

inline void clear(float* pixels, int64_t floats) {
  for (int64_t i = 0; i < floats; i += kLanes<float>) store(FloatLanes{}, pixels + i);
}

// `count` pixels of one row of the image.
template <class T>
void stage_row(const T* from, const Image& image, int64_t count, int64_t channels, float* to) {
  const int64_t c_stride = image.c_stride, w_stride = image.w_stride;
  if (c_stride == 1) {
    for (int64_t w = 0; w < count; ++w)
      for (int64_t c = 0; c < channels; c += kLanes<float>) {
        const int64_t left = at_most(image.c - c, kLanes<float>);
        store(left > 0 ? load(from + w * w_stride + c, left) : FloatLanes{}, to + w * channels + c);
      }
  } else if (w_stride == 1) {
    for (int64_t w = 0; w < count; w += kLanes<float>)
      for (int64_t c = 0; c < channels; c += kLanes<float>) {
        const int64_t pixels = at_most(count - w, kLanes<float>);
        FloatLanes rows[kLanes<float>];
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes<float>; ++i)
          rows[i] = c + i < image.c ? load(from + (c + i) * c_stride + w, pixels) : FloatLanes{};
        transpose_lanes<float>(rows);
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes<float>; ++i)
          if (i < pixels) store(rows[i], to + (w + i) * channels + c);
      }
  } else {
    for (int64_t w = 0; w < count; ++w)
      for (int64_t c = 0; c < channels; ++c)
        if (c < image.c)
          convert(from[c * c_stride + w * w_stride], to[w * channels + c]);
        else
          to[w * channels + c] = 0;
  }
}

template <class T>
void stage_as(const Image& image, int64_t n, Region region, int64_t channels, float* pixels) {
  const Inside h = inside(region.h0, region.rows, image.h), w = inside(region.w0, region.columns, image.w);
  const int64_t row = region.columns * channels;
  for (int64_t i = 0; i < region.rows; ++i, pixels += row) {
    if (i < h.begin || i >= h.end || w.begin == w.end) {
      clear(pixels, row);
      continue;
    }
    clear(pixels, w.begin * channels);
    const T* from = reinterpret_cast<const T*>(image.data) + n * image.n_stride + (region.h0 + i) * image.h_stride +
                    (region.w0 + w.begin) * image.w_stride;
    stage_row(from, image, w.end - w.begin, channels, pixels + w.begin * channels);
    clear(pixels + w.end * channels, (region.columns - w.end) * channels);
  }
}

template <class T>
void unstage_row(const float* from, int64_t channels, const Image& image, int64_t count, T* to) {
  const int64_t c_stride = image.c_stride, w_stride = image.w_stride;
  if (c_stride == 1) {
    for (int64_t w = 0; w < count; ++w)
      for (int64_t c = 0; c < image.c; c += kLanes<float>)
        store(load(from + w * channels + c), to + w * w_stride + c, at_most(image.c - c, kLanes<float>));
  } else if (w_stride == 1) {
    for (int64_t w = 0; w < count; w += kLanes<float>)
      for (int64_t c = 0; c < image.c; c += kLanes<float>) {
        const int64_t pixels = at_most(count - w, kLanes<float>);
        FloatLanes rows[kLanes<float>];
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes<float>; ++i)
          rows[i] = i < pixels ? load(from + (w + i) * channels + c) : FloatLanes{};
        transpose_lanes<float>(rows);
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes<float>; ++i)
          if (c + i < image.c) store(rows[i], to + (c + i) * c_stride + w, pixels);
      }
  } else {
    for (int64_t w = 0; w < count; ++w)
      for (int64_t c = 0; c < image.c; ++c) convert(from[w * channels + c], to[c * c_stride + w * w_stride]);
  }
}

template <class T>
void unstage_as(const float* pixels, int64_t channels, Region region, int64_t n, const Image& image) {
  const Inside h = inside(region.h0, region.rows, image.h), w = inside(region.w0, region.columns, image.w);
  for (int64_t i = h.begin; i < h.end; ++i) {
    T* to = reinterpret_cast<T*>(image.data) + n * image.n_stride + (region.h0 + i) * image.h_stride +
            (region.w0 + w.begin) * image.w_stride;
    unstage_row(pixels + (i * region.columns + w.begin) * channels, channels, image, w.end - w.begin, to);
  }
}

void stage(const Image& image, DType dtype, int64_t n, Region region, int64_t channels, float* pixels) {
  switch (dtype) {
    case DType::bfloat16: return stage_as<BFloat16>(image, n, region, channels, pixels);
    case DType::float16: return stage_as<Float16>(image, n, region, channels, pixels);
    default: return stage_as<float>(image, n, region, channels, pixels);
  }
}

void unstage(const float* pixels, int64_t channels, Region region, int64_t n, DType dtype, const Image& image) {
  switch (dtype) {
    case DType::bfloat16: return unstage_as<BFloat16>(pixels, channels, region, n, image);
    case DType::float16: return unstage_as<Float16>(pixels, channels, region, n, image);
    default: return unstage_as<float>(pixels, channels, region, n, image);
  }
}

}  // namespace
}  // namespace tmc
