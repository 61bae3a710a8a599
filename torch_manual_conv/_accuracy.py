"""How exact an operator is: the cases that are tried, torch's twin of every operator, and the pass rule.

`python -m torch_manual_conv.verify` prints it; docs/verify.md explains it.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from . import functional
from .ops._elementwise import OPERATORS

F = torch.nn.functional


@dataclass(frozen=True)
class Case:
    op: str
    """The function's name in torch_manual_conv.functional."""
    name: str
    """The trap that the case sets."""
    tensors: dict
    """Argument -> shape, in the function's order. Gradients are taken with respect to every one."""
    arguments: dict = field(default_factory=dict)
    channels_last: bool = False
    batched: bool = True
    coarse: bool = False
    """Whether numbers are multiples of 1/2, so few that convolutions are exact in every dtype: rounding must not
    decide which element of a window is the largest or positive, or the gradient would be a matter of luck."""


def _stage(input, weight, bias, activation=None, pool=None, pool_size=2, pool_stride=None, pool_padding=0, **conv):
    """conv_act_pool2d in torch's functions."""
    activate = {None: lambda x: x, "sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}[activation]
    pools = {None: lambda x, *_: x, "max": F.max_pool2d, "avg": F.avg_pool2d, "sum": _sum_pool2d}
    return pools[pool](activate(F.conv2d(input, weight, bias, **conv)), pool_size, pool_stride, pool_padding)


def _sum_pool2d(input, kernel_size, stride=None, padding=0, ceil_mode=False):
    return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, divisor_override=1)


TWINS = {name: getattr(F, name, None) for name in functional.__all__}
TWINS |= {"sigmoid": torch.sigmoid, "sum_pool2d": _sum_pool2d, "conv_act_pool2d": _stage}


def _conv(op, name, input, weight, channels_last=False, batched=True, bias=None, **arguments):
    tensors = {"input": input, "weight": weight, "bias": (bias or weight[0],)}
    return Case(op, name, tensors, arguments, channels_last, batched)


def _pool(op, name, input, channels_last=False, batched=True, **arguments):
    return Case(op, name, {"input": input}, arguments, channels_last, batched)


def _stages():
    tensors = {"input": (2, 3, 15, 13), "weight": (8, 3, 3, 3), "bias": (8,)}
    for activation in (None, "sigmoid", "relu", "tanh"):
        for pool in (None, "max", "avg", "sum"):
            arguments = {"padding": 1, "activation": activation, "pool": pool}
            name = "-".join(filter(None, ("conv", activation, pool)))
            decides = activation == "relu" or pool == "max"
            yield Case("conv_act_pool2d", name, tensors, arguments, coarse=decides)
    overlapping = {"stride": 2, "activation": "relu", "pool": "max", "pool_size": 3, "pool_stride": 2}
    alexnet = {"input": (2, 3, 31, 31), "weight": (16, 3, 5, 5), "bias": (16,)}
    yield Case("conv_act_pool2d", "alexnet", alexnet, overlapping, coarse=True)


def _elementwise():
    for op in filter(OPERATORS.get, functional.__all__):
        yield _pool(op, "plain", (3, 7, 11, 13))
        yield _pool(op, "channels_last", (3, 7, 11, 13), channels_last=True)


# Shapes are small, odd and unequal in height and width, so that a swapped index shows.
CASES = (
    _conv("conv2d", "alexnet1", (2, 3, 67, 63), (16, 3, 11, 11), stride=4, padding=2),
    _conv("conv2d", "alexnet2", (2, 16, 13, 15), (32, 16, 5, 5), padding=2),
    _conv("conv2d", "deep", (1, 96, 9, 7), (64, 96, 3, 3), padding=1),
    _conv("conv2d", "wide", (4, 16, 29, 31), (40, 16, 3, 3), padding=1),
    _conv("conv2d", "many_pixels", (8, 3, 61, 63), (8, 3, 3, 3)),
    _conv("conv2d", "channels_last", (3, 20, 17, 19), (24, 20, 3, 3), channels_last=True, padding=1),
    _conv("conv2d", "uneven", (2, 5, 19, 23), (7, 5, 4, 3), stride=(2, 3), padding=(3, 1), dilation=(2, 1)),
    _conv("conv2d", "same", (2, 4, 9, 11), (6, 4, 4, 2), padding="same"),
    _conv("conv2d", "groups", (2, 12, 11, 13), (18, 4, 3, 3), groups=3, stride=2),
    _conv("conv2d", "depthwise", (2, 17, 11, 13), (17, 1, 3, 3), groups=17, padding=1),
    _conv("conv2d", "1x1", (2, 40, 7, 5), (24, 40, 1, 1)),
    _conv("conv2d", "one_pixel", (3, 10, 5, 7), (33, 10, 5, 7)),
    _conv("conv2d", "unbatched", (3, 13, 17), (8, 3, 3, 5), batched=False),
    _conv("conv1d", "plain", (3, 6, 31), (10, 6, 5), padding=2),
    _conv("conv1d", "uneven", (2, 12, 37), (9, 4, 4), groups=3, stride=3, dilation=2, padding=1),
    _conv("conv3d", "plain", (2, 3, 7, 9, 11), (6, 3, 3, 3, 3), padding=1),
    _conv("conv3d", "uneven", (2, 4, 9, 8, 11), (6, 2, 2, 3, 4), groups=2, stride=(2, 1, 3), dilation=(2, 2, 1)),
    _conv("conv_transpose2d", "plain", (2, 12, 9, 7), (12, 8, 3, 3), bias=8, padding=1),
    _conv("conv_transpose2d", "upsample", (2, 6, 7, 5), (6, 9, 4, 4), bias=9, stride=2, padding=1),
    _conv("conv_transpose2d", "uneven", (2, 6, 7, 5), (6, 4, 3, 4), bias=8, groups=2, stride=(3, 2),
          output_padding=(2, 1), dilation=(1, 2)),
    *_elementwise(),
    _pool("max_pool2d", "plain", (2, 5, 16, 14), kernel_size=2),
    _pool("max_pool2d", "overlapping", (2, 5, 27, 25), kernel_size=3, stride=2),
    _pool("max_pool2d", "channels_last", (2, 19, 15, 17), channels_last=True, kernel_size=3, stride=2, padding=1),
    _pool("max_pool2d", "uneven", (2, 5, 19, 23), kernel_size=(3, 4), stride=(2, 3), padding=(1, 2), dilation=(2, 1)),
    _pool("max_pool2d", "ceil", (5, 12, 14), batched=False, kernel_size=3, stride=2, ceil_mode=True),
    _pool("max_pool2d", "wide", (2, 3, 40, 37), kernel_size=17, stride=5),
    _pool("avg_pool2d", "plain", (2, 5, 16, 14), kernel_size=2),
    _pool("avg_pool2d", "channels_last", (2, 19, 15, 17), channels_last=True, kernel_size=3, stride=2, padding=1),
    _pool("avg_pool2d", "uneven", (2, 5, 19, 23), kernel_size=(3, 4), stride=(2, 3), padding=(1, 2)),
    _pool("avg_pool2d", "pad_not_counted", (2, 5, 12, 14), kernel_size=3, stride=2, padding=1, ceil_mode=True,
          count_include_pad=False),
    _pool("avg_pool2d", "divisor", (5, 12, 14), batched=False, kernel_size=3, divisor_override=7),
    _pool("sum_pool2d", "plain", (2, 5, 16, 14), kernel_size=2),
    _pool("sum_pool2d", "uneven", (2, 5, 19, 23), kernel_size=(3, 4), stride=(2, 3), padding=(1, 2), ceil_mode=True),
    _pool("adaptive_max_pool2d", "alexnet", (2, 5, 13, 13), output_size=6),
    _pool("adaptive_max_pool2d", "uneven", (2, 5, 17, 11), output_size=(5, 4)),
    _pool("adaptive_avg_pool2d", "alexnet", (2, 5, 13, 13), output_size=6),
    _pool("adaptive_avg_pool2d", "global", (2, 19, 17, 11), channels_last=True, output_size=1),
    _pool("adaptive_avg_pool2d", "enlarging", (2, 5, 7, 5), output_size=(10, 9)),
    *_stages(),
)  # fmt: skip


# ---- Running a case, with our function or with torch's.


def problem(case, dtype, seed):
    """(tensors, grad_output, directions), random, rounded to dtype; second derivatives go along directions."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(shape):
        if case.coarse:
            drawn = torch.randint(-2, 3, shape, generator=generator) / 2
        else:
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        channels_last = case.channels_last and len(shape) == 4
        return drawn.to(dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    tensors = {name: numbers(shape) for name, shape in case.tensors.items()}
    if "weight" in tensors and not case.coarse:  # as in a network: outputs near 1, where activations are not flat
        tensors["weight"] /= math.sqrt(tensors["weight"][0].numel())
    output = TWINS[case.op](*(t.double() for t in tensors.values()), **case.arguments)
    return tensors, numbers(output.shape), [numbers(shape) for shape in case.tensors.values()]


def each(change, drawn):
    """The same problem with every tensor changed."""
    tensors, grad_output, directions = drawn
    return {name: change(t) for name, t in tensors.items()}, change(grad_output), [change(d) for d in directions]


def evaluate(function, case, drawn):
    """{'output': ..., 'grad_input': ..., ...}, for conv2d also the gradients of its gradients."""
    tensors, grad_output, directions = each(lambda t: t.detach().requires_grad_(), drawn)
    twice = case.op == "conv2d"
    output = function(*tensors.values(), **case.arguments)
    grads = torch.autograd.grad(output, tensors.values(), grad_output, create_graph=twice)
    results = {"output": output} | {f"grad_{name}": grad for name, grad in zip(tensors, grads, strict=True)}
    if twice:
        by = {"grad_output": grad_output, "input": tensors["input"], "weight": tensors["weight"]}
        seconds = torch.autograd.grad(grads, by.values(), directions)
        results |= {f"2nd by {name}": second for name, second in zip(by, seconds, strict=True)}
    return {name: result.detach() for name, result in results.items()}


# ---- Checks.

TORCH_FACTOR = 2
# Max pooling's gradient is the sparsest: one non-zero an output, fewer where windows overlap and share a winner.
MIN_NONZERO = 0.25
PASS, FAIL, ERROR, MISTRUSTED = "pass", "FAIL", "ERROR", "MISTRUSTED"


@dataclass(frozen=True)
class Check:
    """One result of one case in one dtype. The errors are relative, not in eps; None where the call raised."""

    device: str
    op: str
    case: str
    result: str
    dtype: str
    status: str
    error: float | None = None
    torch_error: float | None = None
    limit: float | None = None
    terms: int | None = None
    message: str = ""

    def severity(self):
        """Orders the checks of a row: whatever fails comes after whatever passes."""
        return self.status != PASS, math.inf if self.error is None else self.error / self.limit


def count_terms(case, drawn):
    """{result: how many products it sums}: without activation, on ones, every result counts its own terms.

    Averages divide their count away again: they sum at least as many numbers as there are inputs to an output.
    """
    linear = replace(case, arguments={k: v for k, v in case.arguments.items() if k != "activation"})
    ones = each(lambda t: torch.ones_like(t, dtype=torch.float64), drawn)
    counts = {name: max(1, math.ceil(count.max())) for name, count in evaluate(TWINS[case.op], linear, ones).items()}
    tensors, grad_output, _ = drawn
    counts["output"] = max(counts["output"], tensors["input"].numel() // grad_output.numel())
    return counts


def relative_error(result, reference, dtype):
    if result.shape != reference.shape or result.dtype != dtype:
        raise RuntimeError(f"returned {list(result.shape)} {result.dtype}, expected {list(reference.shape)} {dtype}")
    return ((result.cpu().double() - reference).abs().max() / reference.abs().max()).item()


def check(case, device, dtype_name, seed):
    """Every Check of one case in one dtype."""
    dtype = getattr(torch, dtype_name)
    drawn = problem(case, dtype, seed)
    references = evaluate(TWINS[case.op], case, each(torch.Tensor.double, drawn))
    terms = count_terms(case, drawn)
    on_device = each(lambda t: t.to(device), drawn)
    try:
        theirs = evaluate(TWINS[case.op], case, on_device)
    except RuntimeError:  # torch lacks the dtype on this device: then only the second bound counts
        theirs = {}
    try:
        ours = evaluate(getattr(functional, case.op), case, on_device)
        errors = {name: relative_error(ours[name], reference, dtype) for name, reference in references.items()}
    except Exception as error:  # whatever an operator raises is a finding to report, not the end of the run
        message = f"{type(error).__name__}: {str(error).splitlines()[0].split('. ')[0][:160]}"
        names = references.keys()
        return [Check(device, case.op, case.name, name, dtype_name, ERROR, message=message) for name in names]

    checks = []
    eps, eps_sum = (torch.finfo(d).eps for d in (dtype, max(dtype, torch.float32, key=lambda d: d.itemsize)))
    rounded = 2 if dtype == torch.float64 else 1  # the reference, in float64 itself, is rounded just as often
    for name, reference in references.items():
        torch_error = relative_error(theirs[name], reference, dtype) if theirs else None
        limit = max(TORCH_FACTOR * (torch_error or 0), rounded * (eps + eps_sum * math.sqrt(terms[name])))
        status, message = PASS if errors[name] <= limit else FAIL, ""  # a NaN fails
        nonzero = reference.count_nonzero().item()
        if nonzero < MIN_NONZERO * min(reference.numel(), references["output"].numel()):
            status, message = MISTRUSTED, f"only {nonzero} of the reference's {reference.numel()} values are not zero"
        checks.append(
            Check(device, case.op, case.name, name, dtype_name, status, errors[name], torch_error, limit, terms[name],
                  message)
        )  # fmt: skip
    return checks


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def two_ways(case, device, drawn):
    """(claim, results, the same results obtained another way) for all that must agree in every bit."""
    ours = partial(evaluate, getattr(functional, case.op), case)
    first = ours(drawn)
    yield "two runs", first, ours(drawn)
    if device == "cpu":
        with threads(2):
            yield "1 thread and 2 threads", first, ours(drawn)
    if case.batched:
        tensors, grad_output, (direction, *others) = drawn
        alone = ours(({**tensors, "input": tensors["input"][:1]}, grad_output[:1], [direction[:1], *others]))
        of_sample = ("output", "grad_input")
        yield (
            "a sample in its batch and alone",
            {name: first[name][:1] for name in of_sample},
            {name: alone[name] for name in of_sample},
        )


def same_bits(left, right):
    def as_bytes(tensor):
        return tensor.flatten().clone().view(torch.uint8)

    return all(torch.equal(as_bytes(left[name]), as_bytes(right[name])) for name in left)


def determinism(cases, device, dtypes, seed):
    """{claim: [(op, case, dtype) for which it does not hold]}"""
    broken = {}
    for case in cases:
        for dtype in dtypes:
            drawn = each(lambda t: t.to(device), problem(case, getattr(torch, dtype), seed))
            for claim, left, right in two_ways(case, device, drawn):
                found = broken.setdefault(claim, [])
                if not same_bits(left, right):
                    found.append((case.op, case.name, dtype))
    return broken
