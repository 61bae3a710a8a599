"""Adaptive pooling: windows that tile the input, however the sizes divide."""

import pytest
import torch
import torch.nn.functional as torch_F
from checks import check_op, check_registration, check_values, ops_called, saved_tensors
from test_pool2d import distinct

import torch_manual_conv.functional as F

# name: input shape, output_size
CASES = {
    "divides": ((2, 3, 6, 8), (3, 4)),
    "does-not-divide": ((2, 2, 7, 11), (3, 4)),
    "global": ((2, 3, 5, 7), 1),
    "identity": ((2, 2, 4, 5), (4, 5)),
    "larger-than-input": ((1, 2, 3, 4), (5, 7)),
    "larger-and-smaller": ((1, 2, 3, 9), (7, 2)),
    "none-keeps-extent": ((2, 2, 5, 6), (None, 4)),
    "alexnet": ((1, 3, 13, 13), 6),
    "one-pixel": ((2, 3, 1, 1), 1),
    "one-row-becomes-many": ((3, 8, 1, 3), (3, 2)),
    "many-channels": ((1, 37, 5, 4), (2, 3)),
    "global-longer-than-vectors": ((3, 7, 9, 15), 1),
    "global-many-planes": ((2, 21, 3, 3), 1),
    "one-size-long-rows": ((1, 2, 4, 56), (2, 28)),
    "window-over-256-taps": ((1, 2, 17, 18), 1),
}
TERMS = 400  # the largest window above


@pytest.mark.parametrize("shape, output_size", CASES.values(), ids=CASES)
def test_max_matches_torch(shape, output_size, dtype, device):
    check_op(
        lambda x: F.adaptive_max_pool2d(x, output_size, return_indices=True),
        lambda x: torch_F.adaptive_max_pool2d(x, output_size, return_indices=True),
        distinct(shape), terms=TERMS, dtype=dtype, device=device,
    )  # fmt: skip


@pytest.mark.parametrize("shape, output_size", CASES.values(), ids=CASES)
def test_avg_matches_torch(shape, output_size, dtype, device):
    check_op(
        lambda x: F.adaptive_avg_pool2d(x, output_size),
        lambda x: torch_F.adaptive_avg_pool2d(x, output_size),
        torch.randn(shape, dtype=torch.float64), terms=TERMS, dtype=dtype, device=device,
    )  # fmt: skip


def test_max_nan_and_infinity(dtype, device):
    image = torch.tensor([[1, torch.nan, 2, 2], [-torch.inf] * 4, [torch.nan, torch.inf, torch.inf, 0]])
    check_values(
        lambda x: F.adaptive_max_pool2d(x, (2, 3), return_indices=True),
        lambda x: torch_F.adaptive_max_pool2d(x, (2, 3), return_indices=True),
        [image.expand(2, 3, 3, 4).to(device, dtype)], trusted=False,
    )  # fmt: skip


def test_global_max_nan_ties_and_infinity(dtype, device):
    """The winner of a whole plane, wherever it stands: the first maximum, or the last NaN."""
    inf, nan = torch.inf, torch.nan
    planes = torch.zeros(9, 7, 20, dtype=torch.float64)
    planes[1], planes[2, 5, 3], planes[3, 6, 19] = -inf, inf, 1
    planes[4, 2, 7], planes[4, 2, 8], planes[4, 0, 0] = nan, nan, inf
    planes[5, 6, 19], planes[5, 0, 0] = nan, nan
    planes[6, 3, 4], planes[6, 3, 3], planes[6, 4, 0] = 2, 2, 2
    planes[7] = -inf
    planes[7, 6, 18] = -1
    planes[8] = nan
    check_values(
        lambda x: F.adaptive_max_pool2d(x, 1, return_indices=True),
        lambda x: torch_F.adaptive_max_pool2d(x, 1, return_indices=True),
        [planes[None].to(device, dtype)], trusted=False,
    )  # fmt: skip


def test_registration(device):
    x = distinct((2, 3, 7, 6)).to(device)
    called = ops_called(lambda x: F.adaptive_max_pool2d(x, (3, 4), return_indices=True), [x])
    called |= ops_called(lambda x: F.adaptive_avg_pool2d(x, (3, 4)), [x])
    assert len(called) == 6
    check_registration(called)


def test_saves(device):
    x = torch.randn(2, 3, 8, 8, device=device, requires_grad=True)
    (winners,) = saved_tensors(lambda: F.adaptive_max_pool2d(x, 3))
    assert winners.dtype == torch.uint8 and winners.shape == (2, 3, 3, 3)
    assert not saved_tensors(lambda: F.adaptive_avg_pool2d(x, 3))


def test_avg_of_no_channels(device):
    """As torch: an empty result, also without a batch. Backward, which torch refuses with one, has nothing to do."""
    for shape in ((0, 6, 7), (2, 0, 6, 7), (0, 0, 6, 7)):
        image = torch.empty(shape, device=device, requires_grad=True)
        output = F.adaptive_avg_pool2d(image, (3, None))
        assert output.shape == (*shape[:-2], 3, 7) == torch_F.adaptive_avg_pool2d(image, (3, None)).shape
        output.sum().backward()
        assert image.grad.shape == shape
    check_registration(ops_called(lambda x: F.adaptive_avg_pool2d(x, 3), [torch.empty(2, 0, 6, 7, device=device)]))
    with pytest.raises(RuntimeError, match="adaptive_max_pool2d: input must have at least one channel"):
        F.adaptive_max_pool2d(torch.empty(2, 0, 6, 7, device=device), 3)
