"""Builds the CUDA kernels for the CPU (see fibers.h) and calls their launchers with torch tensors in CPU memory.

Results are full of NaN before a launch, so that an element that no thread writes is seen.
"""

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from .shapes import AverageRule, Conv, ElementwiseArrays, Pool, Stage

HARNESS = Path(__file__).parent
CSRC = HARNESS.parents[2] / "csrc"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # csrc/dtype.h's order
INCLUDES = [f"-I{CSRC}", f"-I{HARNESS}"]


# Set for the run of the tests in which an access outside an array, or a misaligned one, ends the process.
SANITIZED = os.environ.get("TMC_HARNESS_SANITIZED") == "1"


@functools.cache
def folder():
    path = Path(tempfile.mkdtemp(prefix="cuda_harness_"))
    atexit.register(shutil.rmtree, path)
    return path


def compile_and_link(name, sources, flags=(), libraries=()):
    compiler = [os.environ.get("CXX", "g++"), "-std=c++20", "-O2", "-g1", "-fPIC", "-U_FORTIFY_SOURCE", *flags]
    compiler += ["-fsanitize=address,alignment", "-fno-sanitize-recover=alignment"] if SANITIZED else []

    def compile(source):
        target = folder() / f"{name}_{source.parent.name}_{source.name}.o"
        subprocess.run([*compiler, "-x", "c++", "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, sources))
    library = folder() / f"{name}.so"
    subprocess.run([*compiler, "-shared", *objects, *libraries, "-o", library], check=True)
    return library


@functools.cache
def build_kernels():
    """The harness and every kernel file, compiled as C++."""
    machine = ("fibers.cpp", "shared_memory.cpp", "emulated_hopper.cpp", "recorder.cpp")
    sources = [
        *(HARNESS / name for name in machine),
        *sorted(HARNESS.glob("*.cu")),
        *sorted((CSRC / "cuda").rglob("*.cu")),
    ]
    return compile_and_link("kernels", sources, INCLUDES)


@functools.cache
def build_wide_pools():
    """The pooling kernels, choosing as they do for tensors beyond 32-bit indices."""
    machine = ("fibers.cpp", "shared_memory.cpp", "recorder.cpp")
    sources = [*(HARNESS / name for name in machine), *sorted((CSRC / "cuda/pool2d").glob("*.cu"))]
    return compile_and_link("wide_pools", sources, [*INCLUDES, "-DTMC_POOL_NARROW_LIMIT=1"])


@functools.cache
def load_entry_points():
    """torch.ops.tmc_cuda_on_cpu: the CUDA entry points, for CPU tensors, over the kernels of build_kernels."""
    sources = [*sorted(CSRC.glob("*.cpp")), *sorted((CSRC / "cuda").rglob("*.cpp")), HARNESS / "torch_on_cpu.cpp"]
    package = Path(torch.__file__).parent
    flags = [*INCLUDES, f"-I{package / 'include'}", "-include", "torch_on_cpu.h", "-DUSE_CUDA"]
    flags += ["-DTORCH_TARGET_VERSION=0x020b000000000000ULL"]  # as in setup.py
    # -Bsymbolic: ours before torch's own functions of the same name.
    libraries = [build_kernels(), f"-L{package / 'lib'}", "-lc10", "-ltorch_cpu", "-ldl", "-Wl,-Bsymbolic"]
    torch.ops.load_library(str(compile_and_link("entry_points", sources, flags, libraries)))
    return torch.ops.tmc_cuda_on_cpu


class HarnessError(AssertionError):
    """The harness saw a mistake in how a kernel uses the machine."""


class Kernels:
    """The launchers. `seed` and `skipped_barrier` say how the next launches run."""

    def __init__(self):
        self.library = ctypes.CDLL(str(build_kernels()))
        self.library.harness_report.restype = self.library.harness_barriers.restype = ctypes.c_char_p
        self.library.conv2d_grad_weight_parts.restype = ctypes.c_int64
        self.library.conv2d_grad_bias_parts.restype = ctypes.c_int64
        self.library.conv_act_pool2d_map_gradient_workspace.restype = ctypes.c_int64
        self.seed, self.skipped_barrier, self.barriers, self.blocks = 1, "", set(), 0

    def call(self, launcher, *arguments):
        self.library.harness_configure(self.seed, self.skipped_barrier.encode())
        getattr(self.library, launcher)(*map(as_c, arguments))
        self.barriers = set(self.library.harness_barriers().decode().split())
        self.blocks = self.library.harness_blocks()
        if report := self.library.harness_report().decode():
            raise HarnessError(f"{launcher}: {report}")

    def elementwise(self, formula, output, *tensors, scalars=()):
        """Fills output."""
        arrays = ctypes.byref(ElementwiseArrays.of(output, tensors, scalars))
        count = ctypes.c_int64(output.numel())
        self.call("launch_elementwise", formula.encode(), output.dtype, arrays, count, None)

    def conv2d(self, conv, channels_last, input, weight, bias):
        output = poisoned(conv.sizes[2], input.dtype, channels_last)
        operands = dense(input, channels_last), dense(weight, channels_last)
        self.call("launch_conv2d", input.dtype, conv, channels_last, *operands, bias, output, None)
        return output

    def conv2d_grad_input(self, conv, channels_last, grad_output, weight):
        grad_input = poisoned(conv.sizes[0], weight.dtype, channels_last)
        operands = dense(grad_output, channels_last), dense(weight, channels_last)
        self.call("launch_conv2d_grad_input", weight.dtype, conv, channels_last, *operands, grad_input, None)
        return grad_input

    def conv2d_grad_weight(self, conv, channels_last, grad_output, input):
        grad_weight = poisoned(conv.sizes[1], input.dtype, channels_last)
        parts = self.library.conv2d_grad_weight_parts(conv.struct())
        workspace = poisoned((parts, grad_weight.numel()), accumulation_dtype(input.dtype))
        layouts, operands = (
            (channels_last, channels_last),
            (dense(grad_output, channels_last), dense(input, channels_last)),
        )
        self.call("launch_conv2d_grad_weight", input.dtype, conv, *layouts, *operands, workspace, grad_weight, None)
        return grad_weight

    def conv2d_grad_bias(self, channels_last, grad_output):
        n, k, p, q = grad_output.shape
        extents = [ctypes.c_int64(extent) for extent in (n, k, p * q)]
        grad_bias = poisoned((k,), grad_output.dtype)
        workspace = poisoned(
            (self.library.conv2d_grad_bias_parts(*extents, channels_last), k), accumulation_dtype(grad_output.dtype)
        )
        operands = dense(grad_output, channels_last), workspace, grad_bias
        self.call("launch_conv2d_grad_bias", grad_output.dtype, *extents, channels_last, *operands, None)
        return grad_bias

    def max_pool2d(self, pool, channels_last, input):
        output = poisoned(pool.sizes[1], input.dtype, channels_last)
        winners = poisoned(pool.sizes[1], pool.winner_dtype, channels_last)
        self.call(
            "launch_max_pool2d", input.dtype, pool, channels_last, dense(input, channels_last), output, winners, None
        )
        return output, winners

    def max_pool2d_grad_input(self, pool, channels_last, grad_output, winners):
        grad_input = poisoned(pool.sizes[0], grad_output.dtype, channels_last)
        operands = dense(grad_output, channels_last), dense(winners, channels_last), grad_input
        self.call("launch_max_pool2d_grad_input", grad_output.dtype, pool, channels_last, *operands, None)
        return grad_input

    def max_pool2d_select(self, pool, channels_last, input, winners):
        output = poisoned(pool.sizes[1], input.dtype, channels_last)
        operands = dense(input, channels_last), dense(winners, channels_last), output
        self.call("launch_max_pool2d_select", input.dtype, pool, channels_last, *operands, None)
        return output

    def max_pool2d_indices(self, pool, channels_last, winners):
        indices = poisoned(pool.sizes[1], torch.int64, channels_last)
        self.call("launch_max_pool2d_indices", pool, channels_last, dense(winners, channels_last), indices, None)
        return indices

    def avg_pool2d(self, pool, channels_last, rule, input):
        output = poisoned(pool.sizes[1], input.dtype, channels_last)
        operands = dense(input, channels_last), output
        self.call("launch_avg_pool2d", input.dtype, pool, channels_last, rule, *operands, None)
        return output

    def avg_pool2d_grad_input(self, pool, channels_last, rule, grad_output):
        grad_input = poisoned(pool.sizes[0], grad_output.dtype, channels_last)
        operands = dense(grad_output, channels_last), grad_input
        self.call("launch_avg_pool2d_grad_input", grad_output.dtype, pool, channels_last, rule, *operands, None)
        return grad_input

    def conv_act_pool2d_map_gradient(self, stage, grad_output, activated, winners):
        """The gradient of the map before the pool, and grad_bias."""
        dtype = grad_output.dtype
        bytes_ = self.library.conv_act_pool2d_map_gradient_workspace(DTYPES.index(dtype), stage.struct())
        workspace = poisoned((bytes_ // 8 + 1,), torch.float64)
        map_gradient, grad_bias = poisoned(stage.pool.sizes[0], dtype, True), poisoned((stage.pool.c,), dtype)
        operands = [None if tensor is None else dense(tensor, True) for tensor in (grad_output, activated, winners)]
        results = workspace, map_gradient, grad_bias
        self.call("launch_conv_act_pool2d_map_gradient", dtype, stage, *operands, *results, None)
        return map_gradient, grad_bias


class WidePools(Kernels):
    """The pooling launchers of build_wide_pools."""

    def __init__(self):
        self.library = ctypes.CDLL(str(build_wide_pools()))
        self.library.harness_report.restype = self.library.harness_barriers.restype = ctypes.c_char_p
        self.seed, self.skipped_barrier, self.barriers, self.blocks = 1, "", set(), 0


class EntryPoints:
    """The entry points as torch.ops.tmc_cuda_on_cpu, run and watched as `kernels` says."""

    def __init__(self, kernels):
        self.ops, self.kernels = load_entry_points(), kernels

    def __getattr__(self, op):
        def call(*arguments):
            library = self.kernels.library
            library.harness_configure(self.kernels.seed, self.kernels.skipped_barrier.encode())
            result = getattr(self.ops, op)(*arguments)
            self.kernels.barriers = set(library.harness_barriers().decode().split())
            if report := library.harness_report().decode():
                raise HarnessError(f"{op}: {report}")
            return result

        return call


def as_c(value):
    """A launcher's argument: tensors by address, shapes and rules by reference."""
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, (Conv, Pool, Stage)):
        return value.struct()
    if isinstance(value, torch.dtype):
        return DTYPES.index(value)
    if isinstance(value, bool):
        return ctypes.c_bool(value)
    return ctypes.byref(value) if isinstance(value, AverageRule) else value


def dense(tensor, channels_last):
    return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def poisoned(shape, dtype, channels_last=False):
    form = torch.channels_last if channels_last else torch.contiguous_format
    tensor = torch.empty(shape, dtype=dtype, memory_format=form)
    return tensor.fill_(float("nan") if dtype.is_floating_point else 119)


def accumulation_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32
