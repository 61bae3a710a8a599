"""What every operator needs once: its two doors, argument normalisation, autocast, batching and layout rules.

An operator has **two doors** to one hand-written gradient. In eager mode its `autograd.Function` is applied: that
gives jvp, vmap and second derivatives. Under `torch.compile`, `torch.export` and `torch.jit.trace` the registered op is
called, whose gradient (`register_autograd`) is the same two static methods of the same class. Either door alone is
silently wrong somewhere: the op has no forward-mode derivative in eager mode, Dynamo refuses a Function with a jvp, and
torch.jit.trace cannot save a graph that holds a Function.
"""

import inspect
import operator
from functools import partial

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def two_doors(name, function, fake, rule):
    """Registers torch.ops.tmc.<name>'s fake, batching rule and gradient; returns the callable that picks the door.

    `rule(call, info, in_dims, *args)` is the batching rule. The op's rule calls the op, `function.vmap` the door: then
    either result is differentiable in its turn. All of it must happen at import: an op compiled before its gradient is
    registered loses the gradient for good.
    """
    op = getattr(torch.ops.tmc, name).default
    torch.library.register_fake(f"tmc::{name}", fake)
    torch.library.register_vmap(f"tmc::{name}", partial(rule, op))
    torch.library.register_autograd(f"tmc::{name}", function.backward, setup_context=function.setup_context)
    # Function.apply binds its arguments to forward's signature at every call. A stored one is not built anew each time,
    # which takes a quarter of a small pooling (docs/architecture.md, "What a call costs").
    function.forward.__signature__ = inspect.signature(function.forward)

    def call(*args):
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return op(*args)
        if torch.is_grad_enabled() or in_forward_ad():
            return function.apply(*args)
        return op(*args)  # nothing to record

    call.__name__ = call.__qualname__ = name
    return call


def in_forward_ad():
    """Whether a forward-mode derivative is being taken (dual numbers, torch.func.jvp, hessian).

    A private name, since no public one tells: forward_ad.unpack_dual raises on a tensor that vmap has batched.
    """
    return forward_ad._current_level >= 0


def torch_computes(*tensors):
    """Whether torch's operator stands in for ours: the one rule of all public functions.

    It does for tensors that our kernels are not made for (integers, complex or quantised numbers, other layouts and
    devices, classes that say themselves what a function does to them), so that a converted model computes whatever it
    did before. And it does for forward-mode AD inside torch.compile, for which registered operators have no rule: torch
    would silently return a zero tangent.
    """
    if in_forward_ad() and torch.compiler.is_compiling():
        return True
    for tensor in tensors:  # every call asks, and any() of a generator is slower
        if tensor is not None and not _kernels_take(tensor):
            return True
    return False


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PLAIN = (torch.Tensor, torch.nn.Parameter)


def _kernels_take(tensor):
    if not isinstance(tensor, torch.Tensor):  # our checks say so, unless it takes the place of a tensor
        return not hasattr(tensor, "__torch_function__")
    return (
        tensor.dtype in DTYPES
        and tensor.layout is torch.strided
        and (tensor.is_cpu or tensor.is_cuda or tensor.is_meta)
        and not tensor.is_nested
        and (type(tensor) in PLAIN or _is_silent(tensor))
    )


def _is_silent(tensor):
    """Whether its class leaves functions alone, as FakeTensor and its kind do, with which our operators are traced."""
    asks = type(tensor).__torch_function__
    silent = torch._C._disabled_torch_function_impl, torch.Tensor.__torch_function__.__func__
    return getattr(asks, "__func__", asks) in silent and not is_traceable_wrapper_subclass(tensor)


def gradients_needed(ctx):
    """ctx.needs_input_grad of input, weight and bias, less the gradients that this backward pass does not use.

    needs_input_grad says which tensors require a gradient. torch.autograd.grad(loss, images) still uses no weight's, so
    the engine is asked what it will execute, as torch's own convolution asks it.
    """
    needs = ctx.needs_input_grad[:3]
    return tuple(need and _engine_executes(ctx.next_functions[i][0]) for i, need in enumerate(needs))


def _engine_executes(node):
    try:
        return torch._C._will_engine_execute_node(node)  # torch's own Python has no public name for it either
    except RuntimeError:  # the query raises for a leaf that torch.autograd.grad was asked for
        return True


def check_tensor(op, name, value):
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a Tensor, got {type(value).__name__}")


def check_rank(op, name, value, *ranks):
    check_tensor(op, name, value)
    if value.dim() not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise RuntimeError(f"{op}: {name} must have {wanted} dimensions, got shape {list(value.shape)}")


def batched(op, input, call, *args, spatial=2):
    """call(input, *args) for an input [N, C, ...] or, without its batch dimension, [C, ...]; results follow."""
    check_tensor(op, "input", input)
    if input.dim() == spatial + 2:
        return call(input, *args)
    check_rank(op, "input", input, spatial + 1, spatial + 2)
    output = call(input.unsqueeze(0), *args)
    return tuple(owned(o.squeeze(0)) for o in output) if isinstance(output, tuple) else owned(output.squeeze(0))


def owned(view):
    """A view of a result that nobody else holds, as a tensor of its own in the same memory. torch's results are no
    views, and a view may not be detached in place, nor changed in place once it was made under no_grad."""
    return view if torch.jit.is_tracing() else torch.ops.aten._unsafe_view.default(view, view.shape)


def is_int(value):
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def integers(op, name, value, length):
    """An int, or a sequence of one or `length` ints, as a list of `length`."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    if len(values) == 1:
        values = values * length
    if len(values) != length:
        raise RuntimeError(f"{op}: {name} must be an int or a sequence of {length} ints, got {value!r}")
    try:
        values = [v if is_int(v) else _index(v) for v in values]
    except TypeError:
        raise TypeError(f"{op}: {name} must be an int or a sequence of {length} ints, got {value!r}") from None
    if any(isinstance(v, int) and v.bit_length() > 63 for v in values):
        raise RuntimeError(f"{op}: {name} must fit in 64 bits, got {value!r}")
    return values


def integer(op, name, value):
    if isinstance(value, (tuple, list)) or (isinstance(value, torch.Tensor) and value.dim() > 0):
        raise TypeError(f"{op}: {name} must be an int, got {value!r}")
    return integers(op, name, value, 1)[0]


def _index(value):
    """An int of numpy's or of a tensor. A bool is none, here as in torch."""
    if isinstance(value, bool) or (isinstance(value, torch.Tensor) and value.dtype == torch.bool):
        raise TypeError
    return operator.index(value)


def boolean(op, name, value):
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be a bool, got {value!r}")
    return value


def autocast(*tensors):
    """The tensors as autocast wants a convolution's operands: in its dtype, float64 excepted."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):  # meta tensors know no autocast
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )


# ---- Fakes: shape, dtype, device and strides of a result, for tracing.


def check_fake(op, *named):
    """What tracing can check cheaply: (name, tensor, rank) triples on one device. The kernels check everything."""
    first_name, first, _ = named[0]
    for name, tensor, rank in named:
        if tensor.dim() != rank:
            raise RuntimeError(f"{op}: {name} must have {rank} dimensions, got shape {list(tensor.shape)}")
        if tensor.device != first.device:
            raise RuntimeError(
                f"{op}: {name} must be on the device of {first_name} ({first.device}), got {tensor.device}"
            )


def check_fake_floating(op, name, tensor):
    if tensor.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise RuntimeError(f"{op}: {name} must be float64, float32, bfloat16 or float16, got {tensor.dtype}")


def check_fake_like(op, name, tensor, reference_name, reference):
    if tensor.dtype != reference.dtype:
        raise RuntimeError(
            f"{op}: {name} must have the dtype of {reference_name} ({reference.dtype}), got {tensor.dtype}"
        )


def check_fake_pooled(op, input, any_channels=False):
    """What every pooling op asks of its input: four dimensions, of which only the batch may be empty, and channels
    where torch lets them (csrc/pool2d.cpp: check_input)."""
    check_fake(op, ("input", input, 4))
    check_fake_floating(op, "input", input)
    if any(extent < 1 for extent in input.shape[2 if any_channels else 1 :]):
        wanted = "row and column" if any_channels else "channel, row and column"
        raise RuntimeError(f"{op}: input must have at least one {wanted}, got shape {list(input.shape)}")


def check_fake_pair(op, name, values, low):
    if len(values) != 2 or any(v < low for v in values):
        raise RuntimeError(f"{op}: {name} must have 2 values (height, width) >= {low}, got {list(values)}")


def check_fake_output(op, name, tensor, shape):
    """`tensor` must be what the forward op returns, or have its shape."""
    if any(have != wanted for have, wanted in zip(tensor.shape, shape, strict=True)):
        raise RuntimeError(f"{op}: {name} must have the output's shape {list(shape)}, got {list(tensor.shape)}")


def laid(gradient, channels_last, strides=None):
    """`gradient` as NHWC or else NCHW in memory: it lies as torch's does, which does not depend on how grad_output
    lies. `strides`: of the parameter whose it is. An axis of length 1 takes its stride from there, since
    DistributedDataParallel compares all of them. Inside vmap the order in memory is vmap's business."""
    if torch._C._functorch.is_batchedtensor(gradient):
        return gradient
    if is_channels_last(gradient) != channels_last:
        form = torch.channels_last if channels_last else torch.contiguous_format
        gradient = gradient.contiguous(memory_format=form)
    mine = gradient.stride()
    if strides in (None, mine):
        return gradient
    same = all(a == b or size == 1 for a, b, size in zip(mine, strides, gradient.shape, strict=True))
    return owned(gradient.as_strided(gradient.shape, strides)) if same else gradient


def is_channels_last(tensor):
    """torch's suggest_memory_format: do the strides order the data as N, H, W, C? (csrc/tensor.cpp's twin)"""
    sizes, strides = tensor.shape, tensor.stride()
    if len(sizes) != 4 or strides[1] == 0:
        return False
    least = 0
    for axis in (1, 3, 2, 0):  # innermost to outermost
        size, stride = sizes[axis], strides[axis]
        if size == 0 or stride < least:
            return False
        if axis == 0 and least == strides[1]:
            return False
        least = stride * size if size > 1 else stride
    return True


def lies_channels_last(tensor):
    """The same, for the way of a call: a contiguous tensor, whatever else it is, needs no walk over its strides."""
    return not tensor.is_contiguous() and is_channels_last(tensor)


def empty_nchw(like, sizes, channels_last, dtype=None):
    form = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(sizes, dtype=dtype or like.dtype, device=like.device, memory_format=form)


# ---- Batching rules (vmap): a batch of B problems becomes one larger problem.


def fold_into_batch(info, tensor, dim):
    """[N, ...] with B hidden at `dim` (None: the same for all) -> [B * N, ...]."""
    moved = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return moved.flatten(0, 1)


def unfold_batch(info, tensor):
    """[B * N, ...] -> [B, N, ...]."""
    return tensor.unflatten(0, (info.batch_size, tensor.size(0) // info.batch_size))


def fold_into_channels(info, tensor, dim, axis):
    """The same for the channel dimension `axis`: [.., C, ..] -> [.., B * C, ..], the batch outermost."""
    if dim is None:
        moved = tensor.unsqueeze(axis).expand(*tensor.shape[:axis], info.batch_size, *tensor.shape[axis:])
    else:
        moved = tensor.movedim(dim, axis)
    return moved.flatten(axis, axis + 1)


def samplewise_vmap(call, info, in_dims, *args):
    """The rule of an op that treats the samples of all its tensors alike: fold B into N."""
    folded = [
        fold_into_batch(info, a, d) if isinstance(a, torch.Tensor) else a for a, d in zip(args, in_dims, strict=True)
    ]
    output = call(*folded)
    if isinstance(output, tuple):
        return tuple(unfold_batch(info, o) for o in output), (0,) * len(output)
    return unfold_batch(info, output), 0
