// What the kernels of pooling look up along one axis instead of computing it, made once a call by cpu/pool2d/plan.cpp.
#pragma once
#include <algorithm>
#include <vector>

#include "cpu/pool2d/plan.h"
#include "cpu/pool2d/winners.h"

namespace tmc {

struct AxisTables {
  std::vector<Window> windows;
  std::vector<Covering> outputs;
  std::vector<int64_t> divisors;

  AxisTables(const PoolAxis& axis, const AverageRule& rule, bool overridden)
      : windows(windows_of(axis)), outputs(axis.in), divisors(axis.out) {
    for (int64_t i = 0; i < axis.in; ++i) outputs[i] = covering(axis, i);
    for (int64_t i = 0; i < axis.out; ++i)
      divisors[i] = rule.divisor_override == 0 ? window_extent(axis, i, rule.count_include_pad)
                    : overridden               ? rule.divisor_override
                                               : 1;
  }
};

// The claims to every position along one axis, in the order of the outputs.
class ClaimTable {
 public:
  // From one output to the next are `step` elements, from one tap to the next `taps`.
  ClaimTable(const PoolAxis& axis, const AxisTables& tables, int64_t step, int64_t taps) : of_position_(axis.in) {
    for (int64_t i = 0; i < axis.in; ++i) {
      const Covering outputs = tables.outputs[i];
      for (int64_t output = outputs.first; output <= outputs.last; ++output) {
        const int64_t distance = i - tables.windows[output].start;
        if (distance % axis.dilation != 0) continue;  // the window steps over this position
        claims_.push_back({output * step, distance / axis.dilation * taps});
        ++of_position_[i].count;
      }
    }
    const AxisClaim* first = claims_.data();
    for (AxisClaims& claims : of_position_) {
      claims.first = first;
      first += claims.count;
    }
  }
  const AxisClaims* data() const { return of_position_.data(); }

 private:
  std::vector<AxisClaim> claims_;
  std::vector<AxisClaims> of_position_;
};

// Of each tap, the outputs of a sliding window whose tap lies in the input.
inline std::vector<Range> outputs_of_taps(const PoolAxis& axis) {
  const auto outputs_before = [&](int64_t padded) {  // those that begin before this padded position
    return std::clamp<int64_t>(ceil_div(std::max<int64_t>(padded, 0), axis.stride), 0, axis.out);
  };
  std::vector<Range> outputs;
  for (int64_t tap = 0; tap < axis.kernel; ++tap) {
    const int64_t first = axis.pad - tap * axis.dilation;
    outputs.push_back({outputs_before(first), outputs_before(first + axis.in)});
  }
  return outputs;
}

}  // namespace tmc
