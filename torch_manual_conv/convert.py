"""convert(model): our layers in the place of torch.nn's; revert(model): back again.

Our layers are subclasses that add no state, so a layer is converted by changing its class: the object, its
parameters, its hooks and every reference to it stay what they were.
"""

from collections import Counter

import torch

from . import nn

# Our layers by torch.nn's of the same name, which SumPool2d and ConvActPool2d have not.
TWINS = {
    getattr(torch.nn, name): ours
    for name, ours in vars(nn).items()
    if isinstance(ours, type) and hasattr(torch.nn, name)
}
ORIGINALS = {ours: theirs for theirs, ours in TWINS.items()}
SUPPORTED_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def convert(model, *, fuse=False):
    """Makes every torch.nn layer that has a twin here compute through our kernels.

    Only exact torch.nn classes are changed: subclasses, parametrised or quantised layers, and layers with dtypes we
    do not support are left alone. Parameters are shared and state_dict keys unchanged.

    Args:
        model: any torch.nn.Module; changed in place.
        fuse: also merge runs of an nn.Sequential into one conv_act_pool2d call each: a convolution with the activation
            and pool that follow it, or one of them, or a max pool and then the activation. The convolution becomes a
            ConvActPool2d, its followers become Identity. Runs that conv_act_pool2d cannot express, with hooks, with a
            convolution that is used in several places, or of a subclass with a forward of its own are left alone.
    Returns:
        The same model.
    Raises:
        TypeError: when model is not a torch.nn.Module.
    """
    _check(model, "convert")
    for module in model.modules():
        if type(module) in TWINS and all(p.dtype in SUPPORTED_DTYPES for p in module.parameters(recurse=False)):
            module.__class__ = TWINS[type(module)]
    if fuse:
        places = Counter(child for module in model.modules() for child in module._modules.values())
        for module in model.modules():
            if isinstance(module, torch.nn.Sequential) and type(module).forward is torch.nn.Sequential.forward:
                _fuse_runs(module, places)
    return model


def revert(model):
    """Undoes convert(model), fused runs included.

    Args:
        model: any torch.nn.Module; changed in place.
    Returns:
        The same model.
    Raises:
        TypeError: when model is not a torch.nn.Module.
    """
    _check(model, "revert")
    for module in model.modules():
        if isinstance(module, torch.nn.Sequential):
            _split_runs(module)
    for module in model.modules():
        if type(module) in ORIGINALS:
            module.__class__ = ORIGINALS[type(module)]
    return model


def _check(model, what):
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{what}: model must be a torch.nn.Module, got {type(model).__name__}")


# ---- Fusing: the convolution remembers in `fused_from` what revert has to put back.


def _activation_of(module):
    names = {nn.Sigmoid: "sigmoid", torch.nn.ReLU: "relu", torch.nn.Tanh: "tanh"}
    return names.get(type(module))


def _pool_of(module):
    """(pool, kernel_size, stride, padding) if conv_act_pool2d can express the module, else None."""
    window = [getattr(module, name, None) for name in ("kernel_size", "stride", "padding")]
    if (
        type(module) is nn.MaxPool2d
        and module.dilation in (1, (1, 1))
        and not (module.ceil_mode or module.return_indices)
    ):
        return "max", *window
    counts_padding = getattr(module, "count_include_pad", True) or module.padding in (0, (0, 0))
    if type(module) is nn.AvgPool2d and counts_padding and not (module.ceil_mode or module.divisor_override):
        return "avg", *window
    if type(module) is nn.SumPool2d and not module.ceil_mode:
        return "sum", *window
    return None


def _has_hooks(module):
    return any(
        getattr(module, name)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


def _followers(candidates):
    """(activation, pool and its window, how many modules they are) of what a convolution's followers begin with."""
    activation = window = None
    for count, module in enumerate(candidates):
        its_activation, its_window = _activation_of(module), _pool_of(module)
        if _has_hooks(module):
            return activation, window, count
        if its_activation and not activation and (window is None or window[0] == "max"):  # eq. 23
            activation = its_activation
        elif its_window and not window:
            window = its_window
        else:
            return activation, window, count
    return activation, window, len(candidates)


def _fuse_runs(sequential, places):
    items = list(sequential._modules.items())
    for i, (_, conv) in enumerate(items):
        if type(conv) is not nn.Conv2d or places[conv] > 1 or _has_hooks(conv):
            continue
        activation, window, count = _followers([module for _, module in items[i + 1 : i + 3]])
        if count == 0:
            continue
        conv.__class__ = nn.ConvActPool2d
        conv.activation = activation
        conv.pool, conv.pool_size, conv.pool_stride, conv.pool_padding = window or (None, 2, None, 0)
        conv.fused_from = tuple(items[i + 1 : i + 1 + count])
        for name, _ in conv.fused_from:
            sequential._modules[name] = torch.nn.Identity()


def _split_runs(sequential):
    for module in list(sequential._modules.values()):
        if type(module) is not nn.ConvActPool2d or not hasattr(module, "fused_from"):
            continue  # a class that parametrisation made, for example, stays fused
        for name, original in module.fused_from:
            sequential._modules[name] = original.train(module.training)
        for attribute in ("activation", "pool", "pool_size", "pool_stride", "pool_padding", "fused_from"):
            delattr(module, attribute)
        module.__class__ = nn.Conv2d
