"""The CUDA kernels, run on the CPU: the same source files, each CUDA thread a fiber (cuda_harness/fibers.h).

Every launcher is called as the CUDA entry points call it, and held against torch in float64.
"""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from comparisons import same_values, within
from cuda_harness.shapes import Conv

SEEDS = (0, 1, 2)  # 0: threads in order; others: random warps, each run to its next barrier

TOLERANCE = 4  # errors may be TOLERANCE * eps * sqrt(terms of the longest sum) of the largest value


@pytest.fixture(params=[False, True], ids=["contiguous", "channels_last"])
def channels_last(request):
    return request.param


def check(actual, expected, terms=1):
    same_values(actual.isnan(), expected.isnan(), "result: where it is NaN")
    limit = TOLERANCE * torch.finfo(actual.dtype).eps * terms**0.5
    actual = actual if actual.isfinite().all() else actual.double().nan_to_num()
    within(actual, expected.double().nan_to_num(), limit, "result")


# ---- Convolution.

CONVS = {
    "odd_sizes_uneven_padding": Conv(2, 5, 11, 13, 7, 3, 2, pads=(1, 0, 2, 1)),
    "stride_dilation": Conv(2, 3, 14, 15, 4, 3, 3, stride=(2, 3), pads=(2, 2, 1, 1), dilation=(2, 1)),
    "stride_above_kernel": Conv(1, 2, 9, 10, 3, 2, 1, stride=(3, 4)),
    "groups": Conv(3, 6, 7, 6, 9, 3, 3, pads=(1, 1, 1, 1), groups=3),
    "depthwise": Conv(1, 5, 6, 6, 10, 3, 3, groups=5),
    "several_tiles": Conv(1, 17, 12, 13, 70, 3, 3, pads=(1, 1, 1, 1)),
    "one_pixel": Conv(1, 1, 1, 1, 1, 1, 1),
    "alexnet_first": Conv(1, 3, 31, 35, 8, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2)),
    "sums_in_parts": Conv(3, 2, 20, 19, 3, 3, 3, pads=(1, 1, 1, 1)),
}


@pytest.fixture(params=CONVS.values(), ids=CONVS.keys())
def conv(request):
    return request.param


def conv_operands(conv, dtype):
    """input, weight, bias, grad_output in dtype, and what float64 makes of them: output and four gradients."""
    generator = torch.Generator().manual_seed(1)
    shapes = (conv.sizes[0], conv.sizes[1], (conv.k,), conv.sizes[2])
    operands = [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]
    input, weight, bias = leaves = [operand.double().requires_grad_() for operand in operands[:3]]
    top, bottom, left, right = conv.pads
    padded = F.pad(input, (left, right, top, bottom))
    output = F.conv2d(padded, weight, bias, conv.stride, 0, conv.dilation, conv.groups)
    return operands, (output.detach(), *torch.autograd.grad(output, leaves, operands[3].double()))


def test_conv2d(kernels, conv, dtype, channels_last):
    (input, weight, bias, grad_output), (output, grad_input, grad_weight, grad_bias) = conv_operands(conv, dtype)
    taps, pixels = conv.r * conv.s // conv.groups, conv.n * conv.p * conv.q
    check(kernels.conv2d(conv, channels_last, input, weight, bias), output, conv.c * taps + 1)
    check(
        kernels.conv2d(conv, channels_last, input, weight, None), output - bias.double()[:, None, None], conv.c * taps
    )
    check(kernels.conv2d_grad_input(conv, channels_last, grad_output, weight), grad_input, conv.k * taps)
    check(kernels.conv2d_grad_weight(conv, channels_last, grad_output, input), grad_weight, pixels)
    check(kernels.conv2d_grad_bias(channels_last, grad_output), grad_bias, pixels)


def conv_results(kernels, conv, channels_last, operands):
    input, weight, bias, grad_output = operands
    return (
        kernels.conv2d(conv, channels_last, input, weight, bias),
        kernels.conv2d_grad_input(conv, channels_last, grad_output, weight),
        kernels.conv2d_grad_weight(conv, channels_last, grad_output, input),
        kernels.conv2d_grad_bias(channels_last, grad_output),
    )


@pytest.mark.parametrize("name", ["several_tiles", "sums_in_parts"])
def test_conv2d_bits_do_not_depend_on_the_order_of_threads(kernels, name, channels_last):
    operands, _ = conv_operands(CONVS[name], torch.float32)
    results = []
    for kernels.seed in SEEDS:
        results.append(conv_results(kernels, CONVS[name], channels_last, operands))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_conv2d_bits_do_not_depend_on_the_batch(kernels, channels_last):
    batch = Conv(3, 4, 8, 9, 5, 3, 3, stride=(2, 1), pads=(1, 1, 1, 1))
    sample = Conv(1, 4, 8, 9, 5, 3, 3, stride=(2, 1), pads=(1, 1, 1, 1))
    (input, weight, bias, grad_output), _ = conv_operands(batch, torch.float32)
    output = kernels.conv2d(batch, channels_last, input, weight, bias)
    grad_input = kernels.conv2d_grad_input(batch, channels_last, grad_output, weight)
    assert torch.equal(output[2:], kernels.conv2d(sample, channels_last, input[2:], weight, bias))
    assert torch.equal(grad_input[2:], kernels.conv2d_grad_input(sample, channels_last, grad_output[2:], weight))


@pytest.mark.parametrize("channels", [1, 24, 80])
def test_conv2d_grad_bias_of_many_pixels(kernels, channels, dtype, channels_last):
    grad_output = torch.randn(3, channels, 30, 47, dtype=torch.float64).to(dtype)
    expected = grad_output.double().sum((0, 2, 3))
    results = []
    for kernels.seed in SEEDS:
        results.append(kernels.conv2d_grad_bias(channels_last, grad_output))
    check(results[0], expected, grad_output[:, 0].numel())
    assert all(torch.equal(results[0], other) for other in results)


@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_transpose(kernels, element):
    for n, rows, columns in ((2, 70, 129), (3, 64, 9), (1, 1, 65), (1, 1, 1)):
        source, target = (
            torch.randn(n, rows, columns).to(element),
            torch.full((n, columns, rows), torch.nan).to(element),
        )
        extents = [ctypes.c_int64(extent) for extent in (element.itemsize, n, rows, columns)]
        for kernels.seed in SEEDS:
            kernels.call("launch_transpose", *extents, source, target.fill_(torch.nan), None)
            assert torch.equal(target, source.transpose(1, 2))
        (kernels.skipped_barrier,) = kernels.barriers
        kernels.call("launch_transpose", *extents, source, target.fill_(torch.nan), None)
        assert torch.equal(target, source.transpose(1, 2)) == (rows * columns == 1)
        kernels.skipped_barrier = ""


EMPTY_BATCH = Conv(0, 3, 6, 6, 4, 3, 3)


def test_conv2d_parameter_gradients_of_an_empty_batch(kernels, dtype, channels_last):
    (input, _, _, grad_output), _ = conv_operands(EMPTY_BATCH, dtype)
    assert not kernels.conv2d_grad_weight(EMPTY_BATCH, channels_last, grad_output, input).any()
    assert not kernels.conv2d_grad_bias(channels_last, grad_output).any()
