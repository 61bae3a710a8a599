// Blocks outlive their op: the next one takes them as they are. Memory fresh from the system is cleared page by page
// when first touched, and malloc hands 10 MB back to the system as soon as they are free: in AlexNet at batch 1, that
// was more than half of the time of a convolution (Zen 5, Linux 6.18). release_scratch() gives them back.
#include "cpu/machine/workspace.h"

#include <atomic>
#include <cstdlib>

#include "large_pages.h"
#include "tensor.h"

namespace tmc {
namespace {

// At most 4 blocks of 32 MB stay: enough for a strip of Winograd's convolution or the panels of a matrix product on a
// few threads. malloc itself keeps what is smaller than the least.
constexpr int64_t kKeptBlocks = 4, kLeastKept = 64 << 10, kMostKept = 32 << 20;
std::atomic<char*> kept[kKeptBlocks];

// A block's capacity stands before it, in a cache line of its own.
constexpr int64_t kHead = 64;
int64_t& capacity_of(char* block) {
  return *reinterpret_cast<int64_t*>(block - kHead);
}

char* allocate(int64_t bytes) {
  const int64_t capacity = ceil_div(bytes + 1, 64) * 64;
  char* head = static_cast<char*>(std::aligned_alloc(64, kHead + capacity));
  if (head == nullptr) fail("conv2d: out of memory: %" PRId64 " bytes of scratch", bytes);
  prefer_large_pages(head, kHead + capacity);
  capacity_of(head + kHead) = capacity;
  return head + kHead;
}

// Keeps the block; of too many, the one that was kept first goes.
void release(char* block) {
  if (capacity_of(block) >= kLeastKept && capacity_of(block) <= kMostKept)
    for (int64_t i = 0; i < kKeptBlocks && block != nullptr; ++i) block = kept[i].exchange(block);
  if (block != nullptr) std::free(block - kHead);
}

char* acquire(int64_t bytes) {
  if (bytes >= kLeastKept && bytes <= kMostKept)
    for (std::atomic<char*>& place : kept) {
      char* block = place.exchange(nullptr);
      if (block == nullptr) continue;
      if (capacity_of(block) >= bytes) return block;
      char* other = place.exchange(block);
      if (other != nullptr) std::free(other - kHead);
    }
  return allocate(bytes);
}

}  // namespace

Workspace::Workspace(int64_t bytes) : data_(acquire(bytes)) {}

Workspace::~Workspace() {
  release(data_);
}

namespace {

void release_scratch() {
  for (std::atomic<char*>& place : kept)
    if (char* block = place.exchange(nullptr)) std::free(block - kHead);
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CompositeExplicitAutograd, m) {
  m.impl("release_scratch", TORCH_BOX(&tmc::release_scratch));
}
