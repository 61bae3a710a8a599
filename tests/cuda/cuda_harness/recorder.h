// Notes what the host does while an entry point runs, in its order: all that a CUDA graph would capture, on which
// stream, and what is asked of torch's allocator. One line each:
//
//   launch STREAM                 a kernel
//   stream DEVICE                 torch was asked for its current stream there
//   guard DEVICE, unguard         DEVICE is the current one in between
//   allocate TENSOR BYTES, free TENSOR
//   call OPERATOR                 of torch
#pragma once
#include <string>

namespace recorder {

// Of every tensor, as the entry points see it: not the device that is the current one without a guard.
constexpr int kDevice = 3;

// What torch says is its current stream.
void* current_stream();

void note(const std::string& event);
void launched(void* stream);

}  // namespace recorder
