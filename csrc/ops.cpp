// Every operator of torch_manual_conv, as torch.ops.tmc.<name>: the one-page map of the C++ side.
//
// An op is named after what it returns. Tensors are [N, C, H, W]; pairs are (height, width). The kernels stand in
// cpu/<stem>.cpp and cuda/<stem>.cpp, what they compute and every check in <stem>.h, derivatives in Python.
#include <torch/csrc/stable/library.h>

// clang-format off: a schema is one string, cut where a reader would

STABLE_TORCH_LIBRARY(tmc, m) {
  // conv2d: one bilinear form in three maps. geometry: stride, dilation, padding, (height, width) each, padding also as
  // (top, bottom, left, right); precision: highest, high or medium, torch's ieee, tf32 and bf16 (precision.h).
  m.def("conv2d(Tensor input, Tensor weight, Tensor? bias, int[] geometry, SymInt groups, str precision='highest')"
        " -> Tensor");
  m.def("conv2d_grad_input(Tensor grad_output, Tensor weight, SymInt[2] input_size, int[] geometry, SymInt groups,"
        " str precision='highest') -> Tensor");
  m.def("conv2d_grad_weight(Tensor grad_output, Tensor input, SymInt[2] kernel_size, int[] geometry, SymInt groups,"
        " str precision='highest') -> Tensor");
  m.def("conv2d_grad_bias(Tensor grad_output) -> Tensor");

  // sigmoid: elementwise, any shape.
  m.def("sigmoid(Tensor input) -> Tensor");
  m.def("sigmoid_grad_input(Tensor grad_output, Tensor output) -> Tensor");

  // max_pool2d: `winners` holds each maximum's offset in its window, uint8 up to 256 taps, else int32.
  // window: kernel_size, stride, padding, dilation, (height, width) each.
  m.def("max_pool2d(Tensor input, int[] window, bool ceil_mode) -> (Tensor output, Tensor winners)");
  m.def("max_pool2d_grad_input(Tensor grad_output, Tensor winners, SymInt[2] input_size, int[] window, bool ceil_mode)"
        " -> Tensor");
  m.def("max_pool2d_select(Tensor input, Tensor winners, int[] window, bool ceil_mode) -> Tensor");
  m.def("max_pool2d_indices(Tensor winners, SymInt[2] input_size, int[] window, bool ceil_mode) -> Tensor");

  // avg_pool2d: window without dilation. Sum pooling is divisor_override=1. channels_last: how grad_input lies, by default
  // as grad_output does; max pooling's lies as the winners do.
  m.def("avg_pool2d(Tensor input, int[] window, bool ceil_mode, bool count_include_pad, SymInt? divisor_override)"
        " -> Tensor");
  m.def("avg_pool2d_grad_input(Tensor grad_output, SymInt[2] input_size, int[] window, bool ceil_mode,"
        " bool count_include_pad, SymInt? divisor_override, bool? channels_last=None) -> Tensor");

  // adaptive pooling: the same maps over windows that tile the input.
  m.def("adaptive_max_pool2d(Tensor input, SymInt[2] output_size) -> (Tensor output, Tensor winners)");
  m.def("adaptive_max_pool2d_grad_input(Tensor grad_output, Tensor winners, SymInt[2] input_size) -> Tensor");
  m.def("adaptive_max_pool2d_select(Tensor input, Tensor winners) -> Tensor");
  m.def("adaptive_max_pool2d_indices(Tensor winners, SymInt[2] input_size) -> Tensor");
  m.def("adaptive_avg_pool2d(Tensor input, SymInt[2] output_size) -> Tensor");
  m.def("adaptive_avg_pool2d_grad_input(Tensor grad_output, SymInt[2] input_size, bool? channels_last=None) -> Tensor");

  // conv_act_pool2d: a whole stage. activation: none, sigmoid, relu or tanh; pool: none, max, avg or sum; window: as
  // avg_pool2d's. `kept` is what backward needs beside operands and output: winners for max; for avg and sum after an
  // activation the activated map if `keep_activated` (without it, backward computes it again); else empty. Both are
  // channels_last.
  m.def("conv_act_pool2d(Tensor input, Tensor weight, Tensor? bias, int[] geometry, SymInt groups, str activation,"
        " str pool, int[] window, str precision, bool keep_activated) -> (Tensor output, Tensor kept)");
  // Its gradients; those that are not wanted are empty. activated: the map that the activation returned, which is the
  // output without avg or sum; winners: kept for max.
  m.def("conv_act_pool2d_gradients(Tensor grad_output, Tensor? input, Tensor? weight, Tensor? bias, Tensor? activated,"
        " Tensor? winners, SymInt[4] input_size, SymInt[4] weight_size, int[] geometry, SymInt groups, str activation,"
        " str pool, int[] window, str precision, bool want_input, bool want_weight, bool want_bias)"
        " -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  // How the stage is computed: "fused: <in which pieces>", or "composed: <why>", one operator after the other, which
  // only CUDA does. There a second line tells of backward where the input needs no gradient: "gradient of the map: ",
  // and "rebuilt: <why>", on the chip, or "stored: <why>", in memory.
  m.def("conv_act_pool2d_algorithm(Tensor input, Tensor weight, int[] geometry, SymInt groups, str activation,"
        " str pool, int[] window, str precision, bool keep_activated) -> str");

  // Which algorithm the three maps use for these operands, and why: a line each, "forward: <name>: <reason>".
  m.def("conv2d_algorithms(Tensor input, Tensor weight, int[] geometry, SymInt groups, str precision='highest')"
        " -> str");
  // Prefers one algorithm wherever it can be used ("" lets the library choose again), for tests and comparisons. On the
  // CPU: matrix_product, tile_product, direct, winograd, winograd_phases, depthwise; on CUDA: implicit_gemm, tensor_cores, wgmma.
  m.def("prefer_conv2d_algorithm(str name) -> ()");

  // Gives back the scratch memory that CPU kernels keep from one op to the next: at most 128 MB.
  m.def("release_scratch() -> ()");

  // Which instruction set the CPU kernels use: base, avx2, avx512, avx512_bf16 or amx (forced by TMC_CPU_ISA).
  m.def("cpu_isa() -> str");
  // Multiplies and adds in registers on every thread, and returns how many operations that was: timed, the ceiling of
  // this machine. unit: float32, float64, bfloat16_pairs, bfloat16_tiles; 0 where the CPU lacks it.
  m.def("cpu_peak(str unit, int rounds) -> int");
}
