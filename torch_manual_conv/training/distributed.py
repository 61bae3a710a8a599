"""The few places where a run differs when torchrun starts several processes of it."""

import gc
import os
import socket
import time
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .config import RunError

LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
PATIENCE = 60  # seconds until all processes have come together

_is_lost = False  # no other process was found
_said = None  # the store in which the processes of this run note what has been said


class LaunchError(RunError):
    """The processes of a run cannot work together; the message says why."""


class ProcessLost(RunError):
    """Another process of the run has ended; its own message says why."""

    exit_status = 1


def launched():
    """(rank, number of processes) as the environment has them; (0, 1) when nobody launched several."""
    size = os.environ.get("WORLD_SIZE", "").strip()
    if size in ("", "1"):
        return 0, 1
    values = {name: os.environ.get(name, "").strip() for name in LAUNCHER}
    advice = "start several processes by torchrun, or unset WORLD_SIZE for one"
    if missing := [name for name in LAUNCHER if not values[name]]:
        raise LaunchError(f"the environment has WORLD_SIZE={size}, but no {', '.join(missing)}: {advice}")
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not (values[name].isascii() and values[name].isdigit()):
            raise LaunchError(f"the environment has {name}={values[name]}, which must be a whole number: {advice}")
    rank, size, port = int(values["RANK"]), int(size), int(values["MASTER_PORT"])
    if not (rank < size and 0 < port < 1 << 16):
        raise LaunchError(f"the environment has RANK={rank}, WORLD_SIZE={size}, MASTER_PORT={port}: {advice}")
    return rank, size


@contextmanager
def process_group(device_type):
    """Joins the other processes for the duration, if torchrun (which sets WORLD_SIZE) started us.

    Gloo's threads end with the last reference to the group. One of them that outlives Python's interpreter aborts the
    process ("terminate called without an active exception"), so nothing may hold the group when this returns.
    """
    rank, size = launched()
    if size == 1:
        yield
        return
    from torch.distributed.nn import functional  # noqa: F401  imported later, its default arguments would hold the group

    _join(rank, size, device_type)
    try:
        yield
    except RuntimeError as error:
        if not _is_of_connection(error):
            raise
        raise ProcessLost("another process of this run has ended, and so does this one") from error
    finally:
        gc.collect()  # DistributedDataParallel, which is part of cycles
        dist.destroy_process_group()


def _join(rank, size, device_type):
    global _is_lost, _said
    try:
        if device_type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
        _wait_for_first(rank)
        store = next(dist.rendezvous("env://", timeout=timedelta(seconds=PATIENCE)))[0]
        _said = dist.PrefixStore("said", store)
        backend = "nccl" if device_type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.PrefixStore("run", store), rank=rank, world_size=size)
    except (RuntimeError, ValueError, OSError) as error:
        _is_lost = True
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise LaunchError(
            f"process {rank} of {size} did not find the others at {where} (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; "
            f"unset them for one process): {str(error).partition(chr(10))[0]}"
        ) from error


def _wait_for_first(rank):
    """Until the first process listens: torch would warn several times a second, and takes minutes to give up."""
    address, until = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), time.monotonic() + PATIENCE
    socket.getaddrinfo(*address)  # raises for a name that nobody has
    while rank:
        try:
            return socket.create_connection(address, timeout=5).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _is_of_connection(error):
    text = str(error)
    return (
        isinstance(error, dist.DistError) or "gloo" in text or "Connection closed" in text or "Connection reset" in text
    )


def first_to_say(message):
    """Whether no other process of this run has said it: what all of them come to is said once."""
    if _said is not None:
        try:
            return _said.add(message, 1) == 1
        except RuntimeError:  # the process that kept the count has ended
            return True
    try:
        is_alone = launched()[1] == 1
    except LaunchError:
        is_alone = True
    return is_alone or _is_lost or os.environ.get("LOCAL_RANK", "0") == "0"


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def wrap(model):
    """The model whose backward also averages gradients over all processes."""
    return DistributedDataParallel(model) if dist.is_initialized() else model


def share_buffers(model):
    """Gives every process the first one's buffers: batch norm's running statistics, which each takes of its own images.

    What is evaluated by all is then what the first one saves.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def sum_over_processes(values):
    """Sums a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def union(values):
    """The values that any process has."""
    if not dist.is_initialized():
        return set(values)
    boxes = [None] * world_size()
    dist.all_gather_object(boxes, set(values))
    return set().union(*boxes)


def from_first(work):
    """What work() returns in the first process, in every process; what it raises there, every process raises."""
    box = [None, None]
    if rank() == 0:
        try:
            box[0] = work()
        except Exception as error:
            box[1] = error
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]
