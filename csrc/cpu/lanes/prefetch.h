// Software prefetch: for memory that is soon needed and that the processor's own prefetcher will not find, because it
// is read in too many streams or in pieces too short. A prefetch moves one cache line and never faults, so that it may
// point past the end of an array. A few lines at a time: more at once delay the loads that are needed now.
//
// For sources compiled per instruction set (see cpu/lanes/lanes.h).
#pragma once
#include <cstdint>

namespace tmc {
namespace {

constexpr int64_t kCacheLine = 64;

// What for: to read it soon, from L1; to read it later, from L2; to write it (a store that misses holds up those after
// it).
enum class Prefetch { read, read_from_l2, write };

template <Prefetch kFor = Prefetch::read>
inline void prefetch(const void* at) {
  __builtin_prefetch(at, kFor == Prefetch::write, kFor == Prefetch::read_from_l2 ? 2 : 3);
}

// Every line of `count` elements, the first of which begins a line.
template <Prefetch kFor = Prefetch::read, class T>
inline void prefetch_run(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += kCacheLine / static_cast<int64_t>(sizeof(T))) prefetch<kFor>(from + i);
}

// A long run, prefetched a few lines at a time while other memory is worked on: all of it at once would delay what is
// needed now.
template <Prefetch kFor = Prefetch::read>
struct PrefetchStream {
  const char *next, *end;

  // The next `bytes` of it, in whole lines.
  void advance(int64_t bytes) {
    const char* const stop = end - next < bytes ? end : next + bytes;
    for (; next < stop; next += kCacheLine) prefetch<kFor>(next);
  }
};

}  // namespace
}  // namespace tmc
