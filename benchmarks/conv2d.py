"""Convolution on the CPU: ours against torch's (oneDNN), forward and both gradients, on AlexNet's five layers.

    python benchmarks/conv2d.py                      batch 32, float32, 1 thread
    python benchmarks/conv2d.py --threads 2 --dtype bfloat16

Every result is first compared with float64. Then ours and torch's, in both memory layouts, take turns, so that a busy
machine slows all of them alike; a rate is the median over the rounds, and a ratio compares the better layout of each
side. Writes results/<device>-conv2d.json and .md.
"""

import argparse
import json
import math
import os
import platform
import re
import shlex
import statistics
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

import torch_manual_conv  # noqa: F401  (registers torch.ops.tmc)

RESULTS = Path(__file__).parent / "results"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# torchvision's AlexNet: name, (C, H = W), (K, R = S), stride, padding.
LAYERS = [
    ("conv1", (3, 224), (64, 11), 4, 2),
    ("conv2", (64, 27), (192, 5), 1, 2),
    ("conv3", (192, 13), (384, 3), 1, 1),
    ("conv4", (384, 13), (256, 3), 1, 1),
    ("conv5", (256, 13), (256, 3), 1, 1),
]
CPU_FIELDS = ["model name", "cpu family", "model"]
PASSES = ["forward", "grad_input", "grad_weight"]


def operands(layer, batch, dtype, layout):
    """input, weight and grad_output of one layer in one layout, the same numbers in each layout."""
    _, (c, h), (k, r), stride, padding = layer
    p = (h + 2 * padding - r) // stride + 1
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, c, h, h), (k, c, r, r), (batch, k, p, p)
    return [torch.randn(s, generator=generator).to(dtype).contiguous(memory_format=LAYOUTS[layout]) for s in shapes]


def ours(layer, what, x, weight, grad_output):
    stride, padding = [layer[3]] * 2, [layer[4]] * 2
    if what == "forward":
        return torch.ops.tmc.conv2d(x, weight, None, stride, padding, [1, 1], 1)
    if what == "grad_input":
        return torch.ops.tmc.conv2d_grad_input(grad_output, weight, x.shape[2:], stride, padding, [1, 1], 1)
    return torch.ops.tmc.conv2d_grad_weight(grad_output, x, weight.shape[2:], stride, padding, [1, 1], 1)


def torchs(layer, what, x, weight, grad_output):
    stride, padding = [layer[3]] * 2, [layer[4]] * 2
    if what == "forward":
        return torch.nn.functional.conv2d(x, weight, None, stride, padding)
    wanted = [what == "grad_input", what == "grad_weight", False]
    return torch.ops.aten.convolution_backward(
        grad_output, x, weight, None, stride, padding, [1, 1], False, [0, 0], 1, wanted
    )[PASSES.index(what) - 1]


def error(result, expected):
    return ((result.double() - expected).norm() / expected.norm()).item()


def measure(layer, what, args):
    """One row of the table: rates of the four contestants, and both sides' error against float64."""
    dtype = getattr(torch, args.dtype)
    sets = {layout: operands(layer, args.batch, dtype, layout) for layout in LAYOUTS}
    expected = torchs(layer, what, *(t.double() for t in sets["contiguous"]))
    contestants = {(side.__name__, layout): (side, sets[layout]) for side in (ours, torchs) for layout in LAYOUTS}
    errors = {"ours": 0.0, "torchs": 0.0}
    for (side, _), (run, tensors) in contestants.items():
        errors[side] = max(errors[side], error(run(layer, what, *tensors), expected))
    # 2x torch's own; the rounding of the result itself is what is left in half precision.
    if not errors["ours"] <= 2 * errors["torchs"]:
        raise SystemExit(f"{layer[0]} {what}: error {errors['ours']:.2e} against torch's {errors['torchs']:.2e}")

    seconds = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, (run, tensors) in contestants.items():
            start = time.perf_counter()
            run(layer, what, *tensors)
            seconds[name].append(time.perf_counter() - start)
    _, (c, _), (_, r), _, _ = layer
    flops = 2 * sets["contiguous"][2].numel() * c * r * r
    rates = {f"{side} {layout}": flops / statistics.median(seconds[side, layout]) / 1e9 for side, layout in contestants}
    best = {side: max(rates[f"{side} {layout}"] for layout in LAYOUTS) for side in ("ours", "torchs")}
    ratio = best["ours"] / best["torchs"]
    return {"layer": layer[0], "pass": what, "gflop": flops / 1e9, "rates": rates, "ratio": ratio, "error": errors}


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def cpu_name():
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key: match[1] for key in CPU_FIELDS if (match := re.search(rf"^{key}\s*: (.*)$", text, re.M))}
    return "{model name}, family {cpu family}, model {model}".format_map({**dict.fromkeys(CPU_FIELDS, "?"), **fields})


def table(rows):
    head = "| layer | pass | ours | ours channels_last | torch | torch channels_last | ratio | error | torch's error |"
    lines = [head, "|---|---|" + "---:|" * 7]
    for row in rows:
        rates = [f"{rate:.0f}" for rate in row["rates"].values()]
        errors = [f"{value:.1e}" for value in row["error"].values()]
        lines.append("| " + " | ".join([row["layer"], row["pass"], *rates, f"{row['ratio']:.2f}", *errors]) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=["float64", "float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", help="name of the result files (default: made from the CPU's name)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    rows = []
    for layer in LAYERS:
        for what in PASSES:
            rows.append(measure(layer, what, args))
            lines = table(rows)
            print("\n".join(lines if len(rows) == 1 else lines[-1:]), flush=True)
    mean = geometric_mean([row["ratio"] for row in rows])
    needed = geometric_mean([row["ratio"] for row in rows if (row["layer"], row["pass"]) != ("conv1", "grad_input")])
    summary = (
        f"Ours / torch's, the better layout of each, geometric mean: {needed:.2f} without conv1's grad_input"
        f" (an image needs no gradient), {mean:.2f} with it."
    )
    print(summary)

    about = {
        "cpu": cpu_name(),
        "isa": torch.ops.tmc.cpu_isa(),
        "threads": args.threads,
        "batch": args.batch,
        "dtype": args.dtype,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f} processes waited for {os.cpu_count()} cores on average, this one included",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/conv2d.py", *sys.argv[1:]]),
    }
    device = args.device or re.sub(r"[^a-z0-9]+", "-", about["cpu"].split(",")[0].lower())
    variant = "" if (args.threads, args.dtype) == (1, "float32") else f"-{args.dtype}-{args.threads}-threads"
    if "TMC_CPU_ISA" in os.environ:
        variant += f"-{about['isa']}"
    stem = RESULTS / f"{device}-conv2d{variant}"
    RESULTS.mkdir(exist_ok=True)
    result = {**about, "geometric_mean": mean, "geometric_mean_without_conv1_grad_input": needed, "rows": rows}
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    title = f"# conv2d, GFLOP/s (median of {args.rounds} alternating rounds)"
    described = "\n".join(f"- {key}: {value}" for key, value in about.items())
    stem.with_suffix(".md").write_text("\n\n".join([title, described, "\n".join(table(rows)), summary]) + "\n")
    print(f"wrote {stem}.json and .md")


if __name__ == "__main__":
    main()
