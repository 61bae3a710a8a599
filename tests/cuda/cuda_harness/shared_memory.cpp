// The shared memory of the block that runs, and the copies that are on their way into it.
#include "shared_memory.h"

#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "fibers.h"

namespace fibers {
namespace {

// CUDA's limit on static shared memory; what TMA with a swizzle asks for.
constexpr std::size_t kMaxSharedBytes = 48 << 10, kSharedAlignment = 1024;

struct SharedDeleter {
  void operator()(char* bytes) const { operator delete[](bytes, std::align_val_t{kSharedAlignment}); }
};

// Of either kind.
std::unique_ptr<char[], SharedDeleter> shared;
std::size_t shared_bytes = 0;
bool shared_is_fresh = false;

struct Copy {
  void* shared;
  const void* global;
  bool valid;
  std::size_t bytes;
};
using Groups = std::deque<std::vector<Copy>>;
std::vector<Groups> copies;  // of each thread, by group; its last group is still open

Groups& copies_of_thread() {
  return copies[threadIdx.x];
}

void* fresh_shared_memory(std::size_t bytes) {
  if (shared_is_fresh && bytes != shared_bytes) fail("a second shared object in one kernel");
  if (!shared_is_fresh) {
    if (bytes != shared_bytes) shared.reset(new (std::align_val_t{kSharedAlignment}) char[bytes]);
    std::memset(shared.get(), 0xFF, bytes);  // NaN in every floating type
    shared_bytes = bytes;
    shared_is_fresh = true;
  }
  return shared.get();
}

void land(const Copy& copy) {
  if (copy.valid)
    std::memcpy(copy.shared, copy.global, copy.bytes);
  else
    std::memset(copy.shared, 0, copy.bytes);
}

bool is_aligned(const void* address, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(address) % bytes == 0;
}

}  // namespace

void begin_shared_memory(std::size_t threads) {
  shared_is_fresh = false;
  copies.assign(threads, Groups(1));
}
void check_copies_were_awaited() {
  const Groups& groups = copies_of_thread();
  if (groups.size() > 1 || !groups.back().empty()) fail("copies that nobody waits for");
}

void* shared_memory(std::size_t bytes) {
  if (bytes > kMaxSharedBytes) fail("more static shared memory than CUDA allows");
  return fresh_shared_memory(bytes);
}
void* dynamic_shared_memory() {
  return fresh_shared_memory(dynamic_bytes);
}

unsigned shared_address(const void* address) {
  return static_cast<unsigned>(static_cast<const char*>(address) - shared.get());
}
char* shared_pointer(const char* instruction, unsigned address, std::size_t bytes) {
  static char nowhere[256 << 10];
  if (shared_is_fresh && address + bytes <= shared_bytes) return shared.get() + address;
  fail(std::string(instruction) + ": address outside shared memory");
  return nowhere;
}

void copy_async(void* to, const void* global, bool valid, std::size_t bytes) {
  check_shared("cp.async", to, bytes);
  if (valid && !is_aligned(global, bytes)) fail("cp.async: misaligned global address");
  const Copy copy{to, global, valid, bytes};
  if (at_once())
    land(copy);
  else
    copies_of_thread().back().push_back(copy);
}
void commit_copies() {
  copies_of_thread().emplace_back();
}
void wait_for_copies(std::size_t pending_groups, std::source_location site) {
  if (is_left_out(site)) return;
  Groups& groups = copies_of_thread();
  for (; groups.size() > pending_groups + 1; groups.pop_front())
    for (const Copy& copy : groups.front()) land(copy);
}

void check_shared(const char* instruction, const void* address, std::size_t bytes) {
  const auto at = static_cast<const char*>(address);
  if (!shared_is_fresh || at < shared.get() || at + bytes > shared.get() + shared_bytes)
    return fail(std::string(instruction) + ": address outside shared memory");
  if (!is_aligned(address, bytes)) fail(std::string(instruction) + ": misaligned shared address");
}

}  // namespace fibers
