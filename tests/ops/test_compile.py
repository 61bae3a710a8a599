"""torch.compile, torch.export, torch.jit.trace, torch.func, autocast and checkpoint see our functions as torch's."""

import io
import warnings

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as torch_F
from comparisons import close

from torch_manual_conv import functional as F
from torch_manual_conv import nn

X, W, B = (torch.arange(n, dtype=torch.float64).sin() for n in (2 * 4 * 7 * 6, 6 * 4 * 3 * 3, 6))
X, W = X.reshape(2, 4, 7, 6), W.reshape(6, 4, 3, 3)
# name: ours, torch's, tensors
CASES = {
    "conv1d": (F.conv1d, torch_F.conv1d, (X[..., 0], W[..., 0], B)),
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, padding=1, stride=2),
        lambda x, w, b: torch_F.conv2d(x, w, b, padding=1, stride=2),
        (X, W, B),
    ),
    "conv2d-same-asymmetric": (
        lambda x, w: F.conv2d(x, w, padding="same"),
        lambda x, w: torch_F.conv2d(x, w, padding="same"),
        (X, W[..., :2]),
    ),
    "conv3d": (F.conv3d, torch_F.conv3d, (X.reshape(1, 4, 2, 7, 6), W.reshape(6, 4, 1, 3, 3), B)),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, output_padding=1),
        lambda x, w, b: torch_F.conv_transpose2d(x, w, b, stride=2, output_padding=1),
        (X, W.transpose(0, 1), B),
    ),
    "sigmoid": (F.sigmoid, torch.sigmoid, (X,)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), lambda x: torch_F.max_pool2d(x, 3, 2, 1), (X,)),
    "avg_pool2d": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        lambda x: torch_F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        (X,),
    ),
    "sum_pool2d": (lambda x: F.sum_pool2d(x, 2), lambda x: torch_F.avg_pool2d(x, 2, divisor_override=1), (X,)),
    "adaptive_avg_pool2d": (
        lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
        lambda x: torch_F.adaptive_avg_pool2d(x, (3, 4)),
        (X,),
    ),
    "adaptive_max_pool2d": (
        lambda x: F.adaptive_max_pool2d(x, (3, 4)),
        lambda x: torch_F.adaptive_max_pool2d(x, (3, 4)),
        (X,),
    ),
    "conv_act_pool2d": (
        lambda x, w, b: F.conv_act_pool2d(x, w, b, activation="sigmoid", pool="max"),
        lambda x, w, b: torch_F.max_pool2d(torch.sigmoid(torch_F.conv2d(x, w, b)), 2),
        (X, W, B),
    ),
}
every_function = pytest.mark.parametrize("ours, theirs, tensors", CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()


def gradients(function, tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    output = function(*leaves)
    return output, torch.autograd.grad((output * output).sum(), leaves)


def small_model(module):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        module.Conv2d(3, 6, 3, padding=1),
        module.Sigmoid(),
        module.MaxPool2d(3, 2, 1),
        module.Conv2d(6, 4, 3, groups=2),
        torch.nn.ReLU(),
        module.AvgPool2d(2),
        module.AdaptiveMaxPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 5),
    )


@every_function
def test_compiles_whole_with_gradients(ours, theirs, tensors):
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    close(gradients(compiled, tensors), gradients(theirs, tensors), "results and gradients")


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_model_compiles_once_for_any_batch(backend):
    ours, theirs = small_model(nn), small_model(torch.nn)
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend=counter)
    for n in (2, 5, 3):
        x = torch.randn(n, 3, 12, 11)
        output, wanted = compiled(x), theirs(x)
        close(output, wanted, f"output, batch {n}")
        output.square().sum().backward()
        wanted.square().sum().backward()
    assert counter.frame_count == 1
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(mine.grad, other.grad, "parameter gradient")


def test_frozen_and_repeated_operands_compile():
    """A frozen weight, and one tensor passed twice, keep their gradients right."""
    frozen = torch.compile(lambda x: F.conv2d(x, W), fullgraph=True, backend="aot_eager")
    close(gradients(frozen, (X,)), gradients(lambda x: torch_F.conv2d(x, W), (X,)), "frozen weight")
    square = torch.compile(lambda x: F.conv2d(x, x, padding=1), fullgraph=True, backend="aot_eager")
    x = (W[:4, :4],)
    close(gradients(square, x), gradients(lambda x: torch_F.conv2d(x, x, padding=1), x), "input as weight")


def test_model_exports():
    ours, theirs = small_model(nn).eval(), small_model(torch.nn).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(ours, (torch.randn(2, 3, 12, 11),), dynamic_shapes=({0: batch},))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"tmc.conv2d.default", "tmc.sigmoid.default", "tmc.max_pool2d.default"} <= names
    x = torch.randn(5, 3, 12, 11)
    close(program.module()(x), theirs(x), "exported")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@every_function
def test_traces_with_gradients(ours, theirs, tensors):
    """torch.jit.trace writes down operators, not Functions, which it could neither save nor check."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(ours, tuple(t.clone().requires_grad_() for t in tensors)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    close(gradients(loaded, tensors), gradients(theirs, tensors), "results and gradients")
    larger = (torch.cat([tensors[0], tensors[0].cos()]), *tensors[1:])
    close(gradients(loaded, larger), gradients(theirs, larger), "of a larger batch")


# ---- torch.func, without and with compile.


@every_function
def test_func_transforms(ours, theirs, tensors):
    def loss(function):
        return lambda *tensors: function(*tensors).square().sum()

    every = tuple(range(len(tensors)))
    stacked = tuple(torch.stack([t, 2 * t, t.flip(-1)]) for t in tensors)
    tangents = tuple(t.cos() for t in tensors)

    def agree(transform, *args):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*performance drop.*")  # vmap's, where it loops over the samples
            mine = transform(ours)(*args)
        close(mine, transform(theirs)(*args), "transformed")

    agree(lambda f: torch.func.grad(loss(f), every), *tensors)
    agree(lambda f: torch.func.vmap(f), *stacked)
    agree(lambda f: torch.func.vmap(torch.func.grad(loss(f), every)), *stacked)
    agree(lambda f: lambda *tensors: torch.func.jvp(f, tensors, tangents), *tensors)
    for shared in every:  # one tensor without a batch dimension, another position for the others'
        in_dims = tuple(None if i == shared else 0 for i in every)
        if any(d is not None for d in in_dims):
            some = [t if d is None else s for t, s, d in zip(tensors, stacked, in_dims, strict=True)]
            agree(lambda f: torch.func.vmap(f, in_dims), *some)  # noqa: B023
    last = [s.movedim(0, -1) for s in stacked]
    agree(lambda f: torch.func.vmap(f, -1), *last)


@pytest.mark.parametrize("name", ["conv2d", "sigmoid", "max_pool2d", "avg_pool2d", "conv_act_pool2d"])
def test_hessian_vector_product(name):
    ours, theirs, tensors = CASES[name]

    def product(function):
        gradient = torch.func.grad(lambda x: function(x, *tensors[1:]).pow(3).sum())
        return torch.func.jvp(gradient, tensors[:1], (X.cos(),))

    close(product(ours), product(theirs), "gradient and Hessian-vector product")


@every_function
def test_transforms_without_grad_mode(ours, theirs, tensors):
    """torch.no_grad() says nothing about derivatives taken inside it, nor about those beneath vmap."""
    stacked = tuple(torch.stack([t, 2 * t]) for t in tensors)
    tangents = tuple(t.cos() for t in stacked)

    def transformed(f):
        def loss(*tensors):
            return torch.func.vmap(f)(*tensors).square().sum()

        with torch.no_grad():
            yield torch.func.jvp(torch.func.vmap(f), stacked, tangents)
            yield torch.func.grad(loss, tuple(range(len(tensors))))(*stacked)

    close(list(transformed(ours)), list(transformed(theirs)), "jvp and gradients")


def test_operators_batch():
    """vmap of a registered operator itself, with its gradient: its rule must not pass through a Function."""
    operator, geometry = torch.ops.tmc.conv2d, [1, 1, 1, 1, 0, 0]
    stacked = torch.stack([X, X.cos()])
    mine = gradients(torch.vmap(lambda x: operator(x, W, B, geometry, 1)), [stacked])
    close(mine, gradients(torch.vmap(lambda x: torch_F.conv2d(x, W, B)), [stacked]), "vmap")


def test_hessian():
    x = X[:1, :1, :4, :4]

    def energy(conv, sigmoid, pool):
        return lambda x: pool(sigmoid(conv(x, W[:2, :1])), 2).sum()

    ours, theirs = energy(F.conv2d, F.sigmoid, F.avg_pool2d), energy(torch_F.conv2d, torch.sigmoid, torch_F.avg_pool2d)
    close(torch.func.hessian(ours)(x), torch.func.hessian(theirs)(x), "Hessian")


@pytest.mark.parametrize("name", ["conv2d", "sigmoid", "max_pool2d", "adaptive_avg_pool2d", "conv_act_pool2d"])
def test_transforms_compile(name):
    """compile(vmap) with its gradient; compile(jvp), for which plain torch operators stand in."""
    ours, theirs, tensors = CASES[name]
    stacked = [torch.stack([t, t.flip(-1)]) for t in tensors]
    compiled = torch.compile(torch.func.vmap(ours), backend="aot_eager")
    close(gradients(compiled, stacked), gradients(torch.func.vmap(theirs), stacked), "vmap")

    tangents = tuple(t.cos() for t in tensors)
    compiled = torch.compile(lambda *tensors: torch.func.jvp(ours, tensors, tangents), backend="aot_eager")
    close(compiled(*tensors), torch.func.jvp(theirs, tensors, tangents), "jvp")


# ---- Autocast and checkpoint.


@pytest.mark.parametrize("dtype_cast", [torch.bfloat16, torch.float16], ids=str)
@every_function
def test_autocast(ours, theirs, tensors, dtype_cast):
    """Result dtypes are torch's: convolutions in the lower precision, the others in their input's."""
    tensors = [t.float() for t in tensors]
    with torch.autocast("cpu", dtype_cast):
        mine, wanted = ours(*tensors), theirs(*tensors)
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")(*tensors)
    assert mine.dtype == wanted.dtype == compiled.dtype
    tolerance = dict(rtol=0, atol=8 * torch.finfo(dtype_cast).eps * wanted.float().abs().max().item())
    close(mine.float(), wanted.float(), f"output in {dtype_cast}", **tolerance)
    close(compiled.float(), mine.float(), f"compiled output in {dtype_cast}", **tolerance)


def test_autocast_trains_float32_parameters():
    model = small_model(nn)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 12, 11))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_checkpoint():
    model = small_model(nn).double()
    x = X[:, :3].repeat(1, 1, 2, 2).requires_grad_()
    wanted = torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()])
    for compiled in (False, True):
        run = torch.compile(model, backend="aot_eager") if compiled else model
        output = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False)
        close(
            torch.autograd.grad(output.square().sum(), [x, *model.parameters()]),
            wanted,
            f"gradients, compiled: {compiled}",
        )
