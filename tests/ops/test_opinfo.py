"""torch's own test samples, its own bad inputs and its own samples of layers, through ours: each, in every dtype that
torch lists for the device, with gradients where it lists them: values, dtypes, shapes and order in memory.

Nothing is left out and nothing is otherwise. Differences that torch's samples do not show are in docs/layers.md, and
tested beside the operator."""

import pytest
import torch
from checks import memory_order
from comparisons import check_close, close

import torch_manual_conv as tmc
import torch_manual_conv.functional as F
from torch_manual_conv.ops._elementwise import OPERATORS

with pytest.MonkeyPatch.context() as patch:
    # Its import would freeze torch's switches for every test of the process.
    patch.setattr(torch.backends, "disable_global_flags", lambda: None)
    why = "torch's private operator database is missing"
    methods = pytest.importorskip("torch.testing._internal.common_methods_invocations", reason=why)
    modules = pytest.importorskip("torch.testing._internal.common_modules", reason=why)

OPS = {
    "nn.functional.conv1d": F.conv1d,
    "nn.functional.conv2d": F.conv2d,
    "nn.functional.conv3d": F.conv3d,
    "nn.functional.conv_transpose2d": F.conv_transpose2d,
    "nn.functional.max_pool2d": F.max_pool2d,
    "nn.functional.avg_pool2d": F.avg_pool2d,
    "nn.functional.adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "nn.functional.adaptive_max_pool2d": F.adaptive_max_pool2d,
}
KNOWN = {info.name for info in methods.op_db}
for name in filter(OPERATORS.get, F.__all__):
    OPS[name if name in KNOWN else f"nn.functional.{name}"] = getattr(F, name)
INFOS = {info.name: info for info in methods.op_db if info.name in OPS}
MODULES = {info.module_cls.__name__: info for info in modules.module_db if hasattr(tmc.nn, info.module_cls.__name__)}
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def test_the_database_has_every_op():
    assert set(INFOS) == set(OPS)
    ours_alone = {"SumPool2d", "ConvActPool2d"}
    layers = {
        name for name, layer in vars(tmc.nn).items() if isinstance(layer, type) and layer.__module__ == tmc.nn.__name__
    }
    assert set(MODULES) == layers - ours_alone


def listed(infos, device="cpu"):
    """(name, dtype) of all that torch lists."""
    for name, info in infos.items():
        dtypes = info.supported_dtypes(device) if hasattr(info, "supported_dtypes") else info.dtypes
        for dtype in sorted(dtypes, key=str):
            yield pytest.param(name, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")


@pytest.mark.parametrize("name, torch_dtype", [*listed(INFOS)])
def test_samples(name, torch_dtype, device):
    info, count = INFOS[name], 0
    if torch_dtype not in info.supported_dtypes(device):
        pytest.skip(f"torch lists it for the CPU, not for {device}")
    differentiable = torch_dtype in info.supported_backward_dtypes(device)
    for sample in info.reference_inputs(device, torch_dtype, requires_grad=differentiable):
        arguments = (sample.input, *sample.args)
        compare(f"{name} of {sample}", OPS[name], info.op, arguments, sample.kwargs)
        count += 1
    assert count > 0


def compare(what, ours, twin, args, kwargs):
    """Results, and gradients of whatever requires one, have torch's values, dtypes, shapes and order in memory."""
    try:
        theirs = call(twin, args, kwargs)
    except RuntimeError:  # a dtype that is listed, and not implemented
        with pytest.raises(RuntimeError):
            call(ours, args, kwargs)
        return
    mine, dtype = call(ours, args, kwargs), args[0].dtype
    exact = theirs
    if dtype in FLOATING:
        exact = call(twin, [to_double(a) for a in args], {k: to_double(v) for k, v in kwargs.items()})
    for a, b, c in zip(mine, exact, theirs, strict=True):
        assert (a.shape, a.dtype, memory_order(a)) == (c.shape, c.dtype, memory_order(c)), what
        a, c = (torch.view_as_real(t) if t.is_complex() else t for t in (a, c))
        if dtype not in FLOATING:
            close(a, c, what, rtol=0, atol=0, equal_nan=True)
        else:  # torch's own value will do: of a saturated sigmoid's gradient rounding leaves few digits
            exactly = torch.where(a == c, a.double(), b.double())
            check_close(a, exactly, c, terms=max(args[0].numel(), 1), what=what)


def call(function, args, kwargs):
    """Results and the gradients of their sum, as a flat list."""
    args, kwargs = [as_leaf(a) for a in args], {k: as_leaf(v) for k, v in kwargs.items()}
    results = function(*args, **kwargs)
    results = list(results) if isinstance(results, tuple) else [results]
    leaves = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor) and t.requires_grad]
    grads = torch.autograd.grad(results[0], leaves, torch.ones_like(results[0])) if leaves else ()
    return [r.detach() for r in results] + list(grads)


def as_leaf(value):
    if isinstance(value, torch.Tensor) and value.requires_grad:
        return value.detach().requires_grad_()
    return value


def to_double(value):
    if isinstance(value, torch.Tensor):
        return value.detach().double().requires_grad_(value.requires_grad)
    return value


@pytest.mark.parametrize("name", [name for name in OPS if INFOS[name].error_inputs_func is not None])
def test_error_inputs(name, device):
    """What torch rejects we reject."""
    count = 0
    for error in INFOS[name].error_inputs(device):
        sample = error.sample_input
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            OPS[name](sample.input, *sample.args, **sample.kwargs)
        count += 1
    assert count > 0


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name, torch_dtype", [*listed(MODULES)])
def test_layers(name, torch_dtype, training, device):
    info, count = MODULES[name], 0
    for sample in info.module_inputs_func(info, device, torch_dtype, True, training):
        built = sample.constructor_input
        theirs = info.module_cls(*built.args, **built.kwargs).to(device, torch_dtype).train(training)
        mine = getattr(tmc.nn, name)(*built.args, **built.kwargs).to(device, torch_dtype).train(training)
        mine.load_state_dict(theirs.state_dict())
        assert repr(mine) == repr(theirs)
        parameters = [*theirs.state_dict().keys()]
        weights = [weight.requires_grad_() for weight in theirs.state_dict().values()]

        def through(layer, parameters=parameters):
            def function(input, *rest, **kwargs):
                weights, others = rest[: len(parameters)], rest[len(parameters) :]
                state = dict(zip(parameters, weights, strict=True))
                return torch.func.functional_call(layer, state, (input, *others), kwargs)

            return function

        given = sample.forward_input
        arguments = [given.args[0], *weights, *given.args[1:]]
        compare(f"{name}: {sample}", through(mine), through(theirs), arguments, given.kwargs)
        count += 1
    assert count > 0


@pytest.mark.parametrize("name", [name for name, info in MODULES.items() if info.module_error_inputs_func is not None])
def test_layers_error_inputs(name, device):
    info, count = MODULES[name], 0
    for error in info.module_error_inputs_func(info, device, torch.float32, True, True):
        built, given = error.module_error_input.constructor_input, error.module_error_input.forward_input
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            getattr(tmc.nn, name)(*built.args, **built.kwargs)(*given.args, **given.kwargs)
        count += 1
    assert count > 0
