// How wide a vector register is on the instruction set that this source is compiled for.
#pragma once
#include <cstdint>

namespace tmc {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

}  // namespace
}  // namespace tmc
