"""What a call costs before it computes anything: public functions on next to no data, with and without a graph."""

from functools import partial

import torch

from .. import functional
from .problems import LAYOUTS, F, Problem, in_layouts, random

CALLS = {  # name: (ours, torch's), each a function of input, weight and bias
    "conv2d": (
        lambda x, w, b: functional.conv2d(x, w, b, padding=1),
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
    ),
    "max_pool2d": (lambda x, w, b: functional.max_pool2d(x, 2), lambda x, w, b: F.max_pool2d(x, 2)),
    "avg_pool2d": (lambda x, w, b: functional.avg_pool2d(x, 2), lambda x, w, b: F.avg_pool2d(x, 2)),
    "sigmoid": (lambda x, w, b: functional.sigmoid(x), lambda x, w, b: torch.sigmoid(x)),
    "stage": (
        lambda x, w, b: functional.conv_act_pool2d(x, w, b, padding=1, activation="relu", pool="max"),
        lambda x, w, b: F.max_pool2d(torch.relu(F.conv2d(x, w, b, padding=1)), 2),
    ),
}


def overhead_problem(settings, group, name, batch, what):
    with_gradients = what != "forward"
    tensors = in_layouts(settings, random(batch, 4, 6, 6), random(4, 4, 3, 3, seed=1) / 6, random(4, seed=2))
    operands = {layout: [t.detach().requires_grad_(with_gradients) for t in tensors[layout]] for layout in LAYOUTS}
    ours, theirs = CALLS[name]

    def run(function, *operands):
        output = function(*operands)
        if not with_gradients:
            return output
        return output.detach(), *torch.autograd.grad(output.sum(), operands[:1])

    wide = [t.detach().double().requires_grad_(with_gradients) for t in operands["contiguous"]]
    return Problem(
        group,
        name,
        what,
        f"[{batch}, 4, 6, 6]",
        settings.dtype,
        "us",
        calls={
            f"{side} {layout}": partial(run, function, *operands[layout])
            for side, function in (("ours", ours), ("torch", theirs))
            for layout in LAYOUTS
        },
        reference=partial(run, theirs, *wide),
        images=batch,
        compiled=lambda side: partial(
            torch.compile(partial(run, ours if side == "ours" else theirs)), *operands["channels_last"]
        ),
        chooses=True,
        records_graph=with_gradients,
    )
