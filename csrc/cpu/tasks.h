// What every driver of CPU kernels needs: scratch memory, and tasks spread over torch's threads.
#pragma once
#include <algorithm>

#include "tensor.h"
#include "workspace.h"

namespace tmc {

inline int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// Runs body(task, worker) for every task; tasks of one worker run one after the other and may share its memory. The
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

}  // namespace tmc
