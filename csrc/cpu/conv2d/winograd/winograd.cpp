// The three maps of a convolution by Winograd's algorithm: padding, groups, and what is done about infinities.
//
// Transforms mix the pixels of a tile, so that an infinite or NaN pixel, or one so large that a transform overflows,
// makes every output of its tiles NaN. An image with an output that is not finite is therefore computed again as a
// matrix product, alone; so is a whole grad_weight. The results are those of eq. 1, for a sample whatever its batch.
// So are tiles whose pixels differ too much in magnitude (cpu/conv2d/winograd/locality.cpp).
#include "cpu/conv2d/winograd/plan.h"
#include "cpu/lanes/half.h"
#include "cpu/machine/machine.h"

namespace tmc::winograd {

namespace {

// Whether these points' relative error (eq. 28), 5e-6 for nine and 3e-5 for eleven, is far below the rounding that the
// caller has asked for.
bool suffices(const WinogradKernels& kernels, const Conv2dProblem& problem) {
  if (kernels.points() == 5 || problem.dtype == DType::bfloat16) return true;
  return kernels.points() == 9 && (problem.dtype == DType::float16 || problem.precision != Precision::highest);
}

// Products along one axis, each of which replaces a whole sum of eq. 1 over `taps` for one output. At infinity, a block
// of fewer taps has none, nor has a tile of fewer outputs.
int64_t products(const WinogradKernels& kernels, int64_t outputs, int64_t taps) {
  const int64_t whole = taps / kernels.taps, rest = taps % kernels.taps != 0;
  const AxisTiles tiles = cover(outputs, kernels.tile, whole + rest == 1);
  return tiles.count * (whole * kernels.points() + rest * (kernels.points() - 1)) -
         (rest ? 0 : std::max<int64_t>(0, tiles.count - tiles.whole));
}

// Of one channel and filter.
int64_t products(const WinogradKernels& kernels, Conv2dPass pass, const Conv2dShape& shape) {
  const bool to_input = pass == Conv2dPass::grad_input;
  return products(kernels, to_input ? shape.h : shape.p, shape.r) *
         products(kernels, to_input ? shape.w : shape.q, shape.s);
}

// Taps in reverse order, along both axes.
Image flipped(Image weight) {
  weight.data += ((weight.h - 1) * weight.h_stride + (weight.w - 1) * weight.w_stride) * weight.element_size;
  weight.h_stride = -weight.h_stride, weight.w_stride = -weight.w_stride;
  return weight;
}

// What some group found is computed again in all of them.
void join(Boxes& all, const Boxes& more) {
  for (size_t n = 0; n < more.size(); ++n) all[n] = joined(all[n], more[n]);
}

}  // namespace

const WinogradKernels& kernels_for(Conv2dPass pass, const Conv2dProblem& problem) {
  const WinogradKernelTable& table = kernels_for_this_cpu<WinogradKernelTable>();
  const WinogradKernels* best = &table[0];
  for (const WinogradKernels& kernels : table)
    if (suffices(kernels, problem) && kernels.taps == problem.shape.r && kernels.taps == problem.shape.s &&
        products(kernels, pass, problem.shape) < products(*best, pass, problem.shape))
      best = &kernels;
  return *best;
}

std::vector<float> padded_bias(const std::optional<Tensor>& bias, DType dtype, int64_t begin, int64_t count,
                               const Filters& filters) {
  std::vector<float> values(filters.panels * filters.kernels.width, 0.f);
  if (!bias) return values;
  const Tensor in_a_row = dense(*bias, false);
  const void* data = in_a_row.const_data_ptr();
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == DType::bfloat16)
      convert(static_cast<const BFloat16*>(data)[begin + i], values[i]);
    else if (dtype == DType::float16)
      convert(static_cast<const Float16*>(data)[begin + i], values[i]);
    else
      values[i] = static_cast<const float*>(data)[begin + i];
  }
  return values;
}

double saving(Conv2dPass pass, const Conv2dProblem& problem) {
  const Conv2dShape& shape = problem.shape;
  const int64_t outputs = pass == Conv2dPass::grad_input ? shape.h * shape.w : shape.p * shape.q;
  return static_cast<double>(outputs * shape.r * shape.s) / products(kernels_for(pass, problem), pass, shape);
}

namespace {
std::shared_ptr<const void> prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight,
                                    bool last_taps_in_all) {
  const Conv2dShape& shape = problem.shape;
  const WinogradKernels& kernels = kernels_for(pass, problem);
  const bool to_input = pass == Conv2dPass::grad_input;
  const int64_t rows = ceil_div(to_input ? shape.h : shape.p, kernels.tile);
  const int64_t columns = ceil_div(to_input ? shape.w : shape.q, kernels.tile);
  const bool ahead = shape.n * rows * columns > few_tiles(kernels);
  const Image kernel = image_of(weight);
  const int64_t k = filters_per_group(shape);
  auto filters = std::make_shared<std::deque<Filters>>();
  for (int64_t g = 0; g < shape.groups; ++g) {
    const Image group = kernel.filters(g, k);
    filters->emplace_back(kernels, to_input ? flipped(group.swapped()) : group, problem.dtype, ahead, last_taps_in_all);
  }
  return filters;
}
}  // namespace

std::shared_ptr<const void> prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight) {
  return prepare(pass, problem, weight, true);
}
std::shared_ptr<const void> prepare_phases(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight) {
  return prepare(pass, problem, weight, false);
}

void forward(const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
             const std::optional<Tensor>& bias, Tensor& output) {
  const Conv2dShape& shape = problem.shape;
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape);
  const Image image = image_of(input), result = mutable_image_of(output);
  Boxes again(shape.n);
  for (int64_t g = 0; g < shape.groups; ++g) {
    const Filters& filters = filters_of(weight.made)[g];
    const std::vector<float> bias_g = padded_bias(bias, problem.dtype, g * k, k, filters);
    join(again, correlate(filters, {image.channels(g, c), shape.pad_top, shape.pad_left}, bias_g.data(), problem.dtype,
                          result.channels(g, k)));
  }
  forward_in(again, problem, input, weight.weight, bias, output);
}

// Row h of the input is read by tap r for output row h + pad - r (eq. 5): a correlation of grad_output with the kernel
// channels_are_rows round, from row h + pad - (r - 1) on.
void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                Tensor& grad_input) {
  const Conv2dShape& shape = problem.shape;
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape);
  const Image image = image_of(grad_output), result = mutable_image_of(grad_input);
  const int64_t top = shape.r - 1 - shape.pad_top, left = shape.s - 1 - shape.pad_left;
  Boxes again(shape.n);
  for (int64_t g = 0; g < shape.groups; ++g) {
    const Filters& filters = filters_of(weight.made)[g];
    const std::vector<float> no_bias = padded_bias(std::nullopt, problem.dtype, 0, 0, filters);
    join(again,
         correlate(filters, {image.channels(g, k), top, left}, no_bias.data(), problem.dtype, result.channels(g, c)));
  }
  grad_input_in(again, problem, grad_output, weight.weight, grad_input);
}

void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight) {
  const Conv2dShape& shape = problem.shape;
  const int64_t c = channels_per_group(shape), k = filters_per_group(shape);
  const Image grad = image_of(grad_output), image = image_of(input), result = mutable_image_of(grad_weight);
  bool finite = true;
  for (int64_t g = 0; g < shape.groups; ++g)
    finite &= correlate_for_weight(kernels_for(Conv2dPass::grad_weight, problem), grad.channels(g, k),
                                   {image.channels(g, c), shape.pad_top, shape.pad_left}, problem.dtype,
                                   result.filters(g, k));
  if (!finite) matrix_product::grad_weight(problem, grad_output, input, grad_weight);
}

}  // namespace tmc::winograd
