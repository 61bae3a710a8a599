"""The sigmoid kernels for CUDA, run on the CPU (cuda_harness/), held against torch in float64."""

import pytest
import torch
from test_cuda_kernels import check


@pytest.mark.parametrize("count", [1, 7, 64, 1003])
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "misaligned"])
def test_sigmoid(kernels, count, offset, dtype):
    special = torch.tensor([0, -0.0, torch.inf, -torch.inf, torch.nan, 1000, -1000])[:count]
    x = torch.cat([special, 3 * torch.randn(count - len(special))]).to(dtype)
    grad = torch.randn(count).to(dtype)
    x, y, grad, grad_x = (torch.cat([t.new_zeros(offset), t])[offset:] for t in (x, x * torch.nan, grad, x * torch.nan))
    kernels.elementwise("sigmoid", y, x)
    check(y, x.double().sigmoid())
    kernels.elementwise("sigmoid_grad_input", grad_x, grad, y)
    check(grad_x, grad.double() * (1 - y.double()) * y.double(), terms=3)
