"""Writes what was measured into the documents, tables and pictures: `make readme`.

A document holds pairs of comments, and what stands between them is generated:

    <!-- measured: amd-epyc.json alexnet, float32, 2 threads -->      a table of a file in benchmarks/results/
    <!-- /measured -->
    <!-- kept: alexnet -->                                what a model keeps for backward, counted now
    <!-- /kept -->

The pictures that documents show are in PICTURES. Equal numbers give equal bytes, so a file is written only when a
number in it has changed. A test fails when a document or a picture disagrees with the results or the count.
"""

import functools
import os
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package as it is built in place

from torch_manual_conv.bench import picture, scaling  # noqa: E402
from torch_manual_conv.bench.measure import geometric_mean  # noqa: E402
from torch_manual_conv.bench.report import LAYOUTS, markdown_table, number, sections, value  # noqa: E402
from torch_manual_conv.bench.results import load  # noqa: E402
from torch_manual_conv.bench.ways import best  # noqa: E402
from torch_manual_conv.memory import report as memory_report  # noqa: E402
from torch_manual_conv.memory.cli import collect  # noqa: E402

CORE = ("conv2", "conv3", "conv4", "conv5")  # without the first layer, which is one of a kind
RESULTS = ROOT / "benchmarks/results"
FIGURES = ROOT / "docs/figures"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PICTURES = {
    FIGURES / "roofline.svg": lambda: picture.draw(run_of("amd-epyc.json", "alexnet, float32")),
    FIGURES / "scaling.svg": lambda: scaling.draw(run_of("amd-epyc.json", "scaling, float32")),
    FIGURES / "memory-alexnet.svg": lambda: memory_report.draw(counted("alexnet")),
}
MEASURED = re.compile(r"(<!-- measured: (\S+\.json) ([\w, ]+?) -->\n).*?(<!-- /measured -->)", re.S)
KEPT = re.compile(r"(<!-- kept: (\S+) -->\n).*?(<!-- /kept -->)", re.S)


def filled(document):
    """The document's text with every block generated anew."""
    text = MEASURED.sub(lambda it: f"{it[1]}{measured(document, it[2], it[3])}{it[4]}", document.read_text())
    return KEPT.sub(lambda it: f"{it[1]}{kept(it[2])}{it[3]}", text)


@functools.cache
def counted(model):
    return collect(model, with_peak=False)


def kept(model):
    return "\n".join(["```", *memory_report.lines(counted(model)), "```"]) + "\n"


def measured(document, file, name):
    if name == scaling.GROUP:
        return "\n\n".join(map(wrapped, scaling.sentences(run_of(file, f"{name}, float32")))) + "\n"
    run = run_of(file, name)
    link = os.path.relpath((RESULTS / file).with_suffix(".md"), document.parent)
    (records,) = (records for key, records in sections(run["records"]) if table_name(key) == name)
    return table(run["environment"], records, link) + "\n"


def run_of(file, name):
    """The run that measured a table."""
    for run in load(RESULTS / file):
        if name in (table_name(key) for key, _ in sections(run["records"])):
            return run
    raise SystemExit(f"benchmarks/results/{file} holds no table {name!r}")


def table_name(key):
    """As a document asks for it: alexnet, float32, precision high, 2 threads."""
    group, dtype, precision, threads, _ = key
    parts = [group, dtype, f"precision {precision}", f"{threads} threads"]
    return ", ".join(part for part in parts if part not in ("precision None", "precision highest", "1 threads"))


def table(facts, records, link):
    """What was measured where; ours / torch, the faster one bold; the mean."""
    by_layout = records[0]["unit"] == "GB/s"  # pools: whoever uses one layout cannot have the other's speed
    columns = LAYOUTS if by_layout else list(dict.fromkeys(record["pass"] for record in records))
    rows = {}
    for record in records:
        if by_layout:
            row = rows.setdefault(f"{record['name']}, {record['pass']}", {})
            row |= {layout: pair(record, f"ours {layout}", f"torch {layout}") for layout in LAYOUTS}
        else:
            layer = record["shape"].partition("], ")[2] if record["unit"] == "GFLOP/s" else ""
            row = rows.setdefault(f"{record['name']} {layer}".strip(), {})
            faster = best(record["seconds"])
            row[record["pass"]] = pair(record, *(faster.get(side) for side in ("ours", "torch")))
    header = ["ours / torch", *columns]
    shown = markdown_table(header, [[name, *(row.get(c, "") for c in columns)] for name, row in rows.items()], left=1)
    return "\n".join(
        [wrapped(caption(facts, records[0], by_layout, link)), "", *shown, "", wrapped(closing(records, by_layout))]
    )


def pair(record, ours, theirs):
    """'**484** / 262'"""
    if record["unit"] == "GB/s":
        record = {**record, "unit": "ms"}
    seconds, cells = record["seconds"], []
    for name, other in ((ours, theirs), (theirs, ours)):
        text = number(value(record, seconds[name])) if name in seconds else "-"
        is_faster = name in seconds and other in seconds and seconds[name] < seconds[other]
        cells.append(f"**{text}**" if is_faster else text)
    return " / ".join(cells)


def caption(facts, record, by_layout, link):
    unit, plural = "ms" if by_layout else record["unit"], "s" if record["threads"] > 1 else ""
    return (
        f"{unit} in {record['dtype']} at batch {record['images']}, {record['threads']} thread{plural} of "
        f"{facts['machine']} ({facts['cpu_isa']} kernels), torch "
        f"{facts['torch']}, {facts['date']}; medians of {record['rounds']} alternating rounds"
        f"{'' if by_layout else ', the faster layout of each side'} ([all of it]({link})):"
    )


def closing(records, by_layout):
    rated = [record for record in records if "ratio" in record]
    if by_layout:
        return mean(x for record in rated for x in record["ratio_by_layout"].values()) + "."
    text = mean(record["ratio"]["median"] for record in rated)
    core = [record["ratio"]["median"] for record in rated if record["name"] in CORE]
    return text + (f"; conv2 to conv5 alone: {number(geometric_mean(core))}." if core else ".")


def mean(ratios):
    return f"Torch's time over ours, geometric mean: {number(geometric_mean(list(ratios)))}"


def wrapped(text):
    return textwrap.fill(text, 119, break_long_words=False, break_on_hyphens=False)


def main():
    written = {document: filled(document) for document in DOCUMENTS}
    written |= {path: draw() for path, draw in PICTURES.items()}
    for path, text in written.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
