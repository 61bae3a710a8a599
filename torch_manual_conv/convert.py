"""convert(model): our layers in the place of torch.nn's; revert(model): back again.

Our layers are subclasses that add no state, so a layer is converted by changing its class: the object, its
parameters, its hooks and every reference to it stay what they were.
"""

import logging
from collections import Counter

import torch

from . import nn
from .fused import FusedRuns, Run, fused_class, methods, split, walks_plainly
from .ops._register import DTYPES

log = logging.getLogger("torch_manual_conv")

# Our layers by torch.nn's of the same name, which SumPool2d and ConvActPool2d have not.
TWINS = {
    getattr(torch.nn, name): ours
    for name, ours in vars(nn).items()
    if isinstance(ours, type) and hasattr(torch.nn, name)
}
ORIGINALS = {ours: theirs for theirs, ours in TWINS.items()}
LAZY_TWINS = {
    kind: TWINS[kind.cls_to_become]
    for name, kind in vars(torch.nn).items()
    if name.startswith("Lazy") and kind.cls_to_become in TWINS
}


def convert(model, *, fuse=False):
    """Makes every torch.nn layer that has a twin here compute through our kernels.

    Only exact torch.nn classes are changed: subclasses, parametrised or quantised layers, and layers with dtypes we
    do not support are left alone, as are all layers of a class whose methods somebody has replaced. Parameters are
    shared and state_dict keys unchanged. A lazy layer becomes ours once it has seen an input. How many layers were
    changed is logged (logging.getLogger("torch_manual_conv"), level INFO).

    Args:
        model: any torch.nn.Module; changed in place.
        fuse: also compute runs of an nn.Sequential by one conv_act_pool2d call each: a convolution with the activation
            and pool that follow it, or one of them, or a max pool and then the activation. The layers stay in their
            places; the Sequential gets a class of its own, which looks for runs at every call. Computed layer by layer
            is what conv_act_pool2d cannot express, what has hooks or methods of its own, and a subclass of Sequential
            with a forward of its own.
    Returns:
        The same model.
    Raises:
        TypeError: when model is not a torch.nn.Module.
    """
    _check(model, "convert")
    changed, left = Counter(), Counter()
    for module in model.modules():
        kind = type(module)
        ours = LAZY_TWINS.get(kind) or TWINS.get(kind)
        if ours and _is_torchs(ORIGINALS[ours]) and all(p.dtype in DTYPES for p in module.parameters(recurse=False)):
            # A lazy layer says itself what it becomes.
            setattr(module, "cls_to_become" if kind in LAZY_TWINS else "__class__", ours)
            changed[kind.__name__] += 1
        elif isinstance(module, tuple(TWINS)) and not isinstance(module, tuple(ORIGINALS)):
            left[kind.__name__] += 1
    log.info("convert: changed %s; left alone %s", _listed(changed), _listed(left))
    if fuse:
        for module in model.modules():
            if isinstance(module, torch.nn.Sequential) and walks_plainly(type(module)):
                if any(isinstance(part, Run) for part in split(module)):
                    module.__class__ = fused_class(type(module))
    return model


def revert(model):
    """Undoes convert(model), fused runs included: the layers that the model has now, with torch's classes.

    Args:
        model: any torch.nn.Module; changed in place.
    Returns:
        The same model.
    Raises:
        TypeError: when model is not a torch.nn.Module.
    """
    _check(model, "revert")
    for module in model.modules():
        if isinstance(module, FusedRuns) and type(module) is fused_class(module.unfused_class):
            module.__class__ = module.unfused_class
        if type(module) in ORIGINALS:
            module.__class__ = ORIGINALS[type(module)]
        if vars(module).get("cls_to_become") in ORIGINALS:
            del module.cls_to_become
    return model


METHODS_OF = {kind: methods(kind) for kind in TWINS}


def _is_torchs(kind):
    """Whether its methods are those that our class stands in for: not replaced since this library was imported."""
    return methods(kind) == METHODS_OF[kind]


def _listed(counter):
    return ", ".join(f"{count} {name}" for name, count in counter.items()) or "nothing"


def _check(model, what):
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{what}: model must be a torch.nn.Module, got {type(model).__name__}")
