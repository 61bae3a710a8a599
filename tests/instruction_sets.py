"""A program on each instruction set. The kernels are chosen once in a process, so each choice takes a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
INSTRUCTION_SETS = ("base", "avx2", "avx512", "avx512_bf16", "amx")


def run_on(isa, program, *arguments, package=ROOT, **environment):
    """Runs the Python text `program` with our kernels for `isa`; skips the test where this CPU lacks it.

    The program may import the tests' modules. `package` is the folder that holds torch_manual_conv.
    """
    folders = [folder for folder in TESTS.iterdir() if folder.is_dir()]
    path = os.pathsep.join(map(str, (package, TESTS, *folders)))
    child = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "TMC_CPU_ISA": isa, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        cwd=TESTS,  # not the root: its package would come first
    )
    if "this CPU supports at most" in child.stderr:
        pytest.skip(f"this CPU has no {isa}, or this process may not use it")
    assert child.returncode == 0, f"on {isa}: {child.stderr}{child.stdout}"
