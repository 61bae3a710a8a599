"""The parts of the check: in which order, with how much time, by which commands."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
TEST_PROCESSES = 8  # they share the GPU; most of a test is the CPU's work


@dataclass
class Part:
    seconds: int  # its share of ten minutes
    commands: Callable  # of the device: [(command, environment variables)], or None if something is missing
    processes: int = 1  # commands at the same time
    patience: int = 0  # seconds it may take even where that is more than its share
    missing: str = ""


def itself(name):
    """This program again, in a process that computes one part."""

    def commands(device):
        return [([sys.executable, str(HERE), "--part", name, *(["--dry-run"] if device == "cpu" else [])], {})]

    return commands


def build(device):
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return [(command, {"FORCE_CUDA": "1"} if device == "cuda" else {"TMC_CUDA": "0"})]


def tests(device):
    """A process for each file: on a GPU, one wrong address ends everything that its process would still do."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", device]
    if device == "cpu":
        return [([*command, "tests/ops/test_sigmoid.py", "-k", "float64 and cpu", "--maxfail=1"], {})]
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if tests_operators(path)]
    files.sort(key=lambda path: path.stat().st_size, reverse=True)  # the longest first
    return [([*command, str(path.relative_to(ROOT)), "-k", "cuda", "--maxfail=20"], {}) for path in files]


def tests_operators(path):
    """Whether a file's tests ask for a device. Those named test_cuda_ run on the CPU, GPU or not."""
    return not path.name.startswith("test_cuda_") and re.search(r"^def test\w*\(.*\bdevice\b", path.read_text(), re.M)


def sanitizer(device):
    ((command, _),) = itself("sanitizer")(device)
    if device == "cpu":
        return [(command, {})]
    tool = shutil.which("compute-sanitizer") or next(
        map(str, sorted(Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))), None
    )
    # Without torch's cache every tensor is an allocation of its own, whose ends memcheck then knows.
    variables = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return tool and [
        ([tool, "--tool", name, "--error-exitcode", "1", *command], {**variables, "GPU_CHECK_TOOL": name})
        for name in SANITIZERS
    ]


PARTS = {
    "library": Part(75, build, patience=280),  # without it all others are lost
    "machine": Part(15, itself("machine")),
    "tests": Part(95, tests, min(TEST_PROCESSES, os.cpu_count() or 1)),
    "bits": Part(35, itself("bits")),
    "graphs": Part(25, itself("graphs")),
    "sanitizer": Part(65, sanitizer, len(SANITIZERS), missing="compute-sanitizer was not found"),
    "layers": Part(80, itself("layers")),
    "pools": Part(35, itself("pools")),
    "stages": Part(65, itself("stages")),
    "steps": Part(95, itself("steps")),
    "batches": Part(15, itself("batches")),
}

USES_A_KERNEL = "import torch, torch_manual_conv.functional as F; F.sigmoid(torch.zeros(1, device='{}')).cpu()"


def has_library(device):
    """Whether compiled kernels are there that run on this device, found out in a process of its own."""
    command = [sys.executable, "-c", USES_A_KERNEL.format(device)]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
