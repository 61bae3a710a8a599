"""Pooling and sigmoid on the CPU, ours against torch's: python benchmarks/pool2d.py [--threads 1] [--rounds 20]

Each case is checked against torch before it is timed. torch's best layout is what counts against us.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
from timing import alternate, write_results  # noqa: E402

import torch_manual_conv  # noqa: E402, F401  (loads torch.ops.tmc)

SHAPE = (32, 64, 55, 55)  # what AlexNet's first layer gives its first pool, at batch 32
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WINDOW = [3, 3], [2, 2], [0, 0]  # kernel_size, stride, padding

NOTES = f"""Input {list(SHAPE)}, windows 3x3 with stride 2; milliseconds, best of all rounds, taken in turns. `torch`
is its time in the same layout, `torch best` its faster layout. `copy` moves the bytes that the operator must read and
write (outputs, input, gradients and our one-byte winners, each once) between two allocated tensors: the limit."""


def cases(dtype, layout):
    """{op: (ours, torch's, bytes to move)} for one dtype and layout."""
    ours, aten = torch.ops.tmc, torch.ops.aten
    x = torch.randn(SHAPE).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    size, ceil_mode, dilation = list(x.shape[2:]), False, [1, 1]
    y, winners = ours.max_pool2d(x, *WINDOW, dilation, ceil_mode)
    indices = F.max_pool2d(x, 3, 2, return_indices=True)[1]
    g, s = torch.randn_like(y), torch.sigmoid(x)
    outer, inner = x.nbytes, y.nbytes
    return {
        "max_pool2d": (
            lambda: ours.max_pool2d(x, *WINDOW, dilation, ceil_mode)[0],
            lambda: F.max_pool2d(x, 3, 2),
            outer + inner + winners.nbytes,
        ),
        "max_pool2d_grad_input": (
            lambda: ours.max_pool2d_grad_input(g, winners, size, *WINDOW, dilation, ceil_mode),
            lambda: aten.max_pool2d_with_indices_backward(g, x, *WINDOW, dilation, ceil_mode, indices),
            outer + inner + winners.nbytes,
        ),
        "avg_pool2d": (
            lambda: ours.avg_pool2d(x, *WINDOW, ceil_mode, True, None),
            lambda: F.avg_pool2d(x, 3, 2),
            outer + inner,
        ),
        "avg_pool2d_grad_input": (
            lambda: ours.avg_pool2d_grad_input(g, size, *WINDOW, ceil_mode, True, None),
            lambda: aten.avg_pool2d_backward(g, x, *WINDOW, ceil_mode, True, None),
            outer + inner,
        ),
        "sigmoid": (lambda: ours.sigmoid(x), lambda: torch.sigmoid(x), 2 * outer),
        "sigmoid_grad_input": (
            lambda: ours.sigmoid_grad_input(x, s),
            lambda: aten.sigmoid_backward(x, s),
            3 * outer,
        ),
    }


def copy_of(moved):
    source = torch.ones(moved // 2, dtype=torch.uint8)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        by_layout = {layout: cases(dtype, layout) for layout in LAYOUTS}
        for op in by_layout["contiguous"]:
            calls = {}
            for layout, ops in by_layout.items():
                ours, theirs, moved = ops[op]
                tolerance = 4 * torch.finfo(dtype).eps  # torch rounds bfloat16 between the steps of a gradient
                torch.testing.assert_close(ours(), theirs(), rtol=tolerance, atol=4 * tolerance)
                calls |= {f"ours {layout}": ours, f"torch {layout}": theirs, "copy": copy_of(moved)}
            ms = alternate(calls, arguments.rounds)
            best = min(ms[f"torch {layout}"] for layout in LAYOUTS)
            for layout in LAYOUTS:
                own = ms[f"ours {layout}"]
                rows.append({
                    "op": op, "dtype": str(dtype).removeprefix("torch."), "layout": layout,
                    "ours": own, "torch": ms[f"torch {layout}"], "torch best": best, "copy": ms["copy"],
                    "torch / ours": ms[f"torch {layout}"] / own, "torch best / ours": best / own,
                    "copy / ours": ms["copy"] / own,
                })  # fmt: skip
    print(write_results("pool2d", rows, NOTES))


if __name__ == "__main__":
    main()
