"""Pictures as small SVG files: text that a reader can follow, and the same bytes for the same numbers.

matplotlib would write 200 KB for the roofline, and other bytes with its next version.
"""

import math
from xml.sax.saxutils import escape

COLOURS = {  # Okabe and Ito's: the colour-blind can tell them apart
    "ours": "#0072b2",
    "ours, fused": "#009e73",
    "torch": "#d55e00",
    "torch.compile": "#cc79a7",
}
INK, FAINT, GRID = "#24292f", "#57606a", "#e4e4e4"
MARKERS = {  # paths around the point; a circle is no path
    "triangle": "m-4 3h8l-4-7z",
    "square": "m-3-3h6v6h-6z",
    "diamond": "m0-4l4 4-4 4-4-4z",
}
DASHES = ("", "6 4", "2 3", "8 3 2 3")


class Picture:
    """A white page, so that dark pages show it too; origin at the upper left, in pixels."""

    def __init__(self, width, height, title):
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" font-size="11" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            '<rect width="100%" height="100%" fill="#fff"/>',
        ]

    def text(self, x, y, words, anchor="start", turn=0, **style):
        turned = f' transform="rotate({_n(turn)} {_n(x)} {_n(y)})"' if turn else ""
        anchored = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self.lines.append(f'<text x="{_n(x)}" y="{_n(y)}"{anchored}{turned}{_style(style)}>{escape(words)}</text>')

    def heading(self, x, y, words):
        self.text(x, y, words, font_size=13, font_weight="bold")

    def line(self, points, colour, width=1, dash=""):
        path = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        style = ' fill="none"' if len(points) > 2 else ""
        style += f' stroke-width="{_n(width)}"' if width != 1 else ""
        style += f' stroke-dasharray="{dash}"' if dash else ""
        self.lines.append(f'<path d="M{path}" stroke="{colour}"{style}/>')

    def mark(self, x, y, colour, marker="circle"):
        shape = f'<path d="M{_n(x)} {_n(y)}{MARKERS[marker]}"' if marker in MARKERS else (
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="3.5"'
        )  # fmt: skip
        self.lines.append(f'{shape} fill="{colour}"/>')

    def bar(self, x, y, width, height, colour):
        box = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
        self.lines.append(f'<rect {box} fill="{colour}"/>')

    def svg(self):
        return "\n".join([*self.lines, "</svg>", ""])


class Axes:
    """A rectangle of a picture with a scale on each side; `x` and `y` give the place of a value."""

    def __init__(self, picture, left, top, width, height, x, y, log=""):
        self.picture, self.left, self.top, self.right, self.bottom = picture, left, top, left + width, top + height
        self.x = _scale(*x, self.left, self.right, "x" in log)
        self.y = _scale(*y, self.bottom, self.top, "y" in log)

    def vertical(self, ticks, about):
        """Grid lines at {value: label}, and what the values are."""
        for value, label in ticks.items():
            self.picture.line([(self.x(value), self.top), (self.x(value), self.bottom)], GRID)
            self.picture.text(self.x(value), self.bottom + 15, label, "middle")
        self.picture.text((self.left + self.right) / 2, self.bottom + 31, about, "middle")

    def horizontal(self, ticks, about):
        for value, label in ticks.items():
            self.picture.line([(self.left, self.y(value)), (self.right, self.y(value))], GRID)
            self.picture.text(self.left - 6, self.y(value) + 4, label, "end")
        self.picture.text(self.left - 42, (self.top + self.bottom) / 2, about, "middle", turn=-90)


def legend(picture, x, y, entries, columns=4, width=150):
    """Rows of (label, colour, marker or None, dash): how a line, a bar or a marker looks."""
    for place, (label, colour, marker, dash) in enumerate(entries):
        at, line = x + width * (place % columns), y + 16 * (place // columns)
        if marker is None:
            picture.line([(at, line - 4), (at + 24, line - 4)], colour, 2 if dash is not None else 8, dash or "")
        else:
            picture.mark(at + 12, line - 4, colour, marker)
        picture.text(at + 30, line, label)


def signature(picture, x, y, facts):
    """Where the numbers come from."""
    picture.text(x, y, f"{facts['machine']}, torch {facts['torch']}, {facts['date']}", "end", font_size=10, fill=FAINT)


def steps(most):
    """{0: "0", ...} in round steps, at most nine, as far as `most`."""
    rough = most / 9
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    return {step * count: f"{step * count:g}" for count in range(int(most / step * 1.001) + 1)}


def decades(low, high):
    exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return {10.0**exponent: f"{10.0**exponent:g}" for exponent in exponents}


def _scale(low, high, start, end, is_log):
    if is_log:
        return lambda value: start + (end - start) * math.log(value / low) / math.log(high / low)
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _n(value):
    """A tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def _style(style):
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
