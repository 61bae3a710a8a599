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
from .report import markdown_table, number
from .svg import COLOURS, DASHES, Axes, Picture, legend, signature, steps

GROUP = "scaling"  # of its records
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # at images of USUAL_SIZE
SIZES = (64, 96, 128, 192, 256, 384, 512)  # in batches of USUAL_BATCH
USUAL_SIZE, USUAL_BATCH = 224, 8
SECONDS_A_POINT = 6  # fewer rounds where one takes long, but at least LEAST_ROUNDS
LEAST_ROUNDS = 3
FULL_BATCH = 8  # from here on a batch is large enough for the time to be proportional to it


def run(options, found, progress):
    """Measures every point; each thread count's sentence is printed."""
    points = [("batch", batch, batch, USUAL_SIZE) for batch in BATCHES if not options.batch or batch <= options.batch]
    points += [("size", size, min(USUAL_BATCH, options.batch or USUAL_BATCH), size) for size in SIZES]
    for dtype in options.dtype:
        for threads in options.threads:
            settings = Settings(dtype, options.device, threads, options.precision, options.rounds)
            settings.apply()
            found["peaks"].append({"threads": threads, "rates": machine.peaks(options.device)})
            records = []
            for axis, at, batch, size in points:
                progress(f"{axis} {at}, {threads} threads, {dtype}")
                records.append(measure_point(settings, axis, at, batch, size))
            progress("")
            found["records"] += records
    print("\n".join(sentences(found)))


def measure_point(settings, axis, at, batch, size):
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
        "threads": settings.threads,
        "clock": clock_name(settings.device, settings.threads),
        "dtype": settings.dtype,
        "group": GROUP,
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


def sentences(run):
    """How cost grows, in words, from the measured points alone: one sentence for each dtype and number of threads."""
    runs = _by_curve(run["records"])
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


def tables(run):
    """Lines of Markdown: the sentences, and every point."""
    header = ["dtype", "threads", "batch", "side", "ms an image, ours", "torch", "x torch"]
    rows = []
    for record in run["records"]:
        milliseconds = {side: 1e3 * seconds / record["images"] for side, seconds in record["seconds"].items()}
        shown = [number(milliseconds[side]) if side in milliseconds else "WRONG" for side in ("ours", "torch")]
        where = [record[name] for name in ("dtype", "threads", "images", "size")]
        rows.append([*map(str, where), *shown, number(record["ratio"]["median"]) if record["ratio"] else ""])
    yield from ["", *(f"- {sentence}" for sentence in sentences(run)), "", *markdown_table(header, rows)]


def draw(run):
    """Left the time of an image by batch, right the time of a pixel by image size: flat is proportional."""
    runs = _by_curve(run["records"])
    top = 34 + 16 * math.ceil(len(runs) / 2)  # below the legend
    picture = Picture(880, top + 340, "Time of AlexNet's convolutional part by batch and image size")
    entries = [
        (f"{side}, {dtype}, {threads} thread{'s' if threads > 1 else ''}", COLOURS[side], None, dash)
        for (dtype, threads), dash in zip(runs, DASHES * len(runs), strict=False)
        for side in ("ours", "torch")
    ]
    legend(picture, 60, 18, entries, width=200)
    picture.heading(60, top - 10, f"forward + backward, images of {USUAL_SIZE} x {USUAL_SIZE}")
    picture.heading(500, top - 10, f"by image size, batch {USUAL_BATCH}")
    for left, axis, across, up in ((60, "batch", "batch", "ms an image"), (500, "size", "image side", "ns a pixel")):
        _panel(picture, left, top, [record for record in run["records"] if record["axis"] == axis], across, up)
    signature(picture, 860, top + 325, run["environment"])
    return picture.svg()


def _panel(picture, left, top, records, across, up):
    places = sorted({record["at"] for record in records})
    most = 1.05 * max(_cost(record, side) for record in records for side in record["seconds"])
    ends = places[0] / 1.2, places[-1] * 1.2
    axes = Axes(picture, left, top, 360, 270, ends, (0, most), log="x")
    axes.vertical({place: str(place) for place in places}, across)
    axes.horizontal(steps(most), up)
    runs = _by_curve(records)
    for points, dash in zip(runs.values(), DASHES * len(runs), strict=False):
        for side in ("torch", "ours"):
            line = [(axes.x(r["at"]), axes.y(_cost(r, side))) for r in points if side in r["seconds"]]
            picture.line(line, COLOURS[side], 2, dash)
            for x, y in line:
                picture.mark(x, y, COLOURS[side])


def _by_curve(records):
    """{(dtype, threads): records}"""
    runs = {}
    for record in records:
        runs.setdefault((record["dtype"], record["threads"]), []).append(record)
    return runs


def _cost(record, side):
    """ms an image, or ns a pixel."""
    seconds = record["seconds"][side] / record["images"]
    return 1e3 * seconds if record["axis"] == "batch" else 1e9 * seconds / record["size"] ** 2
