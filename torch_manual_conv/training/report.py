"""What a run shows and writes: a progress bar on a terminal, plain lines in a pipe, and the files in its folder.

config.yaml     every option          metrics.jsonl   one line for each epoch, and for the loss every few steps
curves.png      loss and accuracy     last.pt, best.pt   written by the engine
"""

import json
import os
import sys
import time
from contextlib import contextmanager

from .._command import WriteError, one_line, printable, replacing, to_json, write_text
from . import distributed

SECONDS_BETWEEN_LINES = 30  # of a long epoch, when the output is no terminal


class Report:
    """Speaks for one process: `speaks` is False in all but the first, which warn of what no other has warned of."""

    def __init__(self, out=None, speaks=True):
        self.out = out if speaks else None
        self.speaks = speaks
        self.unreadable = set()

    def line(self, text):
        if self.speaks:
            print(printable(text), flush=True)

    def warn(self, text):
        if distributed.first_to_say(text):
            print(f"train.py: warning: {one_line(text)}", file=sys.stderr, flush=True)

    def bad_images(self, problems):
        """Names each unreadable file once."""
        for path, reason in problems:
            if path not in self.unreadable:
                self.warn(f"{path} cannot be read ({reason}): another image of its class takes its place")
            self.unreadable.add(path)

    def start(self, config, history=()):
        """Prepares the files; metrics.jsonl begins with what it tells of the epochs in `history`."""
        if self.out is None:
            return
        import yaml

        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / "config.yaml", yaml.safe_dump(config.record(), sort_keys=False))
        metrics = self.out / "metrics.jsonl"
        steps, damage = read_steps(metrics, len(history)) if history else ([], None)
        if damage:
            aside = next(path for n in range(1, 1_000_000) if not os.path.lexists(path := f"{metrics}.damaged-{n}"))
            os.replace(metrics, aside)
            self.warn(f"{metrics} {damage}: written anew from the checkpoint, the damaged one is {aside}")
        records = [r for record in history for r in (*(s for s in steps if s["epoch"] == record["epoch"]), record)]
        write_text(metrics, "".join(to_json(record) + "\n" for record in records))

    def write(self, record):
        if self.out is None:
            return
        path = self.out / "metrics.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(to_json(record) + "\n")
        except OSError as error:
            raise WriteError(f"{path} could not be written: {error.strerror}") from error

    def step(self, record):
        self.write(record)

    def epoch(self, record, epochs):
        self.write(record)
        self.line(
            f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}   train loss {record['train_loss']:.4f}   "
            f"{self.scores(record)}   {record['images_per_second']:.0f} images/s"
        )

    @staticmethod
    def scores(record):
        return "held-out loss {val_loss:.4f}   top-1 {val_top1:.4f}   top-5 {val_top5:.4f}".format(**record)

    @contextmanager
    def progress(self, title, steps):
        """Gives a function to call after each step with its number, and the loss where that is known."""
        if self.speaks and sys.stdout.isatty() and (bar := _bar(title, steps)):
            with bar as advance:
                yield advance
            return
        spoke = time.monotonic()

        def advance(step, loss):
            nonlocal spoke
            if loss is not None and time.monotonic() - spoke > SECONDS_BETWEEN_LINES:
                spoke = time.monotonic()
                self.line(f"{title}   step {step}/{steps}   loss {loss:.4f}")

        yield advance

    def curves(self, history):
        """Draws curves.png; without matplotlib it says so, and the run is complete all the same."""
        if self.out is None:
            return
        try:
            import matplotlib
        except ImportError:
            self.line("no curves.png: matplotlib is not installed")
            return
        matplotlib.use("Agg")
        from matplotlib import pyplot

        epochs = [record["epoch"] for record in history]
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
        left.plot(epochs, [r["train_loss"] for r in history], "o-", label="training")
        left.plot(epochs, [r["val_loss"] for r in history], "s--", label="held out")
        left.set(xlabel="epoch", ylabel="cross-entropy")
        left.legend()
        right.plot(epochs, [r["val_top1"] for r in history], "o-", label="top-1")
        right.plot(epochs, [r["val_top5"] for r in history], "s--", label="top-5")
        right.set(xlabel="epoch", ylabel="accuracy on held-out images", ylim=(0, 1.02))
        right.legend()
        with replacing(self.out / "curves.png") as file:
            figure.savefig(file, format="png", dpi=120)
        pyplot.close(figure)

    def files(self):
        return sorted(path for path in self.out.iterdir() if path.is_file()) if self.out else []


def read_steps(path, epochs):
    """([the records of steps in a metrics.jsonl], what is wrong with it as the log of so many epochs, or None)."""
    if not os.path.lexists(path):
        return [], None
    if not path.is_file():
        return [], "is no regular file"
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        return [], f"cannot be read ({error.strerror})"
    steps, bad, missing = [], 0, set(range(1, epochs + 1))
    for line in lines:
        try:
            record = json.loads(line.decode(), parse_constant=int)  # which refuses NaN: it is no JSON
            if type(record["epoch"]) is not int:
                raise ValueError("no epoch")
            if "step" in record:
                steps.append(record)
            else:
                missing.discard(record["epoch"])
        except (ValueError, TypeError, KeyError, RecursionError):
            bad += 1
    if bad:
        return steps, f"has {bad} lines that are no records"
    return steps, f"lacks {len(missing)} of {epochs} epochs" if missing else None


def _bar(title, steps):
    """A context that gives the function of `progress`; None without rich."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    @contextmanager
    def bar():
        with Progress(*columns, TextColumn("loss {task.fields[loss]}"), transient=True) as progress:
            task = progress.add_task(title, total=steps, loss="-")

            def advance(step, loss):
                known = {} if loss is None else {"loss": f"{loss:.4f}"}
                progress.update(task, completed=step, **known)

            yield advance

    return bar()
