#include "fibers.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "context.h"
#include "shared_memory.h"

namespace fibers {
namespace {

// What the tests set and read.
unsigned seed_ = 0, blocks_ = 0;
std::mt19937 random_;
std::string skipped_site, report;
std::set<std::string> sites;
std::string sites_text;

}  // namespace

void fail(const std::string& what) {
  if (report.empty()) report = what + " (block " + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ")";
}

namespace {

// CUDA's limits on a launch.
constexpr unsigned kMaxThreads = 1024, kMaxGridX = 2147483647, kMaxGridYZ = 65535;

enum class State { ready, at_warp_instruction, at_barrier, waiting, done };

struct Fiber {
  Context context;
  State state = State::done;
  std::string site;                 // of the barrier or condition it waits at
  std::function<bool()> condition;  // of State::waiting
};

struct Warp {
  const char* instruction = nullptr;
  WarpArguments arguments;
  unsigned arrived = 0;
};

std::vector<Fiber> fibers_;
std::vector<Warp> warps_;
Fiber* running = nullptr;
const std::function<void()>* kernel_ = nullptr;
std::vector<std::function<void()>> beside;  // work that is still to be done

// A fiber serves one thread of every block, one after the other.
void serve() {
  running->context.arrived();
  for (;;) {
    (*kernel_)();
    check_copies_were_awaited();
    running->state = State::done;
    running->context.stop();
  }
}

void resume(unsigned thread) {
  running = &fibers_[thread];
  threadIdx = dim3(thread, 0, 0);
  running->context.resume();
}

unsigned warp_end(unsigned warp) {
  return std::min<unsigned>((warp + 1) * kWarp, fibers_.size());
}
bool any_thread(unsigned warp, State state) {
  const auto is_in = [=](const Fiber& fiber) { return fiber.state == state; };
  return std::any_of(fibers_.begin() + warp * kWarp, fibers_.begin() + warp_end(warp), is_in);
}

// Runs a warp until all its threads have left or stand at a barrier of the block; with a seed in random order.
void run_warp(unsigned warp) {
  std::vector<unsigned> threads;
  for (unsigned thread = warp * kWarp; thread < warp_end(warp); ++thread) threads.push_back(thread);
  if (seed_ != 0) std::shuffle(threads.begin(), threads.end(), random_);
  while (any_thread(warp, State::ready))
    for (const unsigned thread : threads)
      if (fibers_[thread].state == State::ready) resume(thread);
  if (warps_[warp].arrived > 0 && !any_thread(warp, State::waiting))
    fail(std::string(warps_[warp].instruction) + ": " + std::to_string(kWarp - warps_[warp].arrived) +
         " threads of a warp never reach it");
}

void do_one_beside() {
  const std::size_t which = seed_ == 0 ? 0 : random_() % beside.size();
  const std::function<void()> work = std::move(beside[which]);
  beside.erase(beside.begin() + which);
  work();
}

// Lets threads go on whose condition holds; if no thread can, something is done beside them until one can.
bool wake() {
  for (;;) {
    bool woken = false;
    for (Fiber& fiber : fibers_)
      if (fiber.state == State::waiting && fiber.condition()) {
        fiber.state = State::ready;
        woken = true;
      }
    if (woken || beside.empty()) return woken;
    do_one_beside();
  }
}

// Lets a block pass its barrier, if every thread stands there. Returns whether anything can run on.
bool release() {
  const auto count = [](State state) {
    return std::count_if(fibers_.begin(), fibers_.end(), [=](const Fiber& f) { return f.state == state; });
  };
  const std::ptrdiff_t waiting = count(State::at_barrier);
  if (waiting == 0 || !report.empty()) return false;
  const Fiber& first =
      *std::find_if(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return f.state == State::at_barrier; });
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

void run_block() {
  begin_shared_memory(fibers_.size());
  beside.clear();
  if (block_begins != nullptr) block_begins();
  for (Fiber& fiber : fibers_) fiber.state = State::ready;
  for (Warp& warp : warps_) warp.arrived = 0;
  std::vector<unsigned> order(warps_.size());
  do {
    for (unsigned warp = 0; warp < order.size(); ++warp) order[warp] = warp;
    if (seed_ != 0) std::shuffle(order.begin(), order.end(), random_);
    for (const unsigned warp : order) {
      run_warp(warp);
      if (!beside.empty() && at_once()) do_one_beside();
    }
  } while (wake() || release());
  for (const Fiber& fiber : fibers_)
    if (fiber.state == State::waiting) return fail(fiber.site + ": waits for ever");
  if (block_ends != nullptr) block_ends();
}

// "file:line", noted among the places that harness_configure can leave out.
std::string noted(std::source_location site) {
  const std::string path = site.file_name();
  const std::string here = path.substr(path.rfind('/') + 1) + ":" + std::to_string(site.line());
  sites.insert(here);
  return here;
}

}  // namespace

void run_grid(dim3 grid, unsigned threads, std::size_t dynamic_shared_bytes, const std::function<void()>& kernel,
              std::size_t limit) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0 || threads > kMaxThreads || grid.x > kMaxGridX ||
      grid.y > kMaxGridYZ || grid.z > kMaxGridYZ || dynamic_shared_bytes > limit)
    return fail("launch configuration that CUDA refuses");
  random_.seed(seed_);
  blocks_ += grid.x * grid.y * grid.z;
  kernel_ = &kernel;
  gridDim = grid, blockDim = dim3(threads), dynamic_bytes = dynamic_shared_bytes;
  fibers_.clear();
  fibers_.resize(threads);
  warps_.assign((threads + kWarp - 1) / kWarp, {});
  for (Fiber& fiber : fibers_) fiber.context.start(serve);
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x && report.empty(); ++blockIdx.x) run_block();
}

void wait_until(std::function<bool()> condition, std::source_location site) {
  if (condition()) return;
  running->site = noted(site);
  running->condition = std::move(condition);
  running->state = State::waiting;
  running->context.stop();
}
void run_later(std::function<void()> work) {
  if (at_once())
    work();
  else
    beside.push_back(std::move(work));
}
bool at_once() {
  return seed_ != 0 && random_() % 2 == 0;
}
bool is_left_out(std::source_location site) {
  return noted(site) == skipped_site;
}
bool is_done_wrongly(std::source_location site) {
  const std::string wrong = noted(site) + "^";
  sites.insert(wrong);
  return wrong == skipped_site;
}

void barrier(std::source_location site) {
  const std::string here = noted(site);
  if (here == skipped_site) return;
  running->site = here;
  running->state = State::at_barrier;
  running->context.stop();
}

void warp_instruction(const char* name, void* arguments, void (*act)(const WarpArguments& lanes)) {
  const unsigned thread = threadIdx.x, first = thread / kWarp * kWarp;
  Warp& warp = warps_[thread / kWarp];
  if (warp.arrived > 0 && std::strcmp(warp.instruction, name) != 0)
    fail(std::string("threads of a warp stand at ") + warp.instruction + " and " + name);
  warp.instruction = name;
  warp.arguments[thread - first] = arguments;
  if (++warp.arrived < kWarp) {
    running->state = State::at_warp_instruction;
    return running->context.stop();
  }
  warp.arrived = 0;
  act(warp.arguments);
  for (unsigned lane = 0; lane < kWarp; ++lane) fibers_[first + lane].state = State::ready;
}

void warp_barrier(std::source_location site) {
  if (noted(site) != skipped_site) warp_instruction("__syncwarp", nullptr, [](const WarpArguments&) {});
}

}  // namespace fibers

extern "C" {

// How the next launches run: seed 0 keeps the order of the threads; any other picks random warps. `skipped` is a
// barrier or a wait, "file:line", to leave out: a planted mistake. "" leaves out none.
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

// The barriers and waits that were reached since harness_configure, one a line.
const char* harness_barriers() {
  fibers::sites_text.clear();
  for (const std::string& site : fibers::sites) fibers::sites_text += site + "\n";
  return fibers::sites_text.c_str();
}

}  // extern "C"
