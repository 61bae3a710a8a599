#include "common.h"

#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <stdexcept>

namespace tmc {

void fail(const char* format, ...) {
  char message[768];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw std::runtime_error(message);
}

Text text(Dims dims) {
  Text out;
  int used = std::snprintf(out.chars, sizeof out.chars, "[");
  for (int64_t i = 0; i < dims.count; ++i) {
    const int room = static_cast<int>(sizeof out.chars) - used;
    if (room < 32) {  // a list this long is itself the error; show its beginning
      used += std::snprintf(out.chars + used, room, ", ...");
      break;
    }
    used += std::snprintf(out.chars + used, room, "%s%" PRId64, i ? ", " : "", dims[i]);
  }
  std::snprintf(out.chars + used, sizeof out.chars - used, "]");
  return out;
}

Pair check_pair(const char* op, const char* name, Dims dims, int64_t low, int64_t high) {
  if (dims.count != 2) fail("%s: %s must have 2 values (height, width), got %s", op, name, text(dims).chars);
  for (int64_t i = 0; i < 2; ++i) {
    if (dims[i] < low) fail("%s: %s must be >= %" PRId64 ", got %s", op, name, low, text(dims).chars);
    if (dims[i] > high) fail("%s: %s must be <= %" PRId64 ", got %s", op, name, high, text(dims).chars);
  }
  return {dims[0], dims[1]};
}

void check_rank4(const char* op, const char* name, Dims sizes) {
  if (sizes.count != 4) fail("%s: %s must have 4 dimensions, got shape %s", op, name, text(sizes).chars);
}

int64_t checked_mul(const char* op, const char* what, int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) fail("%s: %s overflows 64 bits: %" PRId64 " * %" PRId64, op, what, a, b);
  return product;
}

int64_t checked_add(const char* op, const char* what, int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) fail("%s: %s overflows 64 bits: %" PRId64 " + %" PRId64, op, what, a, b);
  return sum;
}

int64_t check_numel(const char* op, const char* name, Dims sizes) {
  constexpr int64_t kMaxElements = int64_t{1} << 60;
  int64_t numel = 1;
  for (int64_t i = 0; i < sizes.count; ++i)
    if (sizes[i] == 0) return 0;
  for (int64_t i = 0; i < sizes.count; ++i) {
    numel = checked_mul(op, name, numel, sizes[i]);
    if (numel > kMaxElements) fail("%s: %s of shape %s is too large to allocate", op, name, text(sizes).chars);
  }
  return numel;
}

}  // namespace tmc
