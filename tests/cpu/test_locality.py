"""An output depends on its own window alone, within rounding, though Winograd's algorithm mixes the pixels of tiles."""

import pytest
import torch
import torch.nn.functional as torch_F
from checks import in_both_layouts
from comparisons import same_values
from instruction_sets import INSTRUCTION_SETS, run_on

import torch_manual_conv.functional as F

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Kernel size and arguments: each computed by Winograd's algorithm or in its phases, where a phase of the stride may
# have a tap fewer.
KERNELS = {
    "3x3": (3, dict(padding=1)),
    "5x5": (5, dict(padding=2)),
    "4x4": (4, dict()),
    "1x1": (1, dict()),
    "2x2": (2, dict()),
    "wide padding": (3, dict(padding=5)),
    "strided": (11, dict(stride=4, padding=2)),
    "strided, wide padding": (5, dict(stride=2, padding=9)),
    "strided, rows behind the last window": (3, dict(stride=2)),
    "dilated": (3, dict(dilation=2, padding=2)),
    "groups": (3, dict(padding=1, groups=2)),
}
PASSES = {"forward": (F.conv2d, torch_F.conv2d), "grad_input": (F.conv_transpose2d, torch_F.conv_transpose2d)}


@pytest.fixture(params=["winograd", "winograd_phases"])
def winograd(request):
    torch.ops.tmc.prefer_conv2d_algorithm(request.param)
    yield request.param
    torch.ops.tmc.prefer_conv2d_algorithm("")


def weight_of(size, arguments, dtype):
    return (torch.randn(64, 64 // arguments.get("groups", 1), size, size) / (8 * size)).to(dtype)


@in_both_layouts
@pytest.mark.parametrize("stored", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("ours, torchs", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("size, arguments", KERNELS.values(), ids=KERNELS)
def test_a_large_pixel_is_seen_by_its_windows_alone(size, arguments, ours, torchs, stored, layout, winograd):
    image, weight = layout(torch.randn(2, 64, 25, 25).to(stored)), weight_of(size, arguments, stored)
    image[0, ::2, 12, 12] = -3e4
    seen = torch.zeros(1, 64, 25, 25, dtype=torch.float64)
    seen[..., 12, 12] = 1
    far = torchs(seen, weight.double().abs() + 1e-3, **arguments).expand(2, -1, -1, -1) == 0
    exact = torchs(image.double(), weight.double(), **arguments)[far]
    error = (ours(image, weight, **arguments).double()[far] - exact).abs().max() / exact.abs().max()
    assert error < 16 * torch.finfo(stored).eps, f"outputs that do not see it differ by {error:.1e} of the largest"


@pytest.mark.parametrize("ours, torchs", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("size, arguments", KERNELS.values(), ids=KERNELS)
def test_what_sees_only_zeros_is_the_bias(size, arguments, ours, torchs, winograd):
    image, weight, bias = torch.zeros(2, 64, 25, 25), weight_of(size, arguments, torch.float32), torch.randn(64)
    image[0, :, 12, 11], image[1, :, :, 13:] = 1, torch.randn(64, 25, 12)
    blind = torchs((image != 0).double(), weight.double().abs() + 1e-3, **arguments) == 0
    assert blind.any()
    result = ours(image, weight, bias, **arguments)
    same_values(result[blind], bias.view(1, -1, 1, 1).expand_as(result)[blind], "what sees only zeros")


def test_a_large_pixel_in_another_sample_changes_no_bit(winograd):
    images, weight = torch.randn(5, 64, 25, 25), weight_of(3, {}, torch.float32)
    before = F.conv2d(images, weight, padding=1)
    images[3, 7, 4, 4] = 1e9
    after = F.conv2d(images, weight, padding=1)
    for n in range(5):
        same_values(F.conv2d(images[n : n + 1], weight, padding=1), after[n : n + 1], f"sample {n}, alone")
        if n != 3:
            same_values(after[n], before[n], f"sample {n}")


SNIPPET = """
import torch, torch_manual_conv.functional as F
torch.manual_seed(0)
torch.ops.tmc.prefer_conv2d_algorithm("winograd")
image, weight = torch.zeros(1, 40, 30, 30), torch.randn(40, 40, 3, 3)
image[0, 3, 7, 9] = 1e4
image[0, :, :, 20:] = torch.randn(40, 30, 10)
result, exact = F.conv2d(image, weight), torch.nn.functional.conv2d(image.double(), weight.double())
assert (result[..., :18][exact[..., :18] == 0] == 0).all(), "zeros"
assert (result - exact)[..., 18:].abs().max() < 1e-4, "far from the pixel"
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_on_every_instruction_set(isa):
    run_on(isa, SNIPPET)
