"""The few places where a run differs when torchrun starts several processes of it."""

import gc
import os
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def process_group(device_type):
    """Joins the other processes for the duration, if torchrun (which sets WORLD_SIZE) started us.

    Gloo's threads end with the last reference to the group. One of them that outlives Python's interpreter aborts the
    process ("terminate called without an active exception"), so nothing may hold the group when this returns.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from torch.distributed.nn import functional  # noqa: F401  imported later, its default arguments would hold the group

    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield
    finally:
        gc.collect()  # DistributedDataParallel, which is part of cycles
        dist.destroy_process_group()


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def wrap(model):
    """The model whose backward also averages gradients over all processes."""
    return DistributedDataParallel(model) if dist.is_initialized() else model


def sum_over_processes(values):
    """Sums a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def from_first(value):
    """What the first process holds, in every process."""
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]
