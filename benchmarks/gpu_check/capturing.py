"""CUDA graphs and streams: the same bits as eagerly, on the default stream."""

import cases
import torch

from torch_manual_conv.bench.ways import as_graph

BUSY_CYCLES = 100_000_000  # of the default stream: some 60 ms, many times what a case takes


def replays(name, operands, others, device):
    """Whether a graph of forward and backward, captured with `operands`, computes for `others` what eager calls do."""
    expected = cases.results(name, others)
    static = [operand.clone() for operand in operands]
    replay = as_graph(lambda: cases.results(name, static), device)
    for target, source in zip(static, others, strict=True):
        target.copy_(source)
    return all(map(torch.equal, replay(), expected))


def beside_a_busy_stream(name, operands, device):
    """Whether the bits on another stream are the same while the default one is busy, and nothing waited for that."""
    expected = cases.results(name, operands)
    if device == "cpu":
        return all(map(torch.equal, cases.results(name, operands), expected)), True
    side, default_done, side_done = torch.cuda.Stream(), torch.cuda.Event(), torch.cuda.Event()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        cases.results(name, operands)  # memory comes from CUDA, which waits for everything, at the first call alone
    torch.cuda.synchronize()
    torch.cuda._sleep(BUSY_CYCLES)
    default_done.record()
    with torch.cuda.stream(side):
        results = cases.results(name, operands)
        side_done.record()
        side_done.synchronize()
        waited = default_done.query()
        same = all(map(torch.equal, results, expected))
    torch.cuda.synchronize()
    return same, not waited
