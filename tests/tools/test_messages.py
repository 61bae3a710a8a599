"""What a test that fails says: which result, index, value, wanted value, error, limit and kernel."""

import re

import pytest
import torch
from checks import check_values, in_both_layouts
from comparisons import check_close, close, kernels_run, same_values, within

import torch_manual_conv.functional as F

EPS = torch.finfo(torch.float32).eps
WANTED = torch.arange(24.0).reshape(1, 2, 3, 4) / 8 + 1
HEAD = "output: float32 [1, 2, 3, 4] contiguous: at [0, 1, 2, 0] "


def wrong(value):
    """WANTED, but for one element, which is 3.5 there."""
    mine = WANTED.clone()
    mine[0, 1, 2, 0] = value
    return mine


def message(compare, *arguments, **options):
    with pytest.raises(AssertionError) as failure:
        compare(*arguments, **options)
    return str(failure.value)


def test_index_value_wanted_value_error_and_limit():
    exact, mine = WANTED.double(), wrong(3.625)
    off = f"largest error {0.125 / 3.875 / EPS:.3g} eps, limit 8 eps"
    assert message(within, mine, exact, 8 * EPS, "output") == f"{HEAD}3.625, wanted 3.5; {off}"
    said = message(check_close, mine, exact, WANTED, terms=4, what="output")
    assert said == f"{HEAD}3.625, wanted 3.5, torch has 3.5; {off}"
    said = message(close, mine, WANTED, "output", rtol=0, atol=1e-5)
    assert said.startswith(f"{HEAD}3.625, wanted 3.5; ") and "(up to 1e-05 allowed)" in said


def test_nan_is_the_largest_error():
    mine = wrong(torch.nan)
    mine[0, 0, 0, 0] = 9
    for compare, limit in ((within, [1.0]), (close, []), (same_values, [])):
        said = message(compare, mine, WANTED, *limit, "output")
        assert said.startswith(f"{HEAD}nan, wanted 3.5" if compare is not same_values else HEAD[:-13] + "[0, 0, 0, 0]")
    said = message(check_close, mine, WANTED.double(), WANTED, terms=4, what="output")
    assert said.startswith(
        "output: where it is finite: bool [1, 2, 3, 4] contiguous: at [0, 1, 2, 0] False, wanted True"
    )


def test_values_that_should_be_equal_show_their_bits():
    mine = wrong(3.5 + 2**-22)
    mine[0, 1, 2, 3] = 0
    said = message(same_values, [WANTED, mine], [WANTED, WANTED], "2 threads", ("input", "output"))
    assert said == (
        f"2 threads, {HEAD}3.500000238418579 (0x1.c000020000000p+1), wanted 3.5 (0x1.c000000000000p+1);"
        " 2 of 24 differ, limit 0"
    )
    assert message(same_values, WANTED, WANTED[0], "output") == "output: shape [1, 2, 3, 4], wanted [2, 3, 4]"


def test_the_root_mean_square_has_a_limit_of_its_own():
    exact = torch.randn(2000, dtype=torch.float64)
    said = message(check_close, (exact + 20 * EPS).float(), exact, exact.float(), terms=100)
    assert re.search(r"root_mean_square error \S+ eps, limit \S+ eps$", said), said


@in_both_layouts
def test_the_gradient_and_the_kernels_are_named(layout):
    x, w = (layout(torch.randn(shape)) for shape in ((2, 3, 7, 6), (4, 3, 3, 3)))

    def ours(x, w):
        w = w * 1
        if w.requires_grad:
            w.register_hook(lambda grad: grad + 9 * (torch.arange(108).reshape(4, 3, 3, 3) == 50))
        return F.conv2d(x, w)

    said = message(check_values, ours, torch.nn.functional.conv2d, [x, w], terms=90)
    name = "channels_last" if layout(x).is_contiguous(memory_format=torch.channels_last) else "contiguous"
    assert said.startswith("grad of input 1, random grad_output: float32 [4, 3, 3, 3]") and "at [1, 2, 1, 2] " in said
    call = f"conv2d(float32 [2, 3, 7, 6] {name}, float32 [4, 3, 3, 3] {name}) on cpu, {torch.ops.tmc.cpu_isa()}"
    assert call in said and re.search(r"^ +grad_weight: \w+: \w+", said, re.M)


def test_kernels_of_other_operators():
    x, w = torch.randn(2, 4, 7, 6), torch.randn(4, 3, 3, 3)
    assert "\n    grad_input: " in kernels_run(F.conv_transpose2d, (x, w))
    assert "\n    fused: " in kernels_run(lambda x, w: F.conv_act_pool2d(x, w, pool="max"), (x, w.transpose(0, 1)))
    assert kernels_run(F.sigmoid, (x,)) == f"sigmoid(float32 [2, 4, 7, 6] contiguous) on cpu, {torch.ops.tmc.cpu_isa()}"
