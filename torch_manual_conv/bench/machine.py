"""The machine that is measured on: its name for the records, and its limits, measured like everything else."""

import datetime
import os
import platform
import re
from pathlib import Path

import torch

from .. import __version__
from .measure import alternate

PEAK_ROUNDS = 1 << 20  # of each loop in csrc/cpu/machine/peak_loop.h: two milliseconds
COPY_BYTES = 1 << 28  # read and written in halves: far beyond any cache
MATRIX = 8192  # of the GEMMs that stand for a GPU's peak, which has no portable register loop
PRODUCTS_FOR_FLOAT32 = {"bfloat16": 6, "tensorfloat32": 3}  # that make one of float32's accuracy


def cpu_name():
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = [re.search(rf"^{key}\s*: (.*)$", text, re.M) for key in ("model name", "cpu family", "model")]
    if not found[0]:
        return platform.machine()
    name = found[0][1].strip()
    return f"{name}, family {found[1][1]}, model {found[2][1]}" if found[1] and found[2] else name


def environment(command, device="cpu"):
    """Where the numbers of a run come from."""
    facts = {
        "machine": cpu_name(),
        "cores": os.cpu_count(),
        "cpu_isa": torch.ops.tmc.cpu_isa(),
        "torch": torch.__version__,
        "torch_manual_conv": __version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "command": command,
    }
    if torch.device(device).type == "cuda":
        facts |= {
            "machine": torch.cuda.get_device_name(),
            "host": facts["machine"],
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def copy_call(nbytes, device="cpu"):
    """A copy that moves `nbytes` in all, between two tensors that are there already."""
    source = torch.ones(max(1, nbytes // 2), dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return lambda: target.copy_(source)


def peak_call(unit):
    """A loop of nothing but `unit`'s arithmetic."""
    return lambda: torch.ops.tmc.cpu_peak(unit, PEAK_ROUNDS)


def peaks(device="cpu", rounds=9):
    """{name: rate}, what this machine reaches at most: bytes/s of a large copy, operations/s of arithmetic alone."""
    large = COPY_BYTES if torch.device(device).type == "cpu" else 16 * COPY_BYTES
    calls, work = {"copy": copy_call(large, device)}, {"copy": large}
    if torch.device(device).type == "cpu":
        for unit in ("float32", "float64", "bfloat16_pairs", "bfloat16_tiles"):
            operations = peak_call(unit)()
            if operations:
                calls[unit], work[unit] = peak_call(unit), operations
    else:
        for name, (dtype, precision) in MATRIX_PRODUCTS.items():
            calls[name], work[name] = matrix_call(dtype, precision, device), 2 * MATRIX**3
    seconds = alternate(calls, rounds, device)
    return {name: work[name] / min(seconds[name]) for name in calls}


MATRIX_PRODUCTS = {  # of a GPU: dtype, torch.set_float32_matmul_precision
    "float64": (torch.float64, "highest"),
    "float32": (torch.float32, "highest"),
    "tensorfloat32": (torch.float32, "high"),
    "bfloat16": (torch.bfloat16, "highest"),
    "float16": (torch.float16, "highest"),
}


def matrix_call(dtype, precision, device):
    a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=dtype) for _ in range(2))

    def call():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        result = a @ b
        torch.set_float32_matmul_precision(before)
        return result

    return call


UNITS = {
    "copy": "copy of a large array",
    "float32": "float32 multiply-adds",
    "float64": "float64 multiply-adds",
    "bfloat16_pairs": "bfloat16 pairs (AVX512-BF16)",
    "bfloat16_tiles": "bfloat16 tiles (AMX)",
    "tensorfloat32": "TF32 matrix products",
    "bfloat16": "bfloat16 matrix products",
    "float16": "float16 matrix products",
}


def fastest_unit(rates, dtype, precision="highest"):
    """(unit, its operations for each one of the formula) by which a kernel for this dtype could be fastest.

    Fast algorithms (Winograd) need fewer operations than the formula and may pass the peak.
    """
    if dtype == "float64":
        return "float64", 1
    candidates = [("float32", 1)] + ([(dtype, 1)] if dtype in rates else [])
    exact = PRODUCTS_FOR_FLOAT32
    products = {"bfloat16": 1, "float32": {"highest": exact["bfloat16"], "high": 3, "medium": 1}[precision]}
    if dtype in products:
        candidates += [(unit, products[dtype]) for unit in ("bfloat16_pairs", "bfloat16_tiles") if unit in rates]
    if dtype == "float32" and "tensorfloat32" in rates:
        candidates.append(("tensorfloat32", exact["tensorfloat32"] if precision == "highest" else 1))
    return max(candidates, key=lambda candidate: rates[candidate[0]] / candidate[1])
