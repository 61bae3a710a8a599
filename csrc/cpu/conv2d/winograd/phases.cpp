// Strided and dilated convolutions as dense ones, for Winograd's algorithm, which knows neither stride nor dilation.
//
// Rows i, i + step, i + 2 * step, ... of an image are its phase i; likewise columns.
//
//   stride      tap r = stride * a + i of eq. 1 reads, for output row p, row p + a of phase i: the phases are further
//               channels of a kernel of ceil(R / stride) taps, filled up with zeros (space to depth)
//   dilation    the outputs of phase i read only the inputs of one phase: each is a sample of its own
//
// AlexNet's first layer, 11 x 11 taps at stride 4, becomes 3 x 3 taps on 48 channels, and then a third of its products
// is left. Nothing but the weight is rearranged for forward and grad_weight of a stride: the transforms read the phases
// where they are in the image (stage_phases of cpu/image/staging.h). Other phases are copied, in runs of neighbouring
// channels. A zero tap is not in eq. 1, and would make NaN of an infinite pixel: a sample whose result is not finite is
// computed again as a matrix product.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/conv2d/finite.h"
#include "cpu/conv2d/winograd/plan.h"

namespace tmc::phases {
namespace {

// How one image [n, c, h, w] and the image of its phases are related. Everything is channels_last.
struct Phases {
  int64_t step_h, step_w, top,
      left;          // position (y, x) of phase (i, j) is (y * step_h + i - top, x * step_w + j - left)
  bool as_channels;  // [n, (i, j, c), y, x], else [(i, j, n), c, y, x]
};

// Calls copy(phased_run, image_run, bytes) for each run of elements that adjoin in both; image_run is null outside the
// image. Runs are all columns j of a position for phases as channels, else one pixel.
template <class Copy>
void for_each_run(const Image& image, const Image& phased, const Phases& p, const Copy& copy) {
  const int64_t columns = p.as_channels ? p.step_w : 1, j_count = p.as_channels ? 1 : p.step_w;
  const int64_t tasks = image.n * p.step_h * j_count;
  for_each_task(tasks, workers_for(tasks), [&](int64_t task, int64_t) {
    const int64_t n = task % image.n, j = task / image.n % j_count, i = task / image.n / j_count;
    const int64_t phase = i * p.step_w + j, size = image.element_size;
    char* const phased_n =
        phased.data +
        (p.as_channels ? n * phased.n_stride + phase * image.c : (phase * image.n + n) * phased.n_stride) * size;
    for (int64_t y = 0; y < phased.h; ++y) {
      const int64_t h = y * p.step_h + i - p.top;
      char* const row = image.data + (n * image.n_stride + h * image.h_stride) * size;
      char* run = phased_n + y * phased.h_stride * size;
      for (int64_t x = 0; x < phased.w; ++x, run += phased.w_stride * size) {
        const int64_t w = x * p.step_w + j - p.left, pixel = image.c * size;
        const bool in_row = h >= 0 && h < image.h;
        const int64_t begin = in_row ? std::clamp<int64_t>(-w, 0, columns) : columns;
        const int64_t end = in_row ? std::clamp<int64_t>(image.w - w, begin, columns) : columns;
        if (begin > 0) copy(run, nullptr, begin * pixel);
        if (end > begin) copy(run + begin * pixel, row + (w + begin) * image.w_stride * size, (end - begin) * pixel);
        if (columns > end) copy(run + end * pixel, nullptr, (columns - end) * pixel);
      }
    }
  });
}

// The phases of an image, zeros outside it.
Tensor split(const Tensor& image, const Phases& p, int64_t height, int64_t width) {
  const Tensor ordered = dense(image, true);
  const int64_t count = p.step_h * p.step_w, as_channels = p.as_channels ? count : 1;
  Tensor phased =
      empty_nchw(image, image.size(0) * (count / as_channels), image.size(1) * as_channels, height, width, true);
  for_each_run(image_of(ordered), mutable_image_of(phased), p, [](char* run, const char* from, int64_t bytes) {
    if (from == nullptr)
      std::memset(run, 0, bytes);
    else
      std::memcpy(run, from, bytes);
  });
  return phased;
}

// The inverse, into a dense image of either layout: zero where it is in no phase.
void join(const Tensor& phased, const Phases& p, Tensor& image) {
  const Tensor source = dense(phased, true);
  const bool in_order = is_channels_last(image);
  Tensor ordered =
      in_order ? image : empty_nchw(image, image.size(0), image.size(1), image.size(2), image.size(3), true);
  if (phased.size(2) * p.step_h - p.top < image.size(2) || phased.size(3) * p.step_w - p.left < image.size(3))
    torch::stable::zero_(ordered);
  for_each_run(mutable_image_of(ordered), image_of(source), p, [](char* run, char* to, int64_t bytes) {
    if (to != nullptr) std::memcpy(to, run, bytes);
  });
  if (!in_order) torch::stable::copy_(image, ordered);
}

// The dense problem, and how its input, output and weight come from the given ones.
struct Dense {
  Conv2dProblem problem;
  Phases input, output, weight;
  bool strided;

  explicit Dense(const Conv2dProblem& given) : problem(dense_problem(given)) {
    const Conv2dShape& shape = given.shape;
    strided = shape.stride_h > 1 || shape.stride_w > 1;
    const int64_t step_h = shape.stride_h * shape.dilation_h, step_w = shape.stride_w * shape.dilation_w;  // one is 1
    input = {step_h, step_w, shape.pad_top, shape.pad_left, strided};
    output = {step_h, step_w, 0, 0, false};  // of a dilation
    weight = {step_h, step_w, 0, 0, true};   // of a stride
  }

  // A stride's phases, read where they are.
  PhasedImage source(const Tensor& image) const {
    return {image_of(image), input.top, input.left, input.step_h, input.step_w};
  }
  // A dilation's.
  Tensor split_input(const Tensor& image) const { return split(image, input, problem.shape.h, problem.shape.w); }
  Tensor split_output(const Tensor& image) const {
    return strided ? image : split(image, output, problem.shape.p, problem.shape.q);
  }
  Tensor split_weight(const Tensor& kernel) const {
    return strided ? split(kernel, weight, problem.shape.r, problem.shape.s) : kernel;
  }
};

// The samples of a dense result that are not finite everywhere.
std::vector<int64_t> not_finite(DType dtype, Tensor& result) {
  const Image image = mutable_image_of(result);
  const int64_t bytes = image.c * image.h * image.w * image.element_size;
  std::vector<char> finite(image.n);
  for_each_task(image.n, workers_for(image.n), [&](int64_t n, int64_t) {
    finite[n] = all_finite(dtype, image.data + n * bytes, bytes / image.element_size);
  });
  std::vector<int64_t> found;
  for (int64_t n = 0; n < image.n; ++n)
    if (!finite[n]) found.push_back(n);
  return found;
}

// The rows and columns behind the last window have no gradient; their phases are mixed with others that have one.
void clear_unread(const Conv2dShape& shape, Tensor& grad_input) {
  const int64_t h = (shape.p - 1) * shape.stride_h - shape.pad_top + shape.r;
  const int64_t w = (shape.q - 1) * shape.stride_w - shape.pad_left + shape.s;
  const auto clear = [&](int64_t axis, int64_t begin, int64_t end) {
    if (begin >= end) return;
    Tensor unread = torch::stable::narrow(grad_input, axis, begin, end - begin);
    torch::stable::zero_(unread);
  };
  clear(2, h, shape.h), clear(3, w, shape.w);
}

// Calls again(one_sample, n) for these samples.
template <class Again>
void repeat(Conv2dProblem problem, const std::vector<int64_t>& samples, const Again& again) {
  problem.shape.n = 1;
  for (const int64_t n : samples) again(problem, n);
}

Tensor samples(const Tensor& tensor, int64_t n, int64_t count) {
  Tensor whole = tensor;
  return torch::stable::narrow(whole, 0, n, count);
}

// Calls body(dense, n, count) for chunks of samples whose phases stay in cache between the steps: a copy of a whole
// batch costs more in fresh pages than its products save. Each chunk streams the transformed weight through the cache:
// it is several times as large.
template <class Body>
void for_each_chunk(const Dense& whole, const Conv2dProblem& problem, const Tensor& weight, const Body& body) {
  constexpr int64_t kChunkBytes = 3 << 20, kWeights = 8;
  const Conv2dShape& shape = whole.problem.shape;
  const int64_t total = problem.shape.n, size = static_cast<int64_t>(weight.element_size());
  if (total == 0) return;
  const int64_t sample = shape.n / total * shape.c * shape.h * shape.w * size;
  const int64_t bytes = std::max(kChunkBytes, kWeights * weight.numel() * size);
  const int64_t count = std::max<int64_t>(torch::stable::get_num_threads(), bytes / sample);
  for (int64_t n = 0; n < total; n += count) {
    Conv2dProblem part = problem;
    part.shape.n = std::min(count, total - n);
    body(Dense(part), n, part.shape.n);
  }
}

}  // namespace

bool can_compute(const Conv2dProblem& problem) {
  const Conv2dShape& shape = problem.shape;
  const bool strided = shape.stride_h > 1 || shape.stride_w > 1, dilated = shape.dilation_h > 1 || shape.dilation_w > 1;
  if (problem.dtype == DType::float64 || strided == dilated) return false;
  // Phases are copied: no more of them than there are taps, or positions of each in the output, and little padding.
  const bool few = strided ? shape.stride_h <= shape.r && shape.stride_w <= shape.s
                           : shape.dilation_h <= shape.p && shape.dilation_w <= shape.q;
  // Every window of a strided kernel holds a pixel: one of padding alone would be mixed with its neighbours' pixels.
  const bool seeing =
      dilated || (shape.pad_top < shape.r && (shape.p - 1) * shape.stride_h - shape.pad_top < shape.h &&
                  shape.pad_left < shape.s && (shape.q - 1) * shape.stride_w - shape.pad_left < shape.w);
  return few && seeing && (dilated || shape.groups == 1) && shape.pad_top <= shape.h && shape.pad_left <= shape.w;
}

Conv2dProblem dense_problem(const Conv2dProblem& problem) {
  const Conv2dShape& from = problem.shape;
  Conv2dProblem result = problem;
  Conv2dShape& shape = result.shape;
  shape.r = ceil_div(from.r, from.stride_h), shape.s = ceil_div(from.s, from.stride_w);
  shape.c = from.c * from.stride_h * from.stride_w;
  shape.n = from.n * from.dilation_h * from.dilation_w;
  shape.p = ceil_div(from.p, from.dilation_h), shape.q = ceil_div(from.q, from.dilation_w);
  shape.h = shape.p + shape.r - 1, shape.w = shape.q + shape.s - 1;
  shape.stride_h = shape.stride_w = shape.dilation_h = shape.dilation_w = 1;
  shape.pad_top = shape.pad_bottom = shape.pad_left = shape.pad_right = 0;
  return result;
}

// What is prepared is the dense problem's weight.
std::shared_ptr<const void> prepare(Conv2dPass pass, const Conv2dProblem& problem, const Tensor& weight) {
  const Dense dense(problem);
  PreparedWeight kernel = {dense.split_weight(weight)};
  const Conv2dShape& shape = problem.shape;
  const bool some_lack_a_tap = dense.strided && (shape.r % shape.stride_h != 0 || shape.s % shape.stride_w != 0);
  kernel.made = some_lack_a_tap ? winograd::prepare_phases(pass, dense.problem, kernel.weight)
                                : winograd::prepare(pass, dense.problem, kernel.weight);
  return std::make_shared<const PreparedWeight>(kernel);
}

void forward(const Conv2dProblem& problem, const Tensor& input, const PreparedWeight& weight,
             const std::optional<Tensor>& bias, Tensor& output) {
  const Dense whole(problem);
  const PreparedWeight& kernel = *static_cast<const PreparedWeight*>(weight.made.get());
  const auto again = [&](const Conv2dProblem& one, int64_t n) {
    Tensor result = samples(output, n, 1);
    matrix_product::forward(one, samples(input, n, 1), weight.weight, bias, result);
  };
  if (whole.strided) {
    const winograd::Filters& filters = winograd::filters_of(kernel.made).front();
    const std::vector<float> floats = winograd::padded_bias(bias, problem.dtype, 0, problem.shape.k, filters);
    const winograd::Boxes boxes =
        winograd::correlate(filters, whole.source(input), floats.data(), problem.dtype, mutable_image_of(output));
    return winograd::forward_in(boxes, problem, input, weight.weight, bias, output);
  }
  for_each_chunk(whole, problem, weight.weight, [&](const Dense& dense, int64_t n, int64_t count) {
    const Conv2dShape& shape = dense.problem.shape;
    Tensor result = samples(output, n, count);
    Tensor phased = empty_nchw(output, shape.n, shape.k, shape.p, shape.q, true);
    winograd::forward(dense.problem, dense.split_input(samples(input, n, count)), kernel, bias, phased);
    join(phased, dense.output, result);
  });
  repeat(problem, not_finite(problem.dtype, output), again);
}

void grad_input(const Conv2dProblem& problem, const Tensor& grad_output, const PreparedWeight& weight,
                Tensor& grad_input) {
  const Dense whole(problem);
  const PreparedWeight& kernel = *static_cast<const PreparedWeight*>(weight.made.get());
  for_each_chunk(whole, problem, weight.weight, [&](const Dense& dense, int64_t n, int64_t count) {
    const Conv2dShape& shape = dense.problem.shape;
    Tensor phased = empty_nchw(grad_input, shape.n, shape.c, shape.h, shape.w, true);
    winograd::grad_input(dense.problem, dense.split_output(samples(grad_output, n, count)), kernel, phased);
    Tensor result = samples(grad_input, n, count);
    join(phased, dense.input, result);
  });
  if (whole.strided) clear_unread(problem.shape, grad_input);
  repeat(problem, not_finite(problem.dtype, grad_input), [&](const Conv2dProblem& one, int64_t n) {
    Tensor result = samples(grad_input, n, 1);
    matrix_product::grad_input(one, samples(grad_output, n, 1), weight.weight, result);
  });
}

void grad_weight(const Conv2dProblem& problem, const Tensor& grad_output, const Tensor& input, Tensor& grad_weight) {
  const Dense dense(problem);
  const Conv2dShape& shape = dense.problem.shape;
  bool finite;
  if (dense.strided) {
    Tensor phased = empty_nchw(grad_weight, shape.k, shape.c, shape.r, shape.s, false);
    finite = winograd::correlate_for_weight(winograd::kernels_for(Conv2dPass::grad_weight, dense.problem),
                                            image_of(grad_output), dense.source(input), problem.dtype,
                                            mutable_image_of(phased));
    join(phased, dense.weight, grad_weight);
  } else {
    winograd::grad_weight(dense.problem, dense.split_output(grad_output), dense.split_input(input), grad_weight);
    finite = all_finite(grad_weight);
  }
  if (!finite) matrix_product::grad_weight(problem, grad_output, input, grad_weight);
}

}  // namespace tmc::phases
