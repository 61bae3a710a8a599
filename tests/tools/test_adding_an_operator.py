"""docs/architecture.md, "Adding an operator in five steps", is followed as it stands, in a copy of the tree."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "build"
MAX_FILES, MAX_LINES = 5, 120


def edits(text):
    """(file, old text, new text) of each code block of the section; old is None where the file is new."""
    section = text.partition("## Adding an operator in five steps")[2].partition("\n## ")[0]
    for language, block in re.findall(r"^```(diff|python)\n(.+?)^```$", section, re.M | re.S):
        head, _, body = block.partition("\n")
        if language == "diff":
            lines = body.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
            yield head.removeprefix("--- "), old, new
        else:
            yield head.removeprefix("# "), None, body


def follow(steps, tree):
    for name, old, new in steps:
        file = tree / name
        if old is None:
            assert not file.exists(), f"{name} is there already"
            file.write_text(new)
        else:
            source = file.read_text()
            assert source.count(old) == 1, f"{name} has {source.count(old)} times, not once:\n{old}"
            file.write_text(source.replace(old, new))


def new_lines(old, new):
    return len(new.splitlines()) - len(set((old or "").splitlines()) & set(new.splitlines()))


STEPS = list(edits((ROOT / "docs" / "architecture.md").read_text()))


def test_few_files_and_lines():
    files, lines = {name for name, *_ in STEPS}, sum(new_lines(old, new) for _, old, new in STEPS)
    assert 0 < len(files) <= MAX_FILES, f"{len(files)} files: {sorted(files)}"
    assert lines <= MAX_LINES, f"{lines} lines in {len(files)} files"


def compiler():
    """The one that compiled the objects, which are out of date for any other; None where there are none."""
    for stamp in OBJECTS.glob("native-*/csrc_ops.cpp.json"):
        words = shlex.split(json.loads(stamp.read_text())["command"])
        return shlex.join(words[: words.index("-O3")])
    return None


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the project in which the steps have been taken, built."""
    if compiler() is None:
        pytest.skip(f"the compiled objects are not in {OBJECTS}: compiling all of csrc/ anew takes minutes")
    copy = tmp_path_factory.mktemp("adding") / "project"
    left_out = shutil.ignore_patterns(".*", "results", "__pycache__", "*.so", "*.egg-info", "lib.*", "temp.*")
    shutil.copytree(ROOT, copy, ignore=left_out)
    follow(STEPS, copy)
    environment = os.environ | {"TMC_CUDA": "0", "CXX": compiler()}
    run(copy, "setup.py", "build_ext", "--inplace", env=environment)
    return copy


def run(folder, *arguments, env=None):
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


# The operator's own tests, and those that go through all operators and must have found it.
TESTS = {
    "tests/ops/test_leaky_relu.py": "test_matches_torch",
    "tests/ops/test_opinfo.py": "test_samples[cpu-nn.functional.leaky_relu-float32",
    "tests/ops/test_fuzz.py": "test_garbage_never_crashes",
    "tests/tools/test_package.py": "test_ops_follow_one_rule[leaky_relu.py",
    "tests/cuda/test_cuda_entry_points.py": "test_every_operator_has_an_entry_point",
}


def test_passes(tree):
    chosen = "leaky_relu and not matches_the_cpu and not empty_batch or garbage or has_an_entry_point or public_names"
    said = run(tree, "-m", "pytest", "-rp", "-p", "no:cacheprovider", "--device", "cpu", *TESTS, "-k", chosen)
    missing = [f"{file}::{test}" for file, test in TESTS.items() if f"PASSED {file}::{test}" not in said]
    assert not missing, f"did not run: {missing}"


def test_verify_and_memory_know_it(tree):
    said = run(tree, "-m", "torch_manual_conv.verify", "--device", "cpu", "--op", "leaky_relu")
    assert "leaky_relu" in said
    run(tree, "-c", "from torch_manual_conv.memory import reasons; reasons.REASONS['LeakyReluFunctionBackward', '0']")


def test_a_step_that_does_not_fit_is_noticed(tmp_path):
    (tmp_path / "file.py").write_text("a = 1\na = 1\n")
    with pytest.raises(AssertionError, match="2 times"):
        follow(edits("## Adding an operator in five steps\n```diff\n--- file.py\n a = 1\n+b = 2\n```\n"), tmp_path)
