"""Winograd's convolution: values, accuracy, bits, infinities, instruction sets, and where it is chosen."""

import pytest
import torch
import torch.nn.functional as torch_F
from checks import check_values, in_both_layouts
from comparisons import PASSES, close, naming_kernels, same_values, within
from instruction_sets import INSTRUCTION_SETS, run_on

import torch_manual_conv.functional as F

# name: input shape, weight shape, arguments. Tiles are 3 x 3 outputs, blocks 3 x 3 taps, vectors 4 to 16 floats. Half
# types have tiles of 7 x 7 outputs for 3 x 3 taps, and of 5 x 5 (in bfloat16 also of 7 x 7) for 5 x 5, where these make
# fewer products.
CASES = {
    "one-tile": ((1, 5, 5, 5), (4, 5, 3, 3), dict()),
    "odd": ((3, 33, 13, 10), (35, 33, 3, 3), dict(padding=1)),
    "one-pixel": ((2, 3, 1, 1), (4, 3, 3, 3), dict(padding=1)),
    "two-blocks": ((2, 17, 11, 14), (20, 17, 5, 5), dict(padding=2)),
    "block-of-one-tap": ((2, 6, 9, 8), (7, 6, 4, 4), dict(padding=1)),
    "three-blocks": ((1, 4, 12, 13), (5, 4, 7, 8), dict(padding=3)),
    "two-taps": ((2, 5, 8, 7), (6, 5, 2, 2), dict()),
    "not-square": ((2, 5, 9, 6), (6, 5, 3, 1), dict(padding=(1, 0))),
    "row-of-pixels": ((2, 5, 1, 40), (6, 5, 1, 3), dict(padding=(0, 1))),
    "same-asymmetric": ((1, 4, 7, 8), (5, 4, 4, 2), dict(padding="same")),
    "padding-over-kernel": ((1, 3, 4, 5), (2, 3, 3, 3), dict(padding=4)),
    "groups": ((2, 12, 8, 7), (10, 6, 3, 3), dict(padding=1, groups=2)),
    "wide": ((1, 2, 4, 400), (3, 2, 3, 3), dict(padding=1)),
    "more-filters-than-a-part": ((1, 5, 6, 6), (150, 5, 3, 3), dict(padding=1)),
    "tiles-of-seven": ((3, 19, 20, 15), (35, 19, 3, 3), dict(padding=1)),
    "tiles-of-five": ((2, 17, 9, 10), (33, 17, 5, 5), dict(padding=2)),
    "eleven-points": ((2, 17, 27, 16), (33, 17, 5, 5), dict(padding=2)),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture
def winograd():
    """Inside the test every convolution that Winograd's algorithm can compute is computed by it."""
    torch.ops.tmc.prefer_conv2d_algorithm("winograd")
    yield
    torch.ops.tmc.prefer_conv2d_algorithm("")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def operands(input, weight, dtype=torch.float32):
    return [torch.randn(s, dtype=torch.float64).to(dtype) for s in (input, weight, weight[:1])]


@in_both_layouts
@pytest.mark.parametrize("stored", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("input, weight, arguments", CASES.values(), ids=CASES)
def test_matches_torch(input, weight, arguments, stored, layout, winograd):
    check_close([layout(t) for t in operands(input, weight, stored)], arguments, torch.finfo(stored).eps)


def check_close(inputs, arguments, eps):
    """Forward and gradients against float64: to a few roundings of the largest result, each result once."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    exact_leaves = [t.detach().double().requires_grad_() for t in inputs]
    output, exact = F.conv2d(*leaves, **arguments), torch_F.conv2d(*exact_leaves, **arguments)
    grad_output = torch.randn_like(output)
    grads = torch.autograd.grad(output, leaves, grad_output)
    exact_grads = torch.autograd.grad(exact, exact_leaves, grad_output.double())
    with naming_kernels(lambda *x: F.conv2d(*x, **arguments), inputs):
        for what, mine, wanted in zip(PASSES, [output, *grads], [exact, *exact_grads], strict=True):
            within(mine, wanted, eps + 16 * torch.finfo(torch.float32).eps, what)


def test_strided_operands(winograd):
    x = torch.randn(2, 12, 14, 9)[:, ::2, ::2].transpose(2, 3)
    w = torch.randn(3, 3, 8, 6).permute(2, 3, 0, 1)
    check_close([x, w, torch.randn(8)], dict(padding=1), 0)


def test_empty_batch_and_no_bias(winograd):
    check_values(lambda x, w: F.conv2d(x, w), lambda x, w: torch_F.conv2d(x, w),
                 [torch.randn(0, 4, 6, 6), torch.randn(3, 4, 3, 3)], trusted=False)  # fmt: skip
    check_values(lambda x, w: F.conv2d(x, w), lambda x, w: torch_F.conv2d(x, w),
                 [torch.randn(2, 4, 6, 6), torch.randn(3, 4, 3, 3)], terms=80)  # fmt: skip


# What a layer sees: normal images, what ReLU leaves of them, and pixels between 0 and 1.
IMAGES = {"normal": torch.randn, "relu": lambda *shape: torch.randn(*shape).relu(), "uniform": torch.rand}
LAYERS = {"3x3": ((2, 192, 13, 13), (64, 192, 3, 3), 1), "5x5": ((2, 64, 27, 27), (64, 64, 5, 5), 2)}


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("input, weight, padding", LAYERS.values(), ids=LAYERS)
def test_as_accurate_as_torch(input, weight, padding, images, winograd):
    """At most 1.5 times the error of torch's float32 convolution (in the norm), forward and both gradients. Without
    fused multiply-adds every product is rounded, too: then twice its error, whose products torch does fuse."""
    most = 2 if torch.ops.tmc.cpu_isa() == "base" else 1.5
    x, w = images(*input), torch.randn(weight)
    results = {}
    for name, conv, cast in (("ours", F.conv2d, x.dtype), ("torch", torch_F.conv2d, x.dtype),
                             ("exact", torch_F.conv2d, torch.float64)):  # fmt: skip
        leaves = [t.to(cast).requires_grad_() for t in (x, w)]
        output = conv(*leaves, padding=padding)
        grad_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(cast)
        results[name] = [t.double() for t in (output, *torch.autograd.grad(output, leaves, grad_output))]
    with naming_kernels(lambda *x: F.conv2d(*x, padding=padding), (x, w)):
        for what, mine, theirs, exact in zip(PASSES[:3], *results.values(), strict=True):
            within(mine, exact, most, what, torch.Tensor.norm, theirs, scale=(theirs - exact).norm())


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("input, weight, padding", LAYERS.values(), ids=LAYERS)
def test_nine_points_lose_less_than_a_half_type_rounds(input, weight, padding, images, winograd):
    """What float32 is in "high" precision, and what half types are before they are rounded."""
    x, w = images(*input), torch.randn(weight)
    leaves, exact_leaves = ([t.to(d).requires_grad_() for t in (x, w)] for d in (torch.float32, torch.float64))
    switch = torch.backends.mkldnn.conv
    before = switch.fp32_precision
    try:
        switch.fp32_precision = "tf32"
        output = F.conv2d(*leaves, padding=padding)
        mine = [output, *torch.autograd.grad(output, leaves, output.detach())]
    finally:
        switch.fp32_precision = before
    exact = torch_F.conv2d(*exact_leaves, padding=padding)
    wanted = [exact, *torch.autograd.grad(exact, exact_leaves, output.detach().double())]
    for what, a, b in zip(PASSES[:3], mine, wanted, strict=True):
        within(a, b, 2**-16, f"{what}, precision high", torch.Tensor.norm)


@in_both_layouts
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_bits(kernel, stored, layout, winograd, threads):
    """From run to run, for any number of threads, for a sample whatever its batch."""
    x, w, b = operands((9, 40, 17, 14), (70, 40, kernel, kernel), stored)
    x = layout(x)
    geometry = [1] * 6, 1

    def run(x):
        output = torch.ops.tmc.conv2d(x, w, b, *geometry)
        grad_output = output.detach() / 2
        return (
            output,
            torch.ops.tmc.conv2d_grad_input(grad_output, w, x.shape[2:], *geometry),
            torch.ops.tmc.conv2d_grad_weight(grad_output, x, w.shape[2:], *geometry),
        )

    first = run(x)
    for count in (2, 3, 13, 1):
        threads(count)
        with naming_kernels(run, (x,)):
            same_values(run(x), first, f"{count} threads, wanted as with those before", PASSES)
    for i in (0, 8):
        alone = run(x[i : i + 1])
        with naming_kernels(run, (x,)):
            same_values([t[0] for t in alone[:2]], [t[i] for t in first[:2]], f"sample {i} alone", PASSES)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 3e38])
def test_what_is_not_finite_stays_where_it_is(value, stored, winograd):
    """The image that holds it comes out as of a direct sum, and no other is touched, though a tile mixes its pixels."""
    x, w, grad_output = torch.randn(3, 5, 9, 9), torch.randn(4, 5, 3, 3) / 16, torch.randn(3, 4, 9, 9) / 16
    x, w, grad_output = (t.to(stored) for t in (x, w, grad_output))
    geometry = [1] * 6, 1

    def maps():
        return (
            torch.ops.tmc.conv2d(x, w, None, *geometry),
            torch.ops.tmc.conv2d_grad_input(grad_output, w, x.shape[2:], *geometry),
            torch.ops.tmc.conv2d_grad_weight(grad_output, x, w.shape[2:], *geometry),
        )

    before = maps()
    x[1, 2, 4, 4] = grad_output[1, 3, 0, 8] = value
    after = maps()
    torch.ops.tmc.prefer_conv2d_algorithm("matrix_product")
    direct = maps()
    for i in (0, 1):
        same_values(after[i][::2], before[i][::2], f"{PASSES[i]} of the other images")
        close(after[i][1], direct[i][1], f"{PASSES[i]} of the image that holds it", rtol=0, atol=0, equal_nan=True)
    close(after[2], direct[2], "grad_weight", rtol=0, atol=0, equal_nan=True)
    theirs = torch_F.conv2d(x, w, padding=1)
    tolerance = 1e-5 if stored == torch.float32 else 1e-2
    close(after[0], theirs, "output", equal_nan=True, rtol=tolerance, atol=tolerance)


EACH_ISA = """
import sys, torch
from test_winograd import CASES, DTYPES, check_close, operands
assert torch.ops.tmc.cpu_isa() == sys.argv[1]
torch.ops.tmc.prefer_conv2d_algorithm("winograd")
for input, weight, arguments in CASES.values():
    for dtype in DTYPES.values():
        check_close(operands(input, weight, dtype), arguments, torch.finfo(dtype).eps)
"""


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_every_instruction_set(isa):
    run_on(isa, EACH_ISA, isa)


# On AMX half types are multiplied by tiles: Winograd is for float32 there.
WHERE_IT_IS_CHOSEN = """
import sys, torch
import torch_manual_conv as tmc

def chosen(input, weight, dtype=torch.float32, **arguments):
    named = tmc.conv2d_algorithms(torch.empty(input, dtype=dtype), torch.empty(weight, dtype=dtype), **arguments)
    return {name for name, _ in named.values()} == {"winograd"}

assert chosen((1, 192, 13, 13), (384, 192, 3, 3), padding=1)
assert chosen((1, 64, 27, 27), (192, 64, 5, 5), padding=2)
for half in (torch.bfloat16, torch.float16):  # on nine points
    by_tiles = sys.argv[1] == "amx" and half == torch.bfloat16
    assert chosen((1, 192, 13, 13), (384, 192, 3, 3), half, padding=1) != by_tiles
    assert chosen((1, 64, 27, 27), (192, 64, 5, 5), half, padding=2) != by_tiles
assert not chosen((1, 192, 13, 13), (384, 192, 3, 3), padding=1, stride=2)
assert not chosen((1, 192, 13, 13), (384, 192, 3, 3), padding=2, dilation=2)
assert not chosen((1, 192, 13, 13), (384, 192, 1, 1))
assert not chosen((1, 3, 13, 13), (64, 3, 3, 3))
assert not chosen((1, 192, 13, 13), (192, 1, 3, 3), groups=192)
assert not chosen((1, 192, 13, 13), (384, 192, 3, 3), torch.float64, padding=1)
"""


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_where_it_is_chosen(isa):
    run_on(isa, WHERE_IT_IS_CHOSEN, isa)
