"""Comparisons of results, and what they say when these differ: which result, its dtype, shape and layout, the index,
value and wanted value of the worst element, its error and the limit, and which kernels ran.

    same_values    torch.equal, of tensors or lists of tensors
    within         the error is at most so many parts of the largest value, or of another measure
    close          torch.testing.assert_close
    check_close    the error is within what rounding costs, and no worse than torch's
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# An error may be TOLERANCE * eps(dtype) * sqrt(terms), terms being the length of the longest sum: rounding errors of
# independent sign grow with the square root, and the largest of a thousand normal errors is 3 to 4 deviations.
TOLERANCE = 4
# ... and its root mean square (the largest of a few values is too noisy) at most this many times torch's own on the
# same inputs, plus the quarter of an eps that rounding the result alone costs. Fewer different values are left out:
# with so few errors to average, either side may be lucky.
RELATIVE_TO_TORCH, MANY_VALUES = 2, 64
PASSES = ("output", "grad_input", "grad_weight", "grad_bias")


# ---- Messages.


def describe(tensor):
    """'float32 [2, 3, 8, 8] channels_last'."""
    layout = f"strides {list(tensor.stride())}"
    for name, form in (("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        if (name == "contiguous" or tensor.dim() == 4) and tensor.is_contiguous(memory_format=form):
            layout = name
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} {layout}"


def describe_worst(what, mine, wanted, errors, theirs=None, show=repr):
    """Names the first element of those with the largest error (NaN is the largest): index, value, wanted value."""
    errors = errors.double().nan_to_num(torch.inf, torch.inf)
    index = tuple((errors == errors.max()).nonzero()[0].tolist())
    text = f"{what}: {describe(mine)}: at {list(index)} {show(mine[index].item())}, wanted {show(wanted[index].item())}"
    return text if theirs is None else f"{text}, torch has {show(theirs[index].item())}"


def bits(value):
    return f"{value!r} ({value.hex()})" if isinstance(value, float) else repr(value)


class RecordOps(TorchDispatchMode):
    """Collects each of our ops that is called, with its first arguments."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "tmc":
            self.calls.setdefault(func, args)
        return func(*args, **(kwargs or {}))


def kernels_run(function, inputs):
    """Which of our ops function(*inputs) calls, on what, by which instruction set and algorithm. It is called again."""
    with RecordOps() as record:
        function(*inputs)
    lines = []
    for op, args in record.calls.items():
        name, tensors = op.name().removeprefix("tmc::"), [a for a in args if isinstance(a, torch.Tensor)]
        device = tensors[0].device if tensors[0].device.type != "cpu" else f"cpu, {torch.ops.tmc.cpu_isa()}"
        lines.append(f"{name}({', '.join(map(describe, tensors))}) on {device}")
        if name in ("conv2d", "conv_act_pool2d"):
            operands, rest = args[:2], args[3:]
        elif name == "conv2d_grad_input" and torch.ops.tmc.conv2d.default not in record.calls:  # conv_transpose2d
            (grad_output, weight, size), rest = args[:3], args[3:]
            channels = weight.shape[1] * rest[1]
            operands = grad_output.new_empty(len(grad_output), channels, *size), weight
        else:
            continue
        algorithms = "conv2d_algorithms" if name != "conv_act_pool2d" else "conv_act_pool2d_algorithm"
        lines += [f"    {line}" for line in getattr(torch.ops.tmc, algorithms)(*operands, *rest).splitlines()]
    return "\n".join(lines)


@contextmanager
def naming_kernels(function, inputs):
    """A comparison that fails inside says which kernels function(*inputs) runs."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error}\n{kernels_run(function, inputs)}") from error


# ---- Comparisons.


def same_shape(mine, wanted, what):
    assert mine.shape == wanted.shape, f"{what}: shape {list(mine.shape)}, wanted {list(wanted.shape)}"


def named(names, mine, wanted):
    """(name, one, other) of two lists of tensors, or of tuples of them."""
    for i, pair in enumerate(zip(mine, wanted, strict=True)):
        yield names[i] if i < len(names) else f"result {i}", *pair


def same_values(mine, wanted, what, names=()):
    """torch.equal of tensors or of lists of them: NaN, which elements never written hold (conftest.py), equals nothing.

    `names` name the lists' entries.
    """
    if not isinstance(mine, torch.Tensor):
        for name, one, other in named(names, mine, wanted):
            same_values(one, other, f"{what}, {name}")
        return
    same_shape(mine, wanted, what)
    if not torch.equal(mine, wanted):
        different = mine != wanted
        worst = describe_worst(what, mine, wanted, different, show=bits)
        raise AssertionError(f"{worst}; {different.sum()} of {mine.numel()} differ, limit 0")


def largest(values):
    return values.abs().max()


def within(mine, exact, limit, what, measure=largest, theirs=None, scale=None):
    """measure(mine - exact) is at most limit * measure(exact), or limit * scale where that is given."""
    same_shape(mine, exact, what)
    errors = mine.double() - exact.double()
    error, whole = measure(errors), measure(exact.double())
    allowed = limit * (whole if scale is None else scale)
    if not error <= allowed:
        unit = torch.finfo(mine.dtype).eps * whole
        raise AssertionError(
            f"{describe_worst(what, mine, exact, errors.abs(), theirs)}; {measure.__name__} error"
            f" {float(error / unit):.3g} eps, limit {float(allowed / unit):.3g} eps"
        )


def close(mine, wanted, what, names=(), **tolerances):
    """torch.testing.assert_close of tensors or of lists of them, with its tolerances."""
    if not isinstance(mine, torch.Tensor):
        for name, one, other in named(names, mine, wanted):
            close(one, other, f"{what}, {name}", **tolerances)
        return
    same_shape(mine, wanted, what)

    def named_worst(text):
        same = torch.isclose(mine, wanted, rtol=0, atol=0, equal_nan=tolerances.get("equal_nan", False))
        return f"{describe_worst(what, mine, wanted, (mine - wanted).abs().where(~same, 0))}; {text}"

    torch.testing.assert_close(mine, wanted, **tolerances, msg=named_worst)


def check_close(mine, exact, theirs, terms, nonzeros=0, what="result"):
    """mine and theirs are two computations, in the same dtype, of what exact holds in float64: with that many values
    that are not zero, or the comparison is not to be trusted."""
    if not mine.is_floating_point():
        same_values(mine, exact, what)
        return
    dtype, eps, finite = mine.dtype, torch.finfo(mine.dtype).eps, exact.isfinite()
    same_values(mine.isfinite(), finite, f"{what}: where it is finite")
    same_values(mine.isnan(), exact.isnan(), f"{what}: where it is NaN")
    if not finite.any():
        return
    mine, exact, theirs = (torch.where(finite, x, 0) for x in (mine, exact.double(), theirs))
    trusted = (exact.abs() > 1e-3).sum()
    assert trusted >= nonzeros, f"{what}: mistrusted: the reference is mostly zeros: {trusted} others, want {nonzeros}"
    within(mine, exact, TOLERANCE * eps * terms**0.5, what, theirs=theirs)
    if dtype != torch.float64 and exact[finite].unique().numel() >= MANY_VALUES:  # in float64 torch is the reference

        def root_mean_square(values):
            return values[finite].square().mean().sqrt()

        allowed = RELATIVE_TO_TORCH * root_mean_square(theirs.double() - exact) + eps / 4 * largest(exact)
        within(mine, exact, 1, what, root_mean_square, theirs, scale=allowed)
