"""The machine that is measured on: its name for the records, and its limits, measured like everything else."""

import datetime
import os
import platform
import re
from pathlib import Path

import torch

from .. import __version__
from .measure import alternate

PEAK_ROUNDS = 1 << 20  # of each loop in csrc/cpu/peak_kernels.h: two milliseconds
COPY_BYTES = 1 << 28  # read and written in halves: far beyond any cache
MATRIX = 8192  # of the GEMMs that stand for a GPU's peak, which has no portable register loop
PRODUCTS_FOR_FLOAT32 = 6  # bfloat16 products that make one of float32's accuracy


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
    """What every record carries, so that it still says where it comes from when it is cut out."""
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
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            name = str(dtype).removeprefix("torch.")
            a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=dtype) for _ in range(2))
            calls[name], work[name] = lambda a=a, b=b: a @ b, 2 * MATRIX**3
    seconds = alternate(calls, rounds, device)
    return {name: work[name] / min(seconds[name]) for name in calls}


UNITS = {
    "copy": "copy of a large array",
    "float32": "float32 multiply-adds",
    "float64": "float64 multiply-adds",
    "bfloat16_pairs": "bfloat16 pairs (AVX512-BF16)",
    "bfloat16_tiles": "bfloat16 tiles (AMX)",
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
    products = {"bfloat16": 1, "float32": {"highest": PRODUCTS_FOR_FLOAT32, "high": 3, "medium": 1}[precision]}
    if dtype in products:
        candidates += [(unit, products[dtype]) for unit in ("bfloat16_pairs", "bfloat16_tiles") if unit in rates]
    return max(candidates, key=lambda candidate: rates[candidate[0]] / candidate[1])
