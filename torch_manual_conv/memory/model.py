"""A model by name, through torch's layers and through ours."""

import copy
import importlib

import torch

from .. import convert, models, revert

OWN = {  # name: (factory, a usual input)
    "alexnet": (models.alexnet, (1, 3, 224, 224)),
    "alexnet_2012": (models.alexnet_2012, (1, 3, 224, 224)),
    "lecture_net": (models.lecture_net, (1, 1, 28, 28)),
}
USUAL_INPUT = (1, 3, 224, 224)


class ModelError(Exception):
    """Why there is no such model, in one line."""


def load(name):
    """One of our own models, or what `package.module:factory` makes when it is called without arguments."""
    if name in OWN:
        torch.manual_seed(0)
        return OWN[name][0]()
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ModelError(f"MODEL must be {', '.join(OWN)} or package.module:factory, got {name!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(f"MODEL {name}: cannot import {module_name}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the module does
        raise ModelError(f"MODEL {name}: cannot import {module_name}: {first_line(error)}") from error
    try:
        made = getattr(module, attribute)
    except AttributeError:
        raise ModelError(f"MODEL {name}: {module_name} has no {attribute}") from None
    if not isinstance(made, torch.nn.Module):
        torch.manual_seed(0)
        try:
            made = made()
        except (Exception, SystemExit) as error:
            raise ModelError(f"MODEL {name}: calling {attribute}() failed: {first_line(error)}") from error
    if not isinstance(made, torch.nn.Module):
        raise ModelError(f"MODEL {name}: must be or return a torch.nn.Module, got {type(made).__name__}")
    return made


def variants(model):
    """{name: model}, with the same weights."""
    try:
        one, two, three = (copy.deepcopy(model) for _ in range(3))
    except Exception as error:  # whatever the model is made of
        raise ModelError(f"MODEL cannot be copied: {first_line(error)}") from error
    return {"torch": revert(one), "ours": convert(two), "ours, fused": convert(three, fuse=True)}


def tensors_in(value):
    """The tensors in whatever a model returns."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, (list, tuple)) else []


def first_line(error):
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
