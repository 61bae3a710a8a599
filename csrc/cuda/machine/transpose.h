// Launcher of the copy from contiguous to channels_last and back.
#pragma once
#include "common.h"

namespace tmc {
extern "C" {

// target[n, columns, rows] = source[n, rows, columns], of elements of 2 or 4 bytes. No extent may be 0.
void launch_transpose(int64_t element_bytes, int64_t n, int64_t rows, int64_t columns, const void* source, void* target,
                      void* stream);

}  // extern "C"
}  // namespace tmc
