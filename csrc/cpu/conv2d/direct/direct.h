// Direct convolution: eq. 1 on channels_last images where they are, without a patch matrix.
//
// In: images of any layout in float32, float16 or bfloat16, copied once to channels_last where they are not
// (operands.h), and the weight. Out: the output, grad_input or grad_weight, in place. direct.cpp is the forward and
// grad_input, fold.cpp grad_input of few channels, grad_weight.cpp the third; kernels.h has their micro-kernels. Bound:
// compute, and for 1 x 1 kernels of few channels memory.
//
// The channels of neighbouring pixels adjoin in memory, so a window's taps in one kernel row are one run of S * C
// floats, and the window of the next output pixel is the same runs, stride * C floats further on. The micro-kernel
// reads each factor from there and multiplies it with a vector of filters. What the matrix product of cpu/gemm/gemm.h
// spends on copying patches, once for each tap, is saved; what is left is a packed weight:
//
//   packed[panel of filters][u][v][c][width]
//
// A window that reaches over the edge of the image has fewer taps. Output pixels are grouped by the taps they have.
//
// In bfloat16, on CPUs that multiply pairs of it, the same is done with words of 32 bits: two neighbouring channels,
// and the weights of both. `c` above is a word then, and sums stay float.
#pragma once
#include "cpu/image/staging.h"

namespace tmc {

// `rows` output pixels with the same taps, one panel of filters:
//
//   out[i, k] = bias[k] + sum_{u, v, l} a[i * a_step + u * a_u_step + v * a_v_step + l] * b[u, v, l, k]
//
// for u < u_count, v < v_count, l < run, k < columns. Taps that adjoin are one run: then v_count is 1.
struct DirectLine {
  int64_t rows, columns;
  const float* a;  // words, like b
  int64_t a_step, a_u_step, a_v_step;
  int64_t u_count, v_count, run;
  const float* b;
  int64_t b_u_step, b_v_step;
  const float* bias;  // of a whole panel
  void* out;
  int64_t out_step;  // bytes
  bool rounded;      // out holds bfloat16, not float
  bool stream;       // past the caches: columns and out are whole aligned vectors
};

// The sum over `lines` rows of `pixels` output pixels, for grad_weight:
//
//   sums[i, k] += sum_{y, x} a[i + y * a_line + x * a_pixel] * b[k + y * b_line + x * b_pixel]
//
// for i < rows, elements of a run of taps, and k < columns, filters. Reads b in whole vectors.
struct DirectSums {
  int64_t rows, columns;
  int64_t lines, pixels;
  const float* a;
  int64_t a_line, a_pixel;
  const float* b;
  int64_t b_line, b_pixel;
  float* sums;
  int64_t sums_step;
};

// Sums over taps that lie in several rows, one for each of some pixels:
//
//   out[i * out_step + c] = sum_{u, v} rows[u][i * step + v * v_step + c]
//
// for i < pixels, c < channels, a multiple of kFoldLanes.
struct DirectFold {
  int64_t pixels, channels;
  const float* const* rows;
  int64_t u_count, v_count, v_step, step;
  float* out;
  int64_t out_step;
};
constexpr int64_t kFoldLanes = 4;

// Compiled for each instruction set by kernels.isa.cpp.
struct DirectKernels {
  int64_t width;     // filters of a panel: two vectors
  int64_t per_word;  // channels of a word
  // Filters [k0, k0 + width) of one tap, all channels: to[c * width + k]; zeros beyond the last filter.
  void (*pack_tap)(const Image& weight, int64_t k0, int64_t r, int64_t s, float* to);
  void (*correlate)(const DirectLine& line);
  void (*add_products)(const DirectSums& sums);
  void (*fold)(const DirectFold& fold);
  // `count` pixels, of `quads` floats each, to row h of the image from column w0 on. Overwrites them; reads, as
  // unstage() does, whole vectors.
  void (*write_row)(float* pixels, int64_t quads, DType dtype, const Image& image, int64_t n, int64_t h, int64_t w0,
                    int64_t count);
  // Where words are pairs, else null: `count` pixels of image row h, `step` apart, two by two. A word holds one channel
  // of both, zero in place of a pixel that is not there; from pair to pair it is `pitch`, a multiple of 16.
  void (*pair_pixels)(const Image& image, int64_t n, int64_t h, int64_t step, int64_t count, int64_t pitch,
                      float* words);
  // Likewise: of channels of planes, as correlate() takes them; from pixel w0 on.
  void (*pair_channels)(const Image& image, int64_t n, int64_t h, int64_t w0, int64_t count, int64_t pitch,
                        float* words);
  // Likewise: words[i] holds elements i and i + apart, for i < count.
  void (*pair_elements)(const uint16_t* elements, int64_t apart, int64_t count, float* words);
  // Where words are pairs, else null: as `correlate`, of one tap of kPairRun words at most, for all filters: panels of
  // b and bias follow each other, and so do the pixels of out.
  void (*correlate_pixels)(const DirectLine& line);
};
constexpr int64_t kPairRun = 128;
extern const DirectKernels direct_kernels_avx512_bf16;  // pairs

}  // namespace tmc
