// The state behind emulated_hopper.h, of the block that runs.
#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "cuda/machine/hopper.h"

namespace tmc::emulated {
namespace {

using fibers::fail;

// ---- Barriers: PTX ISA, "mbarrier".

struct State {
  int arrivals, missing;  // in a phase; still to come
  int64_t bytes = 0;      // still to come
  unsigned phase = 0;
  bool published = false;

  void finish() {
    if (missing > 0 || bytes != 0) return;
    missing = arrivals;
    ++phase;
  }
};
std::map<void*, State> barriers;

// ---- Threads that wait for one another.

struct Meeting {
  int arrived = 0;
  unsigned round = 0;
};
std::array<Meeting, 16> meetings;

// ---- Products. A warp's registers, taken away from it while products sum in them.

struct Sums {
  std::array<float*, kLanes> registers;
  int count, products = 0;
  std::vector<float> values;
};
struct Product {
  uint64_t a, b;
  Multiply multiply;
  Sums* sums;
  bool done;
};
struct WarpState {
  std::map<float*, Sums> sums;
  std::vector<std::vector<Product>> groups = {{}};  // the last one is open
  bool fenced = false;
};
std::map<unsigned, WarpState> warps;
int copies_on_their_way = 0;

unsigned warp_index() {
  return threadIdx.x / fibers::kWarp;
}

State& state_of(void* barrier) {
  const auto found = barriers.find(barrier);
  if (found == barriers.end()) {
    fail("mbarrier: not initialised");
    return barriers[barrier] = {1, 1};
  }
  return found->second;
}

void begin_block() {
  barriers.clear(), warps.clear();
  meetings = {};
  copies_on_their_way = 0;
}
void end_block() {
  for (const auto& [index, warp] : warps)
    if (warp.groups.size() > 1 || !warp.groups.front().empty()) fail("wgmma: products that nobody waits for");
  if (copies_on_their_way > 0) fail("cp.async.bulk: the block ends before its copies");
}
const bool registered = [] {
  fibers::block_begins = begin_block;
  fibers::block_ends = end_block;
  return true;
}();

// What copy() starts: a box lands in shared memory, its lines swizzled.
struct Landing {
  unsigned tile;
  TensorMap map;
  void* barrier;
  std::array<int, 4> at;
  std::array<int, 2> shift;

  void write(unsigned line, const int64_t (&from)[4]) const {
    const int elements = kLineBytes / map.element_bytes;
    char bytes[kLineBytes] = {};
    bool inside = true;
    const char* source = map.data;
    for (int axis = 1; axis < 4; ++axis) {
      inside = inside && from[axis] >= 0 && from[axis] < map.extents[axis];
      source += from[axis] * map.strides[axis];
    }
    for (int e = 0; inside && e < elements; ++e)
      if (from[0] + e >= 0 && from[0] + e < map.extents[0])
        std::memcpy(bytes + e * map.element_bytes, source + (from[0] + e) * map.element_bytes, map.element_bytes);
    if (map.element_bytes == 4)
      for (int e = 0; e < elements; ++e) {
        float value;
        std::memcpy(&value, bytes + e * 4, 4);
        value = round_to_tf32(value);  // to nearest [assumed]
        std::memcpy(bytes + e * 4, &value, 4);
      }
    for (unsigned chunk = 0; chunk < kLineBytes; chunk += 16)
      std::memcpy(fibers::shared_pointer("cp.async.bulk", swizzled(tile + line * kLineBytes + chunk), 16),
                  bytes + chunk, 16);
  }

  void operator()() const {
    int64_t w = at[1], h = at[2], n = at[3];
    for (int i = 0; i < map.box_rows; ++i) {
      if (!map.pixels) {
        write(i, {at[0], at[1], at[2] + i, 0});
        continue;
      }
      write(i, {at[0], w + shift[0], h + shift[1], n});
      if ((w += map.steps[0]) < map.extents[1] + map.corners.high[0]) continue;
      w = map.corners.low[0];
      if ((h += map.steps[1]) < map.extents[2] + map.corners.high[1]) continue;
      h = map.corners.low[1];
      ++n;
    }
    --copies_on_their_way;
    State& state = state_of(barrier);
    state.bytes -= int64_t{map.box_rows} * kLineBytes;
    state.finish();
  }
};

void execute(Product& product, unsigned warp) {
  if (!product.done) product.multiply(warp, product.a, product.b, product.sums->values.data());
  product.done = true;
}

}  // namespace

void check_map(const TensorMap& map) {
  if (reinterpret_cast<std::uintptr_t>(map.data) % 16 != 0) fail("tensor map: address that is no multiple of 16");
  for (const int64_t extent : map.extents)
    if (extent < 1 || extent > int64_t{1} << 32) fail("tensor map: extent");
  for (int axis = 1; axis < (map.pixels ? 4 : 3); ++axis)
    if (map.strides[axis] % 16 != 0 || map.strides[axis] >= int64_t{1} << 40)
      fail("tensor map: stride that is no multiple of 16, or too large");
  if (map.box_rows < 1 || map.box_rows > (map.pixels ? 1024 : 256)) fail("tensor map: box");
  if (!map.pixels) return;
  for (int axis = 0; axis < 2; ++axis) {
    const int low = map.corners.low[axis], high = map.corners.high[axis], step = map.steps[axis];
    if (low < -128 || low > 127 || high < -128 || high > 127) fail("tensor map: corner");
    if (step < 1 || step > 8) fail("tensor map: step");
    if (map.extents[1 + axis] + high <= low) fail("tensor map: no pixels");
  }
}

void init_barrier(void* barrier, int arrivals) {
  if (reinterpret_cast<std::uintptr_t>(barrier) % 8 != 0) fail("mbarrier: misaligned");
  fibers::shared_pointer("mbarrier", fibers::shared_address(barrier), 8);
  barriers[barrier] = {arrivals, arrivals};
}
void publish_barriers() {
  for (auto& [barrier, state] : barriers) state.published = true;
}
void arrive(void* barrier, int bytes, Site site) {
  if (fibers::is_left_out(site)) return;
  State& state = state_of(barrier);
  state.bytes += bytes;
  constexpr int64_t kMostBytes = (1 << 20) - 1;
  if (state.bytes > kMostBytes || state.bytes < -kMostBytes) fail("mbarrier: more bytes than it can count");
  --state.missing;
  state.finish();
}
void wait_for_phase(void* barrier, int parity, Site site) {
  if (fibers::is_left_out(site)) return;
  const unsigned wanted = (parity ^ fibers::is_done_wrongly(site)) & 1;
  fibers::wait_until([=] { return (state_of(barrier).phase & 1) != wanted; }, site);
}

void wait_for_threads(int number, int threads, Site site) {
  if (fibers::is_left_out(site)) return;
  if (number < 1 || number > 15 || threads % int(fibers::kWarp) != 0) fail("bar.sync: number or threads");
  Meeting& meeting = meetings[number & 15];
  if (++meeting.arrived == threads) {
    meeting.arrived = 0;
    ++meeting.round;
    return;
  }
  fibers::wait_until([&meeting, round = meeting.round] { return meeting.round != round; }, site);
}

void copy(void* tile, const TensorMap& map, void* barrier, const int (&at)[4], const int (&shift)[2]) {
  const unsigned address = fibers::shared_address(tile);
  fibers::shared_pointer("cp.async.bulk", address, std::size_t(map.box_rows) * kLineBytes);
  if (address % 128 != 0) fail("cp.async.bulk: misaligned shared address");
  if (!state_of(barrier).published) fail("cp.async.bulk: barrier that was not published");
  for (int axis = 0; map.pixels && axis < 2; ++axis) {
    const int from_low = at[1 + axis] - map.corners.low[axis];
    if (from_low < 0 || from_low % map.steps[axis] != 0 ||
        at[1 + axis] >= map.extents[1 + axis] + map.corners.high[axis])
      fail("cp.async.bulk: first pixel outside the grid");
    if (shift[axis] < 0 || shift[axis] > 255) fail("cp.async.bulk: shift");
  }
  ++copies_on_their_way;
  fibers::run_later(Landing{address, map, barrier, {at[0], at[1], at[2], at[3]}, {shift[0], shift[1]}});
}

void check_operand(uint64_t operand) {
  if (operand >> 62 != 1) fail("wgmma: only the swizzle of 128 bytes is emulated");
  if ((operand >> 49 & 7) != 0) fail("wgmma: base offset");
  if ((start_of(operand) & 0x380) != 0) fail("wgmma: operand that does not begin at eight lines");
}

void begin_products() {
  fibers::warp_instruction("wgmma.fence", nullptr,
                           [](const fibers::WarpArguments&) { warps[warp_index()].fenced = true; });
}
void commit_products() {
  fibers::warp_instruction("wgmma.commit_group", nullptr,
                           [](const fibers::WarpArguments&) { warps[warp_index()].groups.emplace_back(); });
}
void wait_for_products(int pending) {
  fibers::warp_instruction("wgmma.wait_group", &pending, [](const fibers::WarpArguments& lanes) {
    WarpState& warp = warps[warp_index()];
    const std::size_t stay = *static_cast<const int*>(lanes[0]) + 1;
    for (; warp.groups.size() > stay; warp.groups.erase(warp.groups.begin()))
      for (Product& product : warp.groups.front()) {
        execute(product, warp_index());
        Sums& sums = *product.sums;
        if (--sums.products > 0) continue;
        for (int lane = 0; lane < kLanes; ++lane)
          std::copy_n(sums.values.begin() + lane * sums.count, sums.count, sums.registers[lane]);
        warp.fenced = false;
        warp.sums.erase(sums.registers[0]);
      }
  });
}

void start_product(float* sums, int count, uint64_t a, uint64_t b, Multiply multiply) {
  struct Arguments {
    float* sums;
    int count;
    uint64_t a, b;
    Multiply multiply;
  } arguments{sums, count, a, b, multiply};
  fibers::warp_instruction("wgmma.mma_async", &arguments, [](const fibers::WarpArguments& lanes) {
    const auto of = [&](int lane) -> const Arguments& { return *static_cast<const Arguments*>(lanes[lane]); };
    const Arguments& first = of(0);
    WarpState& warp = warps[warp_index()];
    if (!warp.fenced) fail("wgmma: begun without wgmma.fence");
    const auto [found, is_new] = warp.sums.try_emplace(first.sums);
    Sums& taken = found->second;
    if (is_new) {
      taken.count = first.count;
      taken.values.resize(kLanes * first.count);
      for (int lane = 0; lane < kLanes; ++lane) {
        taken.registers[lane] = of(lane).sums;
        std::copy_n(of(lane).sums, first.count, taken.values.begin() + lane * first.count);
        std::fill_n(of(lane).sums, first.count, std::numeric_limits<float>::quiet_NaN());
      }
    }
    for (int lane = 0; lane < kLanes; ++lane)
      if (of(lane).a != first.a || of(lane).b != first.b) fail("wgmma: lanes with different operands");
    ++taken.products;
    warp.groups.back().push_back({first.a, first.b, first.multiply, &taken, false});
    for (std::vector<Product>& group : warp.groups)
      for (Product& product : group) {  // in order: they may have the same sums
        if (!product.done && !fibers::at_once()) return;
        execute(product, warp_index());
      }
  });
}

}  // namespace tmc::emulated
