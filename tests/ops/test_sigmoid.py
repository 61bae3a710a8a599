"""Sigmoid and its gradients."""

import pytest
import torch
from checks import check_op, check_registration, check_values, ops_called, saved_tensors
from comparisons import close, describe_worst, same_values

import torch_manual_conv.functional as F

SHAPES = {
    "prime": (3, 2, 5, 7),
    "longer-than-a-vector": (2, 131),
    "one": (1,),
    "scalar": (),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_matches_torch(shape, dtype, device):
    x = torch.randn(shape, dtype=torch.float64)
    check_op(F.sigmoid, torch.sigmoid, x, dtype=dtype, device=device, batched=len(shape) > 1)


def test_tails(dtype, device):
    """Large and special values: 0 and 1 are reached without overflow, NaN stays NaN."""
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([-inf, -1e4, -100, -30, -10, 0, 1e-30, 10, 30, 100, 1e4, inf, nan], dtype=torch.float64)
    check_values(F.sigmoid, torch.sigmoid, [x.to(device, dtype)], trusted=False)


def check_units(x, limit):
    """sigmoid(x) is less than `limit` units of the exact result's last place off, and NaN where x is."""
    exact = torch.sigmoid(x.double())
    info = torch.finfo(x.dtype)
    unit = torch.exp2(torch.floor(torch.log2(exact))) * info.eps
    mine = F.sigmoid(x)
    errors = ((mine - exact).abs() / unit.clamp(min=info.smallest_normal * info.eps)).where(~x.isnan(), 0)
    assert errors.max() < limit, (
        f"{describe_worst('sigmoid', mine, exact, errors)}; {errors.max()} units, limit {limit}"
    )
    same_values(mine.isnan(), x.isnan(), "sigmoid: where it is NaN")


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_every_half_is_rounded_to_nearest(half):
    """All 65536 of them. Half a unit would be perfect; eq. 31 leaves 2^-18.5 of the value, a hundredth of a unit."""
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(half)
    check_units(x, 0.51)


def test_float_within_two_units():
    """Of every exponent and sign, values at a prime distance: down to subnormal results, up to infinity."""
    x = torch.arange(-(1 << 31), 1 << 31, 5003).to(torch.int32).view(torch.float32)
    check_units(x, 1.7)


@pytest.mark.parametrize("size", [1 << 20, (2 << 20) + 4099], ids=["small", "large"])
def test_same_bits_for_any_threads_and_place(dtype, size):
    """An element's bits come from itself: not from a thread's share, nor from the way that its result is written."""
    few = torch.randn(4099, generator=torch.manual_seed(0)).to(dtype)
    many, grad = few.repeat(-(-size // 4099))[:size], few.flip(0).repeat(-(-size // 4099))[:size]
    y, grad_few = F.sigmoid(few), torch.ops.tmc.sigmoid_grad_input(few.flip(0), F.sigmoid(few))
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            outputs = F.sigmoid(many)
            same_values(outputs, y.repeat(-(-size // 4099))[:size], f"sigmoid, {threads} threads")
            grads = torch.ops.tmc.sigmoid_grad_input(grad, outputs)
            same_values(grads, grad_few.repeat(-(-size // 4099))[:size], f"gradient, {threads} threads")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("integers", [torch.bool, torch.uint8, torch.int16, torch.int64])
def test_integers_become_floating(integers, device):
    x = torch.tensor([0, 1, 5], device=device).to(integers)
    close(F.sigmoid(x), torch.sigmoid(x), "sigmoid")


def test_saves_only_its_output(device):
    x = torch.randn(5, 7, device=device, requires_grad=True)
    (saved,) = saved_tensors(lambda: F.sigmoid(x))
    assert saved.data_ptr() != x.data_ptr() and saved.numel() == x.numel()
    assert not saved_tensors(lambda: F.sigmoid(x.detach()))


def test_registration(device):
    called = ops_called(F.sigmoid, [torch.randn(3, 4, dtype=torch.float64, device=device)])
    assert {op.name() for op in called} == {"tmc::sigmoid", "tmc::sigmoid_grad_input"}
    check_registration(called)
