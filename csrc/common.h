// What every op and both backends share. Includes nothing but <cstdint>, so that a kernel compiled for one
// instruction set, by nvcc, or for the CPU-executed CUDA tests may include it without dragging in a library.
#pragma once
#include <cstdint>

// HOST_DEVICE functions have internal linkage: a copy compiled with AVX-512 must never be merged by the
// linker with the copy that an older CPU will run.
#if defined(__CUDACC__)
#define HOST_DEVICE static inline __host__ __device__
#else
#define HOST_DEVICE static inline
#endif

namespace tmc {

// A list of sizes as the dispatcher hands it over; does not own.
struct Dims {
  const int64_t* data;
  int64_t count;
  int64_t operator[](int64_t i) const { return data[i]; }
};

// A pair (height, width); every spatial argument is one of these.
struct Pair {
  int64_t h, w;
};

// half and bfloat16 are summed in float, everything else in its own precision.
template <class T>
struct AccumulateType {
  using type = float;
};
template <>
struct AccumulateType<double> {
  using type = double;
};
template <class T>
using accumulate_t = typename AccumulateType<T>::type;

// Floor and ceiling of a / b for b > 0 and any sign of a.
HOST_DEVICE int64_t floor_div(int64_t a, int64_t b) {
  return a / b - (a % b < 0);
}
HOST_DEVICE int64_t ceil_div(int64_t a, int64_t b) {
  return a / b + (a % b > 0);
}

// ---- Argument checks (host). Each failure throws std::runtime_error, which Python sees as RuntimeError with
// the message unchanged: "<op>: <argument> <rule>, got <value>".
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// "[2, 3, 8, 8]", for messages; lives until the end of the statement that made it.
struct Text {
  char chars[160];
};
Text text(Dims dims);

// Reads a list argument that must hold `low` <= values <= `high` and exactly two entries.
Pair check_pair(const char* op, const char* name, Dims dims, int64_t low, int64_t high = INT64_MAX);

// The sizes of a tensor argument that must have 4 dimensions.
void check_rank4(const char* op, const char* name, Dims sizes);

// a * b and a + b, failing with the op and what was computed when it does not fit in 63 bits.
int64_t checked_mul(const char* op, const char* what, int64_t a, int64_t b);
int64_t checked_add(const char* op, const char* what, int64_t a, int64_t b);

// The number of elements of a result, which must fit in memory's address space (2^60 elements).
int64_t check_numel(const char* op, const char* name, Dims sizes);

}  // namespace tmc
