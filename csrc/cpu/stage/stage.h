// A fused stage, pool(activation(conv)) and its gradients, made of whole operators: the convolution, the activation and
// the pool each through the door of its own room.
//
// In go a batch of images, the weight and the bias; out come the pooled batch and what backward needs (the winners of a
// maximum, or the activated map), or the three gradients. Both directions take a few images at a time, a chunk, so that
// the map between convolution and pool is written and read in cache and never kept whole.
//
// Bound: the convolution's arithmetic. What a stage saves is the memory traffic of the map, and the map itself.
#pragma once
#include <algorithm>

#include "conv_act_pool2d.h"
#include "tensor.h"

namespace tmc {

// A chunk's maps fit into the second-level cache of a core and its share of the third; but since every chunk streams
// the weights through them, and in backward adds a partial grad_weight, they should also be several times larger than
// the weights. The number of images depends on the shape of one image alone, and so do the bits of grad_weight. 2 to 8
// MiB are within 2 % of each other on AlexNet's stages; 4 times the weights instead of 8 cost the second one's backward
// 3 %, the whole batch at once costs forward 3 % (Zen 5, batch 32, one thread).
inline int64_t images_in_chunk(const ConvActPool2dShape& shape, int64_t element_size) {
  constexpr int64_t kMapBytes = 2 << 20, kMapsOfWeight = 8;
  const Conv2dShape& conv = shape.conv;
  const int64_t map = conv.k * conv.p * conv.q * element_size;
  const int64_t weight = conv.k * channels_per_group(conv) * conv.r * conv.s * element_size;
  return std::max<int64_t>(1, std::max(kMapBytes, kMapsOfWeight * weight) / map);
}

struct Chunk {
  int64_t begin, images;
  // Its part of a batch, or of scratch memory that every chunk uses from the beginning.
  Tensor of(Tensor batch) const { return part(batch, begin); }
  Tensor in_scratch(Tensor scratch) const { return part(scratch, 0); }
  ConvActPool2dShape of(ConvActPool2dShape shape) const {
    shape.conv.n = shape.pool.n = images;
    return shape;
  }

 private:
  Tensor part(Tensor& tensor, int64_t first) const {
    return tensor.size(0) == images ? tensor : torch::stable::narrow(tensor, 0, first, images);
  }
};

template <class Body>
void for_each_chunk(int64_t batch, int64_t images, const Body& body) {
  for (int64_t begin = 0; begin < batch; begin += images) body(Chunk{begin, std::min(images, batch - begin)});
}

// `images` maps before the pool, and as many pooled ones.
inline Tensor empty_maps(const Tensor& like, const ConvActPool2dShape& shape, int64_t images) {
  return empty_nchw(like, images, shape.conv.k, shape.conv.p, shape.conv.q, true);
}
inline Tensor empty_pooled(const Tensor& like, const ConvActPool2dShape& shape, int64_t images, bool channels_last,
                           ScalarType dtype) {
  return empty_nchw(like, images, shape.conv.k, shape.pool.h.out, shape.pool.w.out, channels_last, dtype);
}

// What an op returns in the place of a tensor that nobody wants.
inline Tensor no_elements(const Tensor& like) {
  return empty_list(like, 0);
}

}  // namespace tmc
