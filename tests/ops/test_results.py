"""What every function's result is beside its values: memory of its own, and gradients that lie as torch's do; and
torch's own result, or error, for tensors that our kernels are not made for."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as torch_F
from comparisons import same_values
from torch.utils._python_dispatch import return_and_correct_aliasing

from torch_manual_conv import functional as F

R = torch.randn


def stage(module, x, w, activation, pool):
    """conv_act_pool2d, or with torch's functions the chain that it stands for."""
    if module is F:
        return F.conv_act_pool2d(x, w, activation=activation, pool=pool)
    z = torch_F.conv2d(x, w)
    o = z if activation is None else getattr(torch, activation)(z)
    if pool is None:
        return o
    return torch_F.max_pool2d(o, 2) if pool == "max" else torch_F.avg_pool2d(o, 2)


def sum_pool(module, x):
    return F.sum_pool2d(x, 2) if module is F else torch_F.avg_pool2d(x, 2, divisor_override=1)


# name: call with ours or torch's functions, shapes of an image and perhaps a weight
CALLS = {
    "conv1d": (lambda m, x, w: m.conv1d(x, w, padding=1), (3, 9), (4, 3, 3)),
    "conv2d": (lambda m, x, w: m.conv2d(x, w), (3, 9, 8), (4, 3, 3, 3)),
    "conv2d-1x1": (lambda m, x, w: m.conv2d(x, w), (3, 9, 8), (4, 3, 1, 1)),
    "conv2d-groups": (lambda m, x, w: m.conv2d(x, w, groups=2), (4, 9, 8), (4, 2, 3, 3)),
    "conv2d-same": (lambda m, x, w: m.conv2d(x, w, padding="same"), (3, 9, 8), (4, 3, 3, 3)),
    "conv3d": (lambda m, x, w: m.conv3d(x, w), (3, 5, 9, 8), (4, 3, 3, 3, 3)),
    "conv3d-one-depth": (lambda m, x, w: m.conv3d(x, w), (3, 3, 9, 8), (4, 3, 3, 3, 3)),
    "conv_transpose2d": (lambda m, x, w: m.conv_transpose2d(x, w, stride=2), (3, 5, 4), (3, 4, 3, 3)),
    "sigmoid": (lambda m, x: torch.sigmoid(x) if m is torch_F else m.sigmoid(x), (3, 9, 8), None),
    "max_pool2d": (lambda m, x: m.max_pool2d(x, 2), (3, 9, 8), None),
    "max_pool2d-indices": (lambda m, x: m.max_pool2d(x, 3, 1, 1, return_indices=True)[1], (3, 9, 8), None),
    "avg_pool2d": (lambda m, x: m.avg_pool2d(x, 2, ceil_mode=True), (3, 9, 8), None),
    "sum_pool2d": (sum_pool, (3, 9, 8), None),
    "adaptive_max_pool2d": (lambda m, x: m.adaptive_max_pool2d(x, 3), (3, 9, 8), None),
    "adaptive_avg_pool2d": (lambda m, x: m.adaptive_avg_pool2d(x, 3), (3, 9, 8), None),
    **{
        f"conv_act_pool2d-{act}-{pool}": (lambda m, x, w, a=act, p=pool: stage(m, x, w, a, p), (3, 9, 8), (4, 3, 3, 3))
        for act, pool in [("sigmoid", "max"), ("relu", "max"), (None, "sum"), ("tanh", "avg"), ("relu", None)]
        for pool in ["avg" if pool == "sum" else pool]
    },
}
every_call = pytest.mark.parametrize("call, image, weight", CALLS.values(), ids=CALLS)
CONVOLUTIONS = {name: call for name, call in CALLS.items() if call[2] and "conv3d" not in name}
STAGES = [call for name, (call, _, _) in CALLS.items() if "act" in name]
MODES = {"grad": nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}


def tensors(image, weight, batch, dtype=torch.float32, device="cpu"):
    shapes = [(2, *image) if batch else image, *([weight] if weight else [])]
    return [R(shape).mul(5).to(dtype).to(device) for shape in shapes]


def laid(tensor, how):
    """In another order in memory: 'channels_last', 'transposed', 'strided'."""
    if how == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if how == "strided":
        return torch.stack([tensor, tensor], -1)[..., 0]
    return tensor if how == "contiguous" else tensor.transpose(-1, 1).contiguous().transpose(-1, 1)


LAYOUTS = ["contiguous", "channels_last", "transposed", "strided"]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("batch", [True, False], ids=["batch", "one"])
@every_call
def test_owns_its_memory(call, image, weight, batch, mode, device):
    for layout in LAYOUTS:
        inputs = [laid(tensor, layout) for tensor in tensors(image, weight, batch, device=device)]
        with mode():
            output = call(F, *(tensor.requires_grad_() for tensor in inputs))
        assert output._base is None and output.numel() * output.element_size() == output.untyped_storage().nbytes()
        if mode is torch.no_grad:
            output.add_(torch.ones(1, device=device, dtype=output.dtype, requires_grad=output.is_floating_point()))
        output.detach_()


def gradients(call, module, leaves, grad_like):
    output = call(module, *(leaf.requires_grad_() for leaf in leaves))
    grad = torch.ones_like(output) if grad_like == "output" else torch.ones(output.shape).to(output)
    return [output, *torch.autograd.grad(output, leaves, grad if grad_like != "sum" else grad[..., :1].expand_as(grad))]


def strides(tensor):
    """Those that tell: of axes with more than one element."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("batch", [True, False], ids=["batch", "one"])
@pytest.mark.parametrize("call, image, weight", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_gradients_lie_as_torchs(call, image, weight, batch):
    """Whatever the layouts of image, weight and grad_output. (conv1d's results are contiguous: docs/layers.md.)"""
    for x_layout in LAYOUTS:
        for w_layout in LAYOUTS:
            for grad_like in ("output", "contiguous", "sum"):
                x, w = tensors(image, weight, batch)
                leaves = [laid(x, x_layout), laid(w, w_layout)]
                mine, theirs = (gradients(call, m, [leaf.detach() for leaf in leaves], grad_like) for m in (F, torch_F))
                first = 1 if len(weight) == 3 else 0
                names = ("output", "grad_input", "grad_weight")
                for name, a, b in list(zip(names, mine, theirs, strict=True))[first:]:
                    assert strides(a) == strides(b), (name, x_layout, w_layout, grad_like, a.stride(), b.stride())


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size, groups", [((8, 4, 1, 1), 1), ((8, 1, 3, 3), 4), ((1, 4, 3, 3), 1), ((8, 4, 1, 3), 1)])
def test_weight_and_its_gradient_have_the_same_strides(size, groups, form):
    """Those of axes of length 1, too: DistributedDataParallel compares all of them."""
    weight = R(size).to(memory_format=form).requires_grad_()
    x = R(2, 4, 7, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    for function in (
        lambda: F.conv2d(x, weight, groups=groups),
        lambda: F.conv_act_pool2d(x, weight, groups=groups, activation="relu", pool="max"),
    ):
        weight.grad = None
        function().square().sum().backward()
        assert weight.grad.stride() == weight.stride()
        (grad,) = torch.autograd.grad(function().square().sum(), weight, create_graph=True)
        assert grad._base is None and (grad.stride() == weight.stride() or grad.stride(1) == 1)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        assert torch.isfinite(second).all()


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last_3d])
def test_conv3d_weight_and_its_gradient(form):
    weight = R(4, 3, 3, 3, 3).contiguous(memory_format=form).requires_grad_()
    F.conv3d(R(2, 3, 5, 6, 7), weight).sum().backward()
    assert weight.grad.stride() == weight.stride()


DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES += [torch.complex32, torch.complex64, torch.complex128, torch.float8_e5m2]


def outcome(call, module, inputs):
    try:
        return call(module, *inputs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def same_outcome(call, inputs):
    mine, theirs = (outcome(call, module, inputs) for module in (F, torch_F))
    if isinstance(theirs, str):  # a stage may fail in another of its functions
        assert mine == theirs or (call in STAGES and mine.split(":")[0] == theirs.split(":")[0])
    elif theirs.dtype is torch.complex32:
        same_values(mine.to(torch.complex64), theirs.to(torch.complex64), "result")
    elif theirs.layout is not torch.strided or theirs.is_quantized:
        assert mine.layout is theirs.layout and mine.dtype == theirs.dtype
        same_values(mine.to_dense().dequantize(), theirs.to_dense().dequantize(), "result")
    else:
        same_values(mine, theirs, "result")
    return theirs


@pytest.mark.parametrize("foreign", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [True, False], ids=["batch", "one"])
@every_call
def test_types_that_we_have_not_are_torchs(call, image, weight, batch, foreign):
    same_outcome(call, tensors(image, weight, batch, foreign))


def test_some_of_them_compute():
    """So that the test above is not about errors alone."""
    x = torch.arange(16).reshape(1, 1, 4, 4)
    assert F.max_pool2d(x, 2).tolist() == [[[[5, 7], [13, 15]]]]
    assert F.conv2d(x, torch.ones(1, 1, 4, 4, dtype=torch.int64)).item() == 120
    z = R(2, 3, 5, 5, dtype=torch.complex64, requires_grad=True)
    assert F.sigmoid(z).grad_fn.name() == "SigmoidBackward0"


KINDS = {
    "mkldnn": lambda x: x.to_mkldnn(),
    "sparse": lambda x: x.to_sparse(),
    "sparse_csr": lambda x: x.flatten(1).to_sparse_csr(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 3, torch.quint8),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@every_call
def test_kinds_of_tensors_that_we_have_not_are_torchs(call, image, weight, kind):
    x, *w = tensors(image, weight, True)
    if kind is KINDS["nested"]:
        mine, theirs = (outcome(call, module, [kind(x), *w]) for module in (F, torch_F))
        assert isinstance(theirs, str) and mine == theirs
    else:
        same_outcome(call, [kind(x), *w])


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


class Asked(torch.Tensor):
    """A subclass that computes functions its own way."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func.__name__


class Wrapper(torch.Tensor):
    """A tensor that holds another one, and computes torch's operators with that one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Wrapper(inner["inner"])

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        assert func.namespace != "tmc", "an operator that it has never heard of"
        inner = torch.utils._pytree.tree_map(lambda a: a.inner if isinstance(a, cls) else a, (args, kwargs or {}))
        result = func(*inner[0], **inner[1])
        wrapped = torch.utils._pytree.tree_map_only(torch.Tensor, cls, result)
        return return_and_correct_aliasing(func, args, kwargs or {}, wrapped)


@every_call
def test_classes_of_tensors(call, image, weight):
    inputs = tensors(image, weight, True)
    plain = call(F, *(tensor.as_subclass(Plain) for tensor in inputs))
    assert type(plain) is Plain
    same_values(plain.as_subclass(torch.Tensor), call(F, *inputs), "result")
    wrapped = call(F, *map(Wrapper, inputs))
    assert type(wrapped) is Wrapper
    same_values(wrapped.inner, call(torch_F, *inputs), "result")


def test_a_class_is_asked():
    x = R(2, 3, 8, 8).as_subclass(Asked)
    assert F.conv2d(x, R(4, 3, 3, 3)) == "conv2d" and F.adaptive_avg_pool2d(x, 2) == "adaptive_avg_pool2d"
    assert F.conv2d(R(2, 3, 8, 8), R(4, 3, 3, 3).as_subclass(Asked)) == "conv2d"
