"""The CUDA operators from the torch call down, run on the CPU: checks, layouts, allocation and launch.

The entry points are compiled as they are, with CUDA's runtime stubbed and the kernels on fibers (cuda_harness/), and
registered for CPU tensors. They must do what the CPU operators do.
"""

import re

import pytest
import torch
from checks import LAYOUTS
from cuda_harness.kernels import load_entry_points

from torch_manual_conv.ops._elementwise import OPERATORS

TOLERANCE = 8  # of the largest value, in eps: two results, each a few roundings off


@pytest.fixture(scope="module")
def on_cuda():
    return load_entry_points()


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


GEOMETRY = ([2, 1, 1, 2, 1, 0, 2, 1], 2)  # stride, dilation, padding; groups
WINDOW = [3, 2, 2, 1, 1, 0]  # kernel_size, stride, padding
STAGE = ("sigmoid", "max", [3, 2, 1, 2, 1, 0])
PLAIN = ([1, 1, 1, 1, 0, 0], 1)


def operands():
    """{op: arguments}, every op once."""
    torch.manual_seed(0)
    input, weight, output = random(2, 4, 9, 8), random(6, 2, 3, 2), random(2, 6, 4, 9)
    pooled, winners = torch.ops.tmc.max_pool2d(input, [*WINDOW, 1, 1], False)
    adaptive, adaptive_winners = torch.ops.tmc.adaptive_max_pool2d(input, [4, 3])
    size = [9, 8]
    stage_output, stage_winners = torch.ops.tmc.conv_act_pool2d(input, weight, None, *GEOMETRY, *STAGE, "highest", True)
    pooled_map = torch.randn_like(stage_output)
    return {
        "conv2d": (input, weight, random(6), *GEOMETRY),
        "conv2d_grad_input": (output, weight, size, *GEOMETRY),
        "conv2d_grad_weight": (output, input, [3, 2], *GEOMETRY),
        "conv2d_grad_bias": (output,),
        "conv_act_pool2d": (input, weight, random(6), *GEOMETRY, *STAGE, "highest", True),
        "conv_act_pool2d_gradients": (
            pooled_map,
            input,
            weight,
            None,
            stage_output,
            stage_winners,
            input.shape,
            weight.shape,
            *GEOMETRY,
            *STAGE,
            "highest",
            True,
            True,
            True,
        ),
        "max_pool2d": (input, [*WINDOW, 1, 1], False),
        "max_pool2d_grad_input": (pooled, winners, size, [*WINDOW, 1, 1], False),
        "max_pool2d_select": (input, winners, [*WINDOW, 1, 1], False),
        "max_pool2d_indices": (winners, size, [*WINDOW, 1, 1], False),
        "avg_pool2d": (input, WINDOW, False, False, None),
        "avg_pool2d_grad_input": (pooled, size, WINDOW, False, True, 5, True),
        "adaptive_max_pool2d": (input, [4, 3]),
        "adaptive_max_pool2d_grad_input": (adaptive, adaptive_winners, size),
        "adaptive_max_pool2d_select": (input, adaptive_winners),
        "adaptive_max_pool2d_indices": (adaptive_winners, size),
        "adaptive_avg_pool2d": (input, [4, 3]),
        "adaptive_avg_pool2d_grad_input": (adaptive, size, True),
    } | {
        name: (*(random(2, 4, 9, 8) for _ in operator.tensors), *operator.scalars)
        for name, operator in OPERATORS.items()
    }


OPS = operands()
WEIGHTS = {"conv2d": [1], "conv2d_grad_input": [1], "conv_act_pool2d": [1], "conv_act_pool2d_gradients": [2]}


def check(actual, expected):
    if isinstance(expected, tuple):
        for pair in zip(actual, expected, strict=True):
            check(*pair)
        return
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert actual.stride() == expected.stride()
    if not actual.is_floating_point():
        assert torch.equal(actual, expected)
    elif actual.numel():
        error = (actual.double() - expected.double()).abs().max()
        assert error <= TOLERANCE * torch.finfo(actual.dtype).eps * expected.double().abs().max()


def test_every_operator_has_an_entry_point():
    computes_nothing = {"cpu_isa", "cpu_peak", "conv2d_algorithms", "conv_act_pool2d_algorithm"}
    computes_nothing |= {"prefer_conv2d_algorithm", "release_scratch"}
    listed, known = OPS.keys() | computes_nothing, {name.removeprefix("tmc::") for name in registered("tmc::")}
    assert listed == known, f"tests/cuda/test_cuda_entry_points.py: operands() and torch differ in {listed ^ known}"


def registered(prefix):
    return {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith(prefix)}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("op", OPS)
def test_matches_the_cpu(on_cuda, op, layout, dtype):
    def convert(value):
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_floating_point():
            return layout(value.to(dtype))
        return value if layout is LAYOUTS["strided"] else layout(value)  # that one puts NaN in between

    arguments = [convert(value) for value in OPS[op]]
    check(getattr(on_cuda, op)(*arguments), getattr(torch.ops.tmc, op)(*arguments))


@pytest.mark.parametrize("op", OPS)
def test_empty_batch(on_cuda, op):
    arguments = [value[:0] if isinstance(value, torch.Tensor) and value.dim() == 4 else value for value in OPS[op]]
    for i in WEIGHTS.get(op, ()):
        arguments[i] = OPS[op][i]  # a weight has no batch
    if op == "conv_act_pool2d_gradients":
        arguments[6] = arguments[1].shape
    check(getattr(on_cuda, op)(*arguments), getattr(torch.ops.tmc, op)(*arguments))


BAD = {
    "activation": (
        "conv_act_pool2d",
        (random(1, 3, 5, 5), random(2, 3, 3, 3), None, *PLAIN, "gelu", *STAGE[1:], "highest", True),
    ),
    "precision": ("conv_act_pool2d", (random(1, 3, 5, 5), random(2, 3, 3, 3), None, *PLAIN, *STAGE, "low", True)),
    "no_winners": (
        "conv_act_pool2d_gradients",
        (
            random(1, 2, 3, 1),
            random(1, 3, 5, 5),
            random(2, 3, 3, 3),
            None,
            random(1, 2, 3, 1),
            None,
            [1, 3, 5, 5],
            [2, 3, 3, 3],
            *PLAIN,
            *STAGE,
            "highest",
            True,
            True,
            True,
        ),
    ),
    "no_weight": (
        "conv_act_pool2d_gradients",
        (
            random(1, 2, 3, 3),
            None,
            None,
            None,
            None,
            None,
            [1, 3, 5, 5],
            [2, 3, 3, 3],
            *PLAIN,
            "none",
            "none",
            [1, 1, 1, 1, 0, 0],
            "highest",
            True,
            False,
            False,
        ),
    ),
    "wrong_channels": ("conv2d", (random(1, 3, 5, 5), random(2, 4, 3, 3), None, *PLAIN)),
    "dtype_of_weight": ("conv2d", (random(1, 3, 5, 5), random(2, 3, 3, 3).float(), None, *PLAIN)),
    "dtype_of_bias": ("conv2d", (random(1, 3, 5, 5), random(2, 3, 3, 3), random(2).half(), *PLAIN)),
    "integers": ("conv2d_grad_bias", (torch.ones(1, 2, 3, 3, dtype=torch.int64),)),
    "rank_of_grad_output": ("conv2d_grad_bias", (random(2, 3),)),
    "size_of_grad_output": ("conv2d_grad_input", (random(1, 2, 9, 9), random(2, 3, 3, 3), [5, 5], *PLAIN)),
    "kernel_size": ("conv2d_grad_weight", (random(1, 2, 3, 3), random(1, 3, 5, 5), [0, 3], *PLAIN)),
    "shapes_differ": ("sigmoid_grad_input", (random(2), random(3))),
    "dtypes_differ": ("sigmoid_grad_input", (random(2).float(), random(2))),
    "winners_dtype": (
        "max_pool2d_select",
        (random(1, 1, 4, 4), torch.zeros(1, 1, 2, 2, dtype=torch.int32), [2, 2, 2, 2, 0, 0, 1, 1], False),
    ),
    "stride": ("avg_pool2d", (random(1, 1, 4, 4), [2, 2, 0, 1, 0, 0], False, True, None)),
    "divisor": ("avg_pool2d", (random(1, 1, 4, 4), [2, 2, 2, 2, 0, 0], False, True, 0)),
    "output_size": ("adaptive_avg_pool2d", (random(1, 1, 4, 4), [-1, 2])),
}


@pytest.mark.parametrize(("op", "arguments"), BAD.values(), ids=BAD.keys())
def test_rejects_as_the_cpu_does(on_cuda, op, arguments):
    with pytest.raises(RuntimeError) as expected:
        getattr(torch.ops.tmc, op)(*arguments)
    with pytest.raises(RuntimeError, match=re.escape(str(expected.value).splitlines()[0])):
        getattr(on_cuda, op)(*arguments)
