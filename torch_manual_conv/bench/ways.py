"""The ways to run the same call: operator by operator, through torch.compile, as a CUDA graph, and both.

A CUDA graph is captured once, and launched as a whole: what the host does for each operator is gone, ours and torch's.
"""

import torch

COMPILED, OURS_COMPILED = "torch.compile", "ours compiled"
EAGER = "ours channels_last", "torch channels_last"
SIDES = "ours", "torch"
WARM_UP = 3  # calls: what is loaded, chosen or compiled at the first ones


def _graphs(names):
    return tuple(f"{name}, CUDA graph" for name in names)


WAYS = {  # what a table calls it: our contestant and torch's
    "eager": EAGER,
    "compiled": (OURS_COMPILED, COMPILED),
    "CUDA graph": _graphs(EAGER),
    "compiled, CUDA graph": _graphs((OURS_COMPILED, COMPILED)),
}


def best(seconds):
    """{side: the name of its faster layout}, of the sides that have a speed."""
    names = {side: [n for n in (f"{side} contiguous", f"{side} channels_last") if n in seconds] for side in SIDES}
    return {side: min(found, key=seconds.get) for side, found in names.items() if found}


def as_graphs(calls, device):
    """Those of `calls` that a table of ways wants as CUDA graphs; one that cannot be captured is left out and named."""
    graphs = {}
    for way, graph in zip((*EAGER, OURS_COMPILED, COMPILED), _graphs((*EAGER, OURS_COMPILED, COMPILED)), strict=True):
        try:
            if way in calls:
                graphs[graph] = as_graph(calls[way], device)
        except RuntimeError as error:
            print(f"{way}: no CUDA graph: {str(error).splitlines()[0]}", flush=True)
    return graphs


def as_graph(call, device="cuda"):
    """A function that replays `call` and returns what it returns, always in the same memory. On a CPU, call itself."""
    if torch.device(device).type == "cpu":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay():
        graph.replay()
        return results

    return replay
