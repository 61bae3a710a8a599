"""Runs of an nn.Sequential's layers that one conv_act_pool2d call computes (docs/derivations.md, eq. 21-23).

Nothing but the class of the Sequential changes. Its layers stay what and where they are, and its forward looks for runs
at every call: whatever was done to a layer since (a hook, a method of its own, another layer in its place) is computed.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch.nn.modules import module as torch_module

from . import nn

ACTIVATIONS = {nn.Sigmoid: "sigmoid", torch.nn.ReLU: "relu", torch.nn.Tanh: "tanh"}
POOLS = {nn.MaxPool2d: "max", nn.AvgPool2d: "avg", nn.SumPool2d: "sum"}


def methods(layer_class):
    """What computes a layer of this class."""
    return layer_class.forward, getattr(layer_class, "_conv_forward", None)


METHODS_OF = {kind: methods(kind) for kind in (nn.Conv2d, *ACTIVATIONS, *POOLS)}
WALK = torch.nn.Sequential.forward, torch.nn.Sequential.__iter__


class Run(NamedTuple):
    """A convolution and what follows it in the same call."""

    conv: torch.nn.Module
    followers: list
    stage: dict
    """The arguments of conv_act_pool2d that are not the convolution's."""


class FusedRuns:
    """What a Sequential becomes that convert(fuse=True) found a run in, along with its own class."""

    def forward(self, input):
        # Graphs that torch.fx traces are taken apart by layers; hooks on all modules want to see each of them.
        each = isinstance(input, torch.fx.Proxy) or torch_module._has_any_global_hook()
        if each or not walks_plainly(self.unfused_class):
            return super().forward(input)
        for part in split(self):
            input = self.compute(part, input) if isinstance(part, Run) else part(input)
        return input

    def compute(self, run, input):
        save = "recompute" if getattr(run.conv, "save", None) == "recompute" else "store"
        return nn.stage_of(run.conv, input, run.conv.weight, run.conv.bias, {**run.stage, "save": save})

    def __reduce_ex__(self, protocol):
        _, (_, *arguments), *state = super().__reduce_ex__(protocol)
        return _new, (self.unfused_class, *arguments), *state


@cache
def fused_class(sequential_class):
    """A class made at run time, so __reduce_ex__ says how copies and pickles find it."""
    members = {"__module__": sequential_class.__module__, "unfused_class": sequential_class}
    return type(f"Fused{sequential_class.__name__}", (FusedRuns, sequential_class), members)


def _new(sequential_class, *arguments):
    kind = fused_class(sequential_class)
    return kind.__new__(kind, *arguments)


def walks_plainly(sequential_class):
    """Whether its forward calls one layer after the other."""
    return (sequential_class.forward, sequential_class.__iter__) == WALK


def split(sequential):
    """Its layers in order, those of a run as one Run."""
    layers, parts = list(sequential._modules.values()), []
    while layers:
        run = run_of(layers[:3])
        parts.append(run or layers[0])
        del layers[: 1 + len(run.followers) if run else 1]
    return parts


def run_of(layers):
    """The run that begins with the first of these layers, or None."""
    conv, *candidates = layers
    if type(conv) is not nn.Conv2d or not is_untouched(conv):
        return None
    activation, window, followers = None, (None, 2, None, 0), []
    for layer in candidates:
        its_activation = ACTIVATIONS.get(type(layer))
        if not is_untouched(layer):
            break
        if its_activation and not activation and window[0] in (None, "max"):  # eq. 23
            activation = its_activation
        elif is_expressible(layer) and not window[0]:
            window = POOLS[type(layer)], layer.kernel_size, layer.stride, layer.padding
        else:
            break
        followers.append(layer)
    if not followers:
        return None
    pool = dict(zip(("pool", "pool_size", "pool_stride", "pool_padding"), window, strict=True))
    return Run(conv, followers, {"activation": activation, **pool})


def is_expressible(pool):
    """Whether conv_act_pool2d has a pool for this layer."""
    if type(pool) not in POOLS or pool.ceil_mode:
        return False
    if type(pool) is nn.MaxPool2d:
        return pool.dilation in (1, (1, 1)) and not pool.return_indices
    if type(pool) is nn.AvgPool2d:
        return (pool.count_include_pad or pool.padding in (0, (0, 0))) and pool.divisor_override is None
    return True


def is_untouched(layer):
    """Whether a call of it does what its class's methods did when this library was imported, and nothing else."""
    kind, state = type(layer), vars(layer)
    if kind not in METHODS_OF or methods(kind) != METHODS_OF[kind]:
        return False
    hooked = state["_forward_hooks"] or state["_forward_pre_hooks"]
    hooked = hooked or state["_backward_hooks"] or state["_backward_pre_hooks"]
    # An instance has its class's methods as attributes only if somebody has replaced them.
    replaced = "forward" in state or "_conv_forward" in state or "_call_impl" in state or "_compiled_call_impl" in state
    return not (hooked or replaced)
