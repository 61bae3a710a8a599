"""Direct convolution: values where windows are cut off by the edge, bits, what is not finite, instruction sets."""

import pytest
import torch
import torch.nn.functional as torch_F
from checks import check_values, in_both_layouts
from comparisons import PASSES, naming_kernels, same_values
from instruction_sets import run_on

import torch_manual_conv.functional as F

# name: input shape, weight shape, arguments. A strip is 6 or 14 pixels, a panel 8 to 32 filters, a run 32 terms.
CASES = {
    "edges": ((2, 17, 9, 18), (35, 17, 3, 3), dict(padding=1)),
    "few-channels": ((2, 3, 19, 17), (34, 3, 5, 5), dict(stride=2, padding=2)),
    "one-channel": ((2, 1, 12, 9), (6, 1, 3, 3), dict(padding=1)),
    "one-filter": ((2, 20, 6, 7), (1, 20, 3, 3), dict()),
    "single-tap": ((3, 33, 7, 5), (16, 33, 1, 1), dict()),
    "single-tap-stride": ((2, 16, 9, 8), (40, 16, 1, 1), dict(stride=2)),
    "single-tap-few-weights": ((2, 24, 8, 9), (56, 24, 1, 1), dict()),
    "single-tap-small-images": ((20, 20, 3, 5), (17, 20, 1, 1), dict()),
    "stride-over-kernel": ((2, 16, 11, 13), (18, 16, 2, 2), dict(stride=3)),
    "stride-and-dilation": ((2, 18, 17, 15), (20, 18, 3, 3), dict(stride=(2, 3), padding=2, dilation=(3, 2))),
    "padding-over-kernel": ((1, 3, 4, 5), (16, 3, 3, 3), dict(padding=4)),
    "wide-padding": ((2, 16, 3, 2), (8, 16, 1, 7), dict(padding=(0, 3))),
    "groups": ((2, 32, 8, 7), (48, 16, 3, 3), dict(padding=1, groups=2)),
    "odd-groups": ((2, 6, 8, 7), (10, 3, 3, 3), dict(padding=1, groups=2)),
    "few-channels-dilated": ((2, 3, 14, 15), (7, 3, 4, 3), dict(stride=(2, 3), padding=(3, 1), dilation=(3, 2))),
    "few-channels-groups": ((2, 4, 11, 10), (6, 2, 3, 3), dict(stride=(1, 2), padding=1, groups=2)),
    "few-channels-spread": ((2, 3, 5, 6), (7, 3, 3, 3), dict(padding=300_000, dilation=300_000)),
    "spread": ((1, 20, 6, 5), (9, 20, 3, 3), dict(padding=300_000, dilation=300_000)),
    "few-channels-wide": ((1, 2, 6, 2500), (5, 2, 3, 7), dict(stride=(1, 2), padding=2)),
    "tall": ((1, 4, 300, 2), (5, 4, 3, 2), dict()),
}


@pytest.fixture
def direct():
    """Inside the test every convolution but those in float64 is computed directly."""
    torch.ops.tmc.prefer_conv2d_algorithm("direct")
    yield
    torch.ops.tmc.prefer_conv2d_algorithm("")


@in_both_layouts
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("input, weight, arguments", CASES.values(), ids=CASES)
def test_matches_torch(input, weight, arguments, stored, layout, direct):
    operands = [torch.randn(shape, dtype=torch.float64).to(stored) for shape in (input, weight, weight[:1])]
    _, _, p, q = torch_F.conv2d(*operands, **arguments).shape

    def twin(x, w, b):
        """Of half types float64's result rounded: torch's own bfloat16 convolution asks for 23 TB of a dilation of
        300,000 on AMX."""
        wide = torch.float64 if x.dtype.itemsize == 2 else x.dtype
        return torch_F.conv2d(*(t.to(wide) for t in (x, w, b)), **arguments).to(x.dtype)

    check_values(
        lambda x, w, b: F.conv2d(x, w, b, **arguments),
        twin,
        [layout(t) for t in operands],
        terms=max(weight[0], weight[1]) * weight[2] * weight[3] + input[0] * p * q,
    )


def passes(x, w, grad, arguments):
    leaves = [t.detach().requires_grad_() for t in (x, w)]
    output = F.conv2d(*leaves, **arguments)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


@pytest.mark.parametrize("name", ["edges", "few-channels", "stride-and-dilation"])
def test_same_bits_for_any_batch_and_threads(name, direct):
    input, weight, arguments = CASES[name]
    x, w = torch.randn(5, *input[1:]), torch.randn(weight)
    grad = torch.randn(torch_F.conv2d(x, w, **arguments).shape)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(passes(x, w, grad, arguments))
    torch.set_num_threads(threads)
    with naming_kernels(passes, (x, w, grad, arguments)):
        for count, other in zip((2, 3), results[1:], strict=True):
            same_values(other, results[0], f"{count} threads, wanted as with 1", PASSES)
        alone = passes(x[3:4], w, grad[3:4], arguments)
        same_values([t[0] for t in alone[:2]], [t[3] for t in results[0][:2]], "sample 3 alone", PASSES)


def test_same_bits_for_any_number_of_filters(direct):
    """Pixels go through all filters of small weights at once, otherwise through one panel of them after the other."""
    x = torch.randn(2, 64, 9, 7, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    w = torch.randn(320, 64, 1, 1, dtype=torch.bfloat16)
    for filters in (16, 56, 256):
        with naming_kernels(F.conv2d, (x, w)):
            same_values(F.conv2d(x, w)[:, :filters], F.conv2d(x, w[:filters]), f"output of {filters} filters")


@pytest.mark.parametrize("where", ["input", "weight", "grad_output"])
def test_not_finite_as_the_formula_has_it(where, direct):
    """Padding is zeros: times infinity they are NaN, though no direct sum reads them."""
    x, w, grad = torch.randn(2, 16, 6, 7), torch.randn(17, 16, 3, 3), torch.randn(2, 17, 6, 7)
    {"input": x, "weight": w, "grad_output": grad}[where].view(-1)[0] = torch.inf
    mine = passes(x, w, grad, dict(padding=1))
    torch.ops.tmc.prefer_conv2d_algorithm("matrix_product")
    for what, a, b in zip(PASSES[:3], mine, passes(x, w, grad, dict(padding=1)), strict=True):
        same_values(a.isnan(), b.isnan(), f"{what}: where it is NaN")
        same_values(a.isinf(), b.isinf(), f"{what}: where it is infinite")


EACH_ISA = """
import torch
from comparisons import PASSES, naming_kernels, within
from test_direct import CASES, F, passes, torch_F
torch.ops.tmc.prefer_conv2d_algorithm("direct")
for input, weight, arguments in CASES.values():
    x, w = torch.randn(input), torch.randn(weight)
    exact = torch_F.conv2d(x.double(), w.double(), **arguments)
    grad = torch.randn(exact.shape)
    leaves = [t.double().requires_grad_() for t in (x, w)]
    wanted = torch.autograd.grad(torch_F.conv2d(*leaves, **arguments), leaves, grad.double())
    with naming_kernels(passes, (x, w, grad, arguments)):
        for what, mine, right in zip(PASSES, passes(x, w, grad, arguments), (exact, *wanted)):
            within(mine, right, 1e-5, f"{what}, {arguments}")
"""


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_instruction_sets(isa):
    run_on(isa, EACH_ISA)


def test_an_empty_batch(direct):
    check_values(lambda x, w: F.conv2d(x, w), lambda x, w: torch_F.conv2d(x, w),
                 [torch.randn(0, 4, 6, 6), torch.randn(3, 4, 3, 3)], trusted=False)  # fmt: skip


@pytest.mark.parametrize("filters", [32, 40, 48])
def test_large_results(filters, direct):
    """From 8 MB on they are written past the caches, in whole aligned vectors: not all groups begin with one."""
    x, w = (
        torch.randn(s).contiguous(memory_format=torch.channels_last) for s in ((1, 4, 256, 512), (filters, 2, 1, 1))
    )
    same_values(F.conv2d(x, w, groups=2)[:, :, :3], F.conv2d(x[:, :, :3], w, groups=2), "output of three rows")
