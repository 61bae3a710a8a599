"""The convolution layer, opened up: convolution, sigmoid and pooling with hand-written gradients and kernels.

    torch_manual_conv.functional     conv2d, sigmoid, max_pool2d, ...: torch.nn.functional's signatures
    torch_manual_conv.nn             Conv2d, MaxPool2d, ...: torch.nn's layers, same constructors and state_dict
    torch_manual_conv.convert        swap the torch.nn layers of a model for ours; revert undoes it
    torch_manual_conv.conv2d_algorithms   which algorithm computes a convolution, and why
    torch_manual_conv.models         alexnet, alexnet_2012, lecture_net

Importing it loads the compiled kernels and registers them as torch.ops.tmc.*.
"""

import warnings
from pathlib import Path

import torch

_here = Path(__file__).parent
if not (_here / "_C_cpu.so").exists():
    raise ImportError(
        f"torch_manual_conv: the compiled kernels are missing from {_here}: run `pip install .` in the project, "
        "or `python setup.py build_ext --inplace` to use it from there"
    )
torch.ops.load_library(str(_here / "_C_cpu.so"))

has_cuda = False
"""Whether the CUDA kernels are loaded (built with nvcc, and torch is a CUDA build of the same major version)."""
if torch.version.cuda and (_here / "_C_cuda.so").exists():
    try:
        torch.ops.load_library(str(_here / "_C_cuda.so"))
        has_cuda = True
    except OSError as error:  # built for another CUDA major version: the CPU kernels still work
        warnings.warn(f"torch_manual_conv: the CUDA kernels were not loaded: {error}", stacklevel=2)

from . import functional, models, nn  # noqa: E402
from .convert import convert, revert  # noqa: E402
from .ops.conv2d import conv2d_algorithms  # noqa: E402

__all__ = ["conv2d_algorithms", "convert", "functional", "has_cuda", "models", "nn", "revert"]
__version__ = "0.1.0"
