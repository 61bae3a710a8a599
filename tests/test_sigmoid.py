"""Sigmoid and its gradients."""

import pytest
import torch
from checks import check_op, check_registration, check_values, ops_called, saved_tensors

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


def test_saves_only_its_output(device):
    x = torch.randn(5, 7, device=device, requires_grad=True)
    (saved,) = saved_tensors(lambda: F.sigmoid(x))
    assert saved.data_ptr() != x.data_ptr() and saved.numel() == x.numel()
    assert not saved_tensors(lambda: F.sigmoid(x.detach()))


def test_registration(device):
    called = ops_called(F.sigmoid, [torch.randn(3, 4, dtype=torch.float64, device=device)])
    assert {op.name() for op in called} == {"tmc::sigmoid", "tmc::sigmoid_grad_input"}
    check_registration(called)
