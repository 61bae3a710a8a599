"""What elementwise operators share: any shape, so one fake and one batching rule; and the list of them all."""

import inspect
from typing import NamedTuple

import torch

from ._register import check_fake_floating, check_fake_like, two_doors


class Elementwise(NamedTuple):
    """An operator torch.ops.tmc.<name>: tensors of one shape, then scalars."""

    tensors: tuple
    scalars: tuple
    """Values that its tests call it with."""
    node: str
    """Its autograd node."""
    saves: tuple
    """What that keeps for backward, and why, as memory/reasons.py tells it; empty for a gradient's operator."""


OPERATORS = {}
"""name -> Elementwise, of every operator that `elementwise` has registered. verify, memory and the tests ask it."""


def elementwise(name, function, scalars=(), saves=()):
    """Registers torch.ops.tmc.<name>, whose autograd.Function is `function`; returns the callable that picks the door.

    The arguments of function.forward are the operator's: tensors, then as many scalars as there are in `scalars`.
    """
    arguments = list(inspect.signature(function.forward).parameters)
    names = tuple(arguments[: len(arguments) - len(scalars)])

    def fake(*args):
        *others, (last_name, last) = zip(names, args, strict=False)
        check_fake_floating(name, last_name, last)
        for other_name, other in others:
            check_fake_like(name, other_name, other, last_name, last)
            if other.shape != last.shape:
                raise RuntimeError(
                    f"{name}: {other_name} must have the shape of {last_name} {list(last.shape)}, "
                    f"got {list(other.shape)}"
                )
        return torch.empty_like(last)

    OPERATORS[name] = Elementwise(names, scalars, f"{function.__name__}Backward", saves)
    return two_doors(name, function, fake, elementwise_vmap)


def elementwise_vmap(call, info, in_dims, *args):
    """The batching rule: any shape will do, so the batch simply stays in front."""

    def moved(argument, dim):
        if not isinstance(argument, torch.Tensor):
            return argument
        return argument.expand(info.batch_size, *argument.shape) if dim is None else argument.movedim(dim, 0)

    return call(*map(moved, args, in_dims)), 0
