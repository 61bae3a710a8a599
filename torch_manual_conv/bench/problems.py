"""What is measured: ours and torch's function on the same numbers, in both memory layouts. And convolution."""

from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch

from .. import functional
from ..ops.conv2d import packed

F, aten, tmc = torch.nn.functional, torch.ops.aten, torch.ops.tmc
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = ("forward", "grad_input", "grad_weight")


@dataclass
class Problem:
    """One row of a table: who computes it, what is right, how much work it is."""

    group: str
    name: str
    what: str
    """The pass: forward, grad_input, ..."""
    shape: str
    dtype: str
    unit: str
    """What a reader compares: 'GFLOP/s', 'GB/s', 'images/s', 'ms' or 'us'."""
    calls: dict
    """{'ours contiguous': function, 'torch channels_last': function, ...}, each returning a tensor or a tuple."""
    reference: object
    """A function that returns what is right, in float64."""
    operations: int = 0
    """By the formula, a multiplication and an addition counted as two; 0 where they do not matter."""
    needed: int = 0
    """Those of them that are not with padding; 0: all."""
    moved: int = 0
    """Bytes that must be read and written: each operand and result once; 0 where that is no bound."""
    images: int = 0
    compiled: object = None
    """A function of 'ours' or 'torch' that returns it through torch.compile: that takes a while, so only on demand."""
    keeps: dict = field(default_factory=dict)
    """{'ours': function, 'torch': function} that record a graph: what autograd saves is counted."""
    parameters: tuple | list = ()
    """Tensors that are kept anyway."""
    layer: object = None
    """The convolution, for those who want to know which algorithm runs."""
    chooses: bool = False
    """Whether winners of windows are chosen from rounded values, so that a near tie may fall to the other side."""
    records_graph: bool = False


def between(ours, theirs, operands):
    """calls, reference and compiled of two functions of the same operands, {layout: tuple}."""
    calls = {
        f"{side} {layout}": partial(function, *tensors)
        for side, function in (("ours", ours), ("torch", theirs))
        for layout, tensors in operands.items()
    }
    wide = [t.double() if t.is_floating_point() else t for t in operands["contiguous"]]
    return {
        "calls": calls,
        "reference": partial(theirs, *wide),
        "compiled": lambda side: partial(torch.compile(ours if side == "ours" else theirs), *operands["channels_last"]),
    }


def in_layouts(settings, *tensors):
    """{layout: tensors}, in the dtype and on the device of the settings; only images have a layout."""
    moved = [t.to(settings.device, settings.torch_dtype if t.is_floating_point() else t.dtype) for t in tensors]
    return {
        layout: tuple(t.contiguous(memory_format=form) if t.dim() == 4 else t for t in moved)
        for layout, form in LAYOUTS.items()
    }


@lru_cache(maxsize=4)  # the passes of a layer share their operands, whose numbers take a while to draw
def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nbytes(*tensors):
    return sum(t.nbytes for t in tensors)


def keeping(ours, theirs, *operands):
    """What records a graph, for both: the operands need gradients."""
    leaves = [t.detach().requires_grad_() for t in operands]
    return {"ours": lambda: ours(*leaves), "torch": lambda: theirs(*leaves)}


# ---- Convolution: each pass alone.


def conv_problem(settings, group, layer, batch, what):
    p, q = layer.output_size()
    fan_in = layer.c // layer.groups * layer.r * layer.s
    operands = in_layouts(
        settings,
        random(batch, layer.c, layer.h, layer.w),
        random(layer.k, layer.c // layer.groups, layer.r, layer.s, seed=1) / fan_in**0.5,
        random(batch, layer.k, p, q, seed=2),
    )
    geometry = [*map(list, (layer.stride, layer.padding, layer.dilation)), layer.groups]
    ours, theirs = _conv_functions(layer, geometry, what, settings.precision)
    keeps = [lambda x, weight, f=f: f(x, weight, None, *geometry) for f in (functional.conv2d, F.conv2d)]
    return Problem(
        group,
        layer.name,
        what,
        f"[{batch}, {layer.c}, {layer.h}, {layer.w}], {layer}",
        settings.dtype,
        "GFLOP/s",
        **between(ours, theirs, operands),
        operations=2 * batch * layer.k * p * q * fan_in,
        needed=2 * batch * layer.taps() * layer.k * layer.c // layer.groups,
        moved=nbytes(*operands["contiguous"]),
        keeps=keeping(*keeps, *operands["channels_last"][:2]) if what == "forward" else {},
        parameters=operands["channels_last"][1:2],
        images=batch,
        layer=layer,
    )


def _conv_functions(layer, geometry, what, precision):
    stride, padding, dilation, groups = geometry
    if what == "forward":
        return (
            lambda x, weight, _: functional.conv2d(x, weight, None, *geometry),
            lambda x, weight, _: F.conv2d(x, weight, None, *geometry),
        )
    mask = [what == name for name in ("grad_input", "grad_weight", "grad_bias")]

    def theirs(x, weight, grad):
        rest = False, [0, 0], groups, mask  # not transposed, output padding
        return aten.convolution_backward(grad, x, weight, None, stride, padding, dilation, *rest)[mask.index(True)]

    if what == "grad_input":
        size = [layer.h, layer.w]
        return lambda x, weight, grad: tmc.conv2d_grad_input(grad, weight, size, *packed(*geometry), precision), theirs
    size = [layer.r, layer.s]
    return lambda x, weight, grad: tmc.conv2d_grad_weight(grad, x, size, *packed(*geometry), precision), theirs
