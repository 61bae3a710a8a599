"""The documents show examples and name files: the examples are run, and the files must be there."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def session(document):
    """A document's python blocks as one doctest; all else becomes empty lines, so that line numbers stay."""
    lines, is_python = [], False
    for line in document.read_text().splitlines():
        if line.startswith("```"):
            is_python, line = line == "```python", ""
        lines.append(line if is_python else "")
    return doctest.DocTestParser().get_doctest("\n".join(lines), {}, document.name, str(document), 0)


EXAMPLES = [example for example in map(session, DOCUMENTS) if example.examples]


def anchors(document):
    """GitHub's anchors of a document's headings."""
    for heading in re.findall(r"^#+ (.+)$", document.read_text(), re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def dead_links(document):
    text = document.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        if not re.match(r"\w+:", link) and not (target.exists() and (not anchor or anchor in anchors(target))):
            yield link


def lost_paths(document):
    """What stands in backticks, has a suffix, and is neither here, nor in the package, nor beside the document."""
    for path in re.findall(r"`((?:\w+/)*\w+\.(?:py|md|h|cpp|cu|cuh))`", document.read_text()):
        if not any((folder / path).exists() for folder in (ROOT, ROOT / "torch_manual_conv", document.parent)):
            yield path


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples(example):
    report = []
    failed, attempted = doctest.DocTestRunner().run(example, out=report.append)
    assert attempted > 0
    assert failed == 0, "".join(report)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document):
    assert list(dead_links(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_named_files_exist(document):
    assert set(lost_paths(document)) == set()


# ---- The way of one call: architecture.md's table is walked, stop by stop.


def stops(text):
    """The rows `| number | where | what happens |` of the section, each without its number."""
    section = text.partition("## The way of one call")[2].partition("\n## ")[0]
    return re.findall(r"^\| \d+ \|(.+)\|$", section, re.M)


def find(path):
    return next((folder / path for folder in (ROOT, ROOT / "torch_manual_conv") if (folder / path).is_file()), None)


def missing(stop):
    """What a row names in backticks and is not there: a file, or a symbol that the file named before it lacks."""
    source = ""
    for name in re.findall(r"`([^`]+)`", stop):
        if "." in name.rpartition("/")[2] and find(name):
            source = find(name).read_text()
        elif "/" in name or not all(re.search(rf"\b{part}\b", source) for part in re.findall(r"\w+", name)):
            yield name


def test_the_way_of_one_call_can_be_walked():
    """From nn.Conv2d to the multiply-add in at most eight stops, each a file that has what the row says."""
    rows = stops((ROOT / "docs" / "architecture.md").read_text())
    assert 5 <= len(rows) <= 8
    assert "`nn.py`: `Conv2d" in rows[0]
    assert "`csrc/" in rows[-1]
    assert [name for row in rows for name in missing(row)] == []


def test_a_wrong_stop_is_noticed():
    assert list(missing(" `nn.py`: `Conv2d.forwards` | calls `conv2d` ")) == ["Conv2d.forwards"]
    assert list(missing(" `ops/none.py`: `conv2d` | ")) == ["ops/none.py", "conv2d"]
