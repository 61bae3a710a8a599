// Rows of tensors <-> rows of phases in scratch memory (cpu/pool2d/phases.h), converted to the precision of sums.
//
// For sources compiled per instruction set (see cpu/lanes/lanes.h).
#pragma once
#include "cpu/lanes/lanes.h"
#include "cpu/pool2d/plan.h"
#include "cpu/pool2d/planes.h"

namespace tmc {
namespace {

// body(x, count) for vectors that cover [0, size).
template <class Real, class F>
inline void for_vectors(int64_t size, F body) {
  int64_t x = 0;
  for (; x + kLanes<Real> <= size; x += kLanes<Real>) body(x, kLanes<Real>);
  if (x < size) body(x, size - x);
}

template <class Real>
inline void fill(Real* to, int64_t size, Real value) {
  for_vectors<Real>(size, [=](int64_t x, int64_t count) { store(Lanes<Real>{} + value, to + x, count); });
}
// From a tensor to scratch memory. Whole vectors are moved wherever the tensor, which ends at `end`, goes on: the
// processor does not foresee where masked loads will read, and their cache misses cost several times the rest.
template <class T>
inline Lanes<accumulate_t<T>> load_before(const T* from, const T* end) {
  constexpr int64_t kCount = kLanes<accumulate_t<T>>;
  return load(from, end - from < kCount ? end - from : kCount);
}
template <class T>
inline void widen_row(const T* from, const T* end, accumulate_t<T>* to, int64_t size) {
  for (int64_t x = 0; x < size; x += kLanes<accumulate_t<T>>) store(load_before(from + x, end), to + x);
}
template <class T>
inline void narrow_row(const accumulate_t<T>* from, T* to, int64_t size) {
  for_vectors<accumulate_t<T>>(size, [=](int64_t x, int64_t count) { store(load(from + x), to + x, count); });
}

// Rows of average pooling are divided by divisor(p, q) = row_divisor * divisors[q].
template <class Real>
inline void list_divisors(const PoolPlan& plan, int64_t inner, Real* divisors) {
  for (int64_t q = 0; q < plan.shape.w.out; ++q)
    fill(divisors + q * inner, inner, static_cast<Real>(plan.column_divisors[q]));
}
template <class From, class To, class Real>
inline void divide_row(const From* from, Real row_divisor, const Real* divisors, To* to, int64_t size) {
  for_vectors<Real>(size, [=](int64_t x, int64_t count) {
    store(load(from + x, count) / (load(divisors + x) * row_divisor), to + x, count);
  });
}

template <class Winner>
inline void write_winners(const Winner* from, Winner* to, int64_t size) {
  constexpr int64_t kCount = kVectorBytes / static_cast<int64_t>(sizeof(Winner));
  for (int64_t x = 0; x < size; x += kCount)
    store_raw<Winner, kCount>(load_raw<Winner, kCount>(from + x, kCount), to + x,
                              size - x < kCount ? size - x : kCount);
}

// The even and the odd elements of a row.
template <class T>
inline void unzip_row(const T* from, const T* end, int64_t size, accumulate_t<T>* even, accumulate_t<T>* odd) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  constexpr AllLanes<kCount> kAll;
  for (int64_t x = 0; x < size; x += 2 * kCount) {
    if constexpr (__is_same(T, BFloat16)) {  // two elements in a word
      const int64_t left = end - from - x;
      const auto pairs = load_raw<uint16_t, 2 * kCount>(from + x, left < 2 * kCount ? left : 2 * kCount);
      store(bits_as<Lanes<Real>>(bits_as<Bits32>(pairs) << 16), even + x / 2);
      store(bits_as<Lanes<Real>>(bits_as<Bits32>(pairs) & 0xFFFF0000u), odd + x / 2);
    } else {
      const Lanes<Real> first = load_before(from + x, end);
      const Lanes<Real> second = x + kCount < size ? load_before(from + x + kCount, end) : Lanes<Real>{};
      store(unzip<0>(first, second, kAll), even + x / 2);
      store(unzip<1>(first, second, kAll), odd + x / 2);
    }
  }
}
template <class T>
inline void zip_row(const accumulate_t<T>* even, const accumulate_t<T>* odd, T* to, int64_t size) {
  using Real = accumulate_t<T>;
  constexpr int64_t kCount = kLanes<Real>;
  constexpr AllLanes<kCount> kAll;
  for (int64_t x = 0; x < size; x += 2 * kCount) {
    const int64_t left = size - x;
    const Lanes<Real> a = load(even + x / 2), b = load(odd + x / 2);
    if constexpr (__is_same(T, BFloat16)) {
      const Bits32 pairs = round_to_bfloat16(a) | round_to_bfloat16(b) << 16;
      store_raw<uint16_t, 2 * kCount>(bits_as<Vector<uint16_t, 2 * kCount>>(pairs), to + x,
                                      left < 2 * kCount ? left : 2 * kCount);
    } else {
      store(zip<0>(a, b, kAll), to + x, left < kCount ? left : kCount);
      if (left > kCount)
        store(zip<kCount / 2>(a, b, kAll), to + x + kCount, left < 2 * kCount ? left - kCount : kCount);
    }
  }
}

// How the columns of a tensor and the entries of phases, `distance` elements apart, go to each other. The three ways
// are loops of their own, over many rows: a choice in each row costs more than moving it.
enum class RowMoves { one_phase, two_phases, general };

template <class Real>
struct PhaseRows {
  RowMoves moves;
  int64_t width, inner, phases, distance, length;
  int64_t start[kMaxPhases];                   // where column k stands; column k + phases is the next entry there
  int64_t begin[kMaxPhases], end[kMaxPhases];  // the part of phase k that is not padding
  bool is_padded;

  PhaseRows(const PoolAxis& axis, const PhaseAxis& split, int64_t inner, int64_t pitch, int64_t distance)
      : moves(split.phases == 1                 ? RowMoves::one_phase
              : split.phases == 2 && inner == 1 ? RowMoves::two_phases
                                                : RowMoves::general),
        width(axis.in * inner),
        inner(inner),
        phases(split.phases),
        distance(distance),
        length(pitch),
        is_padded(false) {
    for (int64_t k = 0; k < phases; ++k) {
      start[k] = (k + axis.pad) % phases * distance + (k + axis.pad) / phases * inner;
      begin[k] = ceil_div(axis.pad > k ? axis.pad - k : 0, phases) * inner;
      end[k] = ceil_div(axis.in + axis.pad - k, phases) * inner;
      is_padded |= begin[k] > 0 || end[k] < split.length * inner;
    }
  }

  // `to` is the row in the first phase. Vectors write past the end of a row: split rows in order.
  template <RowMoves kMoves, class T>
  void split(const T* from, const T* last, Real* to, Real padding) const {
    if constexpr (kMoves == RowMoves::one_phase) {
      widen_row(from, last, to + start[0], width);
    } else if constexpr (kMoves == RowMoves::two_phases) {
      unzip_row(from, last, width, to + start[0], to + start[1]);
    } else {
      for_positions([&](int64_t x, int64_t place) {
        if (inner == 1) {
          convert(from[x], to[place]);
        } else {
          widen_row(from + x, last, to + place, inner);
        }
      });
    }
    if (!is_padded) return;
    for (int64_t k = 0; k < phases; ++k) {
      if (begin[k] > 0) fill(to + k * distance, begin[k], padding);
      if (end[k] < length) fill(to + k * distance + end[k], length - end[k], padding);
    }
  }
  void pad(Real* to, Real padding) const {
    for (int64_t k = 0; k < phases; ++k) fill(to + k * distance, length, padding);
  }

  template <RowMoves kMoves, class T>
  void merge(const Real* from, T* to) const {
    if constexpr (kMoves == RowMoves::one_phase) {
      narrow_row(from + start[0], to, width);
    } else if constexpr (kMoves == RowMoves::two_phases) {
      zip_row(from + start[0], from + start[1], to, width);
    } else {
      for_positions([&](int64_t x, int64_t place) {
        if (inner == 1) {
          convert(from[place], to[x]);
        } else {
          narrow_row(from + place, to + x, inner);
        }
      });
    }
  }

 private:
  template <class F>
  void for_positions(F body) const {
    for (int64_t k = 0; k < phases; ++k)
      for (int64_t x = k * inner, place = start[k]; x < width; x += phases * inner, place += inner) body(x, place);
  }
};

}  // namespace
}  // namespace tmc
