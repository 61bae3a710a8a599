"""The tables: on the terminal (through rich where it is installed), and as Markdown."""

import sys

from .cases import GROUPS
from .measure import geometric_mean
from .ways import COMPILED, WAYS, best

LAYOUTS = ("contiguous", "channels_last")
NOTHING = "·"  # in a cell


def value(record, seconds):
    """Seconds in the record's unit."""
    if record["unit"] == "GFLOP/s":
        return record["operations"] / seconds / 1e9
    if record["unit"] == "GB/s":
        return record["bytes_moved"] / seconds / 1e9
    if record["unit"] == "images/s":
        return record["images"] / seconds
    return seconds * {"ms": 1e3, "us": 1e6}[record["unit"]]


def number(x):
    """Three digits: 254, 37.7, 0.85."""
    digits = 0 if x >= 99.95 else 1 if x >= 9.995 else 2 if x >= 0.0995 else 3
    return f"{x:.{digits}f}"


def megabytes(n):
    return NOTHING if n is None else number(n / 1e6)


def sections(records):
    """[(what is in it, its records)]: a table for each group, dtype, precision and number of threads."""
    found = {}
    for record in records:
        found.setdefault(table_key(record), []).append(record)
    return list(found.items())


def table_key(record):
    return tuple(record.get(name) for name in ("group", "dtype", "precision", "threads", "unit"))


def title(key):
    group, dtype, precision, threads, unit = key
    about = f": {GROUPS[group].note}" if group in GROUPS else ""
    exact = "" if precision == "highest" or dtype != "float32" else f", precision {precision}"
    return f"{group}{about}. {dtype}{exact}, {threads} thread{'s' if threads > 1 else ''}, {unit}"


def speed_table(records):
    """(header, rows) of one section: each contestant in the section's unit, the ratio, the limit, and the errors."""
    compiled = any(COMPILED in record["error"] for record in records)
    header = ["case", "pass", "ours", "ours c.l.", "torch", "torch c.l.", *([COMPILED] if compiled else [])]
    header += ["limit", "x torch", "quartiles", "of limit", "error", "torch's"]
    return header, [_speed_row(record, compiled) for record in records]


def _speed_row(record, compiled):
    names = [f"{side} {layout}" for side in ("ours", "torch") for layout in LAYOUTS]
    cells = [record["name"], record["pass"]]
    for name in names + ([COMPILED] if compiled else []):
        seconds = record["seconds"].get(name)
        wrong = record["error"].get(name, 0) > record["error_limit"]
        cells.append("WRONG" if wrong else NOTHING if seconds is None else number(value(record, seconds)))
    limit, ours = record.get("limit_seconds"), record["seconds"].get(best(record["seconds"]).get("ours"))
    cells.append(number(value(record, limit)) if limit else NOTHING)
    turns = record.get("ratio")
    cells += (
        [number(turns["median"]), f"{number(turns['low'])}-{number(turns['high'])}"] if turns else [NOTHING, NOTHING]
    )
    cells.append(f"{limit / ours:.0%}" if limit and ours else NOTHING)
    return [*cells, *(_worst(record, side) for side in ("ours", "torch"))]


def _worst(record, side):
    """The largest error over the layouts."""
    errors = [error for name, error in record["error"].items() if name.startswith(f"{side} ")]
    return f"{max(errors):.0e}" if errors else NOTHING


def memory_table(records):
    """(header, rows) in MB of the records that have something to tell; ([], []) if none has."""
    compiled = [COMPILED] if any(COMPILED in record["saved_bytes"] for record in records) else []
    rows = []
    for record in records:
        saved, peak = record["saved_bytes"], record["peak_bytes"]
        if saved:
            sizes = [saved.get(side) for side in ("ours", "torch", *compiled)] + [
                peak.get(s) for s in ("ours", "torch")
            ]
            rows.append([record["name"], record["pass"], *map(megabytes, sizes)])
    header = ["case", "pass", "saved, ours", "torch", *compiled, "peak, ours", "torch"]
    return (header, rows) if rows else ([], [])


def ways_table(records):
    """(header, rows) of what was also run compiled or as a CUDA graph: ours / torch, then torch's time over ours."""
    chosen = [record for record in records if any(name in record["seconds"] for name in WAYS["CUDA graph"])]
    rows = []
    for record in chosen:
        row = [record["name"], record["pass"]]
        for pair in WAYS.values():
            ours, torchs = (record["seconds"].get(name) for name in pair)
            cells = [NOTHING if s is None else number(value(record, s)) for s in (ours, torchs)]
            row += [" / ".join(cells), number(torchs / ours) if ours and torchs else NOTHING]
        rows.append(row)
    header = [cell for way in WAYS for cell in (f"{way}, ours / torch", "x torch")]
    return (["case", "pass", *header], rows) if rows else ([], [])


def summary(records, rates):
    """Lines below a table: mean ratios, the worst case, the share of the machine's copy, which algorithm ran."""
    rated = [record for record in records if "ratio" in record]
    lines = []
    if rated:
        mean = geometric_mean([record["ratio"]["median"] for record in rated])
        passes = {what: [r["ratio"]["median"] for r in rated if r["pass"] == what] for what in _in_order(rated, "pass")}
        parts = ", ".join(f"{what} {number(geometric_mean(ratios))}" for what, ratios in passes.items())
        worst = min(rated, key=lambda record: record["ratio"]["median"])
        line = f"x torch, geometric mean: {number(mean)}"
        if len(rated) > 1:
            line += f" ({parts}); least {number(worst['ratio']['median'])}: {worst['name']}, {worst['pass']}"
        lines.append(line)
        layouts = [(x, r, layout) for r in rated for layout, x in r["ratio_by_layout"].items()]
        if layouts and rated[0]["unit"] == "GB/s":
            x, record, layout = min(layouts, key=lambda entry: entry[0])
            lines.append(
                f"layout by layout, geometric mean: {number(geometric_mean([x for x, _, _ in layouts]))}; "
                f"least {number(x)}: {record['name']}, {record['pass']}, {layout}"
            )
        core = [r["ratio"]["median"] for r in rated if r["group"] == "alexnet" and r["name"] != "conv1"]
        if core and len(core) < len(rated):
            lines.append(f"conv2 to conv5 alone: {number(geometric_mean(core))}")
    moved = [value(r, r["seconds"][best(r["seconds"])["ours"]]) for r in rated if r["unit"] == "GB/s"]
    if moved and rates:
        copy = rates["copy"] / 1e9
        lines.append(
            f"of the copy of a large array, {number(copy)} GB/s: geometric mean {geometric_mean(moved) / copy:.0%}, "
            f"60 % and more in {sum(rate >= 0.6 * copy for rate in moved)} of {len(moved)} rows"
        )
    lines += [f"limit: {by}" for by in _in_order(records, "limit_by")]
    for name, reason in dict.fromkeys(tuple(record["algorithm"]) for record in records if "algorithm" in record):
        where = [f"{r['name']} {r['pass']}" for r in records if tuple(r.get("algorithm", ())) == (name, reason)]
        everywhere = len(where) == len(records)
        lines.append(f"algorithm {name} ({reason}): " + ("all of them" if everywhere else ", ".join(where)))
    for record in records:
        if not record["verified"]:
            errors = {n: f"{e:.1e}" for n, e in record["error"].items()}
            lines.append(f"WRONG: {record['name']} {record['pass']}: error {errors}, limit {record['error_limit']:.1e}")
    return lines


def _in_order(records, key):
    return list(dict.fromkeys(record[key] for record in records if key in record))


# ---- Terminal.


def show(key, records, rates):
    """Prints one section; `rates` are what the machine reaches at most."""
    print(f"\n{title(key)}")
    _print_table(*speed_table(records))
    for line in summary(records, rates):
        print(f"  {line}")
    for about, (header, rows) in (
        ("ways to run it, channels_last", ways_table(records)),
        ("memory, MB: saved for backward, parameters aside; peak of one call, operands aside", memory_table(records)),
    ):
        if rows:
            print(about)
            _print_table(header, rows)


def _print_table(header, rows):
    """Coloured by rich where that is installed and the terminal is wide enough; a file gets whole lines."""
    lines = list(plain(header, rows))
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        Console = None
    if Console is None or not sys.stdout.isatty() or Console().width < max(map(len, lines)):
        print("\n".join(lines))
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_coloured(name, cell) for name, cell in zip(header, row, strict=True)))
    Console(highlight=False).print(table)


def _coloured(name, cell):
    if cell == "WRONG":
        return f"[bold red]{cell}[/]"
    if name == "x torch" and cell != NOTHING:
        return f"[green]{cell}[/]" if float(cell) >= 1 else f"[yellow]{cell}[/]"
    return cell


def plain(header, rows):
    """Aligned lines: the first two columns to the left, numbers to the right."""
    lines = [header, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    for line in lines:
        cells = [
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


# ---- Markdown.


def tables(run):
    """Lines of Markdown: the tables of one run."""
    rates = {peaks["threads"]: peaks["rates"] for peaks in run["peaks"]}
    for key, records in sections(run["records"]):
        yield from ["", f"### {title(key)}", "", *markdown_table(*speed_table(records)), ""]
        yield from (f"- {line}" for line in summary(records, rates.get(records[0]["threads"])))
        for about, (header, rows) in (
            ("Ways to run it, channels_last:", ways_table(records)),
            ("Memory, MB:", memory_table(records)),
        ):
            if rows:
                yield from ["", about, "", *markdown_table(header, rows)]


def origin(run):
    """Lines of Markdown: command, versions, date and peaks."""
    facts = run["environment"]
    yield from [f"## `{facts['command']}`", ""]
    yield from (f"- {name}: {fact}" for name, fact in facts.items() if name not in ("machine", "command"))
    for peaks in run["peaks"]:
        rates = [f"{name} {number(rate / 1e9)}" for name, rate in peaks["rates"].items()]
        threads = f"{peaks['threads']} thread{'s' if peaks['threads'] > 1 else ''}"
        yield f"- peaks, {threads} (copy: GB/s, arithmetic: GFLOP/s): {', '.join(rates)}"


def markdown_table(header, rows, left=2):
    """Lines of Markdown; all but the first `left` columns to the right."""
    marks = ["---" if place < left else "---:" for place in range(len(header))]
    return [f"| {' | '.join(line)} |" for line in (header, marks, *rows)]


READING = """\
Medians over the rounds, in which all contestants took turns. `c.l.`: channels_last. `x torch`: torch's time over ours,
the faster layout of each, with its quartiles. `limit`: the best that the machine did in the same turns.
`error`: against float64, relative, in the norm."""
