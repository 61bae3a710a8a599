// Winograd's convolution F(m x m, r x r) (eq. 27-29): stride 1, m x m outputs from r x r taps by (m + r - 1)^2
// products.
//
// In: images of any layout in float32 or a half type, and the weight. Out: output, grad_input or grad_weight.
// phases.cpp brings strides and dilations into this form, winograd.cpp the padding and groups; by_strips.cpp and
// by_panels.cpp are two orders of the same sums, grad_weight.cpp the third product; transforms.h, filters.h and
// multiply.h have the kernels. Bound: compute, the products (multiply.h), and L3 where transformed tiles or filters
// outgrow L2.
//
//   tile of the input      x: (m + r - 1)^2 pixels, the next one m pixels on    V = B^T x B
//   block of the kernel    w: r x r taps                                        U = G w G^T
//   tile of the output     z: m x m pixels                                      z = A^T (sum_c U * V) A
//
// `*` multiplies element by element. Each element, a value of polynomials at one pair of points, is a matrix product of
// its own, [tiles x channels] * [channels x filters].
//
//   F(3x3, 3x3)   5 x 5 points: 25 products where the sum of eq. 1 has 81, as accurate as float32. Kernels of any size
//   F(7x7, 3x3)   9 x 9 points: 81 for 441; the error, 5e-6, is below what half types, or float32 in less than the
//   F(5x5, 5x5)   highest precision, are rounded to: 81 for 625. For kernels of just this size
//   F(7x7, 5x5)   11 x 11 points: 121 for 1225; the error, 3e-5, is below what bfloat16 is rounded to
//
// A kernel of more than 3 x 3 taps is, for F(3x3, 3x3), a sum of blocks, block (i, j) holding the taps from (3i, 3j)
// on. Since tiles are 3 pixels apart, block (i, j) of output tile (p, q) reads input tile (p + i, q + j): one transform
// serves all blocks. A block with only two rows of taps has U = 0 at the last point (eq. 28), which is skipped: 5 x 5
// taps cost 81 products for nine pixels, as many as with F(2x2, 5x5), at half of its rounding error.
//
// Where m does not divide the outputs of an axis, the last tiles, as many as outputs are missing, have one output fewer
// each: their highest coefficient is zero, and with it their product at infinity (eq. 28). 13 outputs are 3 + 3 + 3 + 2
// + 2: 23 products instead of 25.
//
// Gradients: grad_input is the same with the kernel channels_are_rows round; grad_weight sums A dz A^T * B^T x B over
// all tiles and ends with G^T U G (eq. 29).
#pragma once
#include "conv2d.h"
#include "cpu/image/staging.h"

namespace tmc {

inline constexpr int64_t kChannelGroup = 64;  // after so many terms the sums of a product are added to memory

// AxisTiles side by side along an axis: the first ones `whole`, the others with one output fewer.
struct AxisTiles {
  int64_t count, whole;
  // The first output of tile i; of tile `count`, where they end.
  int64_t begin(int64_t i, int64_t tile) const { return i * tile - (i > whole ? i - whole : 0); }
};

// Where transformed tiles lie: element e of channels c to c + lanes of tile t, a vector, is at e * plane + c / lanes *
// vector + t * tile.
struct Planes {
  float* data;
  int64_t plane, vector, tile;
};

// Where `rows` x `columns` pixels of `channels` floats lie.
struct PixelGrid {
  float* data;
  int64_t row, column;  // floats from one to the next
  int64_t rows, columns, channels;
};

// rows x width results of one of these products: tile[i, v] = (add ? tile[i, v] : 0) + sum_l a[i, l] * b[l, v].
// a[i, l] is at a[a_rows[i] + l * a_step]; b's row l is two vectors, at b[b_rows[l]] and b_vector floats on. From
// `next` on lies what the next product will call b: it is prefetched into L2 meanwhile.
struct WinogradProduct {
  int64_t rows, depth;
  const float* a;
  const int64_t* a_rows;
  int64_t a_step;
  const float* b;
  const int64_t* b_rows;
  int64_t b_vector;
  const float* next;
  float* tile;
  int64_t tile_row;
  bool add;
};

// Compiled for each instruction set by kernels.isa.cpp. A pixel is `channels` floats, a multiple of `width`.
struct WinogradKernels {
  int64_t tile, taps;  // outputs of a tile and taps of a block, along an axis
  int64_t lanes;       // floats of a vector
  int64_t width;       // floats that the product computes side by side: two vectors
  // B^T x B of tiles whose pixels are staged in rows of `columns` pixels. `places` numbers them in v, from left to
  // right and down; null: in this order.
  void (*transform_input)(const float* pixels, int64_t columns, int64_t channels, AxisTiles down, AxisTiles across,
                          const int64_t* places, Planes v);
  // largest[i] = the largest magnitude in the channels of pixel i, of staged pixels one after the other.
  void (*largest_of_pixels)(const float* pixels, int64_t count, int64_t channels, float* largest);
  // A dz A^T of tiles of staged pixels.
  void (*transform_grad_output)(const float* pixels, int64_t columns, int64_t channels, AxisTiles down,
                                AxisTiles across, const int64_t* places, Planes g);
  // G w G^T of the block of taps from (r0, s0) on, for filters [k0, k0 + width) and all channels: u + element * plane
  // + c * width. Computed in double, rounded once.
  void (*transform_filters)(const Image& weight, DType dtype, int64_t k0, int64_t r0, int64_t s0, float* u,
                            int64_t plane);
  void (*multiply)(const WinogradProduct& product);
  // A^T m A + bias of the tiles that cover those pixels, which `places` numbers in m. False if one is not finite.
  bool (*transform_output)(Planes m, const int64_t* places, AxisTiles down, AxisTiles across, const float* bias,
                           const PixelGrid& pixels);
  // G^T u G: the block of taps from (r0, s0) on of all filters and of one panel of channels, at most `width` of them.
  // False if one is not finite.
  bool (*transform_grad_weight)(Planes u, int64_t r0, int64_t s0, DType dtype, const Image& grad_weight);

  int64_t points() const { return tile + taps - 1; }  // pixels of an input tile along an axis
  int64_t elements() const { return points() * points(); }
};

// F(3x3, 3x3), then F(7x7, 3x3), F(5x5, 5x5) and F(7x7, 5x5).
using WinogradKernelTable = WinogradKernels[4];

}  // namespace tmc
