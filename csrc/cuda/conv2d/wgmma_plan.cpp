#include "cuda/conv2d/wgmma_plan.h"

#include "cuda/conv2d/pack.h"

namespace tmc::wgmma {
namespace {

constexpr int64_t kRows = 64, kLineBytes = 128;

int64_t line_elements(DType dtype) {
  return kLineBytes / (dtype == DType::float32 ? 4 : 2);
}

// TMA's limits on one axis of the pixels that a tap reads (cuda.h, cuTensorMapEncodeIm2col; PTX ISA, im2col offsets):
// `count` of them, `step` apart, the first at -pad; taps reach `reach` further.
bool can_walk(int64_t extent, int64_t count, int64_t step, int64_t pad, int64_t reach) {
  const int64_t beyond = (count - 1) * step - pad - (extent - 1);
  return step <= 8 && pad <= 128 && pad >= -127 && beyond >= -128 && beyond <= 127 && reach <= 255;
}

// The channels that a stage's lines are filled with: those of one tap, of one group.
const char* lines_obstacle(DType dtype, int64_t channels, int64_t groups, bool wanted) {
  const int64_t line = line_elements(dtype);
  if (groups > 1 && channels % line != 0) return "the channels of a group do not fill lines of 128 bytes";
  // The rest of a tap's last line is zeros that are copied and multiplied all the same.
  if (!wanted && 2 * line * ceil_div(channels, line) > 3 * channels)
    return "more than a third of the lines of 128 bytes would be empty";
  return nullptr;
}

// The rows of a result: filters, or channels. A tile of 64 x 256 asks L2 for 40 KB in the 512 clocks that its products
// take, three times what an H100's L2 gives a multiprocessor (25 bytes a clock at 5.5 TB/s); 192 x 256 asks for 1.5
// times as much, 128 x 256 twice, and mma.sync takes twice the clocks [calculated, not measured].
const char* rows_obstacle(int64_t rows, bool wanted) {
  if (rows % kRows != 0) return "the rows (filters, or channels for grad_input) of a group are no multiple of 64";
  if (!wanted && rows % (2 * kRows) != 0 && rows % (3 * kRows) != 0)
    return "tiles of 64 rows (filters, or channels for grad_input) would wait for L2";
  return nullptr;
}

constexpr const char* kStrict = "strict float32 is added up outside the tensor cores";
constexpr const char* kWalk = "stride, padding or window are beyond what TMA can walk through";

const char* image_obstacle(DType dtype, const Conv2dPlan& plan, bool wanted) {
  const Conv2dShape& shape = plan.shape;
  if (plan.strict) return kStrict;
  if (const char* reason = rows_obstacle(filters_per_group(shape), wanted)) return reason;
  if (!can_walk(shape.h, shape.p, shape.stride_h, shape.pad_top, (shape.r - 1) * shape.dilation_h) ||
      !can_walk(shape.w, shape.q, shape.stride_w, shape.pad_left, (shape.s - 1) * shape.dilation_w))
    return kWalk;
  return lines_obstacle(dtype, channels_per_group(shape), shape.groups, wanted);
}

bool can_walk_residues(int64_t input, int64_t output, int64_t pad, int64_t kernel, int64_t stride, int64_t dilation) {
  for (int64_t f = 0; f < stride; ++f) {
    const Residue residue = residue_of(f, input, pad, kernel, stride, dilation);
    if (residue.count > 0 && !can_walk(output, residue.count, 1, padding_of(residue), (kernel - 1) * dilation))
      return false;
  }
  return true;
}

}  // namespace

const char* conv2d_obstacle(DType dtype, const Conv2dPlan& plan, bool wanted) {
  return image_obstacle(dtype, plan, wanted);
}

const char* conv2d_grad_input_obstacle(DType dtype, const Conv2dPlan& plan, bool wanted) {
  const Conv2dShape& shape = plan.shape;
  if (plan.strict) return kStrict;
  if (const char* reason = rows_obstacle(channels_per_group(shape), wanted)) return reason;
  if (!can_walk_residues(shape.h, shape.p, shape.pad_top, shape.r, shape.stride_h, shape.dilation_h) ||
      !can_walk_residues(shape.w, shape.q, shape.pad_left, shape.s, shape.stride_w, shape.dilation_w))
    return kWalk;
  return lines_obstacle(dtype, filters_per_group(shape), shape.groups, wanted);
}

const char* conv2d_grad_weight_obstacle(DType dtype, const Conv2dPlan& plan, bool wanted) {
  if (dtype == DType::float32) return "wgmma reads float32 only along the depth, which is here the pixels";
  const int64_t columns = plan.shape.r * plan.shape.s * channels_per_group(plan.shape);
  if (!wanted && columns <= kRows) return "three quarters of a tile of 256 columns would be empty";
  return image_obstacle(dtype, plan, wanted);
}

}  // namespace tmc::wgmma
