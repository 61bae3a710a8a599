"""Results of the benchmark: the file of a machine, the pictures, what is published."""

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pictures import flaws
from test_bench_command import HOW, ORIGIN

from torch_manual_conv.bench import results, svg

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flaws_of_a_picture_are_seen():
    picture = svg.Picture(200, 100, "a < b")
    picture.text(10, 50, "one")
    assert list(flaws(picture.svg())) == []
    picture.text(15, 52, "two")
    picture.text(190, 20, "three")
    picture.mark(300, 10, "#000")
    assert [flaw.split()[-1] for flaw in flaws(picture.svg())] == ["page", "'two'", "10.0"]
    assert next(flaws(picture.svg().replace("#fff", "none"))) == "no background"
    with pytest.raises(ElementTree.ParseError):
        list(flaws(picture.svg().replace("</svg>", "")))


def test_ticks():
    assert list(svg.steps(0.81).values()) == ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]
    assert list(svg.steps(28)) == [0, 5, 10, 15, 20, 25]
    assert list(svg.decades(0.05, 200).values()) == ["0.1", "1", "10", "100"]


# ---- The file of a machine.


def run_of(*names, group="pools", machine="M", date="2026-01-01", **rest):
    records = [
        {"group": group, "dtype": "float32", "name": name, "seconds": {"ours contiguous": 1 / 3}, "error": {}} | rest
        for name in names
    ]
    return {"environment": {"machine": machine, "date": date}, "peaks": [], "records": records}


def test_a_file_gives_back_what_it_was_given(tmp_path):
    """In six digits; one contestant may be missing in one record."""
    file = tmp_path / "run.json"
    run = run_of("a", "b", images=32, ratio={"median": 1.23456789}, algorithm=["x", "y"])
    run["records"][1] |= {"seconds": {"torch contiguous": 2e-9 / 3}, "images": 1, "saved_bytes": {"ours": 123456789}}
    results.save(file, [run, run_of("c", group="sigmoid")])
    first, second = results.load(file)
    run["records"][0] |= {"seconds": {"ours contiguous": 0.333333}, "ratio": {"median": 1.23457}}
    run["records"][1] |= {"seconds": {"torch contiguous": 6.66667e-10}, "ratio": {"median": 1.23457}}
    assert first == run and second["records"][0]["name"] == "c"
    assert sum('"name": "' in line for line in file.read_text().splitlines()) == 3  # a line each


def test_a_table_takes_the_place_of_the_old_one():
    old = [run_of("a"), run_of("b", group="sigmoid"), run_of("c", group="step")]
    new = run_of("d", group="sigmoid", date="2026-02-02")
    assert results.joined(old, new) == [old[0], new, old[2]]
    both = run_of("d", group="sigmoid")
    both["records"] += run_of("e", group="other")["records"]
    kept = results.joined([both], new)
    assert [[r["name"] for r in run["records"]] for run in kept] == [["e"], ["d"]]
    assert results.joined([], new) == [new]
    assert len(results.joined(old, run_of("d", group="sigmoid", dtype="bfloat16"))) == 4


# ---- What is published.

README = load(ROOT / "benchmarks/readme.py")


def test_documents_agree_with_the_results():
    for document in README.DOCUMENTS:
        assert README.filled(document) == document.read_text(), f"{document.name}: run `make readme`"
    assert README.MEASURED.search((ROOT / "README.md").read_text())
    assert README.KEPT.search((ROOT / "docs/memory.md").read_text())


@pytest.mark.parametrize("file", README.PICTURES, ids=lambda file: file.stem)
def test_pictures_agree_with_the_results(file):
    """Each is shown by a document, small, and what the numbers give today, byte for byte."""
    committed = file.read_text()
    assert committed == README.PICTURES[file](), f"{file.name}: run `make readme`"
    assert list(flaws(committed)) == [] and len(committed) < 30_000
    assert any(f"](figures/{file.name})" in document.read_text() for document in README.DOCUMENTS)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_published_runs_are_whole(file, tmp_path):
    if isinstance(json.loads(file.read_text()), dict):
        pytest.skip("of another tool")
    runs = results.load(file)
    for found in runs:
        assert (
            found["environment"].keys() >= ORIGIN
            and found["environment"]["machine"] == runs[0]["environment"]["machine"]
        )
        assert all(record["verified"] and record.keys() >= HOW for record in found["records"])
    assert file.with_suffix(".md").read_text() == results.markdown(runs)
    results.save(tmp_path / "again.json", runs)
    assert (tmp_path / "again.json").read_text() == file.read_text()


def test_no_pixels_in_the_results():
    """Pictures are made from the numbers; a PNG of each measurement was most of this repository."""
    assert {path.suffix for folder in (RESULTS, README.FIGURES) for path in folder.iterdir()} == {
        ".json",
        ".md",
        ".svg",
    }
