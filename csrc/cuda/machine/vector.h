// Vectors of lanes that lie side by side in memory and are loaded and stored at once. 16 bytes is the widest access
// that a GPU has.
#pragma once
#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "cuda/machine/primitives.h"

namespace tmc {

constexpr int kVectorBytes = 16;
template <class T>
constexpr int kVectorLanes = kVectorBytes / sizeof(T);

template <class T, int kLanes>
struct alignas(kLanes * sizeof(T)) Vector {
  T lanes[kLanes];
};

template <int kLanes, class T>
__device__ inline Vector<T, kLanes> load(const T* source) {
  return *reinterpret_cast<const Vector<T, kLanes>*>(source);
}
template <class T, int kLanes>
__device__ inline void store(T* target, const Vector<T, kLanes>& vector) {
  *reinterpret_cast<Vector<T, kLanes>*>(target) = vector;
}

// Words are what registers hold: half types filled lane by lane would cost an instruction for each.
template <int kLanes, class T>
__device__ inline Vector<T, kLanes> load_or_zero(bool condition, const T* source) {
  using Lane = std::conditional_t<kLanes * sizeof(T) % sizeof(uint32_t) == 0, uint32_t, uint16_t>;
  constexpr int kWords = kLanes * sizeof(T) / sizeof(Lane);
  Vector<Lane, kWords> words = {};
  if (condition) words = load<kWords>(reinterpret_cast<const Lane*>(source));
  Vector<T, kLanes> vector;
  memcpy(&vector, &words, sizeof(vector));
  return vector;
}

// torch aligns what it allocates; a view may start anywhere.
inline bool is_aligned(const void* pointer, int bytes = kVectorBytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}
inline bool are_aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) { return is_aligned(pointer); });
}

}  // namespace tmc
