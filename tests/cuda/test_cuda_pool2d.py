"""The pooling kernels for CUDA, run on the CPU (cuda_harness/), held against torch in float64.

The layouts of a problem take the ways through the kernels: a thread computes a vector of 16 bytes in channels_last, the
same place of four planes in contiguous tensors, and one value where the channels do not divide.
"""

import ctypes
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cuda_harness.kernels import WidePools
from cuda_harness.shapes import AverageRule, Pool
from test_cuda_kernels import SEEDS, check

LAYOUTS = {
    "contiguous": (False, None),
    "channels_last": (True, None),
    "vectors": (True, 16),
    "planes": (False, 4),
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request):
    """(channels_last, number of channels or None for the problem's own)"""
    return request.param


def laid_out(pool, layout):
    channels_last, channels = layout
    return channels_last, pool if channels is None else replace(pool, c=channels)


POOLS = {
    "alexnet": Pool(2, 3, (13, 11), (6, 5), (3, 3), (2, 2)),
    "padded_uneven": Pool(1, 2, (9, 10), (5, 9), (3, 2), (2, 1), (1, 0)),
    "padded_dilated": Pool(2, 1, (12, 11), (4, 9), (3, 3), (3, 1), (1, 1), (2, 2)),
    "stride_above_kernel": Pool(1, 3, (10, 9), (3, 3), (2, 1), (4, 3)),
    "one_pixel": Pool(1, 1, (1, 1), (1, 1), (1, 1), (1, 1)),
    "overlapping_padded": Pool(2, 3, (12, 9), (6, 5), (3, 3), (2, 2), (1, 1)),
    "tiling": Pool(1, 3, (9, 8), (4, 4), (2, 2), (2, 2)),
    "tiling_padded": Pool(2, 2, (7, 6), (4, 4), (2, 2), (2, 2), (1, 1)),
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
    ceil_mode = pool.input_size == CEIL_MODE_POOL.input_size
    return F.max_pool2d(input, pool.kernel, pool.stride, pool.pad, pool.dilation, ceil_mode, return_indices=True)


def with_ties(shape, dtype):
    """Few distinct values, and some NaN and infinities: what makes a winner hard to choose."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randint(-2, 3, shape, generator=generator).double()
    values[torch.rand(shape, generator=generator) < 0.03] = torch.nan
    values[torch.rand(shape, generator=generator) < 0.1] = -torch.inf
    return values.to(dtype)


MAX_POOLS = {**POOLS, "ceil_mode": CEIL_MODE_POOL, "wide": WIDE_POOL, **ADAPTIVE_POOLS}


@pytest.mark.parametrize("pool", MAX_POOLS.values(), ids=MAX_POOLS.keys())
def test_max_pool2d(kernels, pool, dtype, layout):
    check_max_pool2d(kernels, *laid_out(pool, layout), dtype)


def check_max_pool2d(kernels, channels_last, pool, dtype):
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


OUTSIDE = {"any_window": POOLS["padded_dilated"], "fixed_window": POOLS["overlapping_padded"], "int32": WIDE_POOL}


@pytest.mark.parametrize("pool", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_winners_outside_their_windows_touch_nothing(kernels, pool, layout):
    channels_last, pool = laid_out(pool, layout)
    beyond = 255 if pool.winner_dtype == torch.uint8 else 2**31 - 1
    winners = torch.full(pool.sizes[1], beyond, dtype=pool.winner_dtype)
    values = torch.randn(pool.sizes[0])
    assert kernels.max_pool2d_select(pool, channels_last, values, winners).isnan().all()
    assert (kernels.max_pool2d_indices(pool, channels_last, winners) == -1).all()
    assert not kernels.max_pool2d_grad_input(pool, channels_last, torch.randn(pool.sizes[1]), winners).any()


def test_a_window_without_input(kernels, layout):
    # The rows of its windows are -1 and 1; the input has row 0.
    channels_last, pool = laid_out(Pool(1, 2, (1, 5), (1, 4), (2, 2), (1, 1), (1, 0), (2, 1)), layout)
    output, winners = kernels.max_pool2d(pool, channels_last, torch.randn(pool.sizes[0]))
    assert (output == -torch.inf).all()
    assert not kernels.max_pool2d_select(pool, channels_last, torch.randn(pool.sizes[0]), winners).any()
    assert not kernels.max_pool2d_grad_input(pool, channels_last, torch.randn(pool.sizes[1]), winners).any()
    expected = F.max_pool2d(torch.randn(pool.sizes[0]), (2, 2), 1, (1, 0), (2, 1), return_indices=True)[1]
    assert torch.equal(kernels.max_pool2d_indices(pool, channels_last, winners), expected)


AVERAGES = {
    **{name: (pool, {}) for name, pool in POOLS.items() if pool.dilation == (1, 1)},
    "without_padding": (POOLS["padded_uneven"], {"count_include_pad": False}),
    "overlapping_without_padding": (POOLS["overlapping_padded"], {"count_include_pad": False}),
    "ceil_mode": (CEIL_MODE_POOL, {"ceil_mode": True}),
    "sum": (POOLS["alexnet"], {"divisor_override": 1}),
    **{f"adaptive_{name}": (pool, None) for name, pool in ADAPTIVE_POOLS.items()},
}


@pytest.mark.parametrize(("pool", "options"), AVERAGES.values(), ids=AVERAGES.keys())
def test_avg_pool2d(kernels, pool, options, dtype, layout):
    check_avg_pool2d(kernels, *laid_out(pool, layout), options, dtype)


def check_avg_pool2d(kernels, channels_last, pool, options, dtype):
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


# ---- Which way a problem takes.


def test_what_a_thread_computes(kernels, dtype):
    """A vector of channels where tensors are aligned, four planes, or one value; of 2 x 2 pixels in a gradient."""
    pool = Pool(1, 256, (9, 9), (4, 4), (3, 3), (2, 2))

    def blocks(channels_last, pool, shift=0):
        input, grad_output = (shifted(torch.randn(size).to(dtype), channels_last, shift) for size in pool.sizes)
        _, winners = kernels.max_pool2d(pool, channels_last, input)
        forward = kernels.blocks
        kernels.max_pool2d_grad_input(pool, channels_last, grad_output, winners)
        return forward, kernels.blocks

    def expected(pool, lanes):
        tiles = 9 * 9 if lanes == 1 else 5 * 5
        return tuple(-(-pool.c * pixels // lanes // 256) for pixels in (4 * 4, tiles))

    assert blocks(True, pool) == expected(pool, 16 // dtype.itemsize)
    assert blocks(False, pool) == blocks(False, pool, shift=1) == expected(pool, 4)
    odd = replace(pool, c=255)
    assert blocks(True, pool, shift=1) == expected(pool, 1)
    assert blocks(True, odd) == blocks(False, odd) == expected(odd, 1)


def shifted(tensor, channels_last, shift):
    """A copy in the layout, `shift` elements after an aligned address."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    strides = tensor.contiguous(memory_format=form).stride()
    copy = torch.empty(tensor.numel() + shift, dtype=tensor.dtype)[shift:].as_strided(tensor.shape, strides, shift)
    return copy.copy_(tensor)


@pytest.mark.parametrize("shift", [1, 3])
def test_tensors_that_are_not_aligned(kernels, dtype, shift):
    pool = Pool(2, 16, (7, 8), (3, 3), (3, 3), (2, 2))
    input, grad_output = with_ties(pool.sizes[0], dtype), torch.randn(pool.sizes[1]).to(dtype)
    output, winners = kernels.max_pool2d(pool, True, input)
    grad_input = kernels.max_pool2d_grad_input(pool, True, grad_output, winners)
    same, same_winners = kernels.max_pool2d(pool, True, shifted(input, True, shift))
    assert torch.equal(same.nan_to_num(), output.nan_to_num()) and torch.equal(same_winners, winners)
    operands = shifted(grad_output, True, shift), shifted(winners, True, shift)
    assert torch.equal(kernels.max_pool2d_grad_input(pool, True, *operands), grad_input)


WIDE = {"fixed_window": POOLS["overlapping_padded"], "int32": WIDE_POOL, "adaptive": ADAPTIVE_POOLS["uneven"]}


@pytest.mark.parametrize("pool", WIDE.values(), ids=WIDE.keys())
def test_what_does_not_fit_32_bits(pool, dtype, layout):
    kernels = WidePools()
    channels_last, pool = laid_out(pool, layout)
    check_max_pool2d(kernels, channels_last, pool, dtype)
    kernels.max_pool2d(pool, channels_last, torch.randn(pool.sizes[0]).to(dtype))
    outputs = pool.n * pool.c * pool.output_size[0] * pool.output_size[1]
    assert kernels.blocks == -(-outputs // 256)  # one value a thread
    check_avg_pool2d(kernels, channels_last, pool, None if pool.stride == (0, 0) else {}, dtype)


def test_bits_depend_neither_on_the_order_of_threads_nor_on_the_batch(kernels, layout):
    channels_last, pool = laid_out(Pool(3, 3, (9, 8), (4, 4), (3, 3), (2, 2), (0, 1)), layout)
    input, grad_output = (torch.randn(size) for size in pool.sizes)

    def results(pool, samples):
        operands = input[samples], grad_output[samples]
        output, winners = kernels.max_pool2d(pool, channels_last, operands[0])
        yield from (output, winners, kernels.max_pool2d_grad_input(pool, channels_last, operands[1], winners))
        yield kernels.avg_pool2d(pool, channels_last, AverageRule(True), operands[0])
        yield kernels.avg_pool2d_grad_input(pool, channels_last, AverageRule(True), operands[1])

    first = list(results(pool, slice(None)))
    for kernels.seed in SEEDS:
        assert all(map(torch.equal, first, results(pool, slice(None))))
        assert all(map(torch.equal, [t[2:] for t in first], results(replace(pool, n=1), slice(2, 3))))


def test_division(kernels):
    generator = torch.Generator().manual_seed(3)
    largest = 2**31 - 1
    divisors = [1, 2, 3, 5, 7, 8, 27, 55, 64, 641, 3025, 65535, 65536, 65537, 2**30 - 1, 2**30, 2**30 + 1, largest]
    divisors += (2 ** (31 * torch.rand(50, generator=generator, dtype=torch.float64))).long().tolist()
    for d in divisors:
        multiples = d * torch.randint(0, largest // d + 1, (100,), generator=generator)
        n = torch.cat([multiples - 1, multiples, multiples + 1, torch.tensor([0, 1, d - 1, d, largest - 1, largest])])
        n = n.clamp(0, largest)
        results = torch.zeros(3 * len(n), dtype=torch.int32)
        kernels.call("selftest_divide", ctypes.c_int64(d), n.int(), results, ctypes.c_int64(len(n)))
        assert torch.equal(results.long(), torch.cat([n // d, n % d, -(-n // d)])), d
