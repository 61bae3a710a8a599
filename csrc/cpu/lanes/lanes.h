// The lanes: the one vocabulary of vectors in which all CPU kernels are written. `Lanes<Real>` is a vector register of
// float or double, as wide as the instruction set that this source is compiled for (cpu/machine/vector_bytes.h). load
// and store move it from and to memory of any dtype. Its arithmetic is that of GCC's and Clang's vector extensions:
// operators work lane by lane, a comparison gives -1 or 0 as an integer, and `mask ? a : b` selects.
//
// Here: vector types, loads, stores, non-temporal stores, conversions. half.h: bfloat16 and float16, one at a time.
// pairs.h: two vectors, and loops over arrays. shuffle.h, transpose.h: lanes in another order. exponential.h: exp.
// prefetch.h: software prefetch. The lanes know nothing of images and matrices.
//
// For sources compiled per instruction set: everything in this room has internal linkage, and no library header is
// included. The linker would merge an inline function of AVX-512 code with the copy that an older CPU calls.
#pragma once
#include "common.h"
#include "cpu/lanes/half.h"
#include "cpu/machine/vector_bytes.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace tmc {
namespace {

// std::min and std::max are library functions (see above).
inline int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}
inline int64_t max(int64_t a, int64_t b) {
  return a > b ? a : b;
}

template <class T, int64_t kCount>
struct VectorType {
  typedef T type __attribute__((vector_size(sizeof(T) * kCount)));
};
template <class T, int64_t kCount>
using Vector = typename VectorType<T, kCount>::type;

// Values in the precision they are computed in (float or double) and, beside each, an integer of its size.
template <class Real>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(Real));
template <class Real>
using Lanes = Vector<Real, kLanes<Real>>;
template <class Real>
struct IntegerType {
  using type = int32_t;
};
template <>
struct IntegerType<double> {
  using type = int64_t;
};
template <class Real>
using Integer = typename IntegerType<Real>::type;
template <class Real>
using IntegerLanes = Vector<Integer<Real>, kLanes<Real>>;

template <class To, class From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// Integers of another width, element by element. GCC 12 takes __builtin_convertvector apart into scalars for the widths
// named here. (Zero-masking intrinsics, since it warns of uninitialised values in the plain ones.)
template <class To, class From>
inline To resize(From from) {
#if defined(__AVX2__)
  constexpr int64_t kFrom = sizeof(from[0]), kTo = sizeof(To{}[0]);
#endif
#if defined(__AVX512F__)
  if constexpr (kFrom == 1 && kTo == 4) return bits_as<To>(_mm512_maskz_cvtepu8_epi32(-1, bits_as<__m128i>(from)));
  if constexpr (kFrom == 2 && kTo == 4) return bits_as<To>(_mm512_maskz_cvtepu16_epi32(-1, bits_as<__m256i>(from)));
  if constexpr (kFrom == 1 && kTo == 2) return bits_as<To>(_mm512_maskz_cvtepu8_epi16(-1, bits_as<__m256i>(from)));
  if constexpr (kFrom == 4 && kTo == 1) return bits_as<To>(_mm512_maskz_cvtepi32_epi8(-1, bits_as<__m512i>(from)));
  if constexpr (kFrom == 4 && kTo == 2) return bits_as<To>(_mm512_maskz_cvtepi32_epi16(-1, bits_as<__m512i>(from)));
  if constexpr (kFrom == 2 && kTo == 1) return bits_as<To>(_mm512_maskz_cvtepi16_epi8(-1, bits_as<__m512i>(from)));
#elif defined(__AVX2__)
  if constexpr (kFrom == 1 && kTo == 4)
    return bits_as<To>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bits_as<int64_t>(from))));
  if constexpr (kFrom == 2 && kTo == 4) return bits_as<To>(_mm256_cvtepu16_epi32(bits_as<__m128i>(from)));
  if constexpr (kFrom == 1 && kTo == 2) return bits_as<To>(_mm256_cvtepu8_epi16(bits_as<__m128i>(from)));
#endif
  return __builtin_convertvector(from, To);
}

// ---- Memory <-> lanes. Memory holds float64, float32, bfloat16 or float16, or winners (uint8, int32). `count` is less
// than kLanes in a tail, where a whole vector would reach past the data.
#if defined(__AVX2__) && !defined(__AVX512F__)
// All bits set in the first `count` of 8.
inline __m256i first_lanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif
template <class T, int64_t kCount>
inline Vector<T, kCount> load_raw(const void* from, int64_t count) {
  Vector<T, kCount> values = {};
  if (count == kCount) {
    __builtin_memcpy(&values, from, sizeof(values));
    return values;
  }
#if defined(__AVX512F__)
  const __mmask64 bytes = (uint64_t{1} << count * sizeof(T)) - 1;
  if constexpr (sizeof(values) == 64) {
    values = bits_as<Vector<T, kCount>>(_mm512_maskz_loadu_epi8(bytes, from));
  } else if constexpr (sizeof(values) == 32) {
    values = bits_as<Vector<T, kCount>>(_mm256_maskz_loadu_epi8(static_cast<__mmask32>(bytes), from));
  } else if constexpr (sizeof(values) == 16) {
    values = bits_as<Vector<T, kCount>>(_mm_maskz_loadu_epi8(static_cast<__mmask16>(bytes), from));
  } else {
    values = bits_as<Vector<T, kCount>>(_mm_cvtsi128_si64(_mm_maskz_loadu_epi8(static_cast<__mmask16>(bytes), from)));
  }
#else
#if defined(__AVX2__)
  if constexpr (kCount == 8 && sizeof(T) == 4)
    return bits_as<Vector<T, kCount>>(_mm256_maskload_epi32(static_cast<const int*>(from), first_lanes(count)));
#endif
  __builtin_memcpy(&values, from, count * sizeof(T));
#endif
  return values;
}
template <class T, int64_t kCount>
inline void store_raw(const Vector<T, kCount>& values, void* to, int64_t count) {
  if (count == kCount) {
    __builtin_memcpy(to, &values, sizeof(values));
    return;
  }
#if defined(__AVX512F__)
  const __mmask64 bytes = (uint64_t{1} << count * sizeof(T)) - 1;
  if constexpr (sizeof(values) == 64) {
    _mm512_mask_storeu_epi8(to, bytes, bits_as<__m512i>(values));
  } else if constexpr (sizeof(values) == 32) {
    _mm256_mask_storeu_epi8(to, static_cast<__mmask32>(bytes), bits_as<__m256i>(values));
  } else if constexpr (sizeof(values) == 16) {
    _mm_mask_storeu_epi8(to, static_cast<__mmask16>(bytes), bits_as<__m128i>(values));
  } else {
    _mm_mask_storeu_epi8(to, static_cast<__mmask16>(bytes), _mm_cvtsi64_si128(bits_as<int64_t>(values)));
  }
#else
#if defined(__AVX2__)
  if constexpr (kCount == 8 && sizeof(T) == 4)
    return _mm256_maskstore_epi32(static_cast<int*>(to), first_lanes(count), bits_as<__m256i>(values));
#endif
  __builtin_memcpy(to, &values, count * sizeof(T));
#endif
}

// Keeps a loaded value in a register. Otherwise the compiler loads it again for each use, and an unaligned vector
// mostly lies across two cache lines, which costs two loads.
template <class V>
inline V in_register(V value) {
#if defined(__x86_64__)
  asm("" : "+v"(value));
#endif
  return value;
}

using FloatLanes = Lanes<float>;
using Bits16 = Vector<uint16_t, kLanes<float>>;
using Bits32 = Vector<uint32_t, kLanes<float>>;

inline FloatLanes widen_lanes(Bits16 bits, BFloat16) {
  return bits_as<FloatLanes>(resize<Bits32>(bits) << 16);
}
inline FloatLanes widen_lanes(Bits16 bits, Float16) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(-1, bits_as<__m256i>(bits));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(bits_as<__m128i>(bits));
#else
  float values[kLanes<float>];
  for (int64_t lane = 0; lane < kLanes<float>; ++lane) convert(Float16{bits[lane]}, values[lane]);
  return bits_as<FloatLanes>(values);
#endif
}

// As convert does (half.h): every NaN becomes the quiet one.
inline Bits32 round_to_bfloat16(FloatLanes values) {
  const Bits32 rounded = round_to_upper_half(bits_as<Bits32>(values)) >> 16;
  return values == values ? rounded : Bits32{} + 0x7FC0u;
}
inline Bits16 narrow_lanes(FloatLanes values, BFloat16) {
  return resize<Bits16>(round_to_bfloat16(values));
}
inline Bits16 narrow_lanes(FloatLanes values, Float16) {
#if defined(__AVX512F__)
  return bits_as<Bits16>(_mm512_maskz_cvtps_ph(-1, values, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return bits_as<Bits16>(_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
#else
  Float16 halves[kLanes<float>];
  for (int64_t lane = 0; lane < kLanes<float>; ++lane) convert(values[lane], halves[lane]);
  return bits_as<Bits16>(halves);
#endif
}

template <class T>
inline Lanes<accumulate_t<T>> load(const T* from, int64_t count = kLanes<accumulate_t<T>>) {
  constexpr int64_t kCount = kLanes<accumulate_t<T>>;
  if constexpr (sizeof(T) == 2) {
    return widen_lanes(load_raw<uint16_t, kCount>(from, count), T{});
  } else {
    return load_raw<T, kCount>(from, count);
  }
}
template <class T>
inline void store(Lanes<accumulate_t<T>> values, T* to, int64_t count = kLanes<accumulate_t<T>>) {
  if constexpr (sizeof(T) == 2) {
    store_raw<uint16_t, kLanes<float>>(narrow_lanes(values, T{}), to, count);
  } else {
    store_raw<T, kLanes<T>>(values, to, count);
  }
}

// Non-temporal stores, for results that do not fit in the caches: an ordinary store first reads the line it writes to.
// `to` is aligned to the vector. Other threads see it after finish_streaming().
template <class V>
inline void stream_raw(const V& values, void* to) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(to), bits_as<__m512i>(values));
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return _mm256_stream_si256(static_cast<__m256i*>(to), bits_as<__m256i>(values));
  if constexpr (sizeof(V) == 16) return _mm_stream_si128(static_cast<__m128i*>(to), bits_as<__m128i>(values));
#endif
  __builtin_memcpy(to, &values, sizeof(values));
}
template <class T>
inline void stream(Lanes<accumulate_t<T>> values, T* to) {
  if constexpr (sizeof(T) == 2) {
    stream_raw(narrow_lanes(values, T{}), to);
  } else {
    stream_raw(values, to);
  }
}
inline void finish_streaming() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

template <class Real, class Winner>
inline void store_winners(IntegerLanes<Real> winners, Winner* to, int64_t count) {
  store_raw<Winner, kLanes<Real>>(resize<Vector<Winner, kLanes<Real>>>(winners), to, count);
}

template <class Real, class Winner>
inline Vector<Winner, kLanes<Real>> load_winners(const Winner* from, int64_t count) {
  return load_raw<Winner, kLanes<Real>>(from, count);
}
// sum += value in the lanes whose winner is the tap.
template <class Real, class Winners>
inline void add_where(Winners winners, Winners taps, Lanes<Real> value, Lanes<Real>& sum) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4 && sizeof(Winners) == 16) {
    const __mmask16 won = _mm_cmpeq_epi8_mask(bits_as<__m128i>(winners), bits_as<__m128i>(taps));
    sum = _mm512_mask_add_ps(sum, won, sum, value);
    return;
  }
#endif
  const IntegerLanes<Real> won = resize<IntegerLanes<Real>>(winners) == resize<IntegerLanes<Real>>(taps);
  sum += won ? value : Lanes<Real>{};
}

// beats() of pool2d.h, lane by lane: a larger value or a NaN replaces the best one, and its index goes with it. Only
// the comparison with `best` waits for the value before.
template <class Real>
inline void take_if_beats(Lanes<Real> value, IntegerLanes<Real> index, Lanes<Real>& best,
                          IntegerLanes<Real>& best_index) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) {
    const __mmask16 ordered = _mm512_cmp_ps_mask(value, value, _CMP_ORD_Q);
    const __mmask16 stays = _mm512_mask_cmp_ps_mask(ordered, best, value, _CMP_NLT_UQ);
    best = _mm512_mask_mov_ps(value, stays, best);
    best_index = bits_as<IntegerLanes<Real>>(
        _mm512_mask_mov_epi32(bits_as<__m512i>(index), stays, bits_as<__m512i>(best_index)));
    return;
  }
#endif
  const IntegerLanes<Real> larger = value > best, nan = value != value;
  best = nan ? value : larger ? value : best;
  best_index = nan ? index : larger ? index : best_index;
}

// Everything that a kernel calls is inlined into it: its lambdas are loop bodies.
#define KERNEL __attribute__((flatten))

}  // namespace
}  // namespace tmc
