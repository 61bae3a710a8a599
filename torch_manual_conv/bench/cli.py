"""The command: measures what was asked for, group by group, and writes what was found."""

import os
import shlex
import subprocess
import sys

import torch

from .. import _command
from . import machine, picture, report, results, scaling
from .cases import Case
from .options import PROG, parse
from .problems import PASSES, conv_problem
from .record import Settings, measure


def main(argv=None):
    return _command.run(PROG, lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv):
    options = parse(argv)
    if options.isa and os.environ.get("TMC_CPU_ISA") != options.isa:
        # The kernels are chosen once in a process, so another choice needs another process.
        command = [sys.executable, "-m", "torch_manual_conv.bench", *argv]
        return subprocess.run(command, env={**os.environ, "TMC_CPU_ISA": options.isa}).returncode
    try:
        facts = machine.environment(shlex.join([*PROG.split(), *argv]), options.device)
        before = results.to_join(options.json, facts["machine"])
    except ValueError as error:  # a file of other results
        raise _command.RunError(str(error)) from error
    print("\n".join(f"{name:18}{fact}" for name, fact in facts.items()))
    found = {"environment": facts, "peaks": [], "records": []}
    threads_before, precision_before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    conv_before = torch.backends.mkldnn.conv.fp32_precision
    try:
        if options.scaling:
            scaling.run(options, found, progress)
        else:
            compare(options, found)
    finally:
        torch.set_num_threads(threads_before)
        torch.set_float32_matmul_precision(precision_before)
        torch.backends.mkldnn.conv.fp32_precision = conv_before
        write(options, before, found)  # also the tables that were whole before an interruption
    return 0 if all(record["verified"] for record in found["records"]) else 1


def compare(options, run):
    for threads in options.threads:
        settings = Settings(
            "float32", options.device, threads, options.precision, options.rounds, options.compile, options.graphs
        )
        settings.apply()
        rates = machine.peaks(options.device)
        run["peaks"].append({"threads": threads, "rates": rates})
        shown = ", ".join(
            f"{machine.UNITS[unit]} {report.number(rate / 1e9)} {'GB/s' if unit == 'copy' else 'GFLOP/s'}"
            for unit, rate in rates.items()
        )
        print(f"{'peaks, ' + str(threads) + ' thread' + 's' * (threads > 1):18}{shown}")
        for dtype in options.dtype:
            settings.dtype = dtype
            for section in wanted(options):
                records = []
                for case, problem in section:
                    progress(f"{case.group} {case.name} {case.what}, {dtype}")
                    records.append(measure(problem(settings), settings, rates))
                progress("")
                run["records"] += records
                for found in report.sections(records):
                    report.show(*found, rates)


def wanted(options):
    """[[(case, function of the settings that makes its problem), ...] of one group, ...]"""
    sections = {}
    for case in options.selected:
        sections.setdefault(case.group, []).append(
            (case, lambda settings, case=case: case.problem(settings, options.batch))
        )
    if options.own:
        batch, layer = options.own
        sections["own"] = [
            (Case("own", "own", what), lambda s, what=what: conv_problem(s, "own", layer, options.batch or batch, what))
            for what in PASSES
        ]
    return sections.values()


def progress(text):
    """What is being measured, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def write(options, before, run):
    if not run["records"]:
        return
    runs = results.joined(before, run)
    if options.json:
        results.save(options.json, runs)
    if options.markdown:
        _command.write_text(options.markdown, results.markdown(runs))
    if options.picture:
        _command.write_text(options.picture, (scaling if options.scaling else picture).draw(run))
    written = [str(path) for path in (options.json, options.markdown, options.picture) if path]
    if written:
        print("wrote " + ", ".join(written))
