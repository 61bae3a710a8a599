"""What the host does while CUDA entry points run on the CPU (recorder.h)."""

import ctypes
from contextlib import contextmanager

import torch

from .kernels import build_kernels

DEVICE = 3  # recorder.h
NAMES = "guard", "unguard", "stream", "launch", "allocate", "free", "call"


class Record:
    """events: [(name, *what is told of it)], in order."""

    def __init__(self, text):
        self.events = [tuple(line.split()) for line in text.splitlines()]
        assert all(event[0] in NAMES for event in self.events)

    def told(self, name):
        return [event[1] for event in self.events if event[0] == name]

    def peak_bytes(self):
        """The most that was allocated and not yet freed at any moment."""
        held, peak = {}, 0
        for name, *told in self.events:
            if name == "allocate":
                held[told[0]] = int(told[1])
                peak = max(peak, sum(held.values()))
            elif name == "free":
                held.pop(told[0], None)
        return peak


@contextmanager
def recording(stream=0):
    """A function that returns the Record, once the block has ended; `stream` is torch's current one in the block."""
    library = ctypes.CDLL(str(build_kernels()))
    library.harness_recorded.restype = ctypes.c_char_p
    library.harness_record(ctypes.c_size_t(stream))
    text = []
    try:
        yield lambda: Record(text[0])
    finally:
        text.append(library.harness_recorded().decode())
        library.harness_record(ctypes.c_size_t(0))
        library.harness_recorded()


def nbytes(results):
    """Of the storages of a tensor, or of several."""
    tensors = [results] if isinstance(results, torch.Tensor) else results
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
