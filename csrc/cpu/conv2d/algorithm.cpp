#include "cpu/conv2d/algorithm.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "conv2d_ops.h"
#include "cpu/conv2d/algorithms.h"
#include "cpu/gemm/gemm.h"
#include "cpu/machine/machine.h"

namespace tmc {
namespace {

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

bool phases_pay(const Conv2dProblem& problem) {
  const Conv2dProblem dense = phases::dense_problem(problem);
  const auto taps = [](const Conv2dShape& shape) { return static_cast<double>(shape.c * shape.r * shape.s); };
  return winograd_pays(Conv2dPass::forward, dense, taps(problem.shape) / taps(dense.shape));
}

// ---- What the table's functions have in common.

bool always(const Conv2dProblem&) {
  return true;
}
bool always_pays(Conv2dPass, const Conv2dProblem&) {
  return true;
}
const char* multiply_adds(Conv2dPass, const Conv2dProblem&) {
  return "multiply-adds";
}
std::shared_ptr<const void> nothing(Conv2dPass, const Conv2dProblem&, const Tensor&) {
  return nullptr;
}

// An algorithm that takes the weight as it is.
template <auto kForward, auto kGradInput, auto kGradWeight, auto... kUnit>
constexpr Conv2dAlgorithm maps(Conv2dAlgorithm row) {
  row.prepare = nothing;
  row.forward = [](const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
                   const std::optional<Tensor>& bias,
                   Tensor& output) { kForward(problem, input, weight.weight, bias, output, kUnit...); };
  row.grad_input = [](const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                      Tensor& grad_input) { kGradInput(problem, grad_output, weight.weight, grad_input, kUnit...); };
  row.grad_weight = [](const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input,
                       Tensor& grad_weight) { kGradWeight(problem, grad_output, input, grad_weight, kUnit...); };
  return row;
}

// In the order in which they are asked.
constexpr Conv2dAlgorithm kAlgorithms[] = {
    maps<matrix_product::forward, matrix_product::grad_input, matrix_product::grad_weight, MatrixUnit::amx>({
        .name = "tile_product",
        .why = "on CPUs with AMX: bfloat16, float32 that may be rounded to it, and float32 of 256 channels and filters "
               "or more with 1 x 1 kernels or strides of 2",
        .can_compute =
            [](const Conv2dProblem& problem) {
              return matrix_unit() == MatrixUnit::amx && problem.dtype != DType::float64;
            },
        .pays =
            [](Conv2dPass, const Conv2dProblem& problem) {
              return tiles_pay(problem) && !depthwise::can_compute(problem.shape);
            },
        .unit = [](Conv2dPass,
                   const Conv2dProblem& p) { return gemm_kernels(p.dtype, p.precision, MatrixUnit::amx).name; },
    }),
    {
        .name = "winograd",
        .why = "stride 1, 32 channels and filters of a group or more, and half of eq. 1's products or fewer",
        .can_compute = [](const Conv2dProblem& p) { return p.dtype != DType::float64 && is_dense(p.shape); },
        .pays = [](Conv2dPass pass, const Conv2dProblem& problem) { return winograd_pays(pass, problem); },
        .unit = multiply_adds,
        .prepare = winograd::prepare,
        .forward = winograd::forward,
        .grad_input = winograd::grad_input,
        .grad_weight = winograd::grad_weight,
    },
    {
        .name = "winograd_phases",
        .why = "a stride or a dilation whose phases are such convolutions",
        .can_compute = phases::can_compute,
        .pays = [](Conv2dPass, const Conv2dProblem& problem) { return phases_pay(problem); },
        .unit = multiply_adds,
        .prepare = phases::prepare,
        .forward = phases::forward,
        .grad_input = phases::grad_input,
        .grad_weight = phases::grad_weight,
    },
    maps<depthwise::forward, depthwise::grad_input, depthwise::grad_weight>({
        .name = "depthwise",
        .why = "groups of few channels, of which several fill a vector",
        .can_compute = [](const Conv2dProblem& problem) { return depthwise::can_compute(problem.shape); },
        .pays = always_pays,
        .unit = multiply_adds,
    }),
    maps<direct::forward, direct::grad_input, direct::grad_weight>({
        .name = "direct",
        .why = "channels_last images are read where they are: no patches are packed",
        .can_compute = direct::can_compute,
        .pays = direct_pays,
        .unit = [](Conv2dPass pass,
                   const Conv2dProblem& p) { return direct_pairs(pass, p) ? "AVX512-BF16 pairs" : "multiply-adds"; },
    }),
    maps<matrix_product::forward, matrix_product::grad_input, matrix_product::grad_weight, MatrixUnit::avx512_bf16>({
        .name = "matrix_product",
        .why = "the general algorithm, for every shape and dtype",
        .can_compute = always,
        .pays = always_pays,
        .unit = [](Conv2dPass,
                   const Conv2dProblem& p) { return gemm_kernels(p.dtype, p.precision, MatrixUnit::avx512_bf16).name; },
    }),
};
// The names of CUDA's algorithms (cuda/conv2d/plan.h), which no convolution on the CPU can be computed by.
constexpr const char* kOnCuda[] = {"implicit_gemm", "tensor_cores", "wgmma"};

// Starts as TMC_CONV2D_ALGORITHM says.
std::atomic<const Conv2dAlgorithm*>& preference() {
  static std::atomic<const Conv2dAlgorithm*> value = [] {
    const char* name = std::getenv("TMC_CONV2D_ALGORITHM");
    return find_algorithm("TMC_CONV2D_ALGORITHM:", name == nullptr ? "" : name);
  }();
  return value;
}

}  // namespace

const char* pass_name(Conv2dPass pass) {
  switch (pass) {
    case Conv2dPass::forward: return "forward";
    case Conv2dPass::grad_input: return "grad_input";
    default: return "grad_weight";
  }
}

const Conv2dAlgorithm* find_algorithm(const char* source, const std::string& name) {
  if (name.empty()) return nullptr;
  std::string known;
  for (const Conv2dAlgorithm& algorithm : kAlgorithms) {
    if (name == algorithm.name) return &algorithm;
    known += algorithm.name + std::string(", ");
  }
  for (const char* on_cuda : kOnCuda) {
    if (name == on_cuda) return nullptr;
    known += on_cuda + std::string(", ");
  }
  fail("%s must be one of %sor empty, got %s", source, known.c_str(), name.c_str());
}

bool is_preferred(const Conv2dAlgorithm& algorithm) {
  return preference() == &algorithm;
}

const Conv2dAlgorithm& choose_algorithm(Conv2dPass pass, const Conv2dProblem& problem) {
  const Conv2dAlgorithm* const preferred = preference();
  if (preferred != nullptr && preferred->can_compute(problem)) return *preferred;
  const Conv2dAlgorithm* algorithm = kAlgorithms;
  while (!algorithm->can_compute(problem) || !algorithm->pays(pass, problem)) ++algorithm;  // the last one always does
  return *algorithm;
}

namespace {

void prefer_conv2d_algorithm(std::string name) {
  preference() = find_algorithm("prefer_conv2d_algorithm: name", name);
  ::setenv("TMC_CONV2D_ALGORITHM", name.c_str(), true);  // the CUDA library, which may be absent, reads it there
}

}  // namespace
}  // namespace tmc

STABLE_TORCH_LIBRARY_IMPL(tmc, CompositeExplicitAutograd, m) {
  m.impl("prefer_conv2d_algorithm", TORCH_BOX(&tmc::prefer_conv2d_algorithm));
}
