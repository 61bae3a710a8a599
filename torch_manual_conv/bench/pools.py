"""Pooling and sigmoid: bound by memory, so the rate is in bytes that must be moved, and a copy is the limit."""

from itertools import chain

import torch

from .. import functional
from .problems import F, Problem, aten, between, in_layouts, keeping, nbytes, random, tmc
from .shapes import same

POOLS = {  # name: (channels, size, window): what networks pool; a window is (kernel_size, stride, padding)
    "alexnet 55": (64, 55, (3, 2, 0)),
    "alexnet 27": (192, 27, (3, 2, 0)),
    "alexnet 13": (256, 13, (3, 2, 0)),
    "vgg 56": (128, 56, (2, 2, 0)),
    "resnet 112": (64, 112, (3, 2, 1)),
    "inception 28": (192, 28, (3, 1, 1)),
}
ADAPTIVE = {"adaptive 13 to 6": (256, 13, 6), "global 7": (512, 7, 1)}  # name: (channels, size, output size)
SIGMOIDS = {"alexnet 55": (64, 55), "alexnet 13": (384, 13)}  # name: (channels, size)
KINDS = ("max", "avg")


def pool_problem(settings, group, name, batch, what):
    kind, _, place = name.partition(" ")
    if place in POOLS:
        channels, size, (kernel, stride, padding) = POOLS[place]
        window = ([kernel] * 2, [stride] * 2, [padding] * 2)
        about = f"{same(window[0])} x {same(window[0])}, stride {stride}" + (f", padding {padding}" if padding else "")
        windows = _max_windows if kind == "max" else _avg_windows
    else:
        channels, size, window = ADAPTIVE[place]
        about = f"to {window} x {window}"
        windows = _max_adaptive if kind == "max" else _avg_adaptive
    x = random(batch, channels, size, size).to(settings.torch_dtype)
    forward, backward, kept, y, winners = windows(x, window)
    operands = in_layouts(settings, x, random(*y.shape, seed=1), *winners)
    return Problem(
        group,
        name,
        what,
        f"[{batch}, {channels}, {size}, {size}], {about}",
        settings.dtype,
        "GB/s",
        **between(*(forward if what == "forward" else backward), operands),
        operations=y.numel() * kernel**2 if place in POOLS else x.numel(),
        moved=nbytes(x, y, *winners[:1]),
        images=batch,
        keeps=keeping(*kept, operands["channels_last"][0]) if what == "forward" else {},
    )


# Each returns (forward, backward, what records a graph), ours and torch's; the output; and for max (winners, indices).


def _max_windows(x, window):
    rest, size = ([1, 1], False), list(x.shape[2:])
    ours = [*chain(*window), 1, 1], False
    y, winners = tmc.max_pool2d(x, *ours)
    indices = F.max_pool2d(x, *window, return_indices=True)[1]
    forward = lambda x, *_: tmc.max_pool2d(x, *ours)[0], lambda x, *_: F.max_pool2d(x, *window)
    backward = (
        lambda x, g, winners, _: tmc.max_pool2d_grad_input(g, winners, size, *ours),
        lambda x, g, _, indices: aten.max_pool2d_with_indices_backward(g, x, *window, *rest, indices),
    )
    kept = lambda x: functional.max_pool2d(x, *window), lambda x: F.max_pool2d(x, *window)
    return forward, backward, kept, y, (winners, indices)


def _avg_windows(x, window):
    rest, size = (False, True, None), list(x.shape[2:])
    ours = list(chain(*window)), *rest
    forward = lambda x, _: tmc.avg_pool2d(x, *ours), lambda x, _: F.avg_pool2d(x, *window)
    backward = (
        lambda x, g: tmc.avg_pool2d_grad_input(g, size, *ours),
        lambda x, g: aten.avg_pool2d_backward(g, x, *window, *rest),
    )
    kept = lambda x: functional.avg_pool2d(x, *window), lambda x: F.avg_pool2d(x, *window)
    return forward, backward, kept, F.avg_pool2d(x, *window), ()


def _max_adaptive(x, output):
    size, out = list(x.shape[2:]), [output, output]
    y, winners = tmc.adaptive_max_pool2d(x, out)
    indices = F.adaptive_max_pool2d(x, out, return_indices=True)[1]
    forward = lambda x, *_: tmc.adaptive_max_pool2d(x, out)[0], lambda x, *_: F.adaptive_max_pool2d(x, out)
    backward = (
        lambda x, g, winners, _: tmc.adaptive_max_pool2d_grad_input(g, winners, size),
        lambda x, g, _, indices: aten.adaptive_max_pool2d_backward(g, x, indices),
    )
    kept = lambda x: functional.adaptive_max_pool2d(x, out), lambda x: F.adaptive_max_pool2d(x, out)
    return forward, backward, kept, y, (winners, indices)


def _avg_adaptive(x, output):
    size, out = list(x.shape[2:]), [output, output]
    forward = lambda x, _: tmc.adaptive_avg_pool2d(x, out), lambda x, _: F.adaptive_avg_pool2d(x, out)
    backward = (
        lambda x, g: tmc.adaptive_avg_pool2d_grad_input(g, size),
        lambda x, g: aten._adaptive_avg_pool2d_backward(g, x),
    )
    kept = lambda x: functional.adaptive_avg_pool2d(x, out), lambda x: F.adaptive_avg_pool2d(x, out)
    return forward, backward, kept, F.adaptive_avg_pool2d(x, out), ()


def sigmoid_problem(settings, group, name, batch, what):
    channels, size = SIGMOIDS[name]
    shape = batch, channels, size, size
    x = random(*shape).to(settings.torch_dtype)
    operands = in_layouts(settings, x, x.sigmoid(), random(*shape, seed=1))
    forward = lambda x, y, g: tmc.sigmoid(x), lambda x, y, g: torch.sigmoid(x)
    backward = lambda x, y, g: tmc.sigmoid_grad_input(g, y), lambda x, y, g: aten.sigmoid_backward(g, y)
    return Problem(
        group,
        name,
        what,
        f"{list(shape)}",
        settings.dtype,
        "GB/s",
        **between(*(forward if what == "forward" else backward), operands),
        moved=(2 if what == "forward" else 3) * x.nbytes,
        images=batch,
        keeps=keeping(functional.sigmoid, torch.sigmoid, operands["channels_last"][0]) if what == "forward" else {},
    )
