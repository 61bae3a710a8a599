"""What every benchmark shares: alternating timing, the machine's name, and results as JSON and Markdown."""

import datetime
import json
import platform
import re
import sys
import time
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def alternate(calls, rounds):
    """Milliseconds of each of `calls` ({name: function}): the best of `rounds`, taken in turns.

    In turns, so that a busy moment of the machine falls on all of them; at one thread it is the processor time of
    this thread that counts, which other programs disturb least.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds + 1):  # the first touches code and memory
        for name, call in calls.items():
            start = clock()
            result = call()
            best[name] = min(best[name], clock() - start)
            del result
    return {name: 1000 * seconds for name, seconds in best.items()}


def cpu_name():
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()).group(1).strip()
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


def environment():
    return {
        "device": cpu_name(),
        "isa": torch.ops.tmc.cpu_isa(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
    }


def write_results(stem, rows, notes):
    """results/<device>-<stem>.json and .md; rows are dicts with the same keys. Returns the Markdown."""
    facts = environment()
    slug = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{slug}-{stem}"
    path.with_suffix(".json").write_text(json.dumps({"environment": facts, "rows": rows}, indent=1) + "\n")
    columns = list(rows[0])
    lines = [f"# {stem} on {facts['device']}", "", ", ".join(f"{k} {v}" for k, v in facts.items() if k != "device"), ""]
    lines += [notes, "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    text = "\n".join(lines) + "\n"
    path.with_suffix(".md").write_text(text)
    return text
