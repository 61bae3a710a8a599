"""How exact is every operator on this machine?

Runs every operator and each of its gradients, in every dtype, on every device,
and prints the largest error against float64 beside torch's own error.

  error       max |result - reference| / max |reference|, printed in units of
              eps, the machine epsilon of the dtype
  reference   torch's function in float64 on the CPU, given the same numbers,
              already rounded to the dtype
  pass        error <= max(2 * torch's error, eps + eps_sum * sqrt(terms)):
              one rounding of the result and a random walk of the roundings of
              the sum's terms; eps_sum is float64's for float64, else float32's;
              twice that in float64, where the reference is rounded as well
  2nd by x    the gradient of conv2d's gradients with respect to x
  MISTRUSTED  the reference is mostly zeros, so that a right answer would prove
              little; counts as a failure
"""

import argparse
import difflib
import os
import platform
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

import torch_manual_conv
from torch_manual_conv import _command
from torch_manual_conv._accuracy import CASES, ERROR, FAIL, PASS, TORCH_FACTOR, Check, check, determinism, threads

EPILOG = """\
exit code: 0 everything passes, 1 something does not, 2 wrong command line

examples, after python -m torch_manual_conv.verify:
                                        everything (under a minute)
  --op conv2d --dtype float32           one operator in one dtype
  --isa base --json base.json           the kernels that run on any CPU;
                                        every comparison into a file
"""
PROG = "python -m torch_manual_conv.verify"
DTYPES = ("float64", "float32", "bfloat16", "float16")


# ---- The report.


def cuda_state():
    """(whether it can be used, what there is)"""
    if not torch_manual_conv.has_cuda:
        return False, "kernels not built"
    if not torch.cuda.is_available():
        return False, "kernels loaded, but torch finds no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    return True, f"{torch.cuda.get_device_name()} (sm_{major}{minor}), kernels loaded"


def environment():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.machine()
    return {
        "versions": f"torch_manual_conv {torch_manual_conv.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
        "cpu": f"{cpu}, {torch.ops.tmc.cpu_isa()} kernels",
        "cuda": cuda_state()[1],
    }


def in_eps(error, dtype):
    units = error / torch.finfo(getattr(torch, dtype)).eps
    return f"{units:.2f}" if units < 100 else f"{units:.0e}"


def cell(worst):
    """A row's worst check in one dtype, as 'ours torch' in eps."""
    if worst.error is None:
        return f"{'error':>5} {'':>5}"
    is_reference = worst.device == "cpu" and worst.dtype == "float64"
    theirs = "ref" if is_reference else "-" if worst.torch_error is None else in_eps(worst.torch_error, worst.dtype)
    return f"{in_eps(worst.error, worst.dtype):>5} {theirs:>5}"


def repro(op, case, dtype, device, seed):
    """The command that shows one case alone."""
    command = f"{PROG} --op {op} --case {case} --dtype {dtype} --device {device}"
    isa = os.environ.get("TMC_CPU_ISA")
    return command + (f" --seed {seed}" if seed else "") + (f" --isa {isa}" if isa else "")


def explain(worst, seed):
    what = worst.message or (
        f"error {in_eps(worst.error, worst.dtype)} eps, limit {in_eps(worst.limit, worst.dtype)} eps"
    )
    command = repro(worst.op, worst.case, worst.dtype, worst.device, seed)
    return f"    {worst.case}, {worst.dtype}: {what}\n    {command}"


class Report:
    """Prints lines as they are found and counts them; `data` is what --json writes."""

    def __init__(self, seed):
        self.seed, self.lines, self.failed, self.explained = seed, 0, 0, ""
        self.data = {"environment": environment(), "seed": seed, "checks": [], "determinism": {}}
        for name, value in self.data["environment"].items():
            print(f"{name:10}{value}")

    def line(self, text, failure=None):
        self.lines += 1
        self.failed += failure is not None
        if failure and failure != self.explained:  # an operator that raises does so for all its results
            text, self.explained = f"{text}\n{failure}", failure
        print(text, flush=True)

    def accuracy(self, cases, device, dtypes):
        """A line for each result of each operator: the worst of its cases in each dtype. Returns the cases that ran."""
        print(f"\nLargest error on {device}, in eps of the dtype")
        print(f"{'':20}" + "  ".join(f"{dtype:>11}" for dtype in dtypes))
        print(f"{'':20}" + "  ".join(f"{'ours':>5} {'torch':>5}" for _ in dtypes))
        raised = set()
        for op in dict.fromkeys(case.op for case in cases):
            mine = [case for case in cases if case.op == op]
            print(f"{op}, {len(mine)} case{'s' if len(mine) > 1 else ''}")
            checks = [c for case in mine for dtype in dtypes for c in check(case, device, dtype, self.seed)]
            for result in dict.fromkeys(c.result for c in checks):
                row = [c for c in checks if c.result == result]
                worst = [max((c for c in row if c.dtype == dtype), key=Check.severity) for dtype in dtypes]
                worst_of_all = max(worst, key=Check.severity)
                text = f"  {result:18}" + "  ".join(map(cell, worst)) + f"  {worst_of_all.status}"
                self.line(text, None if worst_of_all.status == PASS else explain(worst_of_all, self.seed))
            raised |= {(c.op, c.case) for c in checks if c.status == ERROR}
            self.data["checks"] += map(asdict, checks)
        return [case for case in cases if (case.op, case.name) not in raised]

    def compare_with_torch(self, device, dtypes):
        """How often our error exceeds twice torch's, which the rule allows below the rounding limit."""
        print(f"\nErrors above {TORCH_FACTOR} x torch's on {device} (allowed below the rounding limit)")
        mine = [c for c in self.data["checks"] if c["device"] == device and c["error"] is not None]
        for dtype in dtypes:
            known = [c for c in mine if c["dtype"] == dtype and c["torch_error"]]
            above = [c for c in known if c["error"] > TORCH_FACTOR * c["torch_error"]]
            text = f"  {dtype:10}{len(above):4} of {len(known)}"
            if above:
                worst = max(above, key=lambda c: c["error"] / c["torch_error"])
                ratio = worst["error"] / worst["torch_error"]
                text += f", at most {ratio:.3g} x: {worst['op']}, {worst['result']}, {worst['case']}"
            if known:
                print(text)

    def determinism(self, cases, device, dtypes):
        print(f"\nEqual in every bit on {device}: all the results above")
        broken = determinism(cases, device, dtypes, self.seed)
        for claim, found in broken.items():
            text = f"  {claim:36}{FAIL if found else PASS}"
            commands = [f"    {repro(*where, device, self.seed)}" for where in found[:3]]
            self.line(text, "\n".join(commands) if found else None)
        self.data["determinism"][device] = broken


# ---- The command line.


def seed(text):
    """For add_argument(type=...)."""
    try:
        value = int(text)
        torch.Generator().manual_seed(value)
    except (ValueError, RuntimeError):
        raise argparse.ArgumentTypeError(f"must be an integer from -2^63 to 2^64 - 1, got {text!r}") from None
    return value


def parse(argv):
    parser = _command.Parser(
        prog=PROG,
        usage="%(prog)s [options]",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--op", nargs="+", default=[], metavar="OP", help="only these operators")
    parser.add_argument("--case", nargs="+", default=[], metavar="CASE", help="only the cases of these names")
    parser.add_argument("--dtype", nargs="+", default=DTYPES, metavar="DTYPE", help=f"default: {' '.join(DTYPES)}")
    parser.add_argument("--device", nargs="+", default=[], metavar="DEVICE", help="cpu, cuda; default: what there is")
    parser.add_argument("--isa", help="CPU kernels to use: base, avx2, avx512, avx512_bf16, amx; default: the best")
    parser.add_argument("--seed", type=seed, default=0, help="of the random numbers; default: 0")
    parser.add_argument("--json", type=_command.file_option, metavar="FILE", help="also write every comparison to FILE")
    options = parser.parse_args(argv)

    def known(what, values, all_values):
        for value in values:
            if value not in all_values:
                near = difflib.get_close_matches(value, all_values, n=1, cutoff=0.4)
                hint = f"did you mean {near[0]}? " if near else ""
                parser.error(f"unknown {what} {value!r}: {hint}known: {', '.join(all_values)}")

    known("op", options.op, list(dict.fromkeys(case.op for case in CASES)))
    options.cases = [case for case in CASES if not options.op or case.op in options.op]
    known("case", options.case, list(dict.fromkeys(case.name for case in options.cases)))
    options.cases = [case for case in options.cases if not options.case or case.name in options.case]
    known("dtype", options.dtype, DTYPES)
    known("device", options.device, ("cpu", "cuda"))
    usable, state = cuda_state()
    if "cuda" in options.device and not usable:
        parser.error(f"--device cuda: {state}")
    _command.check_file(parser, "json", options.json)
    options.device = options.device or ["cpu", "cuda"][: 1 + usable]
    return options


def main(argv=None):
    return _command.run(PROG, lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv):
    options = parse(argv)
    if options.isa and os.environ.get("TMC_CPU_ISA") != options.isa:
        # The kernels are chosen once in a process, so another choice needs another process.
        command = [sys.executable, "-m", "torch_manual_conv.verify", *argv]
        return subprocess.run(command, env={**os.environ, "TMC_CPU_ISA": options.isa}).returncode
    try:
        torch.ops.tmc.cpu_isa()
    except RuntimeError as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 2
    started = time.perf_counter()
    report = Report(options.seed)
    # One thread: the problems are small, a second would cost more than it brings. No TF32: float32 means 24 bits here.
    with threads(1), torch.backends.cudnn.flags(enabled=True, allow_tf32=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same'")  # torch's, about its own copy
        for device in options.device:
            ran = report.accuracy(options.cases, device, options.dtype)
            report.compare_with_torch(device, options.dtype)
            report.determinism(ran, device, options.dtype)
    verdict = f"{report.failed} of {report.lines} lines FAILED" if report.failed else f"all {report.lines} lines pass"
    print(f"\n{verdict}; {len(report.data['checks'])} comparisons in {time.perf_counter() - started:.0f} s")
    if options.json:
        report.data["passed"] = not report.failed
        _command.write_text(options.json, _command.to_json(report.data, indent=1) + "\n")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
