"""Random arguments: garbage shaped like each op's schema never crashes, and valid calls agree with torch."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as torch_F
from checks import DENSE
from comparisons import check_close, naming_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_inputs import SETUP

import torch_manual_conv.functional as F
from torch_manual_conv.ops._elementwise import OPERATORS

CALLS_PER_OP = 200

# A valid call of every op: the garbage replaces some of its arguments.
CONV, WINDOW = "[2, 1, 1, 2, 1, 1], 2", "[2, 3, 2, 2, 1, 0, 1, 1], True"
AVERAGE = "[2, 3, 2, 2, 1, 0], True, False, None"
STAGE = f"{CONV}, 'relu', 'max', [2, 3, 2, 2, 0, 1], 'highest'"
VALID = {
    "conv2d": f"x(2,4,7,8), x(6,2,3,3), x(6), {CONV}",
    "conv2d_grad_input": f"x(2,6,4,6), x(6,2,3,3), [7, 8], {CONV}",
    "conv2d_grad_weight": f"x(2,6,4,6), x(2,4,7,8), [3, 3], {CONV}",
    "conv2d_grad_bias": "x(2,6,4,6)",
    "max_pool2d": f"x(2,3,7,8), {WINDOW}",
    "max_pool2d_grad_input": f"x(2,3,4,4), bytes_(2,3,4,4, value=4), [7, 8], {WINDOW}",
    "max_pool2d_select": f"x(2,3,7,8), bytes_(2,3,4,4, value=4), {WINDOW}",
    "max_pool2d_indices": f"bytes_(2,3,4,4, value=4), [7, 8], {WINDOW}",
    "avg_pool2d": f"x(2,3,7,8), {AVERAGE}",
    "avg_pool2d_grad_input": f"x(2,3,4,4), [7, 8], {AVERAGE}",
    "adaptive_max_pool2d": "x(2,3,7,8), [3, 2]",
    "adaptive_max_pool2d_grad_input": "x(2,3,3,2), bytes_(2,3,3,2, value=5), [7, 8]",
    "adaptive_max_pool2d_select": "x(2,3,7,8), bytes_(2,3,3,2, value=5)",
    "adaptive_max_pool2d_indices": "bytes_(2,3,3,2, value=5), [7, 8]",
    "adaptive_avg_pool2d": "x(2,3,7,8), [3, 2]",
    "adaptive_avg_pool2d_grad_input": "x(2,3,3,2), [7, 8]",
    "conv_act_pool2d": f"x(2,4,7,8), x(6,2,3,3), x(6), {STAGE}, True",
    "conv_act_pool2d_gradients": "x(2,6,2,3), x(2,4,7,8), x(6,2,3,3), x(6), x(2,6,2,3), bytes_(2,6,2,3, value=4),"
    f" [2, 4, 7, 8], [6, 2, 3, 3], {STAGE}, True, True, True",
} | {
    name: ", ".join(["x(2,3,4)"] * len(operator.tensors) + [str(scalar) for scalar in operator.scalars])
    for name, operator in OPERATORS.items()
}

# The child prints each call before it makes it: the last line names the culprit of a crash.
CHILD = """
import json, random, sys
rng = random.Random(0)
INTS = [-(2**63), -(2**31), -3, -1, 0, 1, 2, 3, 4, 5, 7, 8, 255, 256, 2**31 - 1, 2**31, 2**62, 2**63 - 1]
DTYPES = [torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.int32, torch.int64, torch.bool,
          torch.complex64]
WORDS = ["none", "sigmoid", "relu", "tanh", "max", "avg", "sum", "highest", "high", "medium", "", "nonsense"]

def garbage_tensor(old):
    way = rng.randrange(8 if old.dim() > 1 else 3)
    if way == 0:
        rank = rng.choice([4] * 8 + [0, 1, 2, 3, 5])
        return torch.ones([rng.choice([0, 1, 2, 3, 4, 7, 8]) for _ in range(rank)], dtype=old.dtype)
    if way == 1:
        return old.to(rng.choice(DTYPES))
    if way == 2:
        return torch.full_like(old, rng.choice([0, 1, 3, 6, 100, 255]))
    if way == 3:
        return old.transpose(-1, -2).contiguous().transpose(-1, -2)
    if way == 4:
        return old[:1].expand(old.shape)
    if way == 5:
        axis = rng.randrange(old.dim())
        return old.narrow(axis, 0, rng.randrange(old.size(axis) + 1))
    if way == 6:
        return torch.repeat_interleave(old, rng.randrange(4), rng.randrange(old.dim()))
    return old.to("meta") if old.dim() != 4 or rng.random() < 0.3 else old.contiguous(memory_format=torch.channels_last)

def garbage(old):
    if isinstance(old, torch.Tensor):
        value = garbage_tensor(old)
        return value.requires_grad_() if value.is_floating_point() and rng.random() < 0.2 else value
    if isinstance(old, bool):
        return not old
    if isinstance(old, list):
        new = [rng.choice(INTS) if rng.random() < 0.5 else value for value in old]
        return new if rng.random() < 0.9 else new[:1] if rng.random() < 0.5 else new * 2
    if isinstance(old, str):
        return rng.choice(WORDS)
    if isinstance(old, float):
        return rng.choice([float("nan"), float("inf"), -1e300, 1e-300, 2**62, None, "nonsense", torch.ones(2)])
    return rng.choice(INTS)

def describe(value):
    if isinstance(value, torch.Tensor):
        return f"tensor({list(value.shape)}, {value.stride()}, {value.dtype}, {value.device})"
    return repr(value)

calls, valid = json.loads(sys.stdin.read())
for name, line in valid.items():
    op, returned = getattr(ops, name).default, 0
    for _ in range(calls):
        args = list(eval(f"[{line}]"))
        for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
            place = rng.randrange(len(args))
            args[place] = garbage(args[place])
        print(name, *map(describe, args), flush=True)
        try:
            results = op(*args)
        except Exception:
            continue
        returned += 1
        for output in results if isinstance(results, tuple) else (results,):
            if output.device.type == "cpu":
                output.sum()  # touch every element
    print("returned", name, returned)
"""


def test_garbage_never_crashes():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("tmc::")}
    computes_nothing = {"cpu_isa", "cpu_peak", "conv2d_algorithms", "prefer_conv2d_algorithm", "release_scratch"}
    computes_nothing |= {"conv_act_pool2d_algorithm"}
    listed = {f"tmc::{name}" for name in VALID.keys() | computes_nothing}
    assert registered == listed, f"tests/ops/test_fuzz.py: VALID and torch differ in {sorted(registered ^ listed)}"
    child = subprocess.run(
        [sys.executable, "-c", SETUP + CHILD],
        input=json.dumps([CALLS_PER_OP, VALID]), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    lines = child.stdout.splitlines()
    assert child.returncode == 0, f"exit status {child.returncode} from {lines[-1:]}: {child.stderr[-500:]}"
    returned = [int(line.split()[-1]) for line in lines if line.startswith("returned")]
    assert len(returned) == len(VALID) and all(0.1 < count / CALLS_PER_OP < 0.95 for count in returned), returned


# ---- Differential: the same configuration through torch.

small = st.integers(1, 3)
extent = st.integers(1, 9)
pairs = st.tuples(small, small)
layouts = st.sampled_from(list(DENSE))


def same_answer(function, shapes, layout, terms, **arguments):
    """F's function and torch's both raise, or both return the same in float32; the message is the call."""
    torch.manual_seed(0)
    x, *rest = (torch.randn(shape) for shape in shapes)
    inputs = [DENSE[layout](x), *rest]
    mine, twin = (lambda *x, f=f: getattr(f, function)(*x, **arguments) for f in (F, torch_F))
    try:
        wanted = twin(*inputs)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            mine(*inputs)
        return
    texts = [f"torch.randn({', '.join(map(str, shape))})" for shape in shapes]
    texts[0] += ".contiguous(memory_format=torch.channels_last)" if layout == "channels_last" else ""
    texts += [f"{name}={value}" for name, value in arguments.items()]
    call = f"torch.manual_seed(0); F.{function}({', '.join(texts)})"
    with naming_kernels(mine, inputs):
        check_close(mine(*inputs), twin(*(x.double() for x in inputs)), wanted, terms, what=call)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n=st.integers(0, 2), groups=small, channels=small, filters=small, size=st.tuples(extent, extent), kernel=pairs,
    stride=pairs, padding=st.tuples(st.integers(0, 3), st.integers(0, 3)), dilation=pairs, layout=layouts,
)  # fmt: skip
def test_conv2d_agrees(n, groups, channels, filters, size, kernel, stride, padding, dilation, layout):
    shapes = (n, groups * channels, *size), (groups * filters, channels, *kernel)
    arguments = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    same_answer("conv2d", shapes, layout, 27, **arguments)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n=st.integers(0, 2), c=small, size=st.tuples(extent, extent), kernel=st.tuples(extent, extent), stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=pairs, ceil_mode=st.booleans(),
    layout=layouts,
)  # fmt: skip
def test_pool2d_agrees(n, c, size, kernel, stride, padding, dilation, ceil_mode, layout):
    window = dict(kernel_size=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode)
    same_answer("max_pool2d", [(n, c, *size)], layout, 1, **window, dilation=dilation)
    for counted in (False, True):
        same_answer("avg_pool2d", [(n, c, *size)], layout, 81, **window, count_include_pad=counted)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n=st.integers(0, 2), c=small, size=st.tuples(extent, extent), out=st.tuples(st.integers(0, 9), st.integers(0, 9))
)
def test_adaptive_pool2d_agrees(n, c, size, out):
    same_answer("adaptive_avg_pool2d", [(n, c, *size)], "contiguous", 81, output_size=out)
    same_answer("adaptive_max_pool2d", [(n, c, *size)], "contiguous", 1, output_size=out)
