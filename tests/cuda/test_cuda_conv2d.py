"""Convolution on tensor cores, through the CUDA entry points, executed on the CPU (cuda_harness/).

The harness's GPU has 2 multiprocessors and 32-bit indices that end at 50 000 (emulated_tensor_cores.h), so that these
shapes reach every size of blocks, sums in parts and several launches for one batch.
"""

import pytest
import torch
from cuda_harness.kernels import dense
from cuda_harness.shapes import Conv
from test_cuda_harness import missed_barriers
from test_cuda_kernels import SEEDS, conv_operands

# name: dtype, what float32 is allowed, relative error of an operand's rounding
PRECISIONS = {
    "bfloat16": (torch.bfloat16, "highest", 0),
    "float16": (torch.float16, "highest", 0),
    "float32": (torch.float32, "highest", 2**-24),
    "tf32": (torch.float32, "high", 2**-11),
}

CONVS = {
    "wide": Conv(2, 16, 13, 14, 72, 3, 3, pads=(1, 1, 1, 1)),
    "long": Conv(1, 32, 11, 12, 152, 3, 3, pads=(1, 1, 1, 1)),
    "deep": Conv(1, 96, 6, 7, 24, 3, 3, pads=(0, 2, 1, 1)),
    "groups": Conv(2, 48, 6, 7, 32, 3, 3, groups=2),
    "stride_padding_dilation": Conv(1, 24, 9, 11, 16, 3, 2, stride=(2, 1), pads=(1, 0, 2, 1), dilation=(1, 2)),
    "strides": Conv(2, 16, 14, 15, 24, 5, 3, stride=(2, 3), pads=(2, 1, 1, 1)),
    "stride_above_kernel": Conv(1, 16, 9, 10, 16, 2, 1, stride=(3, 4)),
    "padding_above_kernel": Conv(1, 8, 4, 5, 8, 2, 2, pads=(3, 2, 4, 0)),
    "one_tap": Conv(1, 64, 5, 6, 24, 1, 1),
    "one_pixel": Conv(3, 8, 1, 1, 8, 1, 1),
    "sums_in_parts": Conv(3, 8, 29, 31, 16, 3, 3, stride=(1, 1), pads=(1, 1, 1, 1)),
    "many_launches": Conv(5, 8, 40, 41, 16, 1, 1),
    "three_channels": Conv(2, 3, 12, 13, 16, 3, 3, pads=(1, 1, 1, 1)),
    "five_channels_stride": Conv(1, 5, 14, 13, 8, 3, 3, stride=(2, 2), pads=(1, 0, 1, 2)),
    "five_channels_dilation": Conv(1, 5, 14, 13, 8, 3, 3, stride=(2, 1), pads=(2, 2, 2, 2), dilation=(1, 2)),
    "alexnet_first": Conv(2, 3, 31, 35, 16, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2)),
}


@pytest.fixture(params=PRECISIONS.values(), ids=PRECISIONS.keys())
def precision(request):
    return request.param


def geometry(conv, allowed):
    return [*conv.stride, *conv.dilation, *conv.pads], conv.groups, allowed


def results(on_cuda, conv, operands, allowed, channels_last=True):
    """Output, grad_input, grad_weight."""
    input, weight, bias, grad_output = (dense(x, channels_last) if x.dim() == 4 else x for x in operands)
    rest = geometry(conv, allowed)
    return (
        on_cuda.conv2d(input, weight, bias, *rest),
        on_cuda.conv2d_grad_input(grad_output, weight, [conv.h, conv.w], *rest),
        on_cuda.conv2d_grad_weight(grad_output, input, [conv.r, conv.s], *rest),
    )


def check(actual, expected, rounding, terms):
    """Products of rounded operands, summed in float32, are rounded to the result's dtype once."""
    bound = torch.finfo(actual.dtype).eps / 2 * expected.abs()
    bound += 4 * (2 * rounding + 2**-24) * terms**0.5 * expected.abs().max()
    assert actual.shape == expected.shape
    assert ((actual.double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS.keys())
def test_matches_float64(on_cuda, conv, precision, channels_last):
    dtype, allowed, rounding = precision
    operands, expected = conv_operands(conv, dtype)
    taps = conv.r * conv.s // conv.groups
    terms = conv.c * taps + 1, conv.k * taps, conv.n * conv.p * conv.q
    for actual, exact, count in zip(
        results(on_cuda, conv, operands, allowed, channels_last), expected, terms, strict=False
    ):
        check(actual, exact, rounding, count)


def test_the_shapes_reach_every_block(kernels):
    def block(rows, columns):
        extents = torch.zeros(2, dtype=torch.int64)
        kernels.call("selftest_block_of", rows, columns, extents)
        return tuple(extents.tolist())

    wide, tall, small = (256, 128), (256, 64), (128, 64)
    outputs = {name: block(conv.n * conv.p * conv.q, conv.k) for name, conv in CONVS.items()}
    assert outputs["wide"] == wide and outputs["long"] == tall and outputs["deep"] == small
    batch, alone = (block(n * 13 * 14, 72) for n in (2, 1))  # test_bits_do_not_depend_on_the_batch
    assert batch != alone


def algorithms(on_cuda, conv, dtype, allowed="highest"):
    input, weight = (torch.empty(shape, dtype=dtype) for shape in conv.sizes[:2])
    lines = on_cuda.conv2d_algorithms(input, weight, *geometry(conv, allowed)).splitlines()
    return [line.split(": ")[1] for line in lines]


def test_which_algorithm_runs(on_cuda, precision, monkeypatch):
    dtype, allowed, _ = precision
    everywhere, nowhere = ["tensor_cores"] * 3, ["implicit_gemm"] * 3
    for name, conv in CONVS.items():
        expected = everywhere if conv.c % 8 == 0 else ["tensor_cores", "implicit_gemm", "tensor_cores"]
        assert algorithms(on_cuda, conv, dtype, allowed) == expected, name
        assert algorithms(on_cuda, Conv(**{**vars(conv), "n": 100}), dtype, allowed) == expected, name
    assert algorithms(on_cuda, CONVS["groups"], torch.float64) == nowhere
    for conv in (Conv(1, 8, 6, 6, 10, 3, 3), Conv(1, 16, 6, 6, 16, 3, 3, groups=16), Conv(1, 8, 70000, 1, 8, 1, 1)):
        assert algorithms(on_cuda, conv, dtype, allowed) == nowhere
    both = Conv(1, 8, 9, 9, 8, 3, 3, stride=(2, 1), dilation=(2, 1))
    assert algorithms(on_cuda, both, dtype, allowed) == ["tensor_cores", "implicit_gemm", "tensor_cores"]
    monkeypatch.setenv("TMC_HARNESS_CAPABILITY", "7")
    assert algorithms(on_cuda, CONVS["groups"], dtype, allowed) == nowhere


def test_copies_into_another_layout_are_named(on_cuda):
    conv = CONVS["groups"]
    for channels_last in (False, True):
        input, weight = (dense(torch.empty(shape), channels_last) for shape in conv.sizes[:2])
        lines = on_cuda.conv2d_algorithms(input, weight, *geometry(conv, "highest")).splitlines()
        assert len(lines) == 3 and all(("copied to channels_last" in line) != channels_last for line in lines)


@pytest.mark.parametrize("name", ["wide", "long", "sums_in_parts", "alexnet_first"])
def test_bits_do_not_depend_on_the_order_of_threads(on_cuda, kernels, name, precision):
    dtype, allowed, _ = precision
    operands, _ = conv_operands(CONVS[name], dtype)
    every = []
    for kernels.seed in SEEDS:
        every.append(results(on_cuda, CONVS[name], operands, allowed))
    for other in every[1:]:
        assert all(torch.equal(a, b) for a, b in zip(every[0], other, strict=True))


def test_bits_do_not_depend_on_the_batch(on_cuda, precision):
    """Nor on the block: a sample alone is computed by others."""
    dtype, allowed, _ = precision
    batch = Conv(2, 72, 13, 14, 72, 3, 3, pads=(1, 1, 1, 1))
    operands, _ = conv_operands(batch, dtype)
    output, grad_input, _ = results(on_cuda, batch, operands, allowed)
    input, weight, bias, grad_output = operands
    alone = results(on_cuda, batch, (input[1:], weight, bias, grad_output[1:]), allowed)
    assert torch.equal(output[1:], alone[0]) and torch.equal(grad_input[1:], alone[1])


def test_what_is_not_finite_comes_out_as_of_float32(on_cuda):
    conv = Conv(2, 8, 7, 9, 16, 3, 3, pads=(1, 1, 1, 1))
    (input, weight, bias, _), _ = conv_operands(conv, torch.float32)
    input[0, 2, 1, 1], input[0, 3, 5, 1], input[0, 5, 3, 7] = torch.inf, -torch.inf, torch.nan
    input[1, 1, 1, 1], input[1, 4, 4, 4], input[1, 4, 4, 6] = torch.inf, torch.inf, 3.4028234e38
    weight[3, 1, 0, 0], weight[4, 1, 1, 1], weight[5] = torch.inf, 0, 0.25
    weight[:, 4] *= 2**-8  # so that the largest float stays finite
    exact = torch.nn.functional.conv2d(input.double(), weight.double(), bias.double(), padding=1)
    actual = on_cuda.conv2d(input, weight, bias, *geometry(conv, "highest"))
    assert torch.equal(actual.isnan(), exact.isnan())
    assert torch.equal(actual.isposinf(), exact.isposinf()) and torch.equal(actual.isneginf(), exact.isneginf())
    assert exact.isnan().any() and exact.isposinf().any() and exact.isneginf().any()
    finite = exact.isfinite()
    assert ((actual - exact)[finite].abs() <= 1e-6 * exact[finite].abs().clamp(min=10)).all()


def test_operands_that_begin_anywhere(on_cuda):
    conv = CONVS["groups"]
    operands, expected = conv_operands(conv, torch.bfloat16)

    def shifted(x):
        flat = torch.cat([x.new_zeros(1), dense(x, x.dim() == 4).permute(0, 2, 3, 1).flatten()])[1:]
        n, c, h, w = x.shape
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)

    moved = [shifted(x) if x.dim() == 4 else x for x in operands]
    assert all(x.data_ptr() % 16 for x in moved if x.dim() == 4)
    for actual, exact in zip(results(on_cuda, conv, moved, "highest"), expected, strict=False):
        check(actual, exact, 0, 400)


def test_an_empty_batch(on_cuda, precision):
    dtype, allowed, _ = precision
    for conv in (CONVS["groups"], CONVS["alexnet_first"]):
        input, weight, bias, grad_output = conv_operands(conv, dtype)[0]
        output, grad_input, grad_weight = results(on_cuda, conv, (input[:0], weight, bias, grad_output[:0]), allowed)
        assert output.shape[0] == grad_input.shape[0] == 0
        assert grad_weight.shape == weight.shape and not grad_weight.any()


def test_every_missing_barrier_or_wait_is_caught(on_cuda, kernels):
    """Leaves out each in turn: some launch must then go wrong. 9 tiles of depth: the last one lies where results go."""
    wide, narrow = Conv(1, 32, 17, 16, 72, 3, 3, pads=(1, 1, 1, 1)), Conv(1, 32, 9, 7, 16, 3, 3)
    launches = []
    for conv in (wide, narrow):
        (input, weight, bias, grad_output), (output, _, grad_weight, _) = conv_operands(conv, torch.bfloat16)
        rest = geometry(conv, "highest")
        launches.append((lambda a=(input, weight, bias), r=rest: on_cuda.conv2d(*a, *r), output))
        sizes = grad_output, input, [conv.r, conv.s]
        launches.append((lambda a=sizes, r=rest: on_cuda.conv2d_grad_weight(*a, *r), grad_weight))
    places = set()
    for launch, expected in launches:
        check(launch(), expected, 0, 300)
        places |= kernels.barriers
    assert len(places) == 7  # one of them where contiguous tensors are transposed
    assert not missed_barriers(kernels, sorted(places), launches)
