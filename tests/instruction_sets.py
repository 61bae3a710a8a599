"""A program on each instruction set. The kernels are chosen once in a process, so each choice takes a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTRUCTION_SETS = ("base", "avx2", "avx512", "avx512_bf16", "amx")


def run_on(isa, program, *arguments, package=ROOT, **environment):
    """Runs the Python text `program` with our kernels for `isa`; skips the test where this CPU lacks it.

    The program may import the tests' modules. `package` is the folder that holds torch_manual_conv.
    """
    path = os.pathsep.join(map(str, (package, *TEST_FOLDERS)))
    child = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "TMC_CPU_ISA": isa, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,  # not the root: its package would come first
    )
    if "this CPU supports at most" in child.stderr:
        pytest.skip(f"this CPU has no {isa}, or this process may not use it")
    assert child.returncode == 0, f"on {isa}: {child.stderr}{child.stdout}"


TEST_FOLDERS = (Path(__file__).parent,)
