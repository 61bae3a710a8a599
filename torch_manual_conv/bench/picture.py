"""The roofline: how near ours and torch's come to what the machine can do, over FLOP for each byte moved."""

import math

from .measure import geometric_mean
from .svg import COLOURS, FAINT, Axes, Picture, decades, legend, signature, steps
from .ways import COMPILED, best

MARKERS = {"forward": "circle", "grad_input": "triangle", "grad_weight": "square"}
SIDES = ("ours", "torch", COMPILED)
LEFT, WIDTH = 240, 570  # of both panels
ROOFLINE, ROW = 300, 15  # heights: of the upper panel, and of a line of the lower one
ABOVE, BETWEEN = 56, 64  # heights: title and legend; a panel's labels and the next one's title


def draw(run):
    """For each dtype and number of threads: the roofline, and below it each case's share of its limit."""
    parts = {}
    for record in run["records"]:
        if "limit_seconds" in record:
            parts.setdefault((record["dtype"], record["threads"]), []).append(record)
    rates = {peaks["threads"]: peaks["rates"] for peaks in run["peaks"]}
    heights = [ABOVE + ROOFLINE + BETWEEN + ROW * len(records) + BETWEEN for records in parts.values()]
    picture = Picture(LEFT + WIDTH + 20, sum(heights) + 10, "Roofline and shares of the limit")
    for place, ((dtype, threads), records) in enumerate(parts.items()):
        top = sum(heights[:place]) + ABOVE
        picture.heading(LEFT, top - 36, f"{dtype}, {threads} thread{'s' if threads > 1 else ''}")
        _roofline(picture, top, records, rates[threads])
        _shares(picture, top + ROOFLINE + BETWEEN, records)
    signature(picture, LEFT + WIDTH, sum(heights), run["environment"])
    return picture.svg()


def _roofline(picture, top, records, rates):
    placed = [record for record in records if record["operations_needed"] and record["bytes_moved"]]
    intensities = [record["operations_needed"] / record["bytes_moved"] for record in placed] or [1.0]
    speeds = [{s: r["operations_needed"] / t / 1e9 for s, t in fastest(r).items()} for r in placed]
    units = {u: r / 1e9 for u, r in rates.items() if u not in ("copy", "float64") or u == records[0]["dtype"]}
    most, copy = max(units.values()), rates["copy"] / 1e9
    low, high = min(intensities) / 3, max(max(intensities) * 3, 100)
    slowest = min((min(by_side.values()) for by_side in speeds), default=1.0)
    axes = Axes(picture, LEFT, top, WIDTH, ROOFLINE, (low, high), (slowest / 2.5, 2 * most), log="xy")
    axes.vertical(decades(low, high), "FLOP / byte")
    axes.horizontal(decades(slowest / 2.5, 2 * most), "GFLOP/s")
    _bandwidth(axes, copy, "copy, large", low, most)
    copies = [r["bytes_moved"] / r["limit_seconds"] / 1e9 for r in placed if "copy" in r["limit_by"]]
    if copies and max(copies) > 1.3 * copy:
        _bandwidth(axes, max(copies), "copy, in cache", low, most)
    for unit, rate in units.items():
        y = axes.y(rate)
        picture.line([(axes.x(rate / copy / 4), y), (axes.right, y)], FAINT)
        label = f"{unit.replace('_', ' ')}, {rate:.0f} GFLOP/s"
        picture.text(axes.x(1.1 * most / copy), y - 3, label, font_size=10, fill=FAINT)
    names = {}
    for record, intensity, by_side in zip(placed, intensities, speeds, strict=True):
        x = axes.x(intensity)
        picture.line([(x, axes.y(speed)) for speed in (min(by_side.values()), max(by_side.values()))], "#bbb")
        for side, speed in by_side.items():
            picture.mark(x, axes.y(speed), COLOURS[side], MARKERS.get(record["pass"], "diamond"))
        names.setdefault(record["group"], []).append((intensity, min(by_side.values())))
    for name, points in names.items():
        middle = geometric_mean([intensity for intensity, _ in points])
        picture.text(axes.x(middle), axes.y(min(y for _, y in points)) + 16, name, "middle")
    sides = [side for side in SIDES if any(side in fastest(record) for record in records)]
    passes = [what for what in MARKERS if any(record["pass"] == what for record in placed)]
    entries = [(side, COLOURS[side], "circle", "") for side in sides]
    entries += [(what, "#888", MARKERS[what], "") for what in passes]
    legend(picture, LEFT, top - 14, entries, columns=6, width=95)


def _bandwidth(axes, rate, name, low, most):
    """A line of constant bytes/s, up to where arithmetic takes over."""
    ends = [(axes.x(at), axes.y(rate * at)) for at in (low, most / rate)]
    axes.picture.line(ends, FAINT)
    (x0, y0), (x1, y1) = ends
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    words = f"{name}, {rate:.0f} GB/s"
    axes.picture.text((x0 + x1) / 2, (y0 + y1) / 2 - 5, words, "middle", angle, font_size=10, fill=FAINT)


def _shares(picture, top, records):
    """A line for each case: how much of its limit each contestant reaches, the faster layout of each."""
    shares = [{s: record["limit_seconds"] / t for s, t in fastest(record).items()} for record in records]
    most = max(1.05, *(1.03 * max(by_side.values()) for by_side in shares))
    axes = Axes(picture, LEFT, top, WIDTH, ROW * len(records), (0, most), (len(records), 0))
    picture.heading(LEFT, top - 8, "share of the limit")
    winograd = any("winograd" in record.get("algorithm", ("",))[0] for record in records)
    about = "of the formula's arithmetic, or of a copy of the same bytes"
    axes.vertical({at: f"{at:.0%}" for at in steps(most)}, about + " (Winograd needs less arithmetic)" * winograd)
    picture.line([(axes.x(1), axes.top), (axes.x(1), axes.bottom)], FAINT)
    before = {}
    for place, (record, by_side) in enumerate(zip(records, shares, strict=True)):
        y = axes.y(place + 0.5)
        picture.text(LEFT - 6, y + 4, _label(record, before), "end")
        picture.line([(axes.x(share), y) for share in (min(by_side.values()), max(by_side.values()))], "#ccc", 2)
        for side, share in by_side.items():
            picture.mark(axes.x(share), y, COLOURS[side])
        before = record


def _label(record, before):
    """Only what is new since the line above."""
    name, what = record["name"], record["pass"]
    if before.get("group") != record["group"]:
        return f"{record['group']}: {name} {what}"
    return what if before["name"] == name else f"{name} {what}"


def fastest(record):
    """{side: seconds}, each in its faster layout."""
    seconds = record["seconds"]
    found = {side: seconds[name] for side, name in best(seconds).items()}
    return found | ({COMPILED: seconds[COMPILED]} if COMPILED in seconds else {})
