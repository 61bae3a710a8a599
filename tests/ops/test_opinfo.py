"""torch's own test samples, and its own bad inputs, through our functions."""

import pytest
import torch
from comparisons import check_close

import torch_manual_conv.functional as F
from torch_manual_conv.ops._elementwise import OPERATORS

with pytest.MonkeyPatch.context() as patch:
    # Its import would freeze torch's switches for every test of the process.
    patch.setattr(torch.backends, "disable_global_flags", lambda: None)
    methods = pytest.importorskip(
        "torch.testing._internal.common_methods_invocations", reason="torch's private operator database is missing"
    )

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


def test_the_database_has_every_op():
    assert set(INFOS) == set(OPS)


@pytest.mark.parametrize("name", OPS)
def test_samples(name, dtype, device):
    info, ours = INFOS[name], OPS[name]
    count = 0
    for sample in info.sample_inputs(device, dtype, requires_grad=True):
        args = (sample.input, *sample.args)
        mine, theirs = (call(function, args, sample.kwargs) for function in (ours, info.op))
        exact = call(info.op, tuple(map(to_double, args)), {k: to_double(v) for k, v in sample.kwargs.items()})
        for a, b, c in zip(mine, exact, theirs, strict=True):
            assert a.shape == c.shape and a.dtype == c.dtype, sample
            check_close(a, b, c, terms=max(sample.input.numel(), 1), what=f"{name} of {sample}")
        count += 1
    assert count > 0


def call(function, args, kwargs):
    """Results and the gradients of their sum, as a flat list."""
    results = function(*args, **kwargs)
    results = list(results) if isinstance(results, tuple) else [results]
    leaves = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor) and t.requires_grad]
    return [r.detach() for r in results] + list(torch.autograd.grad(results[0].sum(), leaves))


def to_double(value):
    if isinstance(value, torch.Tensor):
        return value.detach().double().requires_grad_(value.requires_grad)
    return value


@pytest.mark.parametrize("name", [name for name in OPS if INFOS[name].error_inputs_func is not None])
def test_error_inputs(name, device):
    """What torch rejects we reject."""
    for error in INFOS[name].error_inputs(device):
        sample = error.sample_input
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            OPS[name](sample.input, *sample.args, **sample.kwargs)
