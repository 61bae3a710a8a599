"""A channels_last model stays so: no operator of ours is given, or returns, another layout, and none copies. On the
CPU, and through the CUDA entry points, which run on the CPU here (cuda_harness/)."""

from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from checks import LAYOUTS, in_both_layouts, memory_order, traced
from torch.utils._python_dispatch import TorchDispatchMode

import torch_manual_conv as tmc
from torch_manual_conv import models

nn = torch.nn
COPIES = {"aten::clone", "aten::copy_", "aten::_to_copy", "aten::contiguous"}


class Seen(NamedTuple):
    """A tensor; not the tensor itself, since autograd copies a gradient that somebody else holds."""

    shape: tuple
    stride: tuple
    dtype: torch.dtype
    is_channels_last: bool


def seen(values):
    values = values if isinstance(values, (tuple, list)) else [values]
    form = torch.channels_last
    return [
        Seen(t.shape, t.stride(), t.dtype, t.dim() != 4 or t.is_contiguous(memory_format=form))
        for t in values
        if isinstance(t, torch.Tensor) and t.numel()
    ]


class Watching(TorchDispatchMode):
    """Notes every operator with its arguments and results; `ours` computes those of ours."""

    def __init__(self, ours):
        super().__init__()
        self.ours, self.calls = ours, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name.startswith("tmc::"):
            func = getattr(self.ours, name.removeprefix("tmc::"))
        result = func(*args, **(kwargs or {}))
        self.calls.append((name, seen(args), seen(result)))
        return result


def alexnet():
    """Its layers, with few channels."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 24, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
    )


def with_batch_norm():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(16, 32, 3, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(32),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Conv2d(32, 13, 1),
        nn.Tanh(),
        nn.AdaptiveMaxPool2d((3, 2)),
    )


@pytest.fixture(params=["cpu", "cuda"])
def ours(request):
    if request.param == "cpu":
        return torch.ops.tmc
    from cuda_harness.kernels import load_entry_points

    return load_entry_points()


@pytest.mark.parametrize("fuse", [False, True], ids=["layers", "fused"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("make", [alexnet, with_batch_norm])
def test_channels_last_models_copy_nothing(ours, make, half, fuse):
    net = tmc.convert(make(), fuse=fuse).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 63, 63).contiguous(memory_format=torch.channels_last)
    with Watching(ours) as watched, torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
        net(x).float().square().sum().backward()
    names = [name for name, _, _ in watched.calls]
    assert any(name.startswith("tmc::conv_act_pool2d" if fuse else "tmc::conv2d") for name in names)
    for name, args, results in watched.calls:
        if name.startswith("tmc::"):
            assert all(tensor.is_channels_last for tensor in args + results), name
        elif name in COPIES:  # autocast's: of the image, of parameters, and of their gradients on the way back
            assert half and name == "aten::_to_copy" and args[0].dtype != results[0].dtype, name
            assert args[0].stride == results[0].stride
    casts = names.count("aten::_to_copy")
    parameters = [p for layer in net if isinstance(layer, nn.Conv2d) for p in layer.parameters()]
    assert casts <= half * (2 * len(parameters) + 3)  # the image, and the loss in float32 and back
    for parameter in net.parameters():
        assert parameter.grad.stride() == parameter.stride()


@pytest.mark.parametrize("fuse", [False, True], ids=["layers", "fused"])
def test_alexnet_changes_its_layout_only_where_it_flattens(fuse):
    """What comes back from the classifier is contiguous, 6 x 6 positions: the average pool takes it so."""
    net = tmc.convert(models.alexnet(layers="torch", hidden=16), fuse=fuse).to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    with Watching(torch.ops.tmc) as watched:
        net(x).square().sum().backward()
    assert [args[0].shape for name, args, _ in watched.calls if name in COPIES] == [(1, 256, 6, 6)]
    changed = [
        (name, all(tensor.is_channels_last for tensor in results))
        for name, args, results in watched.calls
        if name.startswith("tmc::") and not all(tensor.is_channels_last for tensor in args + results)
    ]
    assert changed == [("tmc::adaptive_avg_pool2d_grad_input", True)]


LAYERS = {
    "conv2d": (lambda layers, x, w: layers.conv2d(x, w, padding=1), (2, 6, 7, 9), (4, 6, 3, 3)),
    "groups": (lambda layers, x, w: layers.conv2d(x, w, stride=2, groups=2), (2, 6, 7, 9), (4, 3, 3, 2)),
    "max_pool2d": (lambda layers, x: layers.max_pool2d(x, 3, 2), (2, 6, 7, 9)),
    "adaptive_max_pool2d": (lambda layers, x: layers.adaptive_max_pool2d(x, 3), (2, 6, 7, 9)),
    "global_max_pool2d": (lambda layers, x: layers.adaptive_max_pool2d(x, 1), (2, 6, 7, 9)),
    "avg_pool2d": (lambda layers, x: layers.avg_pool2d(x, 3, 2), (2, 6, 7, 9)),
    "global_avg_pool2d": (lambda layers, x: layers.avg_pool2d(x, (7, 9)), (2, 6, 7, 9)),
    "adaptive_avg_pool2d": (lambda layers, x: layers.adaptive_avg_pool2d(x, 3), (2, 6, 7, 9)),
}
POOLS = [name for name in LAYERS if "pool" in name]


@in_both_layouts
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_lie_as_torchs_do(name, layout, device):
    """Also where what comes back is contiguous. One in another layout than its parameter would be copied."""
    layer, *shapes = LAYERS[name]
    operands = [layout(torch.randn(shape, device=device)) for shape in shapes]
    strides = []
    for layers in (tmc.functional, torch.nn.functional):
        leaves = [operand.clone().requires_grad_() for operand in operands]
        output = layer(layers, *leaves)
        gradients = torch.autograd.grad(output, leaves, torch.randn(output.shape, device=device))
        strides.append([tensor.stride() for tensor in (output, *gradients)])
    assert strides[0] == strides[1]


@pytest.mark.parametrize("lies", [*LAYOUTS.values(), lambda x: torch.cat([x, x], 1).contiguous(
    memory_format=torch.channels_last)[:, :6]], ids=[*LAYOUTS, "sliced"])  # fmt: skip
@pytest.mark.parametrize("comes", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", POOLS)
def test_a_pools_gradient_lies_as_its_input_does(name, lies, comes, device):
    """Whatever comes back, and through both doors."""
    layer, shape = LAYERS[name]
    x, strides = lies(torch.randn(shape, device=device)), []
    for layers, door in ((torch.nn.functional, nullcontext), (tmc.functional, nullcontext), (tmc.functional, traced)):
        leaf = x.detach().requires_grad_()
        with door():
            output = layer(layers, leaf)
            (gradient,) = torch.autograd.grad(output, leaf, comes(torch.randn(output.shape, device=device)))
        strides.append(memory_order(gradient))
    assert strides[1] == strides[2] == strides[0]


@in_both_layouts
def test_a_global_averages_gradient_lies_as_its_input_does(layout, device):
    """docs/layers.md: torch's is contiguous."""
    leaf = layout(torch.randn(2, 6, 7, 9, device=device)).requires_grad_()
    for pool in (lambda x: tmc.functional.adaptive_avg_pool2d(x, 1), lambda x: tmc.functional.sum_pool2d(x, (7, 9))):
        output = pool(leaf)
        (gradient,) = torch.autograd.grad(output, leaf, torch.randn_like(output))
        assert gradient.stride() == leaf.stride()


@in_both_layouts
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("pool", [None, "max", "avg"])
def test_a_stages_gradients_lie_as_its_operands_do(pool, activation, layout, device):
    leaves = [layout(torch.randn(s, device=device)).requires_grad_() for s in ((2, 6, 7, 9), (4, 6, 3, 3))]
    output = tmc.functional.conv_act_pool2d(*leaves, padding=1, activation=activation, pool=pool)
    gradients = torch.autograd.grad(output, leaves, torch.randn_like(output))
    assert output.stride() == layout(output).stride()
    assert [gradient.stride() for gradient in gradients] == [leaf.stride() for leaf in leaves]
