"""The CUDA kernels, run on the CPU: the same source files, each CUDA thread a fiber (cuda_harness/fibers.h).

Every launcher is called as the CUDA entry points call it, and held against torch in float64.
"""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from cuda_harness.kernels import AverageRule, Conv, Kernels, Pool

SEEDS = (0, 1, 2)  # 0: threads in order; others: random warps, each run to its next barrier

TOLERANCE = 4  # errors may be TOLERANCE * eps * sqrt(terms of the longest sum) of the largest value


@pytest.fixture
def kernels():
    return Kernels()


@pytest.fixture(params=[False, True], ids=["contiguous", "channels_last"])
def channels_last(request):
    return request.param


def check(actual, expected, terms=1):
    assert actual.shape == expected.shape
    assert torch.equal(actual.isnan(), expected.isnan())
    actual_values, expected = actual.double().nan_to_num(), expected.double().nan_to_num()
    error = (actual_values - expected).abs().max()
    assert error <= TOLERANCE * torch.finfo(actual.dtype).eps * terms**0.5 * expected.abs().max()


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


EMPTY_BATCH = Conv(0, 3, 6, 6, 4, 3, 3)


def test_conv2d_parameter_gradients_of_an_empty_batch(kernels, dtype, channels_last):
    (input, _, _, grad_output), _ = conv_operands(EMPTY_BATCH, dtype)
    assert not kernels.conv2d_grad_weight(EMPTY_BATCH, channels_last, grad_output, input).any()
    assert not kernels.conv2d_grad_bias(channels_last, grad_output).any()


# ---- Pooling.

POOLS = {
    "alexnet": Pool(2, 3, (13, 11), (6, 5), (3, 3), (2, 2)),
    "padded_uneven": Pool(1, 2, (9, 10), (5, 9), (3, 2), (2, 1), (1, 0)),
    "padded_dilated": Pool(2, 1, (12, 11), (4, 9), (3, 3), (3, 1), (1, 1), (2, 2)),
    "stride_above_kernel": Pool(1, 3, (10, 9), (3, 3), (2, 1), (4, 3)),
    "one_pixel": Pool(1, 1, (1, 1), (1, 1), (1, 1), (1, 1)),
}
CEIL_MODE_POOL = Pool(1, 2, (8, 10), (4, 5), (3, 3), (2, 2))  # the last windows reach past the input
WIDE_POOL = Pool(1, 2, (20, 22), (2, 4), (17, 16), (3, 2))  # more than 256 taps: int32 winners
ADAPTIVE_POOLS = {
    "torch_default": Pool(2, 3, (13, 13), (6, 6), (4, 4)),
    "uneven": Pool(1, 2, (7, 10), (3, 4), (4, 4)),
    "upsampling": Pool(1, 2, (3, 4), (5, 7), (2, 2)),
}


def torch_max_pool2d(pool, input):
    if pool.stride == (0, 0):
        return F.adaptive_max_pool2d(input, pool.output_size, return_indices=True)
    ceil = pool is CEIL_MODE_POOL
    return F.max_pool2d(input, pool.kernel, pool.stride, pool.pad, pool.dilation, ceil, return_indices=True)


def with_ties(shape, dtype):
    """Few distinct values, and some NaN and infinities: what makes a winner hard to choose."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randint(-2, 3, shape, generator=generator).double()
    values[torch.rand(shape, generator=generator) < 0.03] = torch.nan
    values[torch.rand(shape, generator=generator) < 0.1] = -torch.inf
    return values.to(dtype)


MAX_POOLS = {**POOLS, "ceil_mode": CEIL_MODE_POOL, "wide": WIDE_POOL, **ADAPTIVE_POOLS}


@pytest.mark.parametrize("pool", MAX_POOLS.values(), ids=MAX_POOLS.keys())
def test_max_pool2d(kernels, pool, dtype, channels_last):
    input = with_ties(pool.sizes[0], dtype)
    expected, expected_indices = torch_max_pool2d(pool, input)
    output, winners = kernels.max_pool2d(pool, channels_last, input)
    assert torch.equal(output.nan_to_num(), expected.nan_to_num()) and torch.equal(output.isnan(), expected.isnan())
    assert torch.equal(kernels.max_pool2d_indices(pool, channels_last, winners), expected_indices)

    grad_output = torch.randn(pool.sizes[1]).to(dtype)
    leaf = input.double().requires_grad_()
    (grad_input,) = torch.autograd.grad(torch_max_pool2d(pool, leaf)[0], leaf, grad_output.double())
    windows = pool.kernel[0] * pool.kernel[1]
    check(kernels.max_pool2d_grad_input(pool, channels_last, grad_output, winners), grad_input, windows)
    values = torch.randn(pool.sizes[0]).to(dtype)
    selected = values.flatten(2).gather(2, expected_indices.flatten(2)).view(pool.sizes[1])
    assert torch.equal(kernels.max_pool2d_select(pool, channels_last, values, winners), selected)


@pytest.mark.parametrize("pool", [POOLS["padded_dilated"], WIDE_POOL], ids=["uint8", "int32"])
def test_winners_outside_their_windows_touch_nothing(kernels, pool, channels_last):
    beyond = 255 if pool.winner_dtype == torch.uint8 else 2**31 - 1
    winners = torch.full(pool.sizes[1], beyond, dtype=pool.winner_dtype)
    values = torch.randn(pool.sizes[0])
    assert kernels.max_pool2d_select(pool, channels_last, values, winners).isnan().all()
    assert (kernels.max_pool2d_indices(pool, channels_last, winners) == -1).all()
    assert not kernels.max_pool2d_grad_input(pool, channels_last, torch.randn(pool.sizes[1]), winners).any()


def test_a_window_without_input(kernels, channels_last):
    pool = Pool(1, 2, (1, 5), (1, 4), (2, 2), (1, 1), (1, 0), (2, 1))  # its rows are -1 and 1; the input has row 0
    output, winners = kernels.max_pool2d(pool, channels_last, torch.randn(pool.sizes[0]))
    assert (output == -torch.inf).all()
    assert not kernels.max_pool2d_select(pool, channels_last, torch.randn(pool.sizes[0]), winners).any()
    assert not kernels.max_pool2d_grad_input(pool, channels_last, torch.randn(pool.sizes[1]), winners).any()
    expected = F.max_pool2d(torch.randn(pool.sizes[0]), (2, 2), 1, (1, 0), (2, 1), return_indices=True)[1]
    assert torch.equal(kernels.max_pool2d_indices(pool, channels_last, winners), expected)


AVERAGES = {
    **{name: (pool, {}) for name, pool in POOLS.items() if pool.dilation == (1, 1)},
    "without_padding": (POOLS["padded_uneven"], {"count_include_pad": False}),
    "ceil_mode": (CEIL_MODE_POOL, {"ceil_mode": True}),
    "sum": (POOLS["alexnet"], {"divisor_override": 1}),
    **{f"adaptive_{name}": (pool, None) for name, pool in ADAPTIVE_POOLS.items()},
}


@pytest.mark.parametrize(("pool", "options"), AVERAGES.values(), ids=AVERAGES.keys())
def test_avg_pool2d(kernels, pool, options, dtype, channels_last):
    input, grad_output = (torch.randn(shape, dtype=torch.float64).to(dtype) for shape in pool.sizes)
    leaf = input.double().requires_grad_()
    if options is None:
        rule, output = AverageRule(), F.adaptive_avg_pool2d(leaf, pool.output_size)
    else:
        rule = AverageRule(options.get("count_include_pad", True), options.get("divisor_override", 0))
        output = F.avg_pool2d(leaf, pool.kernel, pool.stride, pool.pad, **options)
    (grad_input,) = torch.autograd.grad(output, leaf, grad_output.double())
    taps = pool.kernel[0] * pool.kernel[1]
    check(kernels.avg_pool2d(pool, channels_last, rule, input), output.detach(), taps)
    check(kernels.avg_pool2d_grad_input(pool, channels_last, rule, grad_output), grad_input, taps)


# ---- Sigmoid.


@pytest.mark.parametrize("count", [1, 7, 64, 1003])
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "misaligned"])
def test_sigmoid(kernels, count, offset, dtype):
    special = torch.tensor([0, -0.0, torch.inf, -torch.inf, torch.nan, 1000, -1000])[:count]
    x = torch.cat([special, 3 * torch.randn(count - len(special))]).to(dtype)
    grad = torch.randn(count).to(dtype)
    x, y, grad, grad_x = (torch.cat([t.new_zeros(offset), t])[offset:] for t in (x, x * torch.nan, grad, x * torch.nan))
    kernels.call("launch_sigmoid", dtype, x, y, ctypes.c_int64(count), None)
    check(y, x.double().sigmoid())
    kernels.call("launch_sigmoid_grad_input", dtype, grad, y, grad_x, ctypes.c_int64(count), None)
    check(grad_x, grad.double() * (1 - y.double()) * y.double(), terms=3)
