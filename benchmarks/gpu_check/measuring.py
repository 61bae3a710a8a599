"""What a part's process does. It writes a line of JSON as soon as it knows something: what was measured before a crash
is kept."""

import functools
import itertools
import json
import os
import platform
import sys
import time
from typing import NamedTuple

import batches
import capturing
import cases
import torch
from running import LOST

from torch_manual_conv.bench import machine
from torch_manual_conv.bench.cases import Case
from torch_manual_conv.bench.pools import SIGMOIDS
from torch_manual_conv.bench.record import Settings, measure
from torch_manual_conv.bench.shapes import NETWORKS
from torch_manual_conv.bench.ways import best

COMMAND = "make gpu-check"
REPEATS = 100
STRICT, TENSOR = ("float32", "highest"), ("float32", "high")  # float32: TF32 off, TF32 on
BFLOAT16 = ("bfloat16", "highest")
KINDS = STRICT, BFLOAT16, TENSOR, ("float16", "highest"), ("float64", "highest")


def run(part, device, records, deadline, begin):
    """Computes `part` from case `begin` on and tells whether all was right, as an exit code."""
    with open(records or os.devnull, "a", buffering=1) as file:

        def tell(**found):
            file.write(json.dumps(found) + "\n")

        return 0 if globals()[f"run_{part}"](device, tell, deadline, begin) else 1


def each(cases, begin, deadline, tell, compute):
    """Whether compute(case) is true for all of {name: case} from number `begin` on. Names those that time leaves out.

    A case that raises is noted, and the next one may well run; but not in this process if the GPU is lost to it.
    """
    passed = True
    for place, (name, case) in enumerate(cases.items()):
        if place < begin:
            continue
        if time.monotonic() > deadline:
            tell(skipped=name)
            continue
        try:
            passed = compute(case) and passed
        except Exception as error:
            passed = False
            tell(failed=f"{name}: {type(error).__name__}: {error}".splitlines()[0])
            print(f"{name}: {error}", flush=True)
            if gpu_is_lost():
                tell(lost=place)
                sys.exit(LOST)
    return passed


def gpu_is_lost():
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


# ---- The machine: its name, and what it reaches at most.


def run_machine(device, tell, deadline, begin):
    facts = environment(device)
    tell(environment=facts)
    print(*(f"{name}: {fact}" for name, fact in facts.items()), sep="\n")
    Settings("float32", device).apply()
    rates = machine.peaks(device, rounds=9 if device == "cuda" else 1)
    tell(peaks={"threads": 1, "rates": rates})
    print(*(f"{name}: {rate / 1e12:.2f} T/s" for name, rate in rates.items()), sep="\n")
    return True


def environment(device):
    return machine.environment(COMMAND, device) | {"host_python": platform.python_version()}


# ---- The same bits, again and again, and whatever the batch.


def run_bits(device, tell, deadline, begin):
    repeats = REPEATS if device == "cuda" else 2

    def compute(case):
        name, settings, layout = case
        operands = prepare(case)
        first = cases.results(name, operands)
        differ = sum(not all(map(torch.equal, first, cases.results(name, operands))) for _ in range(repeats))
        images = operands[0]
        alone = [cases.results(name, [images[i : i + 1], *operands[1:]]) for i in range(len(images))]
        # Output and gradient of the images; those of the parameters are sums over the batch.
        by_batch = all(torch.equal(first[k], torch.cat([a[k] for a in alone])) for k in (0, 1))
        what = f"{name}, {settings.dtype} {settings.precision}, {layout}"
        tell(check={"name": what, "repeats": repeats, "differ": differ, "same_in_any_batch": by_batch})
        if differ or not by_batch:
            print(f"{what}: {differ} of {repeats} repeats differ, same in any batch: {by_batch}", flush=True)
        return by_batch and not differ

    return each(small_cases("bits", device, KINDS), begin, deadline, tell, compute)


# ---- CUDA graphs, streams.


def run_graphs(device, tell, deadline, begin):
    """Each case captured and replayed with other numbers; the first ones also on another stream than the default."""
    alone = set(small_cases("graphs", device, (BFLOAT16, STRICT), ("channels_last",)))

    def compute(named):
        name, case = named
        operands, others = prepare(case), [t.flip(0) for t in prepare(case)]
        same = capturing.replays(case[0], operands, others, device)
        tell(captured={"name": name, "same": same})
        if name in alone:
            unchanged, independent = capturing.beside_a_busy_stream(case[0], operands, device)
            tell(streamed={"name": name, "same": unchanged, "independent": independent})
            same = same and unchanged and independent
        if not same:
            print(f"{name}: differs as a CUDA graph or on another stream", flush=True)
        return same

    wanted = small_cases("graphs", device, (BFLOAT16, STRICT, TENSOR))
    return each({name: (name, case) for name, case in wanted.items()}, begin, deadline, tell, compute)


def run_sanitizer(device, tell, deadline, begin):
    """Each case once, in as many kinds as there are main loops; compute-sanitizer watches."""
    done = []

    def compute(case):
        cases.results(case[0], prepare(case))
        if device == "cuda":
            torch.cuda.synchronize()
        done.append(case)
        return True

    wanted = small_cases("sanitizer", device, KINDS[:3])
    passed = each(wanted, begin, deadline, tell, compute)
    tell(sanitized={"name": os.environ.get("GPU_CHECK_TOOL", "none"), "cases": len(done), "all": len(wanted)})
    return passed and bool(done)


def small_cases(part, device, kinds, layouts=tuple(cases.LAYOUTS)):
    """{what it is called: (name, settings, layout)}."""
    product = itertools.product(layouts, cases.CASES, kinds[:1] if device == "cpu" else kinds)
    return {
        f"{part}: {name}, {' '.join(kind)}, {layout}": (name, Settings(kind[0], device, 1, kind[1]), layout)
        for layout, name, kind in product
    }


def prepare(case):
    name, settings, layout = case
    settings.apply()
    return cases.tensors(name, settings.torch_dtype, settings.device, layout)


# ---- Tables: ours and torch's take turns in one process.


def run_layers(device, tell, deadline, begin):
    layers = [Case("alexnet", layer.name, what) for layer in NETWORKS["alexnet"].layers for what in PASSES]
    wanted = [Row(kind, case) for kind in (BFLOAT16, STRICT, TENSOR) for case in layers]
    wanted += [Row(BFLOAT16, case, compiled=True) for case in layers]  # compiling takes long: last
    return tables("layers", wanted, device, tell, deadline, begin)


def run_pools(device, tell, deadline, begin):
    names = [f"{kind} {place}" for kind in ("max", "avg") for place in ("alexnet 55", "alexnet 27", "vgg 56")]
    names += ["max resnet 112", "max inception 28", "max adaptive 13 to 6", "avg adaptive 13 to 6", "avg global 7"]
    both = ("forward", "grad_input")
    pools = [Case("pools", name, what) for name in names for what in both]
    sigmoids = [Case("sigmoid", name, what) for name in SIGMOIDS for what in both]
    wanted = [Row(kind, case) for kind in (BFLOAT16, STRICT) for case in (*pools[:2], *sigmoids, *pools[2:])]
    return tables("pools", wanted, device, tell, deadline, begin)


def run_stages(device, tell, deadline, begin):
    """In bfloat16 every way to run them; then what docs/gpu.md leaves to be decided: without wgmma."""
    names = [f"{layer} {activation}" for activation in ("relu", "sigmoid") for layer in ("conv1", "conv2", "conv5")]
    stages = [Case("stages", name, what) for name in names for what in ("forward", "forward + backward")]
    wanted = [Row(BFLOAT16, case, compiled=True) for case in stages]
    wanted += [Row(BFLOAT16, case, algorithm="tensor_cores") for case in stages[2:6]]
    wanted += [Row(kind, case) for kind in (STRICT, TENSOR) for case in stages]
    return tables("stages", wanted, device, tell, deadline, begin)


def run_steps(device, tell, deadline, begin):
    full, features, sigmoid = (
        Case("step", name, "forward + backward") for name in ("full relu", "features relu", "full sigmoid")
    )
    wanted = [Row(BFLOAT16, case, compiled=True) for case in (full, features)]
    wanted += [Row(BFLOAT16, full, 1024, compiled=True), Row(BFLOAT16, sigmoid, compiled=True)]
    wanted += [Row(kind, full, batch) for batch in (256, 1024) for kind in (TENSOR, STRICT)]
    wanted += [Row(kind, case, compiled=True) for case in (full, features) for kind in (TENSOR, STRICT)]
    return tables("steps", wanted, device, tell, deadline, begin)


def run_batches(device, tell, deadline, begin):
    """The largest batch that a training step takes in so many gigabytes."""

    def compute(case):
        (dtype, precision), activation = case
        settings = Settings(dtype, device, 1, precision)
        settings.apply()
        torch.backends.cudnn.benchmark = False  # it would try every algorithm's workspace for each batch
        sizes = {side: batches.largest(side, settings, activation) for side in ("ours", "torch")}
        name = f"AlexNet, {activation}, {dtype}"
        tell(batch={"name": name, "gigabytes": batches.GIGABYTES, "largest": sizes})
        print(f"{name}: {sizes}", flush=True)
        return True

    wanted = [(BFLOAT16, "relu"), (BFLOAT16, "sigmoid"), (TENSOR, "relu")]
    return each({f"batches: {kind[0]} {act}": (kind, act) for kind, act in wanted}, begin, deadline, tell, compute)


PASSES = ("forward", "grad_input", "grad_weight")
DRY_BATCH = 1  # and of a dry run's tables the last case alone, which is the smallest


class Row(NamedTuple):
    """A row of a table; compiled: torch.compile is in it, and of stages and steps every other way (bench/ways.py)."""

    kind: tuple  # dtype, precision
    case: Case
    batch: int = 256
    compiled: bool = False
    algorithm: str = ""  # that ours prefers

    def about(self):
        """What it differs in from rows of the bench's own tables."""
        named = f", {self.algorithm} preferred" if self.algorithm else ""
        return f", batch {self.batch}" + named + ", compiled" * self.compiled

    def name(self, part):
        return f"{part}: {self.case.name}, {self.case.what}, {' '.join(self.kind)}{self.about()}"


def tables(part, wanted, device, tell, deadline, begin):
    """Measures the rows, as time allows."""
    dry = device == "cpu"

    def compute(row):
        dtype, precision = row.kind
        ways = part in ("stages", "steps") and (row.compiled or dry)
        settings = Settings(dtype, device, 1, precision, 1 if dry else 9, row.compiled and not dry, ways)
        settings.apply()
        torch.ops.tmc.prefer_conv2d_algorithm("" if dry else row.algorithm)
        try:
            record = measure(row.case.problem(settings, DRY_BATCH if dry else row.batch), settings, rates(device))
        finally:
            torch.ops.tmc.prefer_conv2d_algorithm("")
            if device == "cuda" and not gpu_is_lost():
                torch.cuda.empty_cache()
        record["group"] += row.about()  # in a table of its own
        tell(record=record)
        show(row.name(part), record)
        return record["verified"]

    chosen = wanted[-1:] if dry else wanted
    return each({row.name(part): row for row in chosen}, begin, deadline, tell, compute)


@functools.cache
def rates(device):
    return machine.peaks(device, rounds=5 if device == "cuda" else 1)


def show(name, record):
    seconds = record["seconds"]
    fastest = ", ".join(f"{side} {1e3 * seconds[which]:.3f} ms" for side, which in best(seconds).items())
    turns = f", x{record['ratio']['median']:.2f}" if "ratio" in record else ""
    print(f"{name}: {fastest}{turns}" + ("" if record["verified"] else ", WRONG"), flush=True)
