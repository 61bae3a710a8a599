"""The layers are drop-in: constructors, initialisation, repr, state_dict and behaviour are torch.nn's."""

import copy
import inspect
import pickle

import pytest
import torch
from comparisons import close, same_values
from torch import nn as torch_nn

from torch_manual_conv import functional as F
from torch_manual_conv import nn

# name: layer, constructor arguments, input shape
LAYERS = {
    "conv1d": ("Conv1d", dict(in_channels=4, out_channels=6, kernel_size=3, stride=2, groups=2), (2, 4, 9)),
    "conv2d": ("Conv2d", dict(in_channels=4, out_channels=6, kernel_size=(3, 2), padding=1, dilation=2), (2, 4, 9, 8)),
    "conv2d-same": ("Conv2d", dict(in_channels=4, out_channels=6, kernel_size=4, padding="same"), (2, 4, 9, 8)),
    "conv2d-no-bias": ("Conv2d", dict(in_channels=4, out_channels=6, kernel_size=3, bias=False), (2, 4, 9, 8)),
    "conv2d-float64": ("Conv2d", dict(in_channels=3, out_channels=2, kernel_size=3, dtype=torch.float64), (2, 3, 5, 5)),
    "conv3d": ("Conv3d", dict(in_channels=2, out_channels=3, kernel_size=2, padding=(1, 0, 1)), (2, 2, 4, 5, 5)),
    "conv_transpose2d": (
        "ConvTranspose2d",
        dict(in_channels=4, out_channels=6, kernel_size=3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 4, 5, 4),
    ),
    "sigmoid": ("Sigmoid", dict(), (3, 4)),
    "max_pool2d": ("MaxPool2d", dict(kernel_size=3, stride=2, padding=1, ceil_mode=True), (2, 3, 8, 7)),
    "avg_pool2d": ("AvgPool2d", dict(kernel_size=3, padding=1, count_include_pad=False), (2, 3, 8, 7)),
    "adaptive_avg_pool2d": ("AdaptiveAvgPool2d", dict(output_size=(3, None)), (2, 3, 8, 7)),
    "adaptive_max_pool2d": ("AdaptiveMaxPool2d", dict(output_size=3), (2, 3, 8, 7)),
}
every_layer = pytest.mark.parametrize("name, arguments, shape", LAYERS.values(), ids=LAYERS)


def build(module, name, arguments):
    torch.manual_seed(3)
    return getattr(module, name)(**arguments)


def assert_same_state(a, b):
    assert list(a.state_dict()) == list(b.state_dict())
    same_values(a.state_dict().values(), b.state_dict().values(), "state", list(a.state_dict()))


@every_layer
def test_is_built_and_computes_as_its_twin(name, arguments, shape):
    ours, theirs = build(nn, name, arguments), build(torch_nn, name, arguments)
    assert isinstance(ours, getattr(torch_nn, name)) and repr(ours) == repr(theirs)
    assert_same_state(ours, theirs)
    assert inspect.signature(type(ours)) == inspect.signature(type(theirs))
    ours, theirs = ours.double(), theirs.double()
    x = torch.randn(shape, dtype=torch.float64)
    close(ours(x), theirs(x), name)
    close(ours(x[0]), theirs(x[0]), f"{name} of one sample")


@every_layer
def test_state_dict_loads_both_ways(name, arguments, shape):
    ours, theirs = getattr(nn, name)(**arguments), getattr(torch_nn, name)(**arguments)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_same_state(ours, theirs)
    theirs.load_state_dict(getattr(nn, name)(**arguments).state_dict(), strict=True)


@every_layer
def test_copies_and_pickles(name, arguments, shape):
    layer = build(nn, name, arguments).double()
    x = torch.randn(shape, dtype=torch.float64)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(twin) is type(layer)
        same_values(twin(x), layer(x), f"{name} of a copy")


@every_layer
def test_meta_device(name, arguments, shape):
    """A layer built without storage gives shapes without computing, and works once it is given values."""
    with torch.device("meta"):
        layer = build(nn, name, arguments)
        assert layer(torch.empty(shape, dtype=arguments.get("dtype"))).is_meta
    layer.to_empty(device="cpu").load_state_dict(build(torch_nn, name, arguments).state_dict())
    x = torch.randn(shape, dtype=arguments.get("dtype"))
    close(layer(x), build(torch_nn, name, arguments)(x), name)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "Conv3d"])
def test_padding_modes(name, mode):
    axes = int(name[4])
    arguments = dict(in_channels=2, out_channels=3, kernel_size=3, padding=1, padding_mode=mode)
    ours, theirs = (build(m, name, arguments).double() for m in (nn, torch_nn))
    x = torch.randn(2, 2, *[5] * axes, dtype=torch.float64, requires_grad=True)
    close(ours(x), theirs(x), name)
    close(*(torch.autograd.grad(layer(x).square().sum(), x) for layer in (ours, theirs)), f"grad_input of {name}")


def test_conv_transpose2d_output_size():
    arguments = dict(in_channels=3, out_channels=2, kernel_size=3, stride=2)
    ours, theirs = build(nn, "ConvTranspose2d", arguments), build(torch_nn, "ConvTranspose2d", arguments)
    x = torch.randn(2, 3, 5, 4)
    for output_size in ([11, 9], [12, 10]):
        close(ours(x, output_size=output_size), theirs(x, output_size=output_size), f"output_size {output_size}")
    with pytest.raises(ValueError):
        ours(x, output_size=[13, 10])


@pytest.mark.parametrize("name", ["MaxPool2d", "AdaptiveMaxPool2d"])
def test_return_indices(name):
    ours, theirs = (getattr(m, name)(3, return_indices=True) for m in (nn, torch_nn))
    x = torch.randn(2, 3, 8, 7)
    same_values(ours(x), theirs(x), name, ("output", "indices"))


@every_layer
def test_fx_traces_it_to_one_call(name, arguments, shape):
    """As torch.nn's layers: what takes graphs of models apart (feature extraction, quantisation) takes ours."""
    layer = getattr(nn, name)(**arguments)
    graph = torch.fx.symbolic_trace(torch_nn.Sequential(layer))
    (call,) = (node for node in graph.graph.nodes if node.op == "call_function")
    assert getattr(F, call.target.__name__) is call.target
    x = torch.randn(shape, dtype=arguments.get("dtype"))
    same_values(pickle.loads(pickle.dumps(graph))(x), layer(x), f"{name} of the graph")


def test_sum_pool2d():
    layer = nn.SumPool2d(3, stride=2, padding=1, ceil_mode=True)
    twin = torch_nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, divisor_override=1)
    x = torch.randn(2, 3, 8, 7)
    close(layer(x), twin(x), "sums")
    assert repr(layer) == "SumPool2d(kernel_size=3, stride=2, padding=1)"
    assert nn.SumPool2d(2).stride == 2 and not layer.state_dict()


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_conv_act_pool2d(padding_mode):
    arguments = dict(in_channels=3, out_channels=4, kernel_size=3, padding=1, padding_mode=padding_mode)
    stage = dict(activation="sigmoid", pool="max", pool_size=3, pool_stride=2, pool_padding=1)
    torch.manual_seed(3)
    layer, conv = nn.ConvActPool2d(**arguments, **stage), build(torch_nn, "Conv2d", arguments)
    assert_same_state(layer, conv)
    x = torch.randn(2, 3, 9, 8)
    close(layer(x), torch.nn.functional.max_pool2d(torch.sigmoid(conv(x)), 3, 2, 1), "stage")
    assert "activation=sigmoid, pool=max, pool_size=3, pool_stride=2, pool_padding=1" in repr(layer)
    same_values(copy.deepcopy(layer)(x), layer(x), "stage of a copy")


@pytest.mark.parametrize("name", [n for n in F.__all__ if hasattr(torch.nn.functional, n)])
def test_functions_have_torchs_signatures(name):
    """Where torch's function is written in Python it can be asked; the others' signatures stand in their docstrings."""
    theirs = getattr(torch.nn.functional, name)
    ours = list(inspect.signature(getattr(F, name)).parameters)
    try:
        wanted = list(inspect.signature(theirs).parameters)
    except ValueError:
        first_line = theirs.__doc__.strip().splitlines()[0]
        wanted = [
            p.split("=")[0].strip() for p in first_line[first_line.index("(") + 1 : first_line.index(")")].split(",")
        ]
    if wanted == ["args", "kwargs"]:  # boolean_dispatch, on return_indices
        wanted = ["input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"]
        wanted = wanted if "adaptive" not in name else ["input", "output_size", "return_indices"]
    assert ours == wanted
