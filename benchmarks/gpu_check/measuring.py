"""What a part's process does. It writes a line of JSON as soon as it knows something: what was measured before a crash
is kept."""

import functools
import itertools
import json
import os
import platform
import time

import cases
import torch

from torch_manual_conv.bench import machine
from torch_manual_conv.bench.cases import Case
from torch_manual_conv.bench.pools import SIGMOIDS
from torch_manual_conv.bench.record import Settings, measure
from torch_manual_conv.bench.shapes import NETWORKS

COMMAND = "make gpu-check"
REPEATS = 100
STRICT, TENSOR = ("float32", "highest"), ("float32", "high")  # float32: TF32 off, TF32 on
BFLOAT16 = ("bfloat16", "highest")


def run(part, device, records, deadline):
    """Computes `part` and tells whether all was right, as an exit code."""
    with open(records or os.devnull, "a", buffering=1) as file:

        def tell(**found):
            file.write(json.dumps(found) + "\n")

        return 0 if globals()[f"run_{part}"](device, tell, deadline) else 1


# ---- The machine: its name, and what it reaches at most.


def run_machine(device, tell, deadline):
    facts = environment(device)
    tell(environment=facts)
    print(*(f"{name}: {fact}" for name, fact in facts.items()), sep="\n")
    names = {STRICT: "float32", TENSOR: "tensorfloat32"}
    rates = {}
    for settings, name in names.items():
        Settings(settings[0], device, 1, settings[1]).apply()
        found = machine.peaks(device, rounds=9 if device == "cuda" else 1)
        rates |= {name: found.pop("float32")} | ({} if rates else found)
        if device == "cpu":
            break
    tell(peaks={"threads": 1, "rates": rates})
    print(*(f"{name}: {rate / 1e12:.2f} T/s" for name, rate in rates.items()), sep="\n")
    return True


def environment(device):
    return machine.environment(COMMAND, device) | {"host_python": platform.python_version()}


# ---- The same bits, again and again, and whatever the batch.


def run_bits(device, tell, deadline):
    passed = True
    repeats = REPEATS if device == "cuda" else 2
    for name, dtype, layout in small_cases(device):
        case = f"{name}, {str(dtype).removeprefix('torch.')}, {layout}"
        if time.monotonic() > deadline:
            tell(skipped=f"bits: {case}")
            continue
        operands = cases.tensors(name, dtype, device, layout)
        first = cases.results(name, operands)
        differ = sum(not all(map(torch.equal, first, cases.results(name, operands))) for _ in range(repeats))
        images = operands[0]
        alone = [cases.results(name, [images[i : i + 1], *operands[1:]]) for i in range(len(images))]
        # Output and gradient of the images; those of the parameters are sums over the batch.
        by_batch = all(torch.equal(first[k], torch.cat([a[k] for a in alone])) for k in (0, 1))
        tell(check={"name": case, "repeats": repeats, "differ": differ, "same_in_any_batch": by_batch})
        if differ or not by_batch:
            print(f"{case}: {differ} of {repeats} repeats differ, same in any batch: {by_batch}", flush=True)
            passed = False
    return passed


def small_cases(device):
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    if device == "cpu":
        dtypes = dtypes[:1]
    return itertools.product(cases.CASES, dtypes, cases.LAYOUTS)


def run_sanitizer(device, tell, deadline):
    """Each case once, in as many dtypes as there are kinds of kernels; compute-sanitizer watches."""
    for name, dtype, layout in small_cases(device):
        if dtype not in (torch.float32, torch.bfloat16):
            continue
        if time.monotonic() > deadline:
            tell(skipped=f"sanitizer: {name}, {dtype}, {layout}")
            continue
        cases.results(name, cases.tensors(name, dtype, device, layout))
    if device == "cuda":
        torch.cuda.synchronize()
    return True


# ---- Tables: ours and torch's take turns in one process.


def run_layers(device, tell, deadline):
    layers = [Case("alexnet", layer.name, what) for layer in NETWORKS["alexnet"].layers for what in PASSES]
    wanted = [(kind, case, 256, False) for kind in (BFLOAT16, STRICT, TENSOR) for case in layers]
    wanted += [(BFLOAT16, case, 256, True) for case in layers]  # compiling takes long: last
    return tables("layers", wanted, device, tell, deadline)


def run_pools(device, tell, deadline):
    names = [f"{kind} {place}" for kind in ("max", "avg") for place in ("alexnet 55", "alexnet 27", "vgg 56")]
    names += ["max resnet 112", "max inception 28", "max adaptive 13 to 6", "avg adaptive 13 to 6", "avg global 7"]
    both = ("forward", "grad_input")
    pools = [Case("pools", name, what) for name in names for what in both]
    sigmoids = [Case("sigmoid", name, what) for name in SIGMOIDS for what in both]
    wanted = [(kind, case, 256, False) for kind in (BFLOAT16, STRICT) for case in (*pools[:2], *sigmoids, *pools[2:])]
    return tables("pools", wanted, device, tell, deadline)


def run_stages(device, tell, deadline):
    names = [f"{layer} {activation}" for activation in ("relu", "sigmoid") for layer in ("conv1", "conv5", "conv2")]
    stages = [Case("stages", name, what) for name in names for what in ("forward", "forward + backward")]
    wanted = [(kind, case, 256, kind == BFLOAT16) for kind in (BFLOAT16, STRICT, TENSOR) for case in stages]
    return tables("stages", wanted, device, tell, deadline)


def run_steps(device, tell, deadline):
    full, features = (Case("step", f"{part} relu", "forward + backward") for part in ("full", "features"))
    wanted = [(kind, full, batch, False) for batch in (256, 1024) for kind in (BFLOAT16, TENSOR, STRICT)]
    wanted += [(BFLOAT16, full, 256, True), (BFLOAT16, full, 1024, True)]
    wanted += [(TENSOR, full, 256, True), (STRICT, full, 256, True), (BFLOAT16, features, 256, True)]
    return tables("steps", wanted, device, tell, deadline)


PASSES = ("forward", "grad_input", "grad_weight")
DRY_BATCH = 1  # and of a dry run's tables the last case alone, which is the smallest


def tables(part, wanted, device, tell, deadline):
    """Measures [((dtype, precision), case, batch, whether torch.compile is in the table)], as time allows."""
    passed, facts = True, environment(device)
    dry = device == "cpu"
    for (dtype, precision), case, batch, compiled in wanted[-1:] if dry else wanted:
        batch = DRY_BATCH if dry else batch
        name = f"{part}: {case.name}, {case.what}, {dtype} {precision}, batch {batch}" + ", compiled" * compiled
        if time.monotonic() > deadline:
            tell(skipped=name)
            continue
        settings = Settings(dtype, device, 1, precision, 1 if dry else 9, compiled and not dry)
        settings.apply()
        try:
            record = measure(case.problem(settings, batch), settings, facts, rates(device, precision))
        except Exception as error:  # out of memory, or a kernel that is not there: the next case may well run
            tell(failed=f"{name}: {type(error).__name__}: {error}".splitlines()[0])
            print(f"{name}: {error}", flush=True)
            passed = False
            continue
        finally:
            if device == "cuda":
                torch.cuda.empty_cache()
        # In a table of their own: those that differ in more than the bench's tables show.
        record["group"] += f", batch {batch}" + ", with torch.compile" * compiled
        tell(record=record)
        passed = passed and record["verified"]
        show(name, record)
    return passed


@functools.cache
def rates(device, precision):
    return machine.peaks(device, rounds=5 if device == "cuda" else 1)


def show(name, record):
    best = ", ".join(f"{side} {1e3 * record['seconds'][which]:.3f} ms" for side, which in record["best"].items())
    turns = f", x{record['ratio']['median']:.2f}" if "ratio" in record else ""
    print(f"{name}: {best}{turns}" + ("" if record["verified"] else ", WRONG"), flush=True)
