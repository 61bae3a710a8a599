"""Everything that needs a GPU, in one command: at most ten minutes, no network, nobody watching.

    python benchmarks/gpu_check                        all of it, into benchmarks/results/<device>.json and .md
    python benchmarks/gpu_check --only tests sanitizer these parts
    python benchmarks/gpu_check --dry-run              without a GPU: every part on the CPU, tiny; keeps no results
    python benchmarks/gpu_check --build                compiles the kernels even if a library is there

Each part is a process of its own with a time limit; the time that one leaves goes to those behind it. A part that
fails, hangs or crashes loses nothing of the others: results are written after each of them. The summary comes last.

exit code: 0 all passed, 1 something failed, 2 there is no GPU
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # the package as it is built in place

import results  # noqa: E402
from parts import PARTS, has_library  # noqa: E402

SOON = 0.9  # of its limit: when a part should begin no further case


def build_parser():
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--minutes", type=float, default=10, help="for everything together; default: 10")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # what a part's process is started with
    parser.add_argument("--records", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=600, help=argparse.SUPPRESS)
    return parser


def main():
    options = build_parser().parse_args()
    device = "cpu" if options.dry_run else "cuda"
    if options.part:
        import measuring

        return measuring.run(options.part, device, options.records, time.monotonic() + SOON * options.seconds)
    if not options.dry_run and not gpu_is_there():
        print("no CUDA device: --dry-run shows what would run", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        found = check(options, device, Path(folder))
    print(results.summary(found))
    return 0 if all(part["passed"] for part in found["parts"]) else 1


def gpu_is_there():
    import torch

    return torch.cuda.is_available()


def check(options, device, folder):
    """Runs the parts in their order and returns all that they found."""
    found = {"environment": {}, "parts": [], "checks": [], "peaks": [], "records": [], "failed": [], "skipped": []}
    wanted = [name for name in PARTS if name in (options.only or PARTS)]
    scale = 60 * options.minutes / sum(part.seconds for part in PARTS.values())
    start, planned = time.monotonic(), 0
    for name in wanted:
        planned += scale * PARTS[name].seconds
        limit = planned - (time.monotonic() - start)  # its own share and what the parts before it have left
        print(f"\n== {name}, at most {limit:.0f} s", flush=True)
        found["parts"].append(run_part(name, device, options, limit, folder / f"{name}.jsonl"))
        results.collect(found, folder / f"{name}.jsonl")
        if not options.dry_run:
            results.write(found)
    return found


def run_part(name, device, options, limit, records):
    """All commands of a part; {"name", "passed", "seconds", "note"}."""
    begin, notes = time.monotonic(), []
    if name == "library" and not options.build and has_library(device):
        notes.append("was there")
        commands = []
    else:
        commands = PARTS[name].commands(device)
    if commands is None:
        return {"name": name, "passed": False, "seconds": 0, "note": "nothing to run it with"}
    for place, (command, variables) in enumerate(commands):
        left = limit - (time.monotonic() - begin)
        share = left / (len(commands) - place)
        if "--part" in command:
            command = [*command, "--records", str(records), "--seconds", f"{share:.0f}"]
        note = run_command(command, variables, share)
        if note:
            words = " ".join([Path(command[0]).name, *command[1:4]]).split()
            notes.append(f"{' '.join(words)[:60]}: {note}")
    seconds = round(time.monotonic() - begin, 1)
    failed = [note for note in notes if note != "was there"]
    return {"name": name, "passed": not failed, "seconds": seconds, "note": "; ".join(notes)}


def run_command(command, variables, limit):
    """Why it failed, or "". With all processes it started, it ends at its limit."""
    print("$", *(f"{key}={value}" for key, value in variables.items()), *command, flush=True)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(max(limit, 1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"stopped after {limit:.0f} s"
    return f"exit code {code}" if code else ""


if __name__ == "__main__":
    sys.exit(main())
