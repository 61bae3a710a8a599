"""The documents name files; this notices when one of them has moved."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document):
    assert list(dead_links(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_named_files_exist(document):
    rehearsal = {"csrc/relu.h", "csrc/relu.cpp", "csrc/cpu/relu.cpp", "csrc/cuda/relu.h", "ops/relu.py"}
    assert set(lost_paths(document)) - rehearsal - {"tests/test_relu.py"} == set()
