// Scratch memory of an op.
#pragma once
#include <cinttypes>

namespace tmc {

// Memory for the length of one op, 64-byte aligned. Not a tensor: making one takes longer than a tiny convolution.
class Workspace {
 public:
  explicit Workspace(int64_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  char* at(int64_t byte) const { return data_ + byte; }

 private:
  char* data_;
};

}  // namespace tmc
