// Staging: copies between images of any layout and dtype and scratch memory in the one form that vector loops read,
// float32 pixels whose channels adjoin.
//
// In: a region of an image, which may reach over its edges; out: [row][column][channel] with zeros for what lies
// outside, so that no loop asks whether a pixel exists. unstage() is the way back, with one rounding to the image's
// dtype. Bound: memory. A staged region is small enough to stay in L2, so that transposing planes into pixels, or
// phases into channels, costs one pass over the cache.
#pragma once
#include "cpu/image/image.h"
#include "dtype.h"

namespace tmc {

// An image inside its padding, seen as positions with channels. With steps of 1 a position is a pixel. With larger
// steps the phases of the rows and columns (rows i, i + step, i + 2 * step, ...) are further channels: channel
// (i * step_w + j) * image.c + c of position (y, x) is channel c of pixel (y * step_h + i - top, x * step_w + j -
// left).
struct PhasedImage {
  Image image;
  int64_t top = 0, left = 0, step_h = 1, step_w = 1;
};

// Positions [h0, h0 + rows) x [w0, w0 + columns). Outside the image they read zero and are not written.
struct Region {
  int64_t h0, w0, rows, columns;
};

// Compiled for each instruction set by kernels.isa.cpp.
struct StagingKernels {
  // Channels [first, first + channels) of a region, zeros beyond the channels that there are. Writes whole vectors of
  // channels: `channels` is a multiple of their length.
  void (*stage)(const PhasedImage& source, DType dtype, int64_t n, Region region, int64_t first, int64_t channels,
                float* pixels);
  // The first image.c channels of those pixels that lie inside the image. Reads whole vectors.
  void (*unstage)(const float* pixels, int64_t channels, Region region, int64_t n, DType dtype, const Image& image);
};

}  // namespace tmc
