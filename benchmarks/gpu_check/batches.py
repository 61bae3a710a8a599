"""The largest batch that fits: AlexNet's training step in as much memory as is allowed, ours beside torch's."""

import gc

import torch

from torch_manual_conv import convert, models
from torch_manual_conv.bench.networks import CLASSES, IMAGE, SGD, full_step

GIGABYTES = 24  # of the GPU's: a search takes seconds, and no tensor has 2^31 elements
FIRST, STEPS = 128, 4  # the batch that is tried first; halvings of what lies between the last two
MOST_ON_A_CPU = 2 * FIRST + FIRST // 4


def largest(side, settings, activation):
    """The largest batch of a full step, to 1/16."""
    fitting = FIRST
    while fits(side, settings, activation, 2 * fitting):
        fitting *= 2
    step = fitting
    for _ in range(STEPS):
        step //= 2
        if fits(side, settings, activation, fitting + step):
            fitting += step
    return fitting


def fits(side, settings, activation, batch):
    if settings.device == "cpu":
        return batch <= MOST_ON_A_CPU
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, GIGABYTES * 1e9 / total))
    try:
        two_steps(side, settings, activation, batch)
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)
    return True


def two_steps(side, settings, activation, batch):
    """The second one has the optimizer's state in memory."""
    network = models.alexnet(CLASSES, dropout=0.0, activation=activation, layers="torch")
    network.to(settings.device, memory_format=torch.channels_last)
    if side == "ours":
        convert(network, fuse=True)
    optimizer = torch.optim.SGD(network.parameters(), **SGD)
    images = torch.zeros(batch, 3, IMAGE, IMAGE, device=settings.device).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64, device=settings.device)
    for _ in range(2):
        full_step(network, images, labels, optimizer, settings.autocast())
    if settings.device == "cuda":
        torch.cuda.synchronize()
