"""convert(model): our layers in the place of torch.nn's; revert(model): back again.

Our layers are subclasses that add no state, so a layer is converted by changing its class: the object, its
parameters, its hooks and every reference to it stay what they were.
"""

import torch

from . import nn

TWINS = {
    getattr(torch.nn, name): getattr(nn, name)
    for name in (
        "AdaptiveAvgPool2d",
        "AdaptiveMaxPool2d",
        "AvgPool2d",
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "ConvTranspose2d",
        "MaxPool2d",
        "Sigmoid",
    )
}
ORIGINALS = {ours: theirs for theirs, ours in TWINS.items()}
SUPPORTED_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def convert(model, *, fuse=False):
    """Makes every torch.nn layer that has a twin here compute through our kernels.

    Only exact torch.nn classes are changed: subclasses, parametrised or quantised layers, and layers with dtypes we
    do not support are left alone. Parameters are shared and state_dict keys unchanged.

    Args:
        model: any torch.nn.Module; changed in place.
        fuse: also merge each convolution -> activation -> pool run of an nn.Sequential into one conv_act_pool2d call
            (the convolution becomes a ConvActPool2d, its followers become Identity). Runs with hooks are left alone.
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
        for module in model.modules():
            if isinstance(module, torch.nn.Sequential):
                _fuse_runs(module)
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
    if type(module) is nn.AvgPool2d and module.count_include_pad and not (module.ceil_mode or module.divisor_override):
        return "avg", *window
    if type(module) is nn.SumPool2d and not module.ceil_mode:
        return "sum", *window
    return None


def _has_hooks(module):
    return any(
        getattr(module, name)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


def _fuse_runs(sequential):
    items = list(sequential._modules.items())
    for (_, conv), (act_name, act), (pool_name, pool) in zip(items, items[1:], items[2:], strict=False):
        activation, window = _activation_of(act), _pool_of(pool)
        if type(conv) is not nn.Conv2d or activation is None or window is None:
            continue
        if any(map(_has_hooks, (conv, act, pool))):
            continue
        conv.__class__ = nn.ConvActPool2d
        conv.activation = activation
        conv.pool, conv.pool_size, conv.pool_stride, conv.pool_padding = window
        conv.fused_from = ((act_name, act), (pool_name, pool))
        sequential._modules[act_name] = torch.nn.Identity()
        sequential._modules[pool_name] = torch.nn.Identity()


def _split_runs(sequential):
    for module in list(sequential._modules.values()):
        if not isinstance(module, nn.ConvActPool2d) or not hasattr(module, "fused_from"):
            continue
        for name, original in module.fused_from:
            sequential._modules[name] = original
        for attribute in ("activation", "pool", "pool_size", "pool_stride", "pool_padding", "fused_from"):
            delattr(module, attribute)
        module.__class__ = nn.Conv2d
