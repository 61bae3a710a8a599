// The block's shared memory, as fibers.cpp runs it.
#pragma once
#include <cstddef>

namespace fibers {

// Of the launch that runs.
inline std::size_t dynamic_bytes = 0;

// Before the threads of a block begin; when one has ended.
void begin_shared_memory(std::size_t threads);
void check_copies_were_awaited();

}  // namespace fibers
