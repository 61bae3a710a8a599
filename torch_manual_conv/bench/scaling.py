"""How cost grows: AlexNet's convolutional part, forward and backward, by batch, by image size, by threads."""

import copy
import math
import statistics
import time

import torch

from .. import convert, models
from . import machine
from .measure import alternate, clock_name, ratio
from .networks import features_call
from .problems import random
from .record import CHOICE, Settings
from .report import markdown_table, number, origin
from .style import COLOURS, STYLE, signature

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # at images of USUAL_SIZE
SIZES = (64, 96, 128, 192, 256, 384, 512)  # in batches of USUAL_BATCH
USUAL_SIZE, USUAL_BATCH = 224, 8
SECONDS_A_POINT = 6  # fewer rounds where one takes long, but at least LEAST_ROUNDS
LEAST_ROUNDS = 3
FULL_BATCH = 8  # from here on a batch is large enough for the time to be proportional to it


def run(options, results, progress):
    """Measures every point; each thread count's sentence is printed and kept."""
    points = [("batch", batch, batch, USUAL_SIZE) for batch in BATCHES if not options.batch or batch <= options.batch]
    points += [("size", size, min(USUAL_BATCH, options.batch or USUAL_BATCH), size) for size in SIZES]
    for dtype in options.dtype:
        for threads in options.threads:
            settings = Settings(dtype, options.device, threads, options.precision, options.rounds)
            settings.apply()
            results["peaks"].append({"threads": threads, "rates": machine.peaks(options.device)})
            for axis, at, batch, size in points:
                progress(f"{axis} {at}, {threads} threads, {dtype}")
                results["records"].append(measure_point(settings, results["environment"], axis, at, batch, size))
            progress("")
    results["sentences"] = list(sentences(results))
    print("\n".join(results["sentences"]))


def measure_point(settings, environment, axis, at, batch, size):
    """One point of a curve. Checked against torch in float32: float64 would take longer than everything else."""
    torch.manual_seed(0)
    original = models.alexnet(10, layers="torch", hidden=16).to(settings.device, memory_format=torch.channels_last)
    images = random(batch, 3, size, size).to(settings.device, memory_format=torch.channels_last)
    networks = {"ours": convert(copy.deepcopy(original), fuse=True), "torch": original}
    calls = {side: features_call(network, images, settings.autocast()) for side, network in networks.items()}
    start = time.perf_counter()
    ours, theirs = (calls[side]() for side in ("ours", "torch"))
    turn = time.perf_counter() - start
    error = max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True))
    limit = max(CHOICE, 64 * torch.finfo(settings.torch_dtype).eps)
    del ours, theirs
    rounds = min(settings.rounds, max(LEAST_ROUNDS, math.ceil(SECONDS_A_POINT / turn)))
    seconds = alternate(calls, rounds, settings.device)
    verified = error <= limit
    return {
        **environment,
        "threads": settings.threads,
        "clock": clock_name(settings.device, settings.threads),
        "dtype": settings.dtype,
        "group": "scaling",
        "axis": axis,
        "at": at,
        "images": batch,
        "size": size,
        "rounds": rounds,
        "seconds": {side: statistics.median(turns) for side, turns in seconds.items() if verified or side != "ours"},
        "ratio": ratio(seconds["torch"], seconds["ours"])._asdict() if verified else None,
        "difference_from_torch": error,
        "verified": verified,
    }


def curve(records, axis, side):
    """[(batch or size, seconds)] of one side along one axis."""
    return [(r["at"], r["seconds"][side]) for r in records if r["axis"] == axis and side in r["seconds"]]


def exponent(points):
    """p of the best fit seconds = c * at^p: the slope of a line through the logarithms."""
    x, y = ([math.log(value) for value in values] for values in zip(*points, strict=True))
    return statistics.linear_regression(x, y).slope


def sentences(results):
    """How cost grows, in words, from the measured points alone: one sentence for each dtype and number of threads."""
    runs = {}
    for record in results["records"]:
        runs.setdefault((record["dtype"], record["threads"]), []).append(record)
    for (dtype, threads), records in runs.items():
        if not all(record["verified"] for record in records):
            yield f"{dtype}, {threads} threads: ours differs from torch's; no sentence about a wrong result."
            continue
        batches = {side: curve(records, "batch", side) for side in ("ours", "torch")}
        sizes = {side: curve(records, "size", side) for side in ("ours", "torch")}
        (first, start), (last, end) = batches["ours"][0], batches["ours"][-1]
        text = (
            f"{dtype}, {threads} thread{'s' if threads > 1 else ''}: an image of {USUAL_SIZE} x {USUAL_SIZE} takes "
            f"{number(1e3 * start / first)} ms at batch {first} and {number(1e3 * end / last)} ms at batch {last} "
            f"(torch {number(1e3 * batches['torch'][0][1] / first)} and {number(1e3 * batches['torch'][-1][1] / last)})"
        )
        large = {side: [point for point in points if point[0] >= FULL_BATCH] for side, points in batches.items()}
        if len(large["ours"]) > 1:
            ours, theirs = (exponent(large[side]) for side in ("ours", "torch"))
            text += f"; from batch {FULL_BATCH} on the time grows as batch^{ours:.2f} (torch {theirs:.2f})"
        ours, theirs = (exponent(sizes[side]) for side in ("ours", "torch"))
        text += f", and as side^{ours:.2f} with the image's side (torch {theirs:.2f}; pixels alone: 2)"
        single = runs.get((dtype, 1), [])
        if threads > 1 and single:
            ours, theirs = (number(_gain(single, records, side)) for side in ("ours", "torch"))
            text += f"; {ours} times as fast as one thread at batch {last} (torch {theirs})"
        yield text + "."


def _gain(single, several, side):
    return curve(single, "batch", side)[-1][1] / curve(several, "batch", side)[-1][1]


def markdown(results):
    """The whole run, for reading."""
    header = ["dtype", "threads", "batch", "side", "ms an image, ours", "torch", "x torch"]
    rows = []
    for record in results["records"]:
        milliseconds = {side: 1e3 * seconds / record["images"] for side, seconds in record["seconds"].items()}
        shown = [number(milliseconds[side]) if side in milliseconds else "WRONG" for side in ("ours", "torch")]
        where = [record[name] for name in ("dtype", "threads", "images", "size")]
        rows.append([*map(str, where), *shown, number(record["ratio"]["median"]) if record["ratio"] else ""])
    lines = [*origin(results), "", *results["sentences"], "", *markdown_table(header, rows)]
    return "\n".join(lines) + "\n"


def draw(results, path):
    """Left the time of an image by batch, right the time of a pixel by image size: flat is proportional."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = {}
    for record in results["records"]:
        runs.setdefault((record["dtype"], record["threads"]), []).append(record)
    lines = {key: style for key, style in zip(runs, ("-", "--", ":", "-.") * len(runs), strict=False)}
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
        for axes, axis in zip(panels, ("batch", "size"), strict=True):
            for (dtype, threads), records in runs.items():
                points = [record for record in records if record["axis"] == axis]
                for side in ("torch", "ours"):
                    axes.plot(
                        [record["at"] for record in points if side in record["seconds"]],
                        [_cost(record, side) for record in points if side in record["seconds"]],
                        lines[dtype, threads], marker="o", ms=4, mew=0, color=COLOURS[side],
                        label=f"{side}, {dtype}, {threads} thread{'s' if threads > 1 else ''}",
                    )  # fmt: skip
            ticks = sorted({record["at"] for record in results["records"] if record["axis"] == axis})
            axes.set(xscale="log", ylim=(0, None))
            axes.set_xticks(ticks, ticks)
            axes.minorticks_off()
        left, right = panels
        left.set(
            xlabel="batch", ylabel="ms an image", title=f"AlexNet features, forward + backward, {USUAL_SIZE} pixels"
        )
        right.set(
            xlabel="image side, pixels", ylabel="ns a pixel", title=f"the same by image size, batch {USUAL_BATCH}"
        )
        left.legend(fontsize=8)
        signature(figure, results["environment"])
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


def _cost(record, side):
    """ms an image, or ns a pixel."""
    seconds = record["seconds"][side] / record["images"]
    return 1e3 * seconds if record["axis"] == "batch" else 1e9 * seconds / record["size"] ** 2
