// The copying loops of cpu/image/staging.h, for sources compiled per instruction set.
#pragma once
#include "cpu/image/staging.h"
#include "cpu/lanes/prefetch.h"
#include "cpu/lanes/transpose.h"

namespace tmc {
namespace {

// The part of [begin, begin + count) inside [0, extent), counted from begin.
struct Inside {
  int64_t begin, end;
};
inline Inside inside(int64_t begin, int64_t count, int64_t extent) {
  const int64_t first = begin < 0 ? min(-begin, count) : 0, last = min(extent - begin, count);
  return {first, last > first ? last : first};
}

inline void clear(float* to, int64_t floats) {
  for (int64_t i = 0; i < floats; i += kLanes<float>) store(FloatLanes{}, to + i, min(floats - i, kLanes<float>));
}

template <class T>
inline FloatLanes load_strided(const T* from, int64_t stride, int64_t count) {
  if (stride == 1) return load(from, count);
  float values[kLanes<float>] = {};
  for (int64_t i = 0; i < count; ++i) convert(from[i * stride], values[i]);
  return load(values);
}

// values[i] = `channels` channels of pixel i, for `pixels` pixels of a row whose channels do not adjoin in memory. At
// most kLanes of both.
template <class T>
inline void load_transposed(const T* from, const Image& image, int64_t channels, int64_t pixels,
                            FloatLanes (&values)[kLanes<float>]) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes<float>; ++i)
    values[i] = i < channels ? load_strided(from + i * image.c_stride, image.w_stride, pixels) : FloatLanes{};
  transpose(values);
}

// `count` pixels of one row of the image, `present` channels of them and zeros up to `channels`. The pixels that are
// `prefetch_distance` elements further on are prefetched: the hardware does not follow a pattern of some channels of
// each pixel.
template <class T>
void stage_row(const T* from, const Image& image, int64_t count, int64_t present, int64_t channels,
               int64_t prefetch_distance, float* to) {
  if (image.c_stride == 1) {
    for (int64_t w = 0; w < count; ++w)
      for (int64_t c = 0; c < channels; c += kLanes<float>) {
        const int64_t left = min(present - c, kLanes<float>);
        prefetch<Prefetch::read_from_l2>(from + prefetch_distance + w * image.w_stride + c);
        store(left > 0 ? load(from + w * image.w_stride + c, left) : FloatLanes{}, to + w * channels + c);
      }
    return;
  }
  for (int64_t w = 0; w < count; w += kLanes<float>)
    for (int64_t c = 0; c < channels; c += kLanes<float>) {
      const int64_t pixels = min(count - w, kLanes<float>);
      FloatLanes values[kLanes<float>];
      load_transposed(from + c * image.c_stride + w * image.w_stride, image, present - c, pixels, values);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes<float>; ++i)
        if (i < pixels) store(values[i], to + (w + i) * channels + c);
    }
}

template <class T>
void stage_image(const PhasedImage& source, int64_t n, Region region, int64_t first, int64_t channels, float* pixels) {
  const Image& image = source.image;
  const int64_t h0 = region.h0 - source.top, w0 = region.w0 - source.left, row = region.columns * channels;
  const int64_t present = min(image.c - first, channels);
  const Inside h = inside(h0, region.rows, image.h), w = inside(w0, region.columns, image.w);
  const int64_t prefetch_distance = (h.end - h.begin) * image.h_stride;  // the next region, or image
  for (int64_t i = 0; i < region.rows; ++i, pixels += row) {
    if (i < h.begin || i >= h.end || w.begin == w.end) {
      clear(pixels, row);
      continue;
    }
    clear(pixels, w.begin * channels);
    const T* from = reinterpret_cast<const T*>(image.data) + n * image.n_stride + first * image.c_stride +
                    (h0 + i) * image.h_stride + (w0 + w.begin) * image.w_stride;
    stage_row(from, image, w.end - w.begin, present, channels, prefetch_distance, pixels + w.begin * channels);
    clear(pixels + w.end * channels, (region.columns - w.end) * channels);
  }
}

// A run is what one position reads from one row of the image: step_w pixels, channels innermost. Where pixels adjoin in
// memory, a run is copied as a whole. Elsewhere the channels of each pixel are put into its run one by one. `to` is the
// wanted part of the first of `count` runs and w0 its first pixel. Outside the image, and where `row` is null, runs are
// zero. The rows of the next position are prefetched. The hardware's prefetcher stops at the end of a page, which has
// three rows of AlexNet's image in bfloat16: the first layer took a fifth longer without.
template <class T>
void stage_runs(const T* row, const Image& image, int64_t w0, int64_t step, Inside part, int64_t count,
                int64_t channels, float* to) {
  const int64_t c = image.c, length = part.end - part.begin, floats = row == nullptr ? 0 : image.w * c;
  const bool adjoin = image.c_stride == 1 && image.w_stride == c;
  const int64_t first = w0 * c + part.begin, run = step * c;
  // Runs [begin, end) lie in the row as a whole.
  const int64_t begin = min(first < 0 ? (-first + run - 1) / run : 0, count);
  const int64_t end = first + length > floats ? begin : min((floats - first - length) / run + 1, count);
  for (int64_t x = 0; x < count; ++x) {
    if (x == begin && begin < end) x = end;
    if (x == count) break;
    const Inside in = inside(first + x * run, length, floats);
    clear(to + x * channels, in.begin);
    for (int64_t i = in.begin; adjoin && i < in.end; ++i) convert(row[first + x * run + i], to[x * channels + i]);
    clear(to + x * channels + in.end, length - in.end);
  }
  for (int64_t i = 0; adjoin && i < length; i += kLanes<float>) {
    const int64_t lanes = min(length - i, kLanes<float>);
    for (int64_t x = begin; x < end; ++x) {
      prefetch<Prefetch::read_from_l2>(row + first + x * run + i + step * image.h_stride);
      store(load(row + first + x * run + i, lanes), to + x * channels + i, lanes);
    }
  }
  if (adjoin || row == nullptr) return;
  const Inside pixels = inside(w0, count * step, image.w);
  for (int64_t w = pixels.begin; w < pixels.end; w += kLanes<float>)
    for (int64_t c0 = 0; c0 < c; c0 += kLanes<float>) {
      const int64_t present = min(pixels.end - w, kLanes<float>), lanes = min(c - c0, kLanes<float>);
      FloatLanes values[kLanes<float>];
      load_transposed(row + (w0 + w) * image.w_stride + c0 * image.c_stride, image, lanes, present, values);
      int64_t x = w / step, j = w % step;
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes<float>; ++i) {
        if (i >= present) break;
        const int64_t at = j * c + c0 - part.begin;
        const Inside in = inside(at, lanes, length);
        float* const run = to + x * channels + at;
        if (in.begin == 0) {
          store(values[i], run, in.end);
        } else if (in.begin < in.end) {
          float together[kLanes<float>];
          store(values[i], together);
          store(load(together + in.begin, in.end - in.begin), run + in.begin, in.end - in.begin);
        }
        if (++j == step) j = 0, ++x;
      }
    }
}

template <class T>
void stage_phases(const PhasedImage& source, int64_t n, Region region, int64_t first, int64_t channels, float* pixels) {
  const Image& image = source.image;
  const int64_t run = source.step_w * image.c, w0 = region.w0 * source.step_w - source.left;
  const int64_t present = min(source.step_h * run - first, channels);
  for (int64_t y = 0; y < region.rows; ++y, pixels += region.columns * channels) {
    if (present < channels) clear(pixels, region.columns * channels);
    for (int64_t i = first / run; i * run < first + present; ++i) {
      const int64_t h = (region.h0 + y) * source.step_h + i - source.top;
      const T* const row = h < 0 || h >= image.h
                               ? nullptr
                               : reinterpret_cast<const T*>(image.data) + n * image.n_stride + h * image.h_stride;
      const Inside part = inside(i * run - first, run, present);  // of the run
      stage_runs(row, image, w0, source.step_w, part, region.columns, channels,
                 pixels + (i * run + part.begin - first));
    }
  }
}

template <class T>
void stage_as(const PhasedImage& source, int64_t n, Region region, int64_t first, int64_t channels, float* pixels) {
  if (source.step_h * source.step_w > 1)
    stage_phases<T>(source, n, region, first, channels, pixels);
  else
    stage_image<T>(source, n, region, first, channels, pixels);
}

template <class T>
void unstage_row(const float* from, int64_t channels, const Image& image, int64_t count, T* to) {
  const int64_t c_stride = image.c_stride, w_stride = image.w_stride;
  if (c_stride == 1) {
    for (int64_t w = 0; w < count; ++w)
      for (int64_t c = 0; c < image.c; c += kLanes<float>)
        store(load(from + w * channels + c), to + w * w_stride + c, min(image.c - c, kLanes<float>));
  } else if (w_stride == 1) {
    for (int64_t w = 0; w < count; w += kLanes<float>)
      for (int64_t c = 0; c < image.c; c += kLanes<float>) {
        const int64_t pixels = min(count - w, kLanes<float>);
        FloatLanes rows[kLanes<float>];
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes<float>; ++i)
          rows[i] = i < pixels ? load(from + (w + i) * channels + c) : FloatLanes{};
        transpose(rows);
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

}  // namespace
}  // namespace tmc
