#include "cpu/conv2d/algorithm.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "conv2d_ops.h"
#include "cpu/conv2d/core.h"
#include "cpu/machine/machine.h"

namespace tmc {
namespace {

constexpr Conv2dAlgorithm kAlgorithms[] = {Conv2dAlgorithm::matrix_product,  Conv2dAlgorithm::tile_product,
                                           Conv2dAlgorithm::direct,          Conv2dAlgorithm::winograd,
                                           Conv2dAlgorithm::winograd_phases, Conv2dAlgorithm::depthwise};
constexpr int kNoPreference = -1;
// Names of CUDA's algorithms (cuda/conv2d/plan.h), which no convolution on the CPU can be computed by.
constexpr const char* kElsewhere[] = {"implicit_gemm", "tensor_cores", "wgmma"};

// The index in kAlgorithms of a name given by `source`; an empty name, or one for another device, is no preference.
int preference_of(const char* source, const std::string& name) {
  if (name.empty()) return kNoPreference;
  std::string known;
  int index = 0;
  for (const Conv2dAlgorithm algorithm : kAlgorithms) {
    if (name == algorithm_name(algorithm)) return index;
    known += (index++ == 0 ? "" : ", ") + std::string(algorithm_name(algorithm));
  }
  for (const char* elsewhere : kElsewhere) {
    if (name == elsewhere) return kNoPreference;
    known += ", " + std::string(elsewhere);
  }
  fail("%s must be one of %s, or empty, got %s", source, known.c_str(), name.c_str());
}

// Starts as TMC_CONV2D_ALGORITHM says.
std::atomic<int>& preference() {
  static std::atomic<int> value = [] {
    const char* name = std::getenv("TMC_CONV2D_ALGORITHM");
    return preference_of("TMC_CONV2D_ALGORITHM:", name == nullptr ? "" : name);
  }();
  return value;
}

bool is_dense(const Conv2dShape& shape) {
  return shape.stride_h == 1 && shape.stride_w == 1 && shape.dilation_h == 1 && shape.dilation_w == 1;
}

// One product of bfloat16 for each multiply-add: operands of bfloat16, or float32 that may be rounded to it.
bool is_one_product(const Conv2dProblem& problem) {
  return problem.dtype == DType::bfloat16 ||
         (problem.dtype == DType::float32 && problem.precision == Precision::medium);
}

// AMX's tiles, measured on a server with AMX (Granite Rapids, AlexNet and ResNet-18, batch 32, 2026-11-30). In bfloat16
// the tile product is 1.4 times as fast as what AVX512-BF16 offers. float32 as six products (or three) has half the
// speed of AVX-512's Winograd and direct convolution, but for many channels whose windows share no pixels to speak of:
// 1 x 1 kernels and strides. float16 was not measured there, nor was float32 rounded to bfloat16.
bool tiles_pay(const Conv2dProblem& problem) {
  constexpr int64_t kLeastChannels = 256;
  if (matrix_unit() != MatrixUnit::amx) return false;
  if (is_one_product(problem)) return true;
  const Conv2dShape& shape = problem.shape;
  return problem.dtype == DType::float32 &&
         std::min(channels_per_group(shape), filters_per_group(shape)) >= kLeastChannels &&
         (shape.r * shape.s == 1 || (shape.stride_h == 2 && shape.stride_w == 2));
}

// How many times the rate of float32's multiply-adds the matrix product of this problem has. Beside AVX512-BF16's dot
// products Winograd was no faster where it saves 2.4 (five points, AlexNet's conv3 to conv5 on Zen 5), and up to 1.4
// times as fast where it saves 4.7 (nine).
double product_rate(const Conv2dProblem& problem) {
  constexpr double kBFloat16Dots = 1.6;
  return matrix_unit() != MatrixUnit::none && is_one_product(problem) ? kBFloat16Dots : 1;
}

// `useful` is the share of the taps that are not zeros for filling up.
bool winograd_pays(Conv2dPass pass, const Conv2dProblem& problem, double useful = 1) {
  // Below 32 channels or filters half of a vector is empty and the transforms are no longer small beside the products;
  // below 16 the error of few-term sums, which Winograd cannot use, is less than half of Winograd's. A saving of 1.4
  // (4 x 4 outputs) was slower than the matrix product, 1.96 (7 x 7) is as fast, 2.25 faster.
  constexpr int64_t kLeastChannels = 32;
  constexpr double kLeastSaving = 1.9;
  const Conv2dShape& shape = problem.shape;
  return is_dense(shape) && problem.dtype != DType::float64 &&
         std::min(channels_per_group(shape), filters_per_group(shape)) >= kLeastChannels &&
         useful * winograd::saving(pass, problem) >= kLeastSaving * product_rate(problem);
}

// Beside the faster matrix product of bfloat16, direct convolution has pairs of its own: of channels, or, for
// grad_weight, of pixels.
bool direct_pairs(Conv2dPass pass, const Conv2dProblem& problem) {
  const Conv2dShape& shape = problem.shape;
  if (problem.dtype != DType::bfloat16 || matrix_unit() != MatrixUnit::avx512_bf16) return false;
  return pass == Conv2dPass::grad_weight || shape.groups == 1 ||
         (channels_per_group(shape) % 2 == 0 && filters_per_group(shape) % 2 == 0);
}

bool direct_pays(Conv2dPass pass, const Conv2dProblem& problem) {
  // A line of output pixels shares what is loaded of the weight: shorter ones than a strip of the micro-kernel are slow
  // once the weight does not fit into L2 (7 x 7 maps of 512 channels: half of the matrix product's speed).
  constexpr int64_t kStrip = 14, kWeights = 1 << 18;
  // Fewer channels leave most of a vector empty. The matrix product computes all residues of a stride side by side.
  constexpr int64_t kLeastColumns = 16;
  const Conv2dShape& shape = problem.shape;
  const bool as_fast = product_rate(problem) == 1 || direct_pairs(pass, problem);
  if (problem.dtype == DType::float64 || !as_fast) return false;
  const bool strided = shape.stride_h > 1 || shape.stride_w > 1, single = shape.r * shape.s == 1 && !strided;
  const bool overlap = shape.stride_h < shape.r && shape.stride_w < shape.s;
  const int64_t weights = shape.k * channels_per_group(shape) * shape.r * shape.s;
  switch (pass) {
    case Conv2dPass::forward: return single || shape.q >= kStrip || weights <= kWeights;
    case Conv2dPass::grad_input:
      if (direct::is_folded(shape)) return true;
      return (single || shape.q >= kStrip || weights <= kWeights) &&
             (!strided || channels_per_group(shape) >= kLeastColumns);
    // Pairs of pixels are copied for every few panels of filters: of many, the matrix product copies less, and it
    // copies no pixel twice where windows share none (16 x 16 patches: 1.4 times as fast).
    default: return product_rate(problem) == 1 || (weights <= kWeights && (overlap || shape.r * shape.s == 1));
  }
}

// Whether an algorithm can compute the problem at all; matrix_product can compute every one.
bool can_compute(Conv2dAlgorithm algorithm, Conv2dPass, const Conv2dProblem& problem) {
  switch (algorithm) {
    case Conv2dAlgorithm::winograd: return problem.dtype != DType::float64 && is_dense(problem.shape);
    case Conv2dAlgorithm::tile_product: return matrix_unit() == MatrixUnit::amx && problem.dtype != DType::float64;
    case Conv2dAlgorithm::direct: return direct::can_compute(problem);
    case Conv2dAlgorithm::winograd_phases: return phases::can_compute(problem);
    case Conv2dAlgorithm::depthwise: return depthwise::can_compute(problem.shape);
    default: return true;
  }
}

Conv2dChoice fastest(Conv2dPass pass, const Conv2dProblem& problem) {
  const bool few = depthwise::can_compute(problem.shape);
  if (tiles_pay(problem) && !few)
    return {Conv2dAlgorithm::tile_product,
            "the general algorithm on AMX's tiles: bfloat16, or many channels of float32"};
  if (winograd_pays(pass, problem))
    return {Conv2dAlgorithm::winograd,
            "stride 1 and 32 channels or more: tiles of 3 x 3 to 7 x 7 outputs need half of the products or fewer"};
  if (phases::can_compute(problem)) {
    const Conv2dProblem dense = phases::dense_problem(problem);
    const auto taps = [](const Conv2dShape& shape) { return static_cast<double>(shape.c * shape.r * shape.s); };
    if (winograd_pays(Conv2dPass::forward, dense, taps(problem.shape) / taps(dense.shape)))
      return {Conv2dAlgorithm::winograd_phases, "the phases of a stride or dilation are dense: Winograd's products"};
  }
  if (depthwise::can_compute(problem.shape))
    return {Conv2dAlgorithm::depthwise, "groups of few channels: channels of several groups fill a vector"};
  if (direct_pays(pass, problem))
    return {Conv2dAlgorithm::direct, direct_pairs(pass, problem)
                                         ? "dot products of pairs (AVX512-BF16) on channels_last images where they "
                                           "are: no patches to copy; planes of "
                                           "contiguous ones under 1 x 1 kernels are packed"
                                         : "multiply-adds on channels_last images where they are: no patches to copy"};
  return {Conv2dAlgorithm::matrix_product, "the general algorithm, for every shape and dtype"};
}

}  // namespace

const char* pass_name(Conv2dPass pass) {
  switch (pass) {
    case Conv2dPass::forward: return "forward";
    case Conv2dPass::grad_input: return "grad_input";
    default: return "grad_weight";
  }
}

const char* algorithm_name(Conv2dAlgorithm algorithm) {
  switch (algorithm) {
    case Conv2dAlgorithm::tile_product: return "tile_product";
    case Conv2dAlgorithm::direct: return "direct";
    case Conv2dAlgorithm::winograd: return "winograd";
    case Conv2dAlgorithm::winograd_phases: return "winograd_phases";
    case Conv2dAlgorithm::depthwise: return "depthwise";
    default: return "matrix_product";
  }
}

Conv2dChoice choose_algorithm(Conv2dPass pass, const Conv2dProblem& problem) {
  const int preferred = preference();
  if (preferred != kNoPreference && can_compute(kAlgorithms[preferred], pass, problem))
    return {kAlgorithms[preferred], "preferred by TMC_CONV2D_ALGORITHM or prefer_conv2d_algorithm"};
  return fastest(pass, problem);
}

namespace {

void prefer_conv2d_algorithm(std::string name) {
  preference() = preference_of("prefer_conv2d_algorithm: name", name);
  ::setenv("TMC_CONV2D_ALGORITHM", name.c_str(), true);  // for the CUDA library, which asks the environment
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CompositeExplicitAutograd, m) {
  m.impl("prefer_conv2d_algorithm", TORCH_BOX(&tmc::prefer_conv2d_algorithm));
}
