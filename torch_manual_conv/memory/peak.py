"""The most memory a call takes at any moment, as the operating system sees it: kernels' scratch space included."""

import ctypes
import gc
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def peak_bytes(call, device="cpu"):
    """Bytes of memory beyond what is in use now that call() needs at its peak; None where the system does not tell.

    On a CPU: the resident memory's high-water mark, which Linux lets a process reset. Pages that the allocator and our
    kernels kept from earlier calls are given back first, or they would hide what this call needs.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    torch.ops.tmc.release_scratch()
    if not _trim():
        return None
    try:
        (PROCESS / "clear_refs").write_text("5")  # resets VmHWM
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _trim():
    """Gives the C allocator's free pages back; False where there is no glibc."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return False
    return True


def _status(field):
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {field} in {PROCESS / 'status'}")
