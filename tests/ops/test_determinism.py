"""The same bits from run to run, for any number of threads, for a sample whatever its batch; every instruction set."""

import os
import subprocess
import sys

import pytest
import torch
from checks import in_both_layouts, run
from comparisons import naming_kernels, same_values
from instruction_sets import INSTRUCTION_SETS, run_on

import torch_manual_conv.functional as F

# name: function, shapes of its tensors; large enough to be shared among threads, no size a multiple of a vector
CASES = {
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=2), ((5, 13, 29, 31), (37, 13, 5, 3), (37,))),
    "conv2d-groups": (lambda x, w: F.conv2d(x, w, padding=1, groups=3), ((5, 21, 19, 17), (33, 7, 3, 3))),
    "conv2d-depthwise": (lambda x, w: F.conv2d(x, w, padding=1, groups=33), ((5, 33, 19, 17), (33, 1, 3, 3))),
    "conv2d-pointwise": (F.conv2d, ((5, 35, 23, 21), (67, 35, 1, 1))),
    "conv1d": (F.conv1d, ((5, 13, 301), (37, 13, 7))),
    "conv3d": (F.conv3d, ((3, 5, 7, 13, 11), (9, 5, 3, 3, 3))),
    "conv_transpose2d": (lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2), ((5, 13, 17, 15), (13, 9, 3, 3), (9,))),
    "sigmoid": (F.sigmoid, ((5, 17, 33, 31),)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), ((5, 33, 29, 31),)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1), ((5, 33, 29, 31),)),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (7, 6)), ((5, 33, 29, 31),)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (7, 6)), ((5, 33, 29, 31),)),
    "conv_act_pool2d": (
        lambda x, w, b: F.conv_act_pool2d(x, w, b, activation="sigmoid", pool="max"),
        ((5, 13, 29, 31), (37, 13, 3, 3), (37,)),
    ),
    "conv_act_pool2d-in-parts": (
        lambda x, w, b: F.conv_act_pool2d(x, w, b, padding=1, activation="tanh", pool="avg"),
        ((5, 3, 88, 90), (41, 3, 3, 3), (41,)),
    ),
}


def tensors(shapes, dtype, device, layout):
    return [layout(torch.randn(shape, dtype=torch.float64).to(device, dtype)) for shape in shapes]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@in_both_layouts
@pytest.mark.parametrize("function, shapes", CASES.values(), ids=CASES)
def test_same_bits_for_any_number_of_threads(function, shapes, layout, dtype, device, threads):
    inputs = tensors(shapes, dtype, device, layout)
    first = None
    for count in (1, 2, 3, 1):  # the last run repeats the first
        threads(count)
        results, grads = run(function, inputs)
        first = first or [*results, *grads]
        with naming_kernels(function, inputs):
            same_values([*results, *grads], first, f"{count} threads, wanted as with 1")


@in_both_layouts
@pytest.mark.parametrize("function, shapes", CASES.values(), ids=CASES)
def test_same_bits_for_a_sample_whatever_its_batch(function, shapes, layout, dtype, device):
    """Row i of a batch's output and input gradient is what the row gets alone."""
    images, *rest = tensors(shapes, dtype, device, layout)
    results, (grad_images, *_) = run_with_ones(function, images, rest)
    for i in (0, len(images) - 1):
        alone, (grad_alone, *_) = run_with_ones(function, images[i : i + 1], rest)
        with naming_kernels(function, [images, *rest]):
            same_values(results[i], alone[0], f"output of sample {i}, wanted as alone")
            same_values(grad_images[i], grad_alone[0], f"grad_input of sample {i}, wanted as alone")


def run_with_ones(function, images, rest):
    leaves = [t.detach().requires_grad_() for t in (images, *rest)]
    output = function(*leaves)
    grad_output = (
        torch.linspace(-1, 1, output[0].numel(), dtype=output.dtype).to(output.device).reshape(output[0].shape)
    )
    return output.detach(), torch.autograd.grad(output, leaves, grad_output.expand(output.shape))


# What each instruction set has to get right, in a process of its own: the choice is made once.
EACH_ISA = """
import sys, torch
import torch.nn.functional as T
import torch_manual_conv.functional as F
from checks import DENSE, check_values
torch.manual_seed(0)
assert torch.ops.tmc.cpu_isa() == sys.argv[1]
x, w, b = torch.randn(2, 17, 13, 11), torch.randn(19, 17, 3, 3), torch.randn(19)
pairs = [
    (lambda f: lambda x, w, b: f.conv2d(x, w, b, stride=2, padding=1), [x, w, b], 17 * 9 * 4),
    (lambda f: lambda x, w: f.conv2d(x, w, groups=17), [x, torch.randn(34, 1, 3, 3)], 2 * 11 * 13),
    (lambda f: lambda x, w: f.conv2d(x, w), [x, torch.randn(19, 17, 1, 1)], 2 * 11 * 13),
    (lambda f: lambda x: f.max_pool2d(x, 3, 2, 1, return_indices=True), [x], 9),
    (lambda f: lambda x: f.avg_pool2d(x, 3, 2, 1), [x], 9),
    (lambda f: lambda x: f.adaptive_avg_pool2d(x, (5, 4)), [x], 25),
    (lambda f: lambda x: f.adaptive_max_pool2d(x, (5, 4)), [x], 25),
    (lambda f: f.sigmoid, [x], 1),
]
for name in ("sigmoid", "tanh", "relu"):
    fused = lambda x, w, b, name=name: F.conv_act_pool2d(x, w, b, activation=name, pool="avg")
    plain = lambda x, w, b, name=name: T.avg_pool2d(getattr(torch, name)(T.conv2d(x, w, b)), 2)
    pairs.append((lambda f, fused=fused, plain=plain: fused if f is F else plain, [x, w, b], 17 * 9 * 4))
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    for layout in DENSE.values():
        for make, inputs, terms in pairs:
            check_values(make(F), make(T), [layout(t.to(dtype)) for t in inputs], terms)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    run_on(isa, EACH_ISA, isa)


def test_unknown_instruction_set_is_rejected():
    child = subprocess.run(
        [sys.executable, "-c", "import torch, torch_manual_conv; torch.ops.tmc.cpu_isa()"],
        env={**os.environ, "TMC_CPU_ISA": "avx1024"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (
        child.returncode == 1
        and "TMC_CPU_ISA: must be base, avx2, avx512, avx512_bf16 or amx, got avx1024" in child.stderr
    )
