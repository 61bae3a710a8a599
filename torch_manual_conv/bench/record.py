"""One case, from its problem to its record: verified first, then timed, then weighed."""

import statistics
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from .. import conv2d_algorithms
from ..memory.ledger import saved_bytes
from ..memory.peak import peak_bytes
from . import machine
from .measure import alternate, clock_name, ratio
from .problems import LAYOUTS
from .ways import COMPILED, OURS_COMPILED, as_graphs, best

TORCH_FACTOR = 2  # ours may be off by twice torch's own error, as in torch_manual_conv.verify, or by one rounding
ROUNDING = {"highest": 2.0**-23, "high": 2.0**-16, "medium": 2.0**-8}  # of float32's operands, by precision
# A winner chosen between two values that rounding cannot tell apart moves a whole gradient. In a batch of AlexNet that
# is one window in some 10^5, whose share of a gradient's norm is about 10^-2.5.
CHOICE = 1e-2
FP32_PRECISION = {"highest": "ieee", "high": "tf32", "medium": "bf16"}  # torch's names of the same for convolutions


@dataclass
class Settings:
    """What holds for every case of a run."""

    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    precision: str = "highest"
    rounds: int = 9
    compile: bool = False
    ways: bool = False
    """Ours through torch.compile as well, and CUDA graphs (ways.py)."""

    @property
    def torch_dtype(self):
        return getattr(torch, self.dtype)

    def autocast(self):
        """Networks keep float32 weights, and compute in half types by autocast."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device, self.torch_dtype)

    def apply(self):
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)  # of a network's linear layers
        torch.backends.mkldnn.conv.fp32_precision = FP32_PRECISION[self.precision]
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = self.precision != "highest"


def measure(problem, settings, rates):
    """The record of one problem; without a speed of ours where ours is wrong."""
    record = {
        "threads": settings.threads,
        "clock": clock_name(settings.device, settings.threads),
        "dtype": problem.dtype,
        "precision": settings.precision,
        "rounds": settings.rounds,
        "group": problem.group,
        "name": problem.name,
        "pass": problem.what,
        "shape": problem.shape,
        "unit": problem.unit,
        "images": problem.images,
        "operations": problem.operations,
        "operations_needed": problem.needed or problem.operations,
        "bytes_moved": problem.moved,
    }
    if problem.layer is not None:
        record["algorithm"], record["scratch_bytes"] = _algorithm(problem, settings)
    with torch.set_grad_enabled(problem.records_graph):
        calls = dict(problem.calls)
        if settings.compile:
            calls[COMPILED] = problem.compiled("torch")
        if settings.ways and settings.compile:
            calls[OURS_COMPILED] = problem.compiled("ours")
        record["error"], calls = _errors(calls, problem.reference)
        record["error_limit"] = _limit(record["error"], problem, settings)
        wrong = [name for name in record["error"] if not record["error"][name] <= record["error_limit"]]
        record["verified"] = not any(name.startswith("ours") for name in wrong)
        calls = {name: call for name, call in calls.items() if name not in wrong}
        if settings.ways:
            calls |= as_graphs(calls, settings.device)
        limits, bounds = _limits(problem, settings, rates)
        seconds = alternate(calls | limits, settings.rounds, settings.device)
        record["seconds"] = {name: statistics.median(seconds[name]) for name in calls}
        faster = best(record["seconds"])
        record |= _compare(seconds, faster)
        if bounds:
            least = {name: min(seconds[name]) for name in limits}
            record["limit_seconds"], record["limit_by"] = max((bound(least), by) for by, bound in bounds.items())
        record["peak_bytes"] = {side: peak_bytes(calls[name], settings.device) for side, name in faster.items()}
    with torch.enable_grad():
        keeps = problem.keeps | ({COMPILED: calls[COMPILED]} if problem.records_graph and COMPILED in calls else {})
        record["saved_bytes"] = {side: saved_bytes(call, problem.parameters) for side, call in keeps.items()}
    return record


def _algorithm(problem, settings):
    layer = problem.layer
    form = torch.contiguous_format if settings.device == "cpu" else torch.channels_last  # what is faster there
    operands = (
        torch.empty(shape, dtype=settings.torch_dtype, device=settings.device, memory_format=form)
        for shape in ((problem.images, layer.c, layer.h, layer.w), (layer.k, layer.c // layer.groups, layer.r, layer.s))
    )
    chosen = conv2d_algorithms(*operands, layer.stride, layer.padding, layer.dilation, layer.groups)
    name, reason = chosen[problem.what]
    reason, _, scratch = reason.partition("; scratch memory: ")  # on CUDA
    return (name, reason), int(scratch.split()[0]) if scratch else None


def _errors(calls, reference):
    """({name: error}, the calls that work): relative to float64, in the norm, the worst of a call's results."""
    torch.backends.cudnn.benchmark, before = False, torch.backends.cudnn.benchmark  # for one call in float64
    expected = _tuple(reference())
    torch.backends.cudnn.benchmark = before
    errors, working = {}, {}
    for name, call in calls.items():
        try:
            results = _tuple(call())
        except (RuntimeError, NotImplementedError):
            if name.startswith("ours") and name != OURS_COMPILED:
                raise
            continue  # torch has no kernel for this dtype here, or cannot compile
        errors[name] = max(_error(*pair) for pair in zip(results, expected, strict=True))
        working[name] = call
    return errors, working


def _tuple(result):
    return result if isinstance(result, tuple) else (result,)


def _error(result, expected):
    if result.shape != expected.shape:
        return float("inf")
    difference = (result.double() - expected).norm()
    error = (difference / expected.norm()).item() if difference != 0 else 0.0
    return error if error == error else float("inf")


def _limit(errors, problem, settings):
    rounding = torch.finfo(settings.torch_dtype).eps
    if problem.dtype == "float32":
        rounding = max(rounding, ROUNDING[settings.precision])
    theirs = [error for name, error in errors.items() if name.startswith("torch ")]
    return max(TORCH_FACTOR * max(theirs, default=0.0), rounding, CHOICE if problem.chooses else 0.0)


def _compare(seconds, faster):
    """How many times faster ours is than torch's in the same turns: the faster layout of each, and layout by layout."""
    if len(faster) < 2:
        return {}
    return {
        "ratio": ratio(seconds[faster["torch"]], seconds[faster["ours"]])._asdict(),
        "ratio_by_layout": {
            layout: ratio(seconds[f"torch {layout}"], seconds[f"ours {layout}"]).median
            for layout in LAYOUTS
            if f"torch {layout}" in seconds and f"ours {layout}" in seconds
        },
    }


def _limits(problem, settings, rates):
    """What the machine could do at best, measured in the same turns, so that its clock is as fast as for the others.

    Returns ({name: call}, {what bounds: function of the measured {name: seconds} that gives the bound}).
    """
    calls, bounds = {}, {}
    if problem.moved:
        calls["copy"] = machine.copy_call(problem.moved, settings.device)
        bounds["copy of the same bytes"] = lambda seconds: seconds["copy"]
    if problem.operations and problem.unit != "GB/s":
        unit, products = machine.fastest_unit(rates, problem.dtype, settings.precision)
        needed = (problem.needed or problem.operations) * products
        if settings.device == "cpu":
            calls["peak"] = machine.peak_call(unit)
            done = calls["peak"]()
            bound = lambda seconds: needed / done * seconds["peak"]  # noqa: E731
        else:
            bound = lambda seconds: needed / rates[unit]  # noqa: E731
        bounds[f"{machine.UNITS[unit]}, as many as the formula asks for (Winograd needs fewer)"] = bound
    return calls, bounds
