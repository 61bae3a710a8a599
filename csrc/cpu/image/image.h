// The images that convolution algorithms read and write: four-dimensional arrays in any layout, of any dtype.
//
// Here: the view of one, with its strides, and the parts of it that algorithms work on (channels of a group, some
// images, swapped filters and channels). A view owns nothing and checks nothing: what makes it has checked the tensor.
// staging.h: copies between images and float32 pixels in scratch memory, for vector loops; kernels.h: how they are
// made. The room knows of no operator. It stands above the lanes and below everything that multiplies.
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
