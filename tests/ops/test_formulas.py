"""formulas.py against torch and against our kernels, in float64; and every "eq. 3" that the code cites is derived."""

import inspect
import itertools
import re
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from comparisons import close, same_values

from torch_manual_conv import formulas, functional

ROOT = Path(__file__).parents[2]
DERIVATIONS = ROOT / "docs" / "derivations.md"

# A sum of n float64 terms, taken in another order, moves by a few units in the last place of its largest partial
# sum: at most 64 terms of size about 1 here.
TOLERANCE = {"rtol": 64 * torch.finfo(torch.float64).eps, "atol": 64 * torch.finfo(torch.float64).eps}

# input [N, C, H, W], weight [K, C/groups, R, S], arguments; each named for its trap.
CONV_CASES = {
    "plain": ((1, 1, 3, 3), (1, 1, 2, 2), {}),
    "channels": ((2, 3, 5, 4), (4, 3, 3, 2), {}),
    "stride beyond kernel": ((1, 2, 7, 8), (2, 2, 2, 2), {"stride": 3}),
    "padding beyond kernel": ((1, 1, 3, 2), (2, 1, 2, 2), {"padding": (2, 3)}),
    "dilation": ((1, 2, 7, 6), (2, 2, 3, 2), {"dilation": (2, 3), "padding": (1, 2)}),
    "groups": ((1, 4, 4, 5), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((1, 3, 5, 5), (3, 1, 3, 3), {"groups": 3, "stride": 2, "padding": 1}),
    "everything": ((2, 4, 8, 7), (2, 2, 3, 2), {"stride": (2, 3), "padding": (2, 1), "dilation": (1, 2), "groups": 2}),
    "one pixel": ((1, 2, 1, 1), (3, 2, 1, 1), {}),
    "unread border": ((1, 1, 6, 6), (1, 1, 3, 3), {"stride": 2}),
}
# input size, arguments
MAX_CASES = {
    "2 x 2": ((2, 2, 4, 6), {"kernel_size": 2}),
    "overlapping": ((1, 2, 7, 7), {"kernel_size": 3, "stride": 2}),
    "padding": ((1, 2, 5, 4), {"kernel_size": 3, "stride": 1, "padding": 1}),
    "dilation": ((1, 1, 7, 6), {"kernel_size": (3, 2), "stride": 2, "padding": 1, "dilation": 2}),
    "ceil_mode": ((1, 2, 6, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    "ceil_mode drops a window": ((1, 1, 5, 5), {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}),
}
AVG_CASES = {
    "2 x 2": ((2, 2, 4, 6), {"kernel_size": 2}),
    "overlapping": ((1, 2, 7, 7), {"kernel_size": 3, "stride": 2}),
    "padding counted": ((1, 2, 5, 4), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "padding not counted": ((1, 2, 5, 4), {"kernel_size": (3, 2), "padding": 1, "count_include_pad": False}),
    "ceil_mode": ((1, 1, 6, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    "divisor": ((1, 1, 5, 5), {"kernel_size": 2, "stride": 1, "divisor_override": 3}),
}


def random(*size):
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(size)))


def assert_equal(ours, torchs):
    close(ours, torchs, "formula", **TOLERANCE)


def gradients(output, inputs):
    """A random dJ/doutput and autograd's dJ/dinputs."""
    grad_output = random(*output.shape)
    return grad_output, *torch.autograd.grad(output, inputs, grad_output)


def check_conv2d(formulas, input_size, weight_size, arguments, reference=F):
    x, w, b = (random(*size).requires_grad_() for size in (input_size, weight_size, weight_size[:1]))
    z = reference.conv2d(x, w, b, **arguments)
    grad_z, grad_x, grad_w, grad_b = gradients(z, (x, w, b))
    x, w, b = x.detach(), w.detach(), b.detach()
    assert_equal(formulas.conv2d(x, w, b, **arguments), z.detach())
    assert_equal(formulas.conv2d_grad_weight(grad_z, x, w.shape[2:], **arguments), grad_w)
    assert_equal(formulas.conv2d_grad_bias(grad_z), grad_b)
    assert_equal(formulas.conv2d_grad_input(grad_z, w, x.shape[2:], **arguments), grad_x)


def check_sigmoid(formulas, reference=F):
    z = random(3, 5).requires_grad_()
    o = reference.sigmoid(z)
    grad_o, grad_z = gradients(o, z)
    assert_equal(formulas.sigmoid(z.detach()), o.detach())
    assert_equal(formulas.sigmoid_grad_input(grad_o, o.detach()), grad_z)


def check_max_pool2d(formulas, input_size, arguments, reference=F):
    x = random(*input_size).requires_grad_()
    y, indices = reference.max_pool2d(x, **arguments, return_indices=True)
    grad_y, grad_x = gradients(y, x)
    x = x.detach()
    ours, winners = formulas.max_pool2d(x, **arguments)
    assert_equal(ours, y.detach())
    same_values(winners, indices, "winners")
    assert_equal(formulas.max_pool2d_grad_input(grad_y, winners, x.shape[2:]), grad_x)
    assert_equal(formulas.max_pool2d_select(x, winners), ours)


def check_avg_pool2d(formulas, input_size, arguments, reference=F):
    x = random(*input_size).requires_grad_()
    y = reference.avg_pool2d(x, **arguments)
    grad_y, grad_x = gradients(y, x)
    assert_equal(formulas.avg_pool2d(x.detach(), **arguments), y.detach())
    assert_equal(formulas.avg_pool2d_grad_input(grad_y, x.shape[2:], **arguments), grad_x)


both = pytest.mark.parametrize("reference", [F, functional], ids=["torch", "ours"])


@both
@pytest.mark.parametrize("case", CONV_CASES.values(), ids=CONV_CASES)
def test_conv2d(case, reference):
    check_conv2d(formulas, *case, reference)


@both
def test_sigmoid(reference):
    check_sigmoid(formulas, reference)


@both
@pytest.mark.parametrize("case", MAX_CASES.values(), ids=MAX_CASES)
def test_max_pool2d(case, reference):
    check_max_pool2d(formulas, *case, reference)


@both
@pytest.mark.parametrize("case", AVG_CASES.values(), ids=AVG_CASES)
def test_avg_pool2d(case, reference):
    check_avg_pool2d(formulas, *case, reference)


@both
def test_max_pool2d_ties_and_nan(reference):
    """The first maximum wins, also among -inf; the last NaN wins over everything."""
    nan, inf = torch.nan, torch.inf
    x = torch.tensor([[1, 1, nan, 2], [1, 0, 9, nan], [-inf, -inf, 3, nan], [-inf, -inf, inf, 4]], dtype=torch.float64)
    x = x[None, None]
    y, indices = reference.max_pool2d(x, 2, return_indices=True)
    ours, winners = formulas.max_pool2d(x, 2)
    close(ours, y, "maxima", rtol=0, atol=0, equal_nan=True)
    same_values(winners, indices, "winners")
    assert winners.flatten().tolist() == [0, 7, 8, 11]


def test_sum_pool2d():
    """Each output is a window's sum, so each input gets the gradient of each window that it is in."""
    x = random(1, 2, 5, 6).requires_grad_()
    y = x.unfold(2, 3, 2).unfold(3, 3, 2).sum((-2, -1))
    grad_y, grad_x = gradients(y, x)
    assert_equal(formulas.sum_pool2d(x.detach(), 3, 2), y.detach())
    assert_equal(formulas.sum_pool2d_grad_input(grad_y, x.shape[2:], 3, 2), grad_x)


@both
@pytest.mark.parametrize("output_size", [1, (2, 3), (5, 4), (7, 2)])
def test_adaptive_pools(output_size, reference):
    """Windows that overlap, that repeat (more outputs than inputs), and one window for everything."""
    x = random(1, 2, 5, 4).requires_grad_()
    y, indices = reference.adaptive_max_pool2d(x, output_size, return_indices=True)
    grad_y, grad_x = gradients(y, x)
    ours, winners = formulas.adaptive_max_pool2d(x.detach(), output_size)
    assert_equal(ours, y.detach())
    same_values(winners, indices, "winners")
    assert_equal(formulas.max_pool2d_grad_input(grad_y, winners, x.shape[2:]), grad_x)

    y = reference.adaptive_avg_pool2d(x, output_size)
    grad_y, grad_x = gradients(y, x)
    assert_equal(formulas.adaptive_avg_pool2d(x.detach(), output_size), y.detach())
    assert_equal(formulas.adaptive_avg_pool2d_grad_input(grad_y, x.shape[2:]), grad_x)


def test_backpropagate():
    """The lecture's (B): from the z of one sigmoid layer to the z of the layer before it."""
    z, w = random(1, 2, 6, 5).requires_grad_(), random(3, 2, 3, 2)
    z_next = F.conv2d(torch.sigmoid(z), w, stride=2, padding=1)
    grad_z_next, grad_z = gradients(z_next, z)
    assert_equal(formulas.backpropagate(grad_z_next, w, torch.sigmoid(z.detach()), stride=2, padding=1), grad_z)


@pytest.mark.parametrize("pool", [None, "max", "avg", "sum"])
@pytest.mark.parametrize("activation", [None, "sigmoid", "relu", "tanh"])
def test_conv_act_pool2d(activation, pool):
    x, w, b = (random(*size).requires_grad_() for size in ((1, 2, 7, 6), (3, 2, 3, 3), (3,)))
    o = F.conv2d(x, w, b, padding=1)
    o = getattr(torch, activation)(o) if activation else o
    if pool == "max":
        y = F.max_pool2d(o, 3, 2, 1)
    else:
        y = F.avg_pool2d(o, 3, 2, 1, divisor_override=1 if pool == "sum" else None) if pool else o
    grad_y, *expected = gradients(y, (x, w, b))
    x, w, b = x.detach(), w.detach(), b.detach()
    stage = {"activation": activation, "pool": pool, "pool_size": 3, "pool_stride": 2, "pool_padding": 1, "padding": 1}
    assert_equal(formulas.conv_act_pool2d(x, w, b, **stage), y.detach())
    for ours, torchs in zip(formulas.conv_act_pool2d_gradients(grad_y, x, w, b, **stage), expected, strict=True):
        assert_equal(ours, torchs)


def bounds_of_split_products():
    """What eq. 30 says that each group of products is at most, but for the largest one; as a part of the product."""
    section = re.search(r"### Eq. 30.*?^## ", DERIVATIONS.read_text(), re.M | re.S)[0]
    return [2.0 ** -int(bits) for bits in re.findall(r"_\{2\^\{-(\d+)\}\}", section)]


def test_products_of_split_floats():
    """Eq. 30: three bfloat16 hold a float, and its bounds hold, and floats around 1 + 2^-8 reach them within 1 %."""
    near = 1 + 2**-8 + torch.arange(-512, 513) * 2.0**-23
    x = torch.cat([near, 1 + torch.rand(511, generator=torch.Generator().manual_seed(30))])
    parts, rest = [], x
    for _ in range(3):
        parts.append(rest.bfloat16().float())
        rest = rest - parts[-1]
    assert not rest.any()
    exact = x.double()[:, None] * x.double()
    groups = torch.zeros(5, *exact.shape, dtype=torch.float64)  # by i + j
    for i, j in itertools.product(range(3), repeat=2):
        products = parts[i][:, None] * parts[j]
        same_values(products.double(), parts[i].double()[:, None] * parts[j].double(), f"product {i}, {j}")
        groups[i + j] += products.double() / exact

    bounds = bounds_of_split_products()
    assert len(bounds) == 4
    for group, bound in enumerate(bounds, 1):
        largest = groups[group].abs().max().item()
        assert 0.99 * bound < largest <= bound, f"group {group}: {largest} of the product, where eq. 30 says {bound}"
    for made in range(3):  # 1, 3 and 6 products: what is left out is no more than the first group left out may be
        left_out = groups[made + 1 :].sum(0).abs().max().item()
        assert left_out < bounds[made], f"without groups {made + 1} to 4: {left_out}, where eq. 30 says {bounds[made]}"


# What to break in the source of formulas.py, and the check that must notice.
EVERYTHING, OVERLAPPING = CONV_CASES["everything"], MAX_CASES["overlapping"]
DROPPED = MAX_CASES["ceil_mode drops a window"]
MUTATIONS = [
    ("z[nkpq] += x[nchw] * w[kcrs]", "z[nkpq] += x[nchw] + w[kcrs]", check_conv2d, EVERYTHING),
    ("grad_w[kcrs] += grad_z[nkpq]", "grad_w[kcrs] -= grad_z[nkpq]", check_conv2d, EVERYTHING),
    ("grad_x[nchw] += grad_z", "grad_x[nchw] = grad_z", check_conv2d, EVERYTHING),
    ("grad_b[k] += grad_z[n, k, p, q]", "grad_b[k] = grad_z[n, k, p, q]", check_conv2d, EVERYTHING),
    ("+ r * pair(dilation)[0]", "- r * pair(dilation)[0]", check_conv2d, EVERYTHING),
    ("first + c", "c", check_conv2d, EVERYTHING),
    ("padding - dilation * (kernel - 1)", "padding - dilation * kernel", check_conv2d, EVERYTHING),
    ("1 / (1 + torch.exp(-z))", "1 / (1 + torch.exp(z))", check_sigmoid, ()),
    ("grad_o * o * (1 - o)", "grad_o * o * (1 + o)", check_sigmoid, ()),
    ("x[n, c, h, w] > best", "x[n, c, h, w] < best", check_max_pool2d, OVERLAPPING),
    ("grad_x[n, c, h, w] += grad_y", "grad_x[n, c, h, w] = grad_y", check_max_pool2d, OVERLAPPING),
    ("* stride >= size + padding", "* stride > size + padding", check_max_pool2d, DROPPED),
    ("x[:, :, h, w] / area", "x[:, :, h, w]", check_avg_pool2d, AVG_CASES["overlapping"]),
    ("n + p), d) for", "n + 2 * p), d) for", check_avg_pool2d, AVG_CASES["ceil_mode"]),
]


@pytest.mark.parametrize("old, new, check, case", MUTATIONS, ids=[new for _, new, *_ in MUTATIONS])
def test_a_broken_formula_is_noticed(old, new, check, case):
    source = inspect.getsource(formulas)
    assert source.count(old) == 1
    broken = types.ModuleType("broken")
    exec(source.replace(old, new), broken.__dict__)
    with pytest.raises((AssertionError, TypeError)):
        check(broken, *case)


def derived():
    return [int(n) for n in re.findall(r"^### Eq\. (\d+)", DERIVATIONS.read_text(), re.M)]


def cited(path):
    """The numbers in each "eq. 3", "eq. 3, 4 and 5" or "eqs. 6 to 9" of a file."""
    for numbers in re.findall(r"\b[Ee]qs?\. ?(\d+(?:(?:,| and| to|-) ?\d+)*)", path.read_text()):
        yield from map(int, re.findall(r"\d+", numbers))


def test_derivations_are_numbered_in_order():
    assert derived() == list(range(1, len(derived()) + 1))


def test_every_cited_equation_is_derived():
    files = [f for folder in ("csrc", "torch_manual_conv") for f in (ROOT / folder).rglob("*.*")]
    sources = [f for f in files if f.suffix in (".h", ".cuh", ".cpp", ".cu", ".py")]
    citations = {(str(f.relative_to(ROOT)), number) for f in sources for number in cited(f)}
    assert {("csrc/conv2d.h", 5), ("csrc/pool2d.h", 10), ("csrc/sigmoid.h", 12)} <= citations
    assert not {(file, number) for file, number in citations if number not in derived()}


def test_every_formula_opens_with_its_equation():
    functions = [f for _, f in inspect.getmembers(formulas, inspect.isfunction) if f.__module__ == formulas.__name__]
    numbered = [f.__name__ for f in functions if f.__doc__.startswith("Eq. ")]
    assert sorted(set(f.__name__ for f in functions) - set(numbered)) == [
        "adaptive_windows", "every_index", "inside", "pair", "shares", "sliding_windows",
    ]  # fmt: skip
