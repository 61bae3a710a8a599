"""Convolution: forward, gradients with respect to input, weight and bias, and their gradients."""

import weakref

import pytest
import torch
import torch.nn.functional as torch_F
from checks import DENSE, check_op, check_registration, check_values, ops_called, saved_tensors
from comparisons import RecordOps, close, same_values

import torch_manual_conv.functional as F

# name: input shape, weight shape, arguments
CASES = {
    "lecture": ((2, 1, 6, 6), (2, 1, 3, 3), dict()),
    "odd": ((2, 3, 7, 5), (4, 3, 3, 3), dict(padding=1)),
    "alexnet-first": ((1, 3, 23, 23), (5, 3, 11, 11), dict(stride=4, padding=2)),
    "stride-over-kernel": ((2, 2, 11, 8), (3, 2, 2, 2), dict(stride=3)),
    "stride-leaves-rows-unread": ((1, 2, 8, 9), (3, 2, 3, 3), dict(stride=2)),
    "not-square": ((1, 2, 9, 7), (3, 2, 3, 2), dict(stride=(2, 1), padding=(0, 2), dilation=(1, 2))),
    "padding-over-kernel": ((1, 2, 3, 3), (2, 2, 2, 2), dict(padding=3)),
    "stride-2-phases": ((2, 9, 17, 15), (33, 9, 5, 6), dict(stride=2, padding=2)),
    "stride-2-phases-of-18": ((1, 18, 9, 21), (33, 18, 5, 5), dict(stride=2, padding=1)),
    "stride-3-by-2-phases": ((1, 6, 14, 13), (33, 6, 8, 4), dict(stride=(3, 2), padding=(1, 2))),
    "dilation-phases": ((2, 33, 13, 15), (34, 33, 3, 3), dict(dilation=2, padding=2)),
    "dilation": ((1, 2, 9, 10), (3, 2, 3, 3), dict(dilation=2, padding=2)),
    "same": ((2, 2, 5, 6), (3, 2, 3, 3), dict(padding="same", dilation=2)),
    "same-asymmetric": ((1, 2, 5, 6), (3, 2, 4, 2), dict(padding="same")),
    "valid": ((1, 2, 5, 6), (3, 2, 3, 3), dict(padding="valid")),
    "one-pixel": ((2, 3, 1, 1), (4, 3, 1, 1), dict()),
    "one-by-one": ((2, 5, 4, 3), (7, 5, 1, 1), dict()),
    "one-by-one-strided": ((1, 4, 5, 5), (3, 4, 1, 1), dict(stride=2)),
    "whole-input": ((2, 3, 4, 5), (4, 3, 4, 5), dict()),
    "prime": ((1, 17, 7, 5), (13, 17, 3, 3), dict(padding=1)),
    "groups": ((2, 6, 5, 5), (4, 3, 3, 3), dict(groups=2, padding=1)),
    "groups-many-filters": ((1, 6, 5, 4), (9, 2, 3, 3), dict(groups=3, stride=2, padding=1)),
    "depthwise": ((2, 5, 6, 5), (5, 1, 3, 3), dict(groups=5, padding=1)),
    "depthwise-multiplier": ((1, 3, 6, 5), (6, 1, 3, 2), dict(groups=3)),
    "depthwise-more-than-a-vector": ((2, 19, 9, 11), (19, 1, 3, 3), dict(groups=19, padding=1)),
    "depthwise-strided": ((1, 17, 12, 13), (17, 1, 3, 3), dict(groups=17, stride=2, padding=1)),
    "depthwise-dilated-stride-3": ((1, 16, 11, 14), (16, 1, 2, 3), dict(groups=16, stride=3, padding=2, dilation=2)),
    "depthwise-large-kernel": ((1, 16, 13, 17), (16, 1, 7, 9), dict(groups=16, padding=(3, 4))),
    "depthwise-multiplier-2": ((1, 17, 6, 9), (34, 1, 3, 3), dict(groups=17, stride=2, padding=1)),
    "groups-of-four": ((1, 20, 6, 7), (20, 4, 3, 3), dict(groups=5, padding=1)),
    "groups-of-two-to-three": ((1, 14, 6, 7), (21, 2, 3, 3), dict(groups=7, stride=2)),
}


def terms(input, weight, groups=1, **_):
    """The longest sum in the three maps: over a filter, over a filter bank, over a batch of pixels."""
    n, _, h, w = input
    k, c, r, s = weight
    return max(c * r * s, k // groups * r * s, n * h * w)


def tensors(input, weight, bias=True):
    return [torch.randn(s, dtype=torch.float64) for s in (input, weight)] + [
        torch.randn(weight[0], dtype=torch.float64) if bias else None
    ]


@pytest.mark.parametrize("input, weight, arguments", CASES.values(), ids=CASES)
def test_matches_torch(input, weight, arguments, dtype, device):
    check_op(
        lambda x, w, b: F.conv2d(x, w, b, **arguments),
        lambda x, w, b: torch_F.conv2d(x, w, b, **arguments),
        *tensors(input, weight), terms=terms(input, weight, **arguments), dtype=dtype, device=device,
    )  # fmt: skip


def test_no_bias(dtype, device):
    check_op(F.conv2d, torch_F.conv2d, *tensors((2, 3, 5, 4), (4, 3, 3, 3), bias=False),
             terms=40, dtype=dtype, device=device)  # fmt: skip


@pytest.mark.parametrize("case", ["alexnet-second", "alexnet-third"])
def test_larger_than_a_block(case, dtype, device):
    """Sizes that no tile of a blocked kernel divides, with more than one tile along every axis."""
    input, weight, arguments = {
        "alexnet-second": ((2, 64, 27, 27), (100, 64, 5, 5), dict(padding=2)),
        "alexnet-third": ((3, 101, 13, 13), (67, 101, 3, 3), dict(padding=1)),
    }[case]
    inputs = [x.to(device, dtype) for x in tensors(input, weight)]
    for layout in DENSE.values():
        check_values(
            lambda x, w, b: F.conv2d(x, w, b, **arguments),
            lambda x, w, b: torch_F.conv2d(x, w, b, **arguments),
            [layout(x) for x in inputs],
            terms=terms(input, weight),
        )  # fmt: skip


@pytest.mark.parametrize("channels_last", ["input", "weight"])
def test_one_operand_channels_last(channels_last, dtype, device):
    """The output is channels_last when either operand is, as in torch."""
    x, w, b = (t.to(device, dtype) for t in tensors((2, 3, 6, 5), (4, 3, 3, 3)))
    if channels_last == "input":
        x = x.contiguous(memory_format=torch.channels_last)
    else:
        w = w.contiguous(memory_format=torch.channels_last)
    check_values(F.conv2d, torch_F.conv2d, [x, w, b], terms=60)


def test_infinity_and_nan_stay_local(device):
    """A padded zero never meets a value: NaN and infinity reach exactly the outputs whose window holds them."""
    x, w = torch.ones(1, 1, 6, 6, device=device), torch.ones(1, 1, 3, 3, device=device)
    x[0, 0, 0, 0], x[0, 0, 5, 5] = torch.nan, torch.inf
    ours, theirs = (f(x, w, padding=1) for f in (F.conv2d, torch_F.conv2d))
    same_values(ours.isnan(), theirs.isnan(), "output: where it is NaN")
    same_values(ours.isinf(), theirs.isinf(), "output: where it is infinite")


@pytest.mark.parametrize("name", ["odd", "groups", "same-asymmetric", "dilation"])
def test_registration(name, device):
    input, weight, arguments = CASES[name]
    inputs = [x.to(device) for x in tensors(input, weight)]
    called = ops_called(lambda x, w, b: F.conv2d(x, w, b, **arguments), inputs)
    names = {op.name().removeprefix("tmc::") for op in called}
    assert names == {"conv2d", "conv2d_grad_input", "conv2d_grad_weight", "conv2d_grad_bias"}
    check_registration(called)


def test_saves_only_what_the_gradients_need(device):
    x, w = torch.randn(2, 3, 8, 8, device=device), torch.randn(4, 3, 3, 3, device=device)
    b = torch.randn(4, device=device, requires_grad=True)

    def saved(*frozen):
        leaves = {name: t.detach().requires_grad_(name not in frozen) for name, t in (("x", x), ("w", w))}
        kept = {t.data_ptr() for t in saved_tensors(lambda: F.conv2d(leaves["x"], leaves["w"], b))}
        return {name for name, t in leaves.items() if t.data_ptr() in kept}

    assert saved() == {"x", "w"}
    assert saved("w") == {"w"}
    assert saved("x") == {"x"}
    assert saved("x", "w") == set()


def test_what_jvp_would_need_is_not_kept(device):
    """setup_context hands both operands to save_for_forward, which torch drops once forward has returned."""
    x, w = torch.randn(2, 3, 8, 8, device=device), torch.randn(4, 3, 3, 3, device=device)
    x = x.requires_grad_() * 1
    gone = weakref.ref(x)
    output = F.conv2d(x, w)
    del x
    assert gone() is None
    output.sum().backward()


def test_gradients_only_where_asked(device):
    """A frozen operand gets no gradient computed: the op is not called."""
    x, w = torch.randn(2, 3, 8, 8, device=device), torch.randn(4, 3, 3, 3, device=device)
    for wanted in ("conv2d_grad_input", "conv2d_grad_weight"):
        leaves = x.detach().requires_grad_("input" in wanted), w.detach().requires_grad_("weight" in wanted)
        output = F.conv2d(*leaves)
        with RecordOps() as record:
            output.sum().backward()
        assert [op.name() for op in record.calls] == [f"tmc::{wanted}"]


STAGES = {
    "conv2d": {},
    "stage": {"activation": "tanh", "pool": "max"},
    "averaged-stage": {"activation": "relu", "pool": "avg"},
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("wanted", ["x", "w", "b", "xw", "xb", "wb", "xwb"])
def test_only_what_is_asked_for_is_computed(stage, wanted, device):
    """All three require a gradient; the pass is for some of them."""
    tensors = [torch.randn(shape, device=device) for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (4,))]
    leaves = dict(zip("xwb", (tensor.requires_grad_() for tensor in tensors), strict=True))
    operands = {name: leaf * 1 for name, leaf in leaves.items()}
    output = F.conv_act_pool2d(*operands.values(), **stage) if stage else F.conv2d(*operands.values())
    every = torch.autograd.grad(output.square().sum(), list(leaves.values()), retain_graph=True)
    with RecordOps() as record:
        grads = torch.autograd.grad(output.square().sum(), [operands[name] for name in wanted])
    alike = [grad for name, grad in zip("xwb", every, strict=True) if name in wanted]
    same_values(grads, alike, "grads of some, wanted as of all", wanted)
    if stage:
        (arguments,) = record.calls.values()
        assert arguments[-3:] == tuple(name in wanted for name in "xwb")
    else:
        ops = {"x": "conv2d_grad_input", "w": "conv2d_grad_weight", "b": "conv2d_grad_bias"}
        assert [op.name() for op in record.calls] == [f"tmc::{ops[name]}" for name in wanted]


@pytest.mark.parametrize("wanted", ["x", "w", "b", "xw", "xb", "wb", "xwb"])
def test_only_leaves_asked_for_are_computed(wanted, device):
    """torch answers the question about a leaf that it wants with an exception."""
    tensors = [torch.randn(shape, device=device) for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (4,))]
    leaves = dict(zip("xwb", (tensor.requires_grad_() for tensor in tensors), strict=True))
    ours, theirs = (f(*leaves.values()).square().sum() for f in (F.conv2d, torch_F.conv2d))
    with RecordOps() as record:
        grads = torch.autograd.grad(ours, [leaves[name] for name in wanted])
    close(grads, torch.autograd.grad(theirs, [leaves[name] for name in wanted]), "grads", rtol=1e-4, atol=1e-4)
    ops = {"x": "conv2d_grad_input", "w": "conv2d_grad_weight", "b": "conv2d_grad_bias"}
    assert [op.name() for op in record.calls] == [f"tmc::{ops[name]}" for name in wanted]


def test_same_tensor_twice(device):
    """input and weight may be one tensor: its gradient is the sum of both roles'."""
    x = torch.randn(3, 3, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
    grads = [torch.autograd.grad(f(x, x, padding=1).square().sum(), x)[0] for f in (F.conv2d, torch_F.conv2d)]
    close(*grads, "grad of both roles")


def test_inputs_are_never_written(device):
    x, w, b = (t.float().to(device).requires_grad_() for t in tensors((2, 3, 6, 5), (4, 3, 3, 3)))
    before = [t.detach().clone() for t in (x, w, b)]
    grad_output = torch.randn(2, 4, 4, 3, device=device)
    kept = grad_output.clone()
    F.conv2d(x, w, b).backward(grad_output)
    same_values((x, w, b, grad_output), (*before, kept), "after a pass", ("input", "weight", "bias", "grad_output"))


def test_infinite_gradient_stays_near(device):
    """docs/layers.md: it may spread stride - 1 positions too far, and no further."""
    grad_output, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 3, 3, 3)
    grad_output[0, 1, 4, 4] = float("inf")
    geometry = [17, 17], [2, 2, 1, 1, 0, 0], 1
    ours = torch.ops.tmc.conv2d_grad_input(grad_output.to(device), weight.to(device), *geometry).cpu()
    grad_output[0, 1, 4, 4] = 0
    finite = torch.ops.tmc.conv2d_grad_input(grad_output.to(device), weight.to(device), *geometry).cpu()
    reached = torch.zeros(17, 17, dtype=torch.bool)
    reached[8:11, 8:11] = True  # rows 2 * 4 ... 2 * 4 + 2
    near = torch.zeros_like(reached)
    near[7:12, 7:12] = True
    assert not ours[..., reached].isfinite().any()
    same_values(ours[..., ~near], finite[..., ~near], "grad_input far from infinity")
