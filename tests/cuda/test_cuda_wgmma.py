"""Convolution by wgmma and TMA, through the CUDA entry points, executed on the CPU (cuda_harness/).

The harness's GPU is a Hopper with 2 multiprocessors (emulated_hopper.h). Few channels keep these tests short; they are
computed so because it is asked for.
"""

import pytest
import torch
from cuda_harness.shapes import Conv
from test_cuda_conv2d import PRECISIONS, algorithms, check, geometry, results
from test_cuda_harness import missed_barriers
from test_cuda_kernels import SEEDS, conv_operands

HALF_AND_TF32 = {name: PRECISIONS[name] for name in ("bfloat16", "float16", "tf32")}

CONVS = {
    "few_pixels": Conv(2, 64, 7, 8, 64, 3, 3, pads=(1, 1, 1, 1)),
    "flat": Conv(3, 16, 13, 14, 64, 3, 2, pads=(1, 1, 1, 0)),
    "middle": Conv(2, 8, 13, 14, 128, 3, 3, pads=(1, 1, 1, 1)),
    "tall": Conv(2, 8, 12, 13, 192, 3, 3, pads=(0, 2, 1, 1)),
    "several_lines": Conv(1, 88, 6, 7, 64, 2, 3, pads=(1, 0, 2, 1)),
    "groups": Conv(2, 128, 5, 6, 128, 3, 3, groups=2),
    "stride_padding_dilation": Conv(2, 24, 9, 11, 64, 3, 2, stride=(2, 1), pads=(1, 0, 2, 1), dilation=(1, 2)),
    "strides": Conv(2, 64, 14, 15, 64, 5, 3, stride=(2, 3), pads=(2, 1, 1, 1)),
    "stride_above_kernel": Conv(1, 64, 9, 10, 64, 2, 1, stride=(3, 4)),
    "padding_above_kernel": Conv(1, 64, 4, 5, 64, 2, 2, pads=(3, 2, 4, 0)),
    "one_pixel": Conv(3, 64, 1, 1, 64, 1, 1),
    "sums_in_parts": Conv(3, 8, 29, 31, 64, 3, 3, pads=(1, 1, 1, 1)),
    "alexnet_first": Conv(2, 3, 31, 35, 64, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2)),
}


@pytest.fixture(autouse=True)
def wanted(monkeypatch):
    monkeypatch.setenv("TMC_CONV2D_ALGORITHM", "wgmma")


@pytest.fixture(params=HALF_AND_TF32.values(), ids=HALF_AND_TF32.keys())
def precision(request):
    return request.param


@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS.keys())
def test_matches_float64(on_cuda, conv, precision):
    dtype, allowed, rounding = precision
    operands, expected = conv_operands(conv, dtype)
    taps = conv.r * conv.s // conv.groups
    terms = conv.c * taps + 1, conv.k * taps, conv.n * conv.p * conv.q
    for actual, exact, count in zip(results(on_cuda, conv, operands, allowed), expected, terms, strict=False):
        check(actual, exact, rounding, count)


def test_contiguous_operands_are_converted(on_cuda, precision):
    dtype, allowed, rounding = precision
    for name in ("few_pixels", "alexnet_first"):
        conv = CONVS[name]
        operands, expected = conv_operands(conv, dtype)
        for actual, exact in zip(results(on_cuda, conv, operands, allowed, False), expected, strict=False):
            check(actual, exact, rounding, 1000)
            assert actual.is_contiguous()


def test_a_batch_in_several_launches(on_cuda):
    conv = Conv(3, 64, 24, 25, 64, 1, 1)
    operands, expected = conv_operands(conv, torch.bfloat16)
    for actual, exact in zip(results(on_cuda, conv, operands, "highest"), expected, strict=False):
        check(actual, exact, 0, conv.n * conv.h * conv.w)


def test_where_it_runs_by_itself(on_cuda, precision, monkeypatch):
    dtype, allowed, _ = precision
    everywhere = ["wgmma", "wgmma", "wgmma" if dtype.itemsize == 2 else "tensor_cores"]
    conv = Conv(2, 128, 9, 9, 192, 3, 3, pads=(1, 1, 1, 1))
    little, flat = Conv(2, 16, 9, 9, 128, 3, 3), Conv(2, 64, 9, 9, 64, 3, 3)
    assert algorithms(on_cuda, conv, dtype, allowed) == everywhere
    assert algorithms(on_cuda, little, dtype, allowed)[0] == "wgmma"
    assert algorithms(on_cuda, flat, dtype, allowed) == everywhere
    monkeypatch.delenv("TMC_CONV2D_ALGORITHM")
    for n in (1, 100):
        assert algorithms(on_cuda, Conv(**{**vars(conv), "n": n}), dtype, allowed) == everywhere
        assert algorithms(on_cuda, Conv(**{**vars(conv), "n": n, "k": 72}), dtype, allowed)[0] == "tensor_cores"
    assert algorithms(on_cuda, little, dtype, allowed)[0] == "tensor_cores"
    assert algorithms(on_cuda, flat, dtype, allowed) == ["tensor_cores"] * 3
    assert algorithms(on_cuda, Conv(2, 3, 31, 35, 128, 11, 11, stride=(4, 4)), dtype, allowed)[0] == "wgmma"
    assert algorithms(on_cuda, conv, torch.float32, "highest") == ["tensor_cores"] * 3
    for wide in (
        Conv(1, 64, 300, 9, 128, 1, 1, stride=(9, 1)),
        Conv(1, 64, 9, 9, 128, 3, 3, pads=(129, 0, 0, 0)),
        Conv(1, 64, 300, 9, 128, 3, 1, dilation=(128, 1)),
        Conv(1, 64, 300, 9, 128, 140, 1),
        Conv(1, 96, 9, 9, 256, 3, 3, groups=2),
    ):
        assert algorithms(on_cuda, wide, dtype, allowed)[0] == "tensor_cores"
    for capability in ("8", "10", "12"):
        monkeypatch.setenv("TMC_HARNESS_CAPABILITY", capability)
        assert algorithms(on_cuda, conv, dtype, allowed) == ["tensor_cores"] * 3


@pytest.mark.parametrize("forced", ["tensor_cores", "implicit_gemm"])
def test_another_algorithm_can_be_forced(on_cuda, forced, monkeypatch):
    conv = CONVS["few_pixels"]
    monkeypatch.setenv("TMC_CONV2D_ALGORITHM", forced)
    assert algorithms(on_cuda, conv, torch.bfloat16) == [forced] * 3
    operands, expected = conv_operands(conv, torch.bfloat16)
    for actual, exact in zip(results(on_cuda, conv, operands, "highest"), expected, strict=False):
        check(actual, exact, 0, 1000)


@pytest.mark.parametrize("name", ["tall", "sums_in_parts", "groups"])
def test_bits_do_not_depend_on_the_order_of_threads(on_cuda, kernels, name, precision):
    dtype, allowed, _ = precision
    operands, _ = conv_operands(CONVS[name], dtype)
    every = []
    for kernels.seed in SEEDS:
        every.append(results(on_cuda, CONVS[name], operands, allowed))
    for other in every[1:]:
        assert all(torch.equal(a, b) for a, b in zip(every[0], other, strict=True))


@pytest.mark.parametrize("filters", [64, 128, 192])
def test_bits_do_not_depend_on_the_batch(on_cuda, precision, filters):
    """Nor on the block: a sample alone is computed by the smallest one."""
    dtype, allowed, _ = precision
    batch = Conv(4, 64, 11, 12, filters, 3, 2, pads=(1, 1, 1, 0))
    operands, _ = conv_operands(batch, dtype)
    output, grad_input, _ = results(on_cuda, batch, operands, allowed)
    input, weight, bias, grad_output = operands
    alone = results(on_cuda, batch, (input[3:], weight, bias, grad_output[3:]), allowed)
    assert torch.equal(output[3:], alone[0]) and torch.equal(grad_input[3:], alone[1])


def test_what_is_not_finite_stays_where_it_belongs(on_cuda):
    """Zeros beyond an image, a tap's channels or the last pixel meet zeros, never a NaN of somewhere else."""
    conv = Conv(2, 72, 7, 9, 64, 3, 3, pads=(1, 1, 1, 1))
    (input, weight, bias, grad_output), _ = conv_operands(conv, torch.bfloat16)
    input[0, 2, 1, 1], input[1, 70, 6, 8], grad_output[1, 3, 6, 8] = torch.inf, torch.nan, torch.inf
    rest = geometry(conv, "highest")
    exact = torch.nn.functional.conv2d(input.double(), weight.double(), bias.double(), padding=1)
    actual = on_cuda.conv2d(input, weight, bias, *rest)
    assert torch.equal(actual.isnan(), exact.isnan()) and torch.equal(actual.isfinite(), exact.isfinite())
    assert exact.isnan().any() and exact.isinf().any()
    exact = torch.nn.grad.conv2d_weight(input.double(), weight.shape, grad_output.double(), padding=1)
    actual = on_cuda.conv2d_grad_weight(grad_output, input, [3, 3], *rest)
    assert torch.equal(actual.isfinite(), exact.isfinite()) and actual.isfinite().any()


def test_an_empty_batch(on_cuda, precision):
    dtype, allowed, _ = precision
    for conv in (CONVS["few_pixels"], CONVS["alexnet_first"]):
        input, weight, bias, grad_output = conv_operands(conv, dtype)[0]
        output, grad_input, grad_weight = results(on_cuda, conv, (input[:0], weight, bias, grad_output[:0]), allowed)
        assert output.shape[0] == grad_input.shape[0] == 0
        assert grad_weight.shape == weight.shape and not grad_weight.any()


def test_every_missing_wait_and_wrong_parity_is_caught(on_cuda, kernels):
    """Leaves out each barrier, arrival and wait in turn, and waits for the wrong phase: some launch must go wrong."""
    launches = []
    for conv in (Conv(2, 24, 12, 13, 192, 3, 3, pads=(1, 1, 1, 1)), Conv(2, 72, 20, 20, 64, 3, 3, pads=(1, 1, 1, 1))):
        (input, weight, bias, grad_output), (output, _, grad_weight, _) = conv_operands(conv, torch.bfloat16)
        rest = geometry(conv, "highest")
        launches.append((lambda a=(input, weight, bias), r=rest: on_cuda.conv2d(*a, *r), output))
        sizes = grad_output, input, [conv.r, conv.s]
        launches.append((lambda a=sizes, r=rest: on_cuda.conv2d_grad_weight(*a, *r), grad_weight))
    places = set()
    for launch, expected in launches:
        check(launch(), expected, 0, 900)
        places |= {place for place in kernels.barriers if "wgmma" in place}
    assert len(places) == 15
    assert not missed_barriers(kernels, sorted(places), launches)
