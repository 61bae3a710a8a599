"""What is wrong with a picture."""

import re
from xml.etree import ElementTree


def flaws(svg):
    """What a reader of a picture would stumble over: it is no XML, dark on dark, out of the page, text upon text."""
    root = ElementTree.fromstring(svg)
    width, height = int(root.get("width")), int(root.get("height"))
    name = "{http://www.w3.org/2000/svg}"
    if root.find(f"{name}rect").attrib != {"width": "100%", "height": "100%", "fill": "#fff"}:
        yield "no background"
    boxes = []
    for text in root.iter(f"{name}text"):
        wide = 0.5 * int(text.get("font-size", 11)) * len(text.text)  # about
        x = float(text.get("x")) - {"start": 0, "middle": wide / 2, "end": wide}[text.get("text-anchor", "start")]
        y = float(text.get("y"))
        if text.get("transform") is None:
            boxes.append((x, x + wide, y - 8, y, text.text))
    boxes.sort(key=lambda box: box[2])
    for place, (left, right, top, bottom, words) in enumerate(boxes):
        if left < 0 or right > width or top < 0 or bottom > height:
            yield f"{words!r} leaves the page"
        for other in boxes[place + 1 :]:
            if other[2] < bottom and other[0] < right and left < other[1]:
                yield f"{words!r} upon {other[4]!r}"
    for shape in (*root.iter(f"{name}circle"), *root.iter(f"{name}path")):
        x, y = map(
            float, (shape.get("cx"), shape.get("cy")) if shape.get("cx") else re.findall(r"[\d.]+", shape.get("d"))[:2]
        )
        if not (0 <= x <= width and 0 <= y <= height):
            yield f"a {shape.tag.removeprefix(name)} at {x}, {y}"
