"""The parts of the check: in which order, with how much time, by which commands."""

import importlib.util
import os
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
    commands: Callable  # of the device: [(command, environment variables)], or None if the tool is missing


def itself(name):
    """This program again, in a process that computes one part."""

    def commands(device):
        return [([sys.executable, str(HERE), "--part", name, *(["--dry-run"] if device == "cpu" else [])], {})]

    return commands


def build(device):
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return [(command, {"FORCE_CUDA": "1"} if device == "cuda" else {"TMC_CUDA": "0"})]


def tests(device):
    command = [sys.executable, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider", "--device", device]
    command.append("--ignore-glob=tests/test_cuda_*.py")  # they run on the CPU, GPU or not
    if device == "cpu":
        return [
            ([*command, "-k", "sigmoid and float64 and cpu", "--maxfail=1", "--ignore=tests/test_gpu_check.py"], {})
        ]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(TEST_PROCESSES, os.cpu_count()))]
    return [([*command, "-k", "cuda", "--maxfail=50"], {})]


def sanitizer(device):
    ((command, _),) = itself("sanitizer")(device)
    if device == "cpu":
        return [(command, {})]
    tool = shutil.which("compute-sanitizer") or next(
        map(str, sorted(Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))), None
    )
    # Without torch's cache every tensor is an allocation of its own, whose ends memcheck then knows.
    variables = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return tool and [([tool, "--tool", name, "--error-exitcode", "1", *command], variables) for name in SANITIZERS]


PARTS = {
    "library": Part(90, build),
    "machine": Part(20, itself("machine")),
    "tests": Part(120, tests),
    "bits": Part(30, itself("bits")),
    "sanitizer": Part(80, sanitizer),
    "layers": Part(90, itself("layers")),
    "pools": Part(50, itself("pools")),
    "stages": Part(40, itself("stages")),
    "steps": Part(80, itself("steps")),
}


def has_library(device):
    """Whether the compiled kernels for this device can be loaded, found out in a process of its own."""
    wanted = "torch_manual_conv.has_cuda" if device == "cuda" else "True"
    command = [sys.executable, "-c", f"import torch_manual_conv; assert {wanted}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
