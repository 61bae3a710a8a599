// What every driver of CPU kernels needs: scratch memory, and tasks spread over torch's threads.
#pragma once
#include <algorithm>

#include "cpu/machine/workspace.h"
#include "tensor.h"

namespace tmc {

inline int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// Runs body(task, worker) for every task. Tasks of one worker run one after the other and may share its memory. The
// body must not throw: torch before 2.13 loses the message.
template <class Body>
void for_each_task(int64_t tasks, int64_t workers, const Body& body) {
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t task = worker * tasks / workers; task < (worker + 1) * tasks / workers; ++task) body(task, worker);
  });
}

inline int64_t workers_for(int64_t tasks) {
  return std::max<int64_t>(1, std::min<int64_t>(tasks, torch::stable::get_num_threads()));
}

// From this size on a result is written with non-temporal stores. It and what it is made from outgrow an L3 of 32 MB,
// and an ordinary store would first read the line it writes to. Sigmoid's gradient takes 0.65 of the time, or 0.85
// together with a copy that reads its result next; at 6 MB and less that copy loses what the gradient gains (Zen 5, 32
// MB of L3).
constexpr int64_t kStreamedBytes = 7 << 20;
// Non-temporal stores also need whole, aligned cache lines.
inline bool is_streamed(const void* result, int64_t bytes) {
  return bytes >= kStreamedBytes && reinterpret_cast<uintptr_t>(result) % 64 == 0;
}

}  // namespace tmc
