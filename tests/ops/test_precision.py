"""torch's switch for convolutions decides how exactly a float32 convolution is computed, and nothing else does."""

from contextlib import contextmanager

import pytest
import torch
from checks import in_both_layouts, run
from comparisons import naming_kernels, same_values, within

import torch_manual_conv
import torch_manual_conv.functional as F
from torch_manual_conv.ops.conv2d import float32_precision

# Of an output and of both gradients, relative, in the norm: eq. 30 and docs/precision.md.
LARGEST_ERROR = {"ieee": 1e-6, "tf32": 2**-15, "bf16": 2**-7}
# torch keeps a switch for each backend and kind of operator; "none" takes what stands above: all of the backend, then
# all of torch. torch.backends.mkldnn.fp32_precision sets the last of these; .flags() sets "all" of its backend.
SWITCHES = [(b, o) for b in ("mkldnn", "cuda") for o in ("conv", "matmul", "rnn", "all")] + [("generic", "all")]


@pytest.fixture(autouse=True)
def switches():
    """Puts every switch back, from the top, since a parent's value shows below."""
    matmul = torch.get_float32_matmul_precision()
    before = [torch._C._get_fp32_precision_getter(*name) for name in SWITCHES]
    yield
    torch.set_float32_matmul_precision(matmul)
    for name, value in reversed(list(zip(SWITCHES, before, strict=True))):
        torch._C._set_fp32_precision_setter(*name, value)


@contextmanager
def precision(name):
    before = torch.backends.mkldnn.conv.fp32_precision
    torch.backends.mkldnn.conv.fp32_precision = name
    try:
        yield
    finally:
        torch.backends.mkldnn.conv.fp32_precision = before


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
def test_error_of_float32(name, layout):
    exact, inputs = results(operands(torch.float64)), operands(torch.float32, layout)
    with precision(name), naming_kernels(conv, inputs):
        for what, mine, true in zip(RESULTS, results(inputs), exact, strict=True):
            within(mine, true, LARGEST_ERROR[name], f"{what}, precision {name}", torch.Tensor.norm)


def second_gradient(x, w):
    grads = torch.autograd.grad(conv(x, w).square().sum(), (x, w), create_graph=True)
    return torch.autograd.grad(sum(grad.square().sum() for grad in grads), (x, w))


EVERY_CONVOLUTION = {
    "conv1d": lambda x, w: F.conv1d(x[:, :, 0], w[:, :, 0]),
    "conv2d": conv,
    "conv3d": lambda x, w: F.conv3d(x.unsqueeze(2), w.unsqueeze(2)),
    "conv_transpose2d": lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1)),
    "conv_act_pool2d": lambda x, w: F.conv_act_pool2d(x, w, activation="sigmoid", pool="avg"),
    "second gradient": second_gradient,
}


@pytest.fixture
def matrix_product():
    """The algorithm that rounds where it may."""
    torch.ops.tmc.prefer_conv2d_algorithm("matrix_product")
    yield
    torch.ops.tmc.prefer_conv2d_algorithm("")


@pytest.mark.parametrize("what", EVERY_CONVOLUTION)
def test_the_switch_for_convolutions_alone_counts(what, matrix_product):
    function, inputs = EVERY_CONVOLUTION[what], [t.requires_grad_() for t in operands(torch.float32)]
    before = function(*inputs)
    torch.set_float32_matmul_precision("medium")
    same_values(function(*inputs), before, f"{what}, torch.set_float32_matmul_precision('medium')")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    same_values(function(*inputs), before, f"{what}, the switches of products and of cuDNN")
    if torch.ops.tmc.cpu_isa() in ("avx512_bf16", "amx"):
        with precision("bf16"):
            rounded = function(*inputs)
        first, other = (r[0] if isinstance(r, tuple) else r for r in (before, rounded))
        assert not torch.equal(first, other), f"{what} does not follow the switch"


@pytest.mark.parametrize("backend, on_cuda", [("mkldnn", False), ("cuda", True)])
def test_what_the_switch_inherits(backend, on_cuda):
    """Whatever torch says that its convolution may do, in every state that the three levels can be in."""
    names = ("none", "ieee", "tf32", "bf16")
    words = {"none": "highest", "ieee": "highest", "tf32": "high", "bf16": "medium"}
    seen = set()
    for levels in [(g, b, c) for g in names for b in names for c in names]:
        if on_cuda and "bf16" in levels[1:]:
            continue  # which torch refuses for cuDNN
        for switch, value in zip((("generic", "all"), (backend, "all"), (backend, "conv")), levels, strict=True):
            torch._C._set_fp32_precision_setter(*switch, value)
        theirs = torch.backends.cudnn.conv if on_cuda else torch.backends.mkldnn.conv
        assert float32_precision(on_cuda) == words[theirs.fp32_precision], levels
        seen.add(float32_precision(on_cuda))
    assert seen == {"highest", "high"} | ({"medium"} if not on_cuda else set())


def test_older_switch_of_cuda():
    before = torch.backends.cudnn.allow_tf32
    try:
        for torch.backends.cudnn.allow_tf32, expected in ((False, "highest"), (True, "high")):
            assert float32_precision(on_cuda=True) == expected
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_flags_hold_inside_their_context():
    with torch.backends.mkldnn.flags(enabled=True, fp32_precision="tf32"):
        assert float32_precision(on_cuda=False) == "high"
    assert float32_precision(on_cuda=False) == "highest"


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_ignore_the_switch(other):
    before = results(operands(other))
    with precision("bf16"):
        same_values(results(operands(other)), before, "precision bf16, wanted as ieee", RESULTS)


def test_rounded_to_bfloat16_where_that_is_fast(matrix_product):
    x, w = torch.full((1, 1, 1, 1), 1 + 2**-10), torch.ones(1, 1, 1, 1)
    expected = 1.0 if torch.ops.tmc.cpu_isa() in ("avx512_bf16", "amx") else 1 + 2**-10
    with precision("bf16"):
        assert F.conv2d(x, w).item() == expected


def test_backward_computes_as_forward_did(matrix_product):
    """docs/precision.md: the precision belongs to the result, whatever the switch says when backward runs."""
    x, w = (t.requires_grad_() for t in operands(torch.float32))
    with precision("bf16"):
        rounded = conv(x, w)
        wanted = torch.autograd.grad(rounded, (x, w), torch.ones_like(rounded), retain_graph=True)
    same_values(torch.autograd.grad(rounded, (x, w), torch.ones_like(rounded)), wanted, "gradients")


def test_the_unit_that_multiplies_is_named():
    image, weight = torch.empty(1, 8, 9, 9), torch.empty(4, 8, 3, 3)
    chosen = torch_manual_conv.conv2d_algorithms(image.bfloat16(), weight.bfloat16())["forward"][1]
    unit = {"avx512_bf16": "AVX512-BF16", "amx": "AMX"}.get(torch.ops.tmc.cpu_isa(), "multiply-adds")
    assert unit in chosen
