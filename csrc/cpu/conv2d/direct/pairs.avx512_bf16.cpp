// Direct convolution in bfloat16, by AVX512-BF16's dot products of pairs: the micro-kernels of
// cpu/conv2d/direct/kernels.h, whose words are two neighbouring channels.
//
// vdpbf16ps rounds each addition to float and flushes subnormals, of operands and sums, to zero. 256 terms are one run
// of the sum: float's rounding errors of so many are far below bfloat16's own (as in cpu/gemm/pairs.avx512_bf16.cpp).
// Bound: compute, two instructions a cycle on Zen 5; few channels: the results, 28 vectors a strip to round and store.
#include "cpu/conv2d/direct/kernels.h"

namespace tmc {
namespace {

struct PairWords {
  static constexpr int64_t kSumRun = kPairRun;
  // ResNet-18's stem and strided 1 x 1 layer are 1.1 to 1.3 times as fast for it (Zen 5).
  static constexpr bool kPrefetchesResults = true;
  static FloatLanes add(FloatLanes sum, float a, FloatLanes b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)b, (__m512bh)_mm512_set1_ps(a));
  }
  // Whole panels by plain stores: masked ones made a 1 x 1 layer of 24 channels take 2.7 times as long (Zen 5).
  template <int kVectors>
  static void write(const FloatLanes (&sum)[kVectors], const DirectLine& line, char* row) {
    if (!line.rounded) return FloatWords::write(sum, line, row);
    BFloat16* const to = reinterpret_cast<BFloat16*>(row);
    if (line.columns < kVectors * kLanes<float>) {
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j)
        store(sum[j], to + j * kLanes<float>, min(line.columns - j * kLanes<float>, kLanes<float>));
    } else if constexpr (kVectors == 2) {
      _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(sum[1], sum[0]));
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(sum[0]));
    }
  }
};

// Results adjoin, and a strip's are complete before those of the next. Prefetched meanwhile: the lines of the next
// results, and the pixels four strips ahead, with which 32 channels at 112 x 112 are 1.35 times as fast (Zen 5).
void correlate_pixels(const DirectLine& line) {
  constexpr int64_t kAhead = 4;
  const float* a = line.a;
  char* to = static_cast<char*>(line.out);
  const int64_t a_strip = kMaxRows * line.a_step, strip = kMaxRows * line.out_step;
  for (int64_t p = 0; p < line.rows; p += kMaxRows, a += a_strip, to += strip) {
    const int64_t rows = min(line.rows - p, kMaxRows);
    if (rows == kMaxRows) {
      prefetch_run<Prefetch::write>(to + strip, strip);
      prefetch_run(a + kAhead * a_strip, a_strip);
    }
    DirectLine panel = line;
    char* out = to;
    for (int64_t k = 0; k < line.columns; k += kWidth, out += kWidth * sizeof(BFloat16)) {
      panel.columns = min(line.columns - k, kWidth);
      correlate_strip_of<PairWords, Terms::one_tap, kMaxRows>(rows, panel, a, out);
      panel.b += line.run * kWidth, panel.bias += kWidth;
    }
  }
}

// to[c / 2 * width + k] holds channels c and c + 1 of filter k; zeros where there is none.
void pack_tap_pairs(const Image& weight, int64_t k0, int64_t r, int64_t s, float* to) {
  const auto* from =
      reinterpret_cast<const BFloat16*>(weight.data) + k0 * weight.n_stride + r * weight.h_stride + s * weight.w_stride;
  const int64_t filters = min(weight.n - k0, kWidth);
  const bool whole = weight.c % 2 == 0 && weight.n_stride % 2 == 0;
  if (weight.c_stride == 1 && whole) {  // the pairs are there, and are moved like floats
    Image words = weight;
    words.data = const_cast<char*>(reinterpret_cast<const char*>(from));
    words.n = filters, words.c = weight.c / 2, words.n_stride = weight.n_stride / 2;
    return pack_tap(words, 0, 0, 0, to);
  }
  for (int64_t c = 0; c < weight.c; c += 2, to += kWidth) {
    uint32_t words[kWidth] = {};
    const BFloat16* low = from + c * weight.c_stride;
    const BFloat16* high = low + weight.c_stride;
    for (int64_t k = 0; k < filters; ++k) words[k] = low[k * weight.n_stride].bits;
    if (c + 1 < weight.c)
      for (int64_t k = 0; k < filters; ++k) words[k] |= static_cast<uint32_t>(high[k * weight.n_stride].bits) << 16;
    __builtin_memcpy(to, words, sizeof words);
  }
}

// For grad_weight, whose sum runs over pixels. In planes they are pairs already.
void pair_planes(const BFloat16* from, const Image& image, int64_t count, int64_t pitch, float* words) {
  constexpr int64_t kElements = 2 * kLanes<float>;
  for (int64_t w = 0; w < count; w += kElements)
    for (int64_t c = 0; c < pitch; c += kLanes<float>) {
      const int64_t there = min(count - w, kElements), pairs = (there + 1) / 2;
      FloatLanes values[kLanes<float>];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes<float>; ++i)
        values[i] = c + i < image.c
                        ? bits_as<FloatLanes>(load_raw<uint16_t, kElements>(from + (c + i) * image.c_stride + w, there))
                        : FloatLanes{};
      transpose(values);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes<float>; ++i)
        if (i < pairs) store(values[i], words + (w / 2 + i) * pitch + c);
    }
}

void pair_pixels(const Image& image, int64_t n, int64_t h, int64_t step, int64_t count, int64_t pitch, float* words) {
  const auto* from = reinterpret_cast<const BFloat16*>(image.data) + n * image.n_stride + h * image.h_stride;
  const int64_t w_stride = step * image.w_stride;
  if (w_stride == 1) return pair_planes(from, image, count, pitch, words);
  for (int64_t w = 0; w < count; w += 2, from += 2 * w_stride, words += pitch)
    for (int64_t c = 0; c < pitch; c += kLanes<float>) {
      const int64_t there = image.c - c < kLanes<float> ? (image.c > c ? image.c - c : 0) : kLanes<float>;
      const Bits32 low = resize<Bits32>(load_raw<uint16_t, kLanes<float>>(from + c, there));
      const Bits32 high =
          w + 1 < count ? resize<Bits32>(load_raw<uint16_t, kLanes<float>>(from + w_stride + c, there)) : Bits32{};
      store(bits_as<FloatLanes>(low | high << 16), words + c);
    }
}

void pair_channels(const Image& image, int64_t n, int64_t h, int64_t w0, int64_t count, int64_t pitch, float* words) {
  const auto* from = reinterpret_cast<const BFloat16*>(image.data) + n * image.n_stride + h * image.h_stride + w0;
  for (int64_t w = 0; w < count; w += kLanes<float>)
    for (int64_t l = 0; l < pitch; l += kLanes<float>) {
      const int64_t there = min(count - w, kLanes<float>);
      const auto channel = [&](int64_t c) {
        return c < image.c ? resize<Bits32>(load_raw<uint16_t, kLanes<float>>(from + c * image.c_stride + w, there))
                           : Bits32{};
      };
      FloatLanes values[kLanes<float>];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes<float>; ++i)
        values[i] = bits_as<FloatLanes>(channel(2 * (l + i)) | channel(2 * (l + i) + 1) << 16);
      transpose(values);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes<float>; ++i)
        if (i < there) store(values[i], words + (w + i) * pitch + l);
    }
}

void pair_elements(const uint16_t* elements, int64_t apart, int64_t count, float* words) {
  for (int64_t i = 0; i < count; i += kLanes<float>) {
    const int64_t there = min(count - i, kLanes<float>);
    const Bits32 low = resize<Bits32>(load_raw<uint16_t, kLanes<float>>(elements + i, there));
    const Bits32 high = resize<Bits32>(load_raw<uint16_t, kLanes<float>>(elements + i + apart, there));
    store(bits_as<FloatLanes>(low | high << 16), words + i, there);
  }
}

}  // namespace

const DirectKernels direct_kernels_avx512_bf16 = {
    kWidth,    2,           pack_tap_pairs, correlate<PairWords>, add_products<PairWords>, fold,
    write_row, pair_pixels, pair_channels,  pair_elements,        correlate_pixels};

}  // namespace tmc
