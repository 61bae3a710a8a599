// A strided four-dimensional image in memory: what a convolution algorithm reads and writes.
#pragma once
#include "common.h"

namespace tmc {

// n and c are also the weight's k and c. Strides count elements.
struct Image {
  char* data;
  int64_t element_size;
  int64_t n, c, h, w;
  int64_t n_stride, c_stride, h_stride, w_stride;

  // `count` channels, or filters, of one group.
  Image channels(int64_t group, int64_t count) const {
    Image part = *this;
    part.data += group * count * c_stride * element_size, part.c = count;
    return part;
  }
  // At most `count` channels, from `first` on.
  Image channels_from(int64_t first, int64_t count) const {
    Image part = *this;
    part.data += first * c_stride * element_size, part.c = count < c - first ? count : c - first;
    return part;
  }
  Image images(int64_t first, int64_t count) const {
    Image part = *this;
    part.data += first * n_stride * element_size, part.n = count;
    return part;
  }
  Image filters(int64_t group, int64_t count) const {
    Image part = *this;
    part.data += group * count * n_stride * element_size, part.n = count;
    return part;
  }
  // The weight as grad_input sees it: filters and channels in each other's place.
  Image swapped() const {
    Image other = *this;
    other.n = c, other.c = n, other.n_stride = c_stride, other.c_stride = n_stride;
    return other;
  }
};

}  // namespace tmc
