"""Everything that needs a GPU, in one command: at most ten minutes, no network, nobody watching.

    python benchmarks/gpu_check                        all of it, into benchmarks/results/<device>.json and .md
    python benchmarks/gpu_check --only tests sanitizer these parts
    python benchmarks/gpu_check --dry-run              without a GPU: every part on the CPU, tiny; keeps no results
    python benchmarks/gpu_check --build                compiles the kernels even if a library is there

Each part is a process of its own, or several, with a time limit; the time that one leaves goes to those behind it. A
part that fails, hangs or crashes loses nothing of the others, and one that loses the GPU begins again behind the case
that did it. Results are written after each part. The summary comes last.

exit code: 0 all passed, 1 something failed, 2 there is no GPU
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # the package as it is built in place

import results  # noqa: E402
from parts import PARTS, has_library  # noqa: E402
from running import run_all  # noqa: E402

SOON = 0.9  # of its limit: when a part should begin no further case
MINUTES = 9.5  # and what starting and ending the check itself takes


def build_parser():
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for everything together; default: {MINUTES}")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # what a part's process is started with
    parser.add_argument("--records", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=600, help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, default=0, help=argparse.SUPPRESS)  # the first case, by its number
    return parser


def main():
    options = build_parser().parse_args()
    device = "cpu" if options.dry_run else "cuda"
    if options.part:
        import measuring

        deadline = time.monotonic() + SOON * options.seconds
        return measuring.run(options.part, device, options.records, deadline, options.begin)
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
    found = {"environment": {}, "parts": [], "checks": [], "peaks": [], "records": []}
    found |= {"sanitized": [], "captured": [], "streamed": [], "batches": [], "failed": [], "skipped": []}
    wanted = [name for name in PARTS if name in (options.only or PARTS)]
    end = time.monotonic() + 60 * options.minutes
    for place, name in enumerate(wanted):
        left = end - time.monotonic()
        share = left * PARTS[name].seconds / sum(PARTS[other].seconds for other in wanted[place:])
        limit = max(share, min(PARTS[name].patience, left / 2))
        print(f"\n== {name}, at most {limit:.0f} s", flush=True)
        (folder / name).mkdir()
        found["parts"].append(run_part(name, device, options, limit, folder / name))
        results.collect(found, folder / name)
        results.write(found, folder if options.dry_run else results.RESULTS)
    return found


def run_part(name, device, options, limit, folder):
    """All commands of a part; {"name", "passed", "seconds", "note"}."""
    begin = time.monotonic()
    if name == "library" and not options.build and has_library(device):
        return {"name": name, "passed": True, "seconds": round(time.monotonic() - begin, 1), "note": "was there"}
    part = PARTS[name]
    commands = part.commands(device)
    notes = [part.missing] if commands is None else run_all(commands, part.processes, limit, folder)
    seconds = round(time.monotonic() - begin, 1)
    return {"name": name, "passed": not notes, "seconds": seconds, "note": "; ".join(notes)}


if __name__ == "__main__":
    sys.exit(main())
