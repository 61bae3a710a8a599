"""The roofline: how near ours and torch's come to what the machine can do, over FLOP for each byte moved."""

import math

from .measure import geometric_mean
from .record import COMPILED
from .style import COLOURS, STYLE, signature

MARKERS = {"forward": "o", "grad_input": "^", "grad_weight": "s"}
SIDES = ("ours", "torch", COMPILED)
ROOFLINE, ROW = 4.0, 0.19  # inches: of the upper panel, and of a line of the lower one


def draw(results, path):
    """For each dtype and number of threads: the roofline, and below it each case's share of its limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = {}
    for record in results["records"]:
        if "limit_seconds" in record:
            parts.setdefault((record["dtype"], record["threads"]), []).append(record)
    rates = {peaks["threads"]: peaks["rates"] for peaks in results["peaks"]}
    heights = [inches for records in parts.values() for inches in (ROOFLINE, 0.9 + ROW * len(records))]
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(
            len(heights), figsize=(8.5, sum(heights)), height_ratios=heights, layout="constrained"
        )
        for above, below, ((dtype, threads), records) in zip(panels[::2], panels[1::2], parts.items(), strict=True):
            _roofline(above, records, rates[threads])
            above.set_title(f"{dtype}, {threads} thread{'s' if threads > 1 else ''}")
            _shares(below, records)
        signature(figure, results["environment"])
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


def _roofline(axes, records, rates):
    placed = [record for record in records if record["operations_needed"] and record["bytes_moved"]]
    intensities = [record["operations_needed"] / record["bytes_moved"] for record in placed] or [1.0]
    low, high = min(intensities) / 3, max(max(intensities) * 3, 100)
    units = [unit for unit in rates if unit not in ("copy", "float64") or unit == records[0]["dtype"]]
    _bandwidth(axes, rates["copy"], "copy, large", low, max(rates[unit] for unit in units))
    copies = [record["bytes_moved"] / record["limit_seconds"] for record in placed if "copy" in record["limit_by"]]
    if copies and max(copies) > 1.3 * rates["copy"]:
        _bandwidth(axes, max(copies), "copy, in cache", low, max(rates[unit] for unit in units))
    for unit in units:
        ridge, rate = rates[unit] / rates["copy"], rates[unit] / 1e9
        axes.plot([ridge / 4, high], [rate] * 2, color=COLOURS["limit"], lw=1.2)
        axes.annotate(
            f"{unit.replace('_', ' ')}, {rate:.0f} GFLOP/s", (1.2 * ridge, rate), xytext=(0, 3),
            textcoords="offset points", fontsize=8, color=COLOURS["limit"],
        )  # fmt: skip
    names = {}
    for record, intensity in zip(placed, intensities, strict=True):
        speeds = {side: record["operations_needed"] / seconds / 1e9 for side, seconds in fastest(record).items()}
        axes.plot([intensity] * 2, [min(speeds.values()), max(speeds.values())], color="#bbbbbb", lw=0.8, zorder=1)
        for side, speed in speeds.items():
            marker = MARKERS.get(record["pass"], "D")
            axes.plot(intensity, speed, marker, color=COLOURS[side], ms=5, mew=0, alpha=0.85, zorder=2)
        names.setdefault(record["group"], []).append((intensity, min(speeds.values())))
    for name, points in names.items():
        middle = geometric_mean([intensity for intensity, _ in points])
        axes.annotate(
            name, (middle, min(y for _, y in points)), xytext=(0, -14), textcoords="offset points", ha="center"
        )
    axes.margins(y=0.12)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="FLOP / byte", ylabel="GFLOP/s")
    sides = [side for side in SIDES if any(side in fastest(record) for record in records)]
    handles = [axes.plot([], [], "o", color=COLOURS[side], mew=0, label=side)[0] for side in sides]
    handles += [
        axes.plot([], [], marker, color="#888888", mew=0, label=what)[0]
        for what, marker in MARKERS.items()
        if any(record["pass"] == what for record in placed)
    ]
    axes.legend(handles=handles, loc="lower right", fontsize=8, ncols=2)


def _bandwidth(axes, rate, name, low, most):
    """A line of constant bytes/s, up to where arithmetic takes over."""
    ends = [low, most / rate]
    axes.plot(ends, [rate * end / 1e9 for end in ends], color=COLOURS["limit"], lw=1.2)
    at, above = ends[1] / 14, 1.2 * rate / 1e9  # where no case lies; a parallel to the line
    axes.annotate(
        f"{name}, {rate / 1e9:.0f} GB/s", (at, above * at), fontsize=8, color=COLOURS["limit"],
        rotation=math.degrees(math.atan(above)), rotation_mode="anchor", transform_rotates_text=True,
    )  # fmt: skip


def _shares(axes, records):
    """A line for each case: how much of its limit each contestant reaches, the faster layout of each."""
    labels = []
    for place, record in enumerate(records):
        shares = {side: record["limit_seconds"] / seconds for side, seconds in fastest(record).items()}
        axes.plot([min(shares.values()), max(shares.values())], [place] * 2, color="#cccccc", lw=2, zorder=1)
        for side, share in shares.items():
            axes.plot(share, place, "o", color=COLOURS[side], ms=5.5, mew=0, zorder=2)
        labels.append(_label(record, records[place - 1] if place else None))
    axes.axvline(1, color=COLOURS["limit"], lw=1.2)
    axes.set_yticks(range(len(records)), labels, fontsize=8)
    axes.set_ylim(len(records) - 0.4, -0.6)
    axes.set_xlim(0, max(1.05, *(r["limit_seconds"] / min(fastest(r).values()) * 1.03 for r in records)))
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    fewer = any("winograd" in record.get("algorithm", ()) for record in records)
    about = "of the formula's arithmetic, or of a copy of the same bytes" + (
        "\n(Winograd needs less arithmetic)" * fewer
    )
    axes.set(title="share of the limit", xlabel=about)
    axes.grid(axis="y", visible=False)


def _label(record, before):
    """Only what is new since the line above."""
    name, what = record["name"], record["pass"]
    if before is None or before["group"] != record["group"]:
        return f"{record['group']}: {name}   {what}"
    return what if before["name"] == name else f"{name}   {what}"


def fastest(record):
    """{side: seconds}, each in its faster layout."""
    found = {side: record["seconds"][name] for side, name in record["best"].items()}
    return found | ({COMPILED: record["seconds"][COMPILED]} if COMPILED in record["seconds"] else {})
