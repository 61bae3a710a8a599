// Where element (n, c, h, w) of a dense tensor stands, in either memory format.
#pragma once
#include "common.h"

namespace tmc {

struct Strides {
  int64_t n, c, h, w;
};

HOST_DEVICE Strides dense_strides(int64_t c, int64_t h, int64_t w, bool channels_last) {
  if (channels_last) return {c * h * w, 1, w * c, c};
  return {c * h * w, h * w, w, 1};
}

// An element in memory order, its coordinates and back.
struct Coordinates {
  int64_t n, c, h, w;
};

HOST_DEVICE Coordinates coordinates_of(int64_t index, int64_t c, int64_t h, int64_t w, bool channels_last) {
  const int64_t inner = channels_last ? c : w, middle = channels_last ? w : h, outer = channels_last ? h : c;
  const int64_t lines = index / inner, planes = lines / middle, n = planes / outer;
  const int64_t i = index - lines * inner, m = lines - planes * middle, o = planes - n * outer;
  return channels_last ? Coordinates{n, i, o, m} : Coordinates{n, o, m, i};
}

HOST_DEVICE int64_t offset_of(const Strides& strides, const Coordinates& place) {
  return place.n * strides.n + place.c * strides.c + place.h * strides.h + place.w * strides.w;
}

}  // namespace tmc
