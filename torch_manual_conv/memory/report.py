"""What is kept, as a table and as a picture: layer by layer, torch beside ours."""

from ..bench.report import number, plain
from ..bench.svg import COLOURS, Axes, Picture, legend, steps
from .ledger import MODEL_INPUT

BAR = 7  # pixels
MOST_BARS = 30  # a larger model's layers are drawn by the block they are in


def show(results):
    facts = results["environment"]
    for name in ("machine", "torch", "date", "command"):
        print(f"{name:9}{facts[name]}")
    print("", *lines(results), sep="\n")


def lines(results):
    """The table. It holds no measured number but the peak, and no peak where that was not asked for."""
    variants, images = results["variants"], results["input"][0]
    yield f"{results['model']}, input {results['input']}, {results['dtype']}; kB kept for backward, parameters aside"
    header = ["layer", "keeps, and what for", *variants]
    rows = list(_rows(results["layers"], variants))
    rows.append(["total", "", *(kilobytes(v["saved_bytes"]) for v in variants.values())])
    if images > 1:
        rows.append(["", "an image", *(kilobytes(v["saved_bytes"] / images) for v in variants.values())])
    peaks = [v["peak_bytes"] for v in variants.values()]
    if None not in peaks:
        about = "peak of forward and backward, gradients included"
        rows.append(["", about, *(kilobytes(peak) for peak in peaks)])
    yield from plain(header, rows)
    yield "= layer: the same memory, counted there. = input: the model's own input, not counted."


def kilobytes(n):
    return f"{n / 1e3:,.0f}" if n >= 9950 else f"{n / 1e3:.1f}"


def _rows(kinds, variants):
    """A line for each (layer, tensor), in the model's order."""
    cells = {}
    for name, variant in variants.items():
        for row in variant["saved"]:
            key = row["layer"], row["tensor"], row["why"]
            cells.setdefault(key, {}).setdefault(name, []).append(row)
    order = {layer: place for place, layer in enumerate(kinds)}
    before = None
    for layer, tensor, why in sorted(cells, key=lambda key: order[key[0]]):
        found = cells[layer, tensor, why]
        shown = f"{layer or 'model'} {kinds[layer]}" if layer != before else ""
        before = layer
        yield [shown, f"{tensor}: {why}", *(_cell(found.get(name, [])) for name in variants)]


def _cell(rows):
    if not rows:
        return ""
    counted = sum(row["bytes"] for row in rows)
    if counted:
        return kilobytes(counted)
    holder = rows[0]["held_by"]
    return "= input" if holder == MODEL_INPUT else f"= {holder or 'model'}" if holder != rows[0]["layer"] else "= above"


def draw(results):
    """An SVG: bars for each layer, one a variant, in MB an image."""
    variants, images = results["variants"], results["input"][0]
    sums = _by_block(results)
    left = 20 + 6.2 * max(map(len, sums), default=0)
    row = BAR * len(variants) + 6
    top, width = 44 + 16 * len(variants), 480
    picture = Picture(round(left + width + 30), top + row * len(sums) + 44, _title(results))
    picture.heading(left, 20, _title(results))
    totals = {name: number(variant["saved_bytes"] / images / 1e6) for name, variant in variants.items()}
    legend(picture, left, 42, [(f"{n}: {mb} MB in all", COLOURS[n], None, None) for n, mb in totals.items()], columns=1)
    most = 1.05 * max((size / images / 1e6 for found in sums.values() for size in found.values()), default=1)
    axes = Axes(picture, left, top, width, row * len(sums), (0, most), (len(sums), 0))
    axes.vertical(steps(most), "MB an image kept for backward")
    for place, (block, found) in enumerate(sums.items()):
        picture.text(left - 6, axes.y(place + 0.5) + 4, block, "end")
        for line, name in enumerate(variants):
            size = found.get(name, 0) / images / 1e6
            if size:
                picture.bar(left, axes.y(place) + 3 + BAR * line, axes.x(size) - left, BAR - 1, COLOURS[name])
    return picture.svg()


def _title(results):
    return f"What {results['model'].rpartition(':')[2]} keeps for backward, {results['dtype']}"


def _by_block(results):
    """{label: {variant: bytes}} in the model's order: layers, or their blocks where there are too many layers."""
    kinds, variants = results["layers"], results["variants"]
    holders = {row["layer"] for variant in variants.values() for row in variant["saved"] if row["bytes"]}
    depth = max((name.count(".") + 1 for name in holders), default=1)
    while depth > 1 and len({_cut(name, depth) for name in holders}) > MOST_BARS:
        depth -= 1
    blocks = dict.fromkeys(_cut(name, depth) for name in kinds if name in holders)
    sums = {f"{block} {kinds[block]}".strip(): {} for block in blocks}
    for name, variant in variants.items():
        for row in variant["saved"]:
            block = _cut(row["layer"], depth)
            if block in blocks:
                found = sums[f"{block} {kinds[block]}".strip()]
                found[name] = found.get(name, 0) + row["bytes"]
    return sums


def _cut(name, depth):
    return ".".join(name.split(".")[:depth])
