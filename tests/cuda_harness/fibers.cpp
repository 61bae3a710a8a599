#include "fibers.h"

#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else  // the sanitizer must be told of every change of stack; without it there is nobody to tell
static void __sanitizer_start_switch_fiber(void**, const void*, std::size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, std::size_t*) {}
#endif

namespace fibers {
namespace {

constexpr unsigned kWarp = 32;
constexpr std::size_t kStackBytes = 128 << 10;
// CUDA's limits on a launch and on static shared memory.
constexpr unsigned kMaxThreads = 1024, kMaxGridX = 2147483647, kMaxGridYZ = 65535;
constexpr std::size_t kMaxSharedBytes = 48 << 10;

enum class State { ready, waiting, done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  void* fake_stack = nullptr;  // the sanitizer's
  State state = State::done;
  std::string site;  // of the barrier it waits at
};

std::vector<Fiber> fibers_;
Fiber* running = nullptr;
const std::function<void()>* kernel_ = nullptr;

ucontext_t scheduler;
void* scheduler_fake_stack = nullptr;
const void* scheduler_stack = nullptr;
std::size_t scheduler_stack_bytes = 0;

std::unique_ptr<char[]> shared;
std::size_t shared_bytes = 0;
bool shared_is_fresh = false;

// What the tests set and read.
unsigned seed_ = 0, blocks_ = 0;
std::string skipped_site, report;
std::set<std::string> sites;
std::string sites_text;

void fail(const std::string& what) {
  if (report.empty()) report = what + " (block " + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ")";
}

void yield() {
  Fiber& self = *running;
  __sanitizer_start_switch_fiber(&self.fake_stack, scheduler_stack, scheduler_stack_bytes);
  swapcontext(&self.context, &scheduler);
  __sanitizer_finish_switch_fiber(self.fake_stack, nullptr, nullptr);
}

// A fiber serves one thread of every block, one after the other.
void serve() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
  for (;;) {
    (*kernel_)();
    running->state = State::done;
    yield();
  }
}

void start(Fiber& fiber) {
  fiber.stack.reset(new char[kStackBytes]);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, serve, 0);
}

void resume(unsigned thread) {
  running = &fibers_[thread];
  threadIdx = dim3(thread, 0, 0);
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, running->stack.get(), kStackBytes);
  swapcontext(&scheduler, &running->context);
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
}

// The threads of one warp that can run: of the first such warp, or with a seed of a random one, in random order.
std::vector<unsigned> next_warp(std::mt19937& random) {
  std::vector<std::vector<unsigned>> warps;
  for (unsigned thread = 0; thread < fibers_.size(); ++thread) {
    if (thread % kWarp == 0 && (warps.empty() || !warps.back().empty())) warps.emplace_back();
    if (fibers_[thread].state == State::ready) warps.back().push_back(thread);
  }
  if (warps.back().empty()) warps.pop_back();
  if (warps.empty()) return {};
  if (seed_ == 0) return warps.front();
  std::vector<unsigned> warp = warps[random() % warps.size()];
  std::shuffle(warp.begin(), warp.end(), random);
  return warp;
}

// Lets a block pass its barrier, if every thread stands there. Returns whether anything can run on.
bool release() {
  const auto count = [](State state) {
    return std::count_if(fibers_.begin(), fibers_.end(), [=](const Fiber& f) { return f.state == state; });
  };
  const std::ptrdiff_t waiting = count(State::waiting);
  if (waiting == 0) return false;
  const Fiber& first =
      *std::find_if(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return f.state == State::waiting; });
  if (waiting != static_cast<std::ptrdiff_t>(fibers_.size())) {
    fail(first.site + ": barrier that " + std::to_string(fibers_.size() - waiting) + " threads never reach");
    return false;
  }
  for (Fiber& fiber : fibers_) {
    if (fiber.site != first.site) {
      fail("threads wait at different barriers, " + first.site + " and " + fiber.site);
      return false;
    }
    fiber.state = State::ready;
  }
  return true;
}

void run_block(std::mt19937& random) {
  shared_is_fresh = false;
  for (Fiber& fiber : fibers_) fiber.state = State::ready;
  do {
    for (std::vector<unsigned> warp = next_warp(random); !warp.empty(); warp = next_warp(random))
      for (const unsigned thread : warp) resume(thread);
  } while (release());
}

}  // namespace

void run_grid(dim3 grid, unsigned threads, const std::function<void()>& kernel) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0 || threads > kMaxThreads || grid.x > kMaxGridX ||
      grid.y > kMaxGridYZ || grid.z > kMaxGridYZ)
    return fail("launch configuration that CUDA refuses");
  std::mt19937 random(seed_);
  blocks_ += grid.x * grid.y * grid.z;
  kernel_ = &kernel;
  gridDim = grid, blockDim = dim3(threads);
  fibers_.clear();
  fibers_.resize(threads);
  for (Fiber& fiber : fibers_) start(fiber);
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x && report.empty(); ++blockIdx.x) run_block(random);
}

void* shared_memory(std::size_t bytes) {
  if (bytes > kMaxSharedBytes) fail("more static shared memory than CUDA allows");
  if (shared_is_fresh && bytes != shared_bytes) fail("a second shared object in one kernel");
  if (!shared_is_fresh) {
    if (bytes != shared_bytes) shared.reset(new char[bytes]);
    std::memset(shared.get(), 0xFF, bytes);  // NaN in every floating type
    shared_bytes = bytes;
    shared_is_fresh = true;
  }
  return shared.get();
}

void barrier(std::source_location site) {
  const std::string path = site.file_name();
  const std::string here = path.substr(path.rfind('/') + 1) + ":" + std::to_string(site.line());
  sites.insert(here);
  if (here == skipped_site) return;
  running->site = here;
  running->state = State::waiting;
  yield();
}

}  // namespace fibers

extern "C" {

// How the next launches run: seed 0 keeps the order of the threads; any other picks random warps. `skipped` is a
// barrier, "file:line", to leave out: a planted mistake. "" leaves out none.
void harness_configure(unsigned seed, const char* skipped) {
  fibers::seed_ = seed;
  fibers::skipped_site = skipped;
  fibers::blocks_ = 0;
  fibers::report.clear();
  fibers::sites.clear();
}

// What went wrong since harness_configure; "" if nothing did.
const char* harness_report() {
  return fibers::report.c_str();
}

// The blocks that were launched since harness_configure.
unsigned harness_blocks() {
  return fibers::blocks_;
}

// The barriers that were reached since harness_configure, one a line.
const char* harness_barriers() {
  fibers::sites_text.clear();
  for (const std::string& site : fibers::sites) fibers::sites_text += site + "\n";
  return fibers::sites_text.c_str();
}

}  // extern "C"
