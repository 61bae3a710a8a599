"""The package as installed: what importing costs, the public names, what the compiled libraries link against."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torch_manual_conv
from torch_manual_conv.ops._elementwise import OPERATORS

HERE = Path(torch_manual_conv.__file__).parent
FUNCTIONS = {
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "conv1d", "conv2d", "conv3d", "conv_act_pool2d",
    "conv_transpose2d", "max_pool2d", "sum_pool2d",
}  # fmt: skip
ELEMENTWISE = {name for name, operator in OPERATORS.items() if operator.saves}  # without their gradients
FUNCTIONS |= ELEMENTWISE
LAYERS = {
    "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "Conv1d", "Conv2d", "Conv3d", "ConvActPool2d",
    "ConvTranspose2d", "MaxPool2d", "Sigmoid", "SumPool2d",
}  # fmt: skip


def test_public_names():
    public = set(torch_manual_conv.functional.__all__)
    assert public == FUNCTIONS, f"functional.py and FUNCTIONS here differ in {public ^ FUNCTIONS}"
    layers = {n for n, v in vars(torch_manual_conv.nn).items() if isinstance(v, type)}
    assert layers == LAYERS, f"nn.py and LAYERS here differ in {layers ^ LAYERS}"
    assert all(hasattr(torch_manual_conv, name) for name in torch_manual_conv.__all__)
    assert all(function.__doc__ for function in (getattr(torch_manual_conv.functional, name) for name in FUNCTIONS))


def test_import_is_light():
    """Nothing beyond torch, the package and the standard library is imported."""
    script = """
import json, sys, torch
before = set(sys.modules)
import torch_manual_conv
print(json.dumps(sorted({m.split(".")[0] for m in set(sys.modules) - before})))
"""
    modules = json.loads(subprocess.check_output([sys.executable, "-c", script], text=True))
    extra = set(modules) - set(sys.stdlib_module_names) - {"torch", "torch_manual_conv"}
    assert not {m for m in extra if not m.startswith("_")}, extra


def test_works_without_the_extras():
    """Required at run time: torch alone."""
    script = """
import sys
for name in ("torchvision", "PIL", "yaml", "rich", "matplotlib", "pytest", "hypothesis"):
    sys.modules[name] = None
import torch, torch_manual_conv
from torch import nn
model = torch_manual_conv.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.MaxPool2d(2)))
model(torch.zeros(1, 3, 8, 8)).sum().backward()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("library", sorted(p.name for p in HERE.glob("*.so")))
def test_stable_abi_only(library):
    """No symbol of torch's unstable C++ interface, so that one build serves every supported torch; none of Python's."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    undefined = subprocess.check_output(["nm", "-D", "--undefined-only", "-C", HERE / library], text=True)
    assert not re.findall(r"\b(?:at|c10|caffe2)::\S+", undefined)
    assert not re.findall(r"\b_?Py[A-Z]\S*", undefined)
    assert "aoti_torch" in undefined or "torch_" in undefined  # it does link against torch


def test_wheel_tag_has_no_python_abi():
    wheels = list(HERE.parent.glob("*.dist-info/WHEEL")) + list(HERE.parent.glob("torch_manual_conv-*.dist-info/WHEEL"))
    wheels = [w for w in wheels if w.parent.name.startswith("torch_manual_conv-")]
    if not wheels:
        pytest.skip("not installed from a wheel")
    assert re.search(r"^Tag: py3-none-", wheels[0].read_text(), re.M)


# torch's own kernels for what we compute, wherever they may be called from.
FORBIDDEN = re.compile(r"conv(?!ert)|pool|sigmoid|mkldnn|cudnn|unfold|im2col")


def test_ours_computes():
    """No convolution, pooling or sigmoid of torch's anywhere below our functions, forward or backward."""
    F = torch_manual_conv.functional
    x, w, b = torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3), torch.randn(4)
    for t in (x, w, b):
        t.requires_grad_()
    calls = [
        lambda: F.conv2d(x, w, b, padding=1),
        lambda: F.conv_transpose2d(x, w.transpose(0, 1)),
        lambda: F.conv1d(x[:, :, 0], w[:, :, 0]),
        lambda: F.max_pool2d(x, 3, 2),
        lambda: F.avg_pool2d(x, 3, 2),
        lambda: F.adaptive_avg_pool2d(x, 2),
        lambda: F.adaptive_max_pool2d(x, 2),
        lambda: F.conv_act_pool2d(x, w, b, activation="sigmoid", pool="max"),
        lambda: F.sigmoid(x),
    ]
    for call in calls:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call().sum().backward()
        names = {event.key for event in profile.key_averages()}
        assert any(name.startswith("tmc::") for name in names)
        assert not [n for n in names if n.startswith("aten::") and FORBIDDEN.search(n)]


def functions_of(module):
    """The autograd.Functions that a file of ops/ defines."""
    return [f for f in vars(module).values() if isinstance(f, type) and f.__module__ == module.__name__]


OPS = sorted((HERE / "ops").glob("[!_]*.py"))


@pytest.mark.parametrize("file", OPS, ids=lambda file: file.name)
def test_ops_follow_one_rule(file):
    """ops/__init__.py: <stem>.py has public functions, <stem>_op.py Functions; each Function is written out."""
    module = importlib.import_module(f"torch_manual_conv.ops.{file.stem}")
    functions = functions_of(module)
    public = FUNCTIONS & {name for name, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
    assert bool(functions) == (file.stem.endswith("_op") or file.stem in ELEMENTWISE)
    assert bool(public) != file.stem.endswith("_op")
    for function in functions:
        assert {"forward", "setup_context", "backward", "jvp", "vmap"} <= vars(function).keys(), function
