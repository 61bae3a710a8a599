"""conv_act_pool2d: pool(activation(conv2d(input))) as one operation."""

import pytest
import torch
import torch.nn.functional as torch_F
from checks import DENSE, check_op, check_registration, check_values, ops_called, saved_tensors
from comparisons import naming_kernels, within

import torch_manual_conv.functional as F

ACTIVATIONS = {None: lambda x: x, "sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}
POOLS = {
    None: lambda x, *_: x,
    "max": torch_F.max_pool2d,
    "avg": torch_F.avg_pool2d,
    "sum": lambda x, *window: torch_F.avg_pool2d(x, *window, divisor_override=1),
}
# name: input shape, weight shape, convolution arguments, pool window
CASES = {
    "lecture": ((2, 1, 7, 7), (2, 1, 2, 2), dict(), (2, None, 0)),
    "alexnet": ((1, 3, 13, 11), (4, 3, 3, 3), dict(stride=1, padding=1), (3, 2, 0)),
    "padded-pool": ((2, 4, 6, 5), (4, 2, 3, 3), dict(padding="same", groups=2), ((3, 2), (2, 1), (1, 0))),
}


def twin(activation, pool, window, arguments):
    return lambda x, w, b: POOLS[pool](ACTIVATIONS[activation](torch_F.conv2d(x, w, b, **arguments)), *window)


def ours(activation, pool, window, arguments):
    size, stride, padding = window
    stage = dict(activation=activation, pool=pool, pool_size=size, pool_stride=stride, pool_padding=padding)
    return lambda x, w, b: F.conv_act_pool2d(x, w, b, **arguments, **stage)


def tensors(input, weight):
    return [torch.randn(shape, dtype=torch.float64) for shape in (input, weight, weight[:1])]


def terms(input, weight):
    """The longest sum: an average's or sum's window of filters, or a weight gradient's batch of pixels."""
    return max(weight[0] * 9 * 9, input[0] * input[2] * input[3])


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_stage(activation, pool, device):
    input, weight, arguments, window = CASES["lecture"]
    stage = activation, pool, window, arguments
    check_op(ours(*stage), twin(*stage), *tensors(input, weight), terms=terms(input, weight), device=device)


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("input, weight, arguments, window", CASES.values(), ids=CASES)
def test_matches_torch(input, weight, arguments, window, pool, dtype, device):
    if pool == "max" and dtype in (torch.bfloat16, torch.float16):
        pytest.skip("rounding makes ties, whose gradient goes to the largest value before the activation")
    stage = "sigmoid", pool, window, arguments
    check_op(
        ours(*stage), twin(*stage), *tensors(input, weight), terms=terms(input, weight), dtype=dtype, device=device
    )


@pytest.mark.parametrize("dtype_half", [torch.bfloat16, torch.float16], ids=str)
def test_max_forward_in_half_precision(dtype_half, device):
    input, weight, arguments, window = CASES["alexnet"]
    x, w, b = (t.to(device, dtype_half) for t in tensors(input, weight))
    stage = "sigmoid", "max", window, arguments
    mine, exact = ours(*stage)(x, w, b), twin(*stage)(x.double(), w.double(), b.double())
    assert mine.dtype == dtype_half
    with naming_kernels(ours(*stage), (x, w, b)):
        within(mine, exact, 2 * torch.finfo(dtype_half).eps, "output", scale=1)


def test_ties_go_to_the_largest_value(device):
    """Where rounding makes the activations of a window equal, the winner is the largest value before it."""
    x = torch.tensor([[3.0, 3.015625], [1.0, 0.0]], dtype=torch.bfloat16, device=device).reshape(1, 1, 2, 2)
    assert torch.sigmoid(x)[0, 0, 0, 0] == torch.sigmoid(x)[0, 0, 0, 1]
    identity = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, device=device)
    x.requires_grad_()
    F.conv_act_pool2d(x, identity, activation="sigmoid", pool="max").sum().backward()
    assert (x.grad != 0).flatten().tolist() == [False, True, False, False]


def test_max_keeps_no_map_before_the_pool(device):
    """Saved: input, weight, the pooled output, one byte per pooled value; nothing of the unpooled size."""
    x, w = torch.randn(2, 3, 18, 18, device=device), torch.randn(4, 3, 3, 3, device=device, requires_grad=True)
    saved = saved_tensors(lambda: F.conv_act_pool2d(x, w, activation="sigmoid", pool="max"))
    unpooled = 2 * 4 * 16 * 16
    assert all(t.data_ptr() == x.data_ptr() or t.numel() <= unpooled / 4 for t in saved)
    own = [t for t in saved if t.data_ptr() != x.data_ptr()]
    assert sum(t.numel() * t.element_size() for t in own) <= unpooled / 4 * (4 + 1)


@pytest.mark.parametrize("activation, pool", [("sigmoid", "avg"), ("relu", "sum"), ("tanh", "avg")])
def test_recompute(activation, pool, device):
    """The same values and derivatives of every order, with another map kept."""
    input, weight, arguments, window = CASES["lecture"]
    stage = activation, pool, window, {**arguments, "save": "recompute"}
    plain = activation, pool, window, arguments
    check_op(ours(*stage), twin(*plain), *tensors(input, weight), terms=terms(input, weight), device=device)


@pytest.mark.parametrize("dtype_", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "activation, pool, save",
    [("sigmoid", "max", "store"), ("tanh", None, "store"), ("tanh", "avg", "store"), ("sigmoid", "sum", "recompute")],
)
def test_batch_in_parts(activation, pool, save, dtype_, device):
    """Maps so large that the CPU takes one or two images at a time, the last part being smaller."""
    arguments, window = dict(padding=1), (3, 2, 1)
    if pool == "max" and dtype_ == torch.bfloat16:
        pytest.skip("rounding makes ties, whose gradient goes to the largest value before the activation")
    inputs = [t.to(device, dtype_) for t in tensors((5, 3, 88, 90), (41, 3, 3, 3))]
    for layout in DENSE.values():
        images = layout(inputs[0])
        stage = ours(activation, pool, window, {**arguments, "save": save})
        check_values(stage, twin(activation, pool, window, arguments), [images, *inputs[1:]], terms=5 * 88 * 90)


# One case for each algorithm of the CPU: matrix product, Winograd on five and on nine points, its phases, few channels.
PARTS = {
    "few": ((3, 5, 120, 99), (100, 5, 3, 3), dict(padding=1)),
    "five": ((3, 32, 72, 72), (128, 32, 4, 4), dict()),
    "nine": ((3, 32, 72, 72), (128, 32, 3, 3), dict(padding=1)),
    "phases": ((3, 32, 140, 140), (128, 32, 5, 5), dict(stride=2)),
    "depthwise": ((3, 128, 70, 70), (128, 1, 3, 3), dict(groups=128)),
}


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("input, weight, arguments", PARTS.values(), ids=PARTS)
def test_grad_weight_of_a_half_type_is_rounded_once(input, weight, arguments, stored, device):
    """Though the CPU makes it of a few images at a time. One rounding leaves 0.21 eps, in the norm, two leave 0.3."""
    x, w = torch.randn(input, device=device).to(stored), torch.randn(weight, device=device).to(stored)
    leaf, exact_leaf = w.clone().requires_grad_(), w.double().requires_grad_()

    def stage(x, w):
        return F.conv_act_pool2d(x, w, **arguments, activation="relu")

    output = stage(x, leaf)
    grad_output = torch.randn_like(output) * (output > 0)
    (mine,) = torch.autograd.grad(output, leaf, grad_output)
    exact_output = torch_F.conv2d(x.double(), exact_leaf, **arguments)
    (exact,) = torch.autograd.grad(exact_output, exact_leaf, grad_output.double())
    with naming_kernels(stage, (x, w)):
        within(mine, exact, 0.23 * torch.finfo(stored).eps, "grad_weight", torch.Tensor.norm)


@pytest.mark.parametrize("save", ["store", "recompute"])
@pytest.mark.parametrize("pool", ["max", "avg", None])
def test_registration(pool, save, device):
    inputs = [t.to(device) for t in tensors((2, 2, 6, 5), (3, 2, 2, 2))]

    def stage(x, w, b):
        return F.conv_act_pool2d(x, w, b, activation="sigmoid", pool=pool, save=save)

    calls = ops_called(stage, inputs)
    fused = {torch.ops.tmc.conv_act_pool2d.default, torch.ops.tmc.conv_act_pool2d_gradients.default}
    assert fused <= calls.keys()
    check_registration({op: args for op, args in calls.items() if op in fused})
