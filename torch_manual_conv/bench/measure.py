"""Timing that means something on a machine that others use too: contestants take turns in one process.

What slows the machine down for a while then slows all of them; a ratio is taken within each turn, and the median over
the turns is reported with its quartiles. At one thread it is the processor time of this thread that counts, which
other programs disturb least; with several threads, wall time; on a GPU, events on the stream.
"""

import math
import random
import statistics
import time
from typing import NamedTuple

import torch

LEAST_SAMPLE = 1e-3  # seconds: shorter calls are repeated within a sample until the clock's resolution cannot matter
MOST_REPEATS = 1000


def alternate(calls, rounds, device="cpu"):
    """Seconds of one call, `rounds` times for each of `calls` ({name: function}), taken in turns.

    The order changes with every round, since what one leaves in the caches helps or hinders the next. A function's
    result is dropped before the next call, so memory is allocated as in a training step: from what the call before
    gave back.
    """
    stopwatch = _cuda_seconds if torch.device(device).type == "cuda" else _cpu_seconds
    repeats = {}
    for name, call in calls.items():
        stopwatch(call, 1)  # touches code and memory
        repeats[name] = min(MOST_REPEATS, math.ceil(LEAST_SAMPLE / max(stopwatch(call, 1), 1e-9)))
    seconds = {name: [] for name in calls}
    for turn in range(rounds):
        for name in random.Random(turn).sample(list(calls), len(calls)):
            seconds[name].append(stopwatch(calls[name], repeats[name]) / repeats[name])
    return seconds


def clock_name(device, threads):
    if torch.device(device).type == "cuda":
        return "CUDA events"
    return "processor time of the thread" if threads == 1 else "wall time"


def _cpu_seconds(call, repeats):
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(repeats):
        call()
    return clock() - start


def _cuda_seconds(call, repeats):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


class Ratio(NamedTuple):
    """How many times faster one is than another: the median over the turns, between its quartiles."""

    median: float
    low: float
    high: float


def ratio(slower, faster):
    """Of two lists of seconds from the same turns: slower / faster, turn by turn."""
    turns = [a / b for a, b in zip(slower, faster, strict=True)]
    if len(turns) == 1:
        return Ratio(*turns * 3)
    low, median, high = statistics.quantiles(turns, n=4, method="inclusive")
    return Ratio(median, low, high)


def geometric_mean(values):
    """exp of the mean logarithm: twice as fast here and half as fast there is no gain."""
    return math.exp(statistics.fmean(map(math.log, values)))
