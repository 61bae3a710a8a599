"""Signatures are torch's: names, order, defaults and kinds of parameters, and which values they take."""

import inspect
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_F

import torch_manual_conv as tmc
import torch_manual_conv.functional as F

# Parameters of ours that torch has not, and the function that a function without a twin is measured by.
TWINS = {"sum_pool2d": "avg_pool2d", "conv_act_pool2d": "conv2d"}
LEFT_OUT = {"sum_pool2d": {"count_include_pad", "divisor_override"}}
OURS_ALONE = {"conv_act_pool2d": {"activation", "pool", "pool_size", "pool_stride", "pool_padding", "save"}}
FUNCTIONS = [name for name in F.__all__ if hasattr(torch_F, TWINS.get(name, name))]


def torchs_parameters(name):
    """{name: default} of a function, from its signature, or from the first line of its documentation."""
    function = getattr(torch_F, name)
    function = getattr(torch_F, f"_{name}", function)  # what stands behind one that dispatches by return_indices
    try:
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters}
    except ValueError:
        line = re.search(rf"{name}\((.*?)\) ->", function.__doc__).group(1)
        stub = {}
        exec(f"def stub({line}): pass", stub)
        return {p.name: p.default for p in inspect.signature(stub["stub"]).parameters.values()}


def test_every_function_has_a_twin():
    assert set(FUNCTIONS) == set(F.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters(name):
    mine = inspect.signature(getattr(F, name)).parameters.values()
    shared = [p for p in mine if p.name not in OURS_ALONE.get(name, ())]
    theirs = torchs_parameters(TWINS.get(name, name))
    assert [p.name for p in shared] == [n for n in theirs if n not in LEFT_OUT.get(name, ())]
    for parameter in shared:
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        default = parameter.default
        assert default is theirs[parameter.name] or default == theirs[parameter.name], parameter
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in mine if p not in shared)


LAYERS = [name for name, layer in vars(tmc.nn).items() if isinstance(layer, type) and hasattr(torch.nn, name)]


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    mine, theirs = getattr(tmc.nn, name), getattr(torch.nn, name)
    assert issubclass(mine, theirs)
    assert inspect.signature(mine) == inspect.signature(theirs)
    takes = [[*inspect.signature(layer.forward).parameters] for layer in (mine, theirs)]
    assert takes[0] == takes[1]


def test_stages_take_what_convolutions_do():
    stage, conv = (inspect.signature(layer).parameters for layer in (tmc.nn.ConvActPool2d, torch.nn.Conv2d))
    assert {name: stage[name].default for name in conv} == {name: p.default for name, p in conv.items()}
    assert [*stage][: len(conv)] == [*conv]
    assert set(stage) - set(conv) == OURS_ALONE["conv_act_pool2d"]


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value

    def __repr__(self):
        return f"Index({self.value})"


VALUES = [
    None, True, False, -1, 0, 1, 2, 1.0, 1.5, 1j, "1", "same", "valid", "", b"1", [], (), [1], (2,), [1, 1], (1, 2),
    [1, 1, 1], [1] * 4, [[1, 1]], [[1], [1]], (True, True), [True], [True, 1], [1.0], [1.0, 1], ["1", 1], [None],
    [None, 1], (1, None), [None, None], 2**70, -(2**70), range(1, 3), {1, 2}, {1: 1}, slice(1), ..., object,
    Fraction(1), torch.Size([1, 1]), torch.Size([1]), torch.Size([]), torch.float32,
    np.int64(1), np.int32(2), np.uint8(1), np.float64(1), np.bool_(True), [np.int64(1), 1], [np.float64(1), 1],
    [np.bool_(True), 1], np.array(1), np.array([1]), np.array([1, 1]), np.array([1.0, 1.0]),
    torch.tensor(1), torch.tensor(2, dtype=torch.uint8), torch.tensor([1]), torch.tensor([1, 1]), torch.tensor(1.0),
    torch.tensor(True), torch.tensor([]), [torch.tensor(1), 1], [torch.tensor(1.0), 1], Index(1), [1, True],
]  # fmt: skip

# (which value, which parameters, "sizes" being all that have no line of their own): why it is otherwise with us
DIFFERENCES = {
    ("array(1)", "sizes"): "torch fails an internal assertion",
    ("Index(1)", "sizes"): "torch fails an internal assertion",
    ("array(1)", "divisor_override"): "an int of numpy, which torch takes for groups and not here",
    ("Index(1)", "divisor_override"): "likewise",
    ("tensor([1])", "groups"): "no int; torch takes it here and not for divisor_override",
    ("tensor(True)", "sizes"): "a bool is no int; torch looks at the first value of a list, and at none of a tensor",
    ("[1, True]", "sizes"): "likewise",
}
IMAGE = torch.arange(2 * 4 * 9 * 9.0).reshape(2, 4, 9, 9)
REQUIRED = {
    "conv1d": dict(input=IMAGE[:, :, 0], weight=torch.ones(4, 4, 3)),
    "conv2d": dict(input=IMAGE, weight=torch.ones(4, 4, 3, 3)),
    "conv3d": dict(input=IMAGE[:, :, :5, :5].unsqueeze(2), weight=torch.ones(4, 4, 1, 3, 3)),
    "conv_transpose2d": dict(input=IMAGE, weight=torch.ones(4, 4, 3, 3)),
    "max_pool2d": dict(input=IMAGE, kernel_size=3),
    "avg_pool2d": dict(input=IMAGE, kernel_size=3),
    "adaptive_max_pool2d": dict(input=IMAGE, output_size=2),
    "adaptive_avg_pool2d": dict(input=IMAGE, output_size=2),
}
PARAMETERS = [
    (name, parameter)
    for name in REQUIRED
    for parameter in inspect.signature(getattr(F, name)).parameters
    if parameter not in ("input", "weight", "bias")
]


def outcomes(name, parameter, value):
    """What ours and torch's function give: a tensor, or the first line of an error."""
    arguments = REQUIRED[name] | (dict(stride=3) if parameter == "output_padding" else {}) | {parameter: value}
    found = []
    for functions in (F, torch_F):
        try:
            result = getattr(functions, name)(**arguments)
            found.append(result[0] if isinstance(result, tuple) else result)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            found.append(f"{type(error).__name__}: {error}".splitlines()[0])
    return found


def scope(parameter):
    return parameter if parameter in ("groups", "divisor_override") else "sizes"


@pytest.mark.parametrize("name, parameter", PARAMETERS)
def test_what_a_parameter_takes(name, parameter):
    """Every value is taken or refused as torch takes or refuses it, and means the same."""
    for value in VALUES:
        mine, theirs = outcomes(name, parameter, value)
        what = f"{name}({parameter}={value!r}): ours {mine}, torch's {theirs}"
        if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(mine, theirs, msg=what)
        elif isinstance(mine, torch.Tensor) or isinstance(theirs, torch.Tensor):
            assert (repr(value), scope(parameter)) in DIFFERENCES, what
        elif parameter != "return_indices":  # Python asks whether it is true
            assert re.match(rf"\w+Error: {name}: ", mine), what


@pytest.mark.parametrize("text, where", DIFFERENCES)
def test_every_difference_is_one(text, where):
    (value,) = (v for v in VALUES if repr(v) == text)
    pairs = [outcomes(name, parameter, value) for name, parameter in PARAMETERS if scope(parameter) == where]
    assert any(isinstance(mine, torch.Tensor) != isinstance(theirs, torch.Tensor) for mine, theirs in pairs)
