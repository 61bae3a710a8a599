"""torch.set_float32_matmul_precision decides how exactly a float32 convolution is computed, and nothing else."""

import pytest
import torch
from checks import in_both_layouts, run
from comparisons import naming_kernels, same_values, within

import torch_manual_conv
import torch_manual_conv.functional as F
from torch_manual_conv.ops.conv2d import float32_precision

# Of an output and of both gradients, relative, in the norm: eq. 30 and docs/precision.md.
LARGEST_ERROR = {"highest": 1e-6, "high": 2**-15, "medium": 2**-7}


@pytest.fixture
def precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


RESULTS = ("output", *(f"{grad}, {kind}" for kind in ("random", "expanded") for grad in ("grad_input", "grad_weight")))


def conv(x, w):
    return F.conv2d(x, w, padding=1)


def operands(dtype, layout=torch.Tensor.contiguous):
    torch.manual_seed(0)
    x, w = torch.randn(2, 33, 12, 13, dtype=torch.float64), torch.randn(40, 33, 3, 3, dtype=torch.float64)
    return [layout(t.to(dtype)) for t in (x, w)]


def results(inputs):
    output, grads = run(conv, inputs)
    return [*output, *grads]


@in_both_layouts
@pytest.mark.parametrize("name", LARGEST_ERROR)
def test_error_of_float32(name, layout, precision):
    exact, inputs = results(operands(torch.float64)), operands(torch.float32, layout)
    precision(name)
    with naming_kernels(conv, inputs):
        for what, mine, true in zip(RESULTS, results(inputs), exact, strict=True):
            within(mine, true, LARGEST_ERROR[name], f"{what}, precision {name}", torch.Tensor.norm)


def test_newer_switches(precision):
    switch = torch.backends.cudnn.conv
    before = switch.fp32_precision
    try:
        for switch.fp32_precision, expected in (("ieee", "highest"), ("tf32", "high")):
            assert float32_precision(on_cuda=True) == expected
    finally:
        switch.fp32_precision = before
    precision("highest")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    with pytest.raises(RuntimeError, match="mix"):
        torch.get_float32_matmul_precision()
    assert float32_precision(on_cuda=False) == "medium"


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_ignore_the_switch(other, precision):
    before = results(operands(other))
    precision("medium")
    same_values(results(operands(other)), before, "precision medium, wanted as highest", RESULTS)


def test_medium_is_rounded_to_bfloat16_where_that_is_fast(precision):
    x, w = torch.full((1, 1, 1, 1), 1 + 2**-10), torch.ones(1, 1, 1, 1)
    precision("medium")
    expected = 1.0 if torch.ops.tmc.cpu_isa() in ("avx512_bf16", "amx") else 1 + 2**-10
    torch.ops.tmc.prefer_conv2d_algorithm("matrix_product")
    try:
        assert F.conv2d(x, w).item() == expected
    finally:
        torch.ops.tmc.prefer_conv2d_algorithm("")


def test_the_unit_that_multiplies_is_named():
    image, weight = torch.empty(1, 8, 9, 9), torch.empty(4, 8, 3, 3)
    chosen = torch_manual_conv.conv2d_algorithms(image.bfloat16(), weight.bfloat16())["forward"][1]
    unit = {"avx512_bf16": "AVX512-BF16", "amx": "AMX"}.get(torch.ops.tmc.cpu_isa(), "multiply-adds")
    assert unit in chosen
