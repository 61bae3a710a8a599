"""Commands with a time limit: one after the other, or several at once."""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GRACE = 5  # seconds from asking a process to end to ending it: pytest then still says what has failed
LOST = 3  # exit code of a process that has lost the GPU (an illegal address, say): a new one goes on behind that case
MOST_LINES = 20  # of failed tests, from one process

_printing = threading.Lock()


def run_all(commands, processes, limit, folder):
    """Why which of [(command, environment variables)] failed. All together may take `limit` seconds.

    Each is given a file of `folder` for what it finds.
    """
    end = time.monotonic() + limit

    def run_one(place):
        return run_until_done(*commands[place], end, folder / f"{place}.jsonl", aside=processes > 1)

    with ThreadPoolExecutor(processes) as pool:
        return [note for note in pool.map(run_one, range(len(commands))) if note]


def run_until_done(command, variables, end, records, aside):
    begin, lost = [], []
    while True:
        seconds = end - time.monotonic()
        told = ["--records", str(records), "--seconds", f"{seconds:.0f}"] if "--part" in command else []
        note = run([*command, *told, *begin], variables, seconds, records, aside)
        place = last_place(records) if note == f"exit code {LOST}" else None
        if place is None or place in lost:
            break
        lost.append(place)
        begin = ["--begin", str(place + 1)]
    notes = [f"lost the GPU {len(lost)} times"] * bool(lost) + [note] * bool(note)
    words = " ".join(" ".join(Path(word).name for word in command[:5]).split())
    return f"{words[:60]}: {', '.join(notes)}" if notes else ""


def last_place(records):
    """Of the case at which the GPU was lost last, or None."""
    lines = records.read_text().splitlines() if records.exists() else []
    places = [json.loads(line)["lost"] for line in lines if line.startswith('{"lost"')]
    return places[-1] if places else None


def run(command, variables, seconds, records, aside):
    """Why it failed, or "". It ends after `seconds`, with all processes that it has started.

    aside: what it prints is kept until it has ended, so that it does not mix with others'.
    """
    if seconds <= 0:
        return "no time left"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    headline = " ".join(["$", *(f"{key}={value}" for key, value in variables.items()), *command])
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        if not aside:
            print(headline, flush=True)
        output = {"stdout": file, "stderr": subprocess.STDOUT} if aside else {}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **output)
        code = wait(process, seconds)
        if aside:
            file.seek(0)
            tell(headline, file.read(), records)
    if code is None:
        return f"stopped after {seconds:.0f} s"
    return f"exit code {code}" if code else ""


def wait(process, seconds):
    """Its exit code, or None if it had to be stopped."""
    for limit, end_it in ((seconds, signal.SIGINT), (GRACE, signal.SIGKILL)):
        try:
            code = process.wait(limit)
            return code if end_it == signal.SIGINT else None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, end_it)
    process.wait()
    return None


def tell(headline, text, records):
    failures = [line for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    with _printing:
        print(headline, text, sep="\n", flush=True)
        with open(records, "a") as file:
            for line in failures[:MOST_LINES]:
                file.write(json.dumps({"failed": line[:200]}) + "\n")
