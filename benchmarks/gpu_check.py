"""Everything that needs a GPU, in one command: build, tests, compute-sanitizer, and a table of ours beside torch's.

    python benchmarks/gpu_check.py               all of it; results in benchmarks/results/<device>.json and .md
    python benchmarks/gpu_check.py --only bench  one step of build, tests, sanitizer, bench
    python benchmarks/gpu_check.py --dry-run     without a GPU: the commands, and every benchmark case once on the CPU,
                                                 tiny; writes nothing

torch is measured at its best: channels_last, cudnn.benchmark, and float32 with TF32 off, which is what ours computes.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
sys.path.insert(0, str(ROOT))  # the package as it is built in place
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
ROUNDS, CALLS = 11, 5  # rounds alternate between ours and torch; each times CALLS calls

# AlexNet's convolutions: input channels, input size, output channels, kernel, stride, padding.
CONVS = {
    "conv1": (3, 224, 64, 11, 4, 2),
    "conv2": (64, 27, 192, 5, 1, 2),
    "conv3": (192, 13, 384, 3, 1, 1),
    "conv4": (384, 13, 256, 3, 1, 1),
    "conv5": (256, 13, 256, 3, 1, 1),
}
POOLS = {"pool1": (64, 55), "pool2": (192, 27), "pool5": (256, 13)}  # channels and input size of 3x3 windows, stride 2


@dataclass
class Case:
    name: str
    ours: Callable
    torch: Callable
    gigaflops: float
    gigabytes: float  # each operand and result moved once


def gigabytes(*tensors):
    return sum(t.numel() * t.element_size() for t in tensors) / 1e9


def conv_cases(layer, batch, device, dtype):
    c, size, k, kernel, stride, padding = CONVS[layer]
    input, weight = random((batch, c, size, size), device, dtype), random((k, c, kernel, kernel), device, dtype)
    bias, geometry = torch.randn(k, device=device, dtype=dtype), ((stride, stride), (padding, padding), (1, 1))
    output = F.conv2d(input, weight, bias, *geometry)
    grad = torch.randn_like(output)
    ops, work = torch.ops.tmc, (2e-9 * output.numel() * weight[0].numel(), gigabytes(input, weight, output))

    def backward(*mask):
        rest = False, (0, 0), 1, mask  # not transposed, output padding, groups
        return torch.ops.aten.convolution_backward(grad, input, weight, [k], *geometry, *rest)

    yield Case(
        f"{layer} forward",
        lambda: ops.conv2d(input, weight, bias, *geometry, 1),
        lambda: F.conv2d(input, weight, bias, *geometry),
        *work,
    )
    yield Case(
        f"{layer} grad_input",
        lambda: ops.conv2d_grad_input(grad, weight, (size, size), *geometry, 1),
        lambda: backward(True, False, False)[0],
        *work,
    )
    yield Case(
        f"{layer} grad_weight",
        lambda: ops.conv2d_grad_weight(grad, input, (kernel, kernel), *geometry, 1),
        lambda: backward(False, True, False)[1],
        *work,
    )


def pool_cases(layer, batch, device, dtype):
    c, size = POOLS[layer]
    input = random((batch, c, size, size), device, dtype)
    ops, aten = torch.ops.tmc, torch.ops.aten
    window, extent, once = ((3, 3), (2, 2), (0, 0)), (size, size), (1, 1)
    output, indices = aten.max_pool2d_with_indices(input, *window)
    _, winners = ops.max_pool2d(input, *window, once, False)
    grad = torch.randn_like(output)
    average, chosen = (0, gigabytes(input, output)), (0, gigabytes(input, output, winners))
    yield Case(
        f"max {layer} forward",
        lambda: ops.max_pool2d(input, *window, once, False)[0],
        lambda: aten.max_pool2d_with_indices(input, *window)[0],
        *chosen,
    )
    yield Case(
        f"max {layer} grad_input",
        lambda: ops.max_pool2d_grad_input(grad, winners, extent, *window, once, False),
        lambda: aten.max_pool2d_with_indices_backward(grad, input, *window, once, False, indices),
        *chosen,
    )
    yield Case(
        f"avg {layer} forward",
        lambda: ops.avg_pool2d(input, *window, False, True, None),
        lambda: aten.avg_pool2d(input, *window),
        *average,
    )
    yield Case(
        f"avg {layer} grad_input",
        lambda: ops.avg_pool2d_grad_input(grad, extent, *window, False, True, None),
        lambda: aten.avg_pool2d_backward(grad, input, *window, False, True, None),
        *average,
    )


def sigmoid_cases(batch, device, dtype):
    input = random((batch, 64, 55, 55), device, dtype)
    output, grad = input.sigmoid(), torch.randn_like(input)
    ops, aten = torch.ops.tmc, torch.ops.aten
    two, three = (0, gigabytes(input, output)), (0, gigabytes(input, output, grad))
    yield Case("sigmoid", lambda: ops.sigmoid(input), lambda: aten.sigmoid(input), *two)
    yield Case(
        "sigmoid grad_input",
        lambda: ops.sigmoid_grad_input(grad, output),
        lambda: aten.sigmoid_backward(grad, output),
        *three,
    )


def cases(batch, device, dtype):
    for layer in CONVS:
        yield from conv_cases(layer, batch, device, dtype)
    for layer in POOLS:
        yield from pool_cases(layer, batch, device, dtype)
    yield from sigmoid_cases(batch, device, dtype)


def random(shape, device, dtype):
    return torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)


def check(case, dtype):
    """ours agrees with torch, and with itself bit by bit."""
    mine, theirs = case.ours(), case.torch()
    assert torch.equal(mine, case.ours()), f"{case.name}: the bits differ between two runs"
    error = (mine - theirs).abs().max() / theirs.abs().max()
    # Both may be off by a random walk over the terms of a sum; 1000 is more than the root of the longest, 774400.
    assert error <= 1000 * torch.finfo(dtype).eps, f"{case.name}: differs from torch by {error:.1e}"


def milliseconds(call):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / CALLS


def bench(batch):
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for case in cases(batch, "cuda", dtype):
            check(case, dtype)  # warms up as well
            rounds = [(milliseconds(case.ours), milliseconds(case.torch)) for _ in range(ROUNDS)]
            ours, theirs = (statistics.median(times) for times in zip(*rounds, strict=True))
            spread = max(time for time, _ in rounds) / min(time for time, _ in rounds)
            row = {
                "case": case.name,
                "dtype": str(dtype).removeprefix("torch."),
                "batch": batch,
                "ours_ms": ours,
                "torch_ms": theirs,
                "torch_over_ours": theirs / ours,
                "ours_spread": spread,
                "ours_tflops": case.gigaflops / ours,
                "ours_gb_per_s": 1000 * case.gigabytes / ours,
            }
            rows.append(row)
            print(
                "{case:22} {dtype:9} {ours_ms:9.3f} ms, torch {torch_ms:9.3f} ms: x{torch_over_ours:.2f}".format(**row)
            )
    return rows


def run(*command, **environment):
    command = [str(part) for part in command]
    print("$", *(f"{name}={value}" for name, value in environment.items()), *command, flush=True)
    begin = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode
    return {"command": " ".join(command), "passed": code == 0, "seconds": round(time.monotonic() - begin, 1)}


def commands():
    """{step: [(command, environment)]}"""
    sanitizer = shutil.which("compute-sanitizer") or next(
        map(str, Path("/usr/local").glob("cuda*/bin/compute-sanitizer")), None
    )
    tests = ["-m", "pytest", "tests", "--device", "cuda", "-k", "cuda"]
    # These run on the CPU, GPU or not.
    tests += [f"--ignore=tests/test_cuda_{name}.py" for name in ("kernels", "entry_points", "harness")]
    each_op = [sys.executable, __file__, "--each-op"]
    return {
        "build": [([sys.executable, "setup.py", "build_ext", "--inplace"], {"FORCE_CUDA": "1"})],
        "tests": [([sys.executable, *tests], {})],
        "sanitizer": [
            ([sanitizer, "--tool", tool, "--error-exitcode", "1", *each_op], {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
            for tool in SANITIZERS
            if sanitizer
        ],
    }


def environment():
    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "multiprocessors": device.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
    }


def write(results):
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{results['environment']['device'].replace(' ', '_')}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    lines = [f"{key}: {value}  " for key, value in results["environment"].items()]
    lines += ["", "| case | dtype | ours ms | torch ms | torch / ours |", "|---|---|---|---|---|"]
    lines += [
        "| {case} | {dtype} | {ours_ms:.3f} | {torch_ms:.3f} | {torch_over_ours:.2f} |".format(**row)
        for row in results.get("bench", [])
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print(f"wrote {path} and {path.with_suffix('.md').name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--only", choices=["build", "tests", "sanitizer", "bench"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--each-op", action="store_true", help=argparse.SUPPRESS)  # what the sanitizer runs
    args = parser.parse_args()

    if args.dry_run or args.each_op:
        import torch_manual_conv

        for case in cases(1, "cuda" if args.each_op else "cpu", torch.float32):
            case.ours() if args.each_op else check(case, torch.float32)
        if args.dry_run:
            for step, runs in commands().items():
                print(
                    f"{step}:", *([" ".join(command) for command, _ in runs] or ["nothing to run it with"]), sep="\n  "
                )
        return 0
    if not torch.cuda.is_available():
        print("no CUDA device: --dry-run shows what would run", file=sys.stderr)
        return 2

    results = {"environment": environment()}
    for step, runs in commands().items():
        if args.only in (None, step):
            if not runs:
                print(f"{step}: nothing to run it with, left out", file=sys.stderr)
            results[step] = [run(*command, **variables) for command, variables in runs]
    if args.only in (None, "bench"):
        import torch_manual_conv  # noqa: F401  only now: the build step may have made it

        results["bench"] = bench(args.batch)
    write(results)
    return 0 if all(r["passed"] for step in commands() for r in results.get(step, [])) else 1


if __name__ == "__main__":
    sys.exit(main())
