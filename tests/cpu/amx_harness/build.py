"""The package with AMX emulated: the product's own objects, but for the sources that meet AMX.

amx_tiles_emulated.h computes what the tile instructions would, and csrc/cpu/machine/machine.cpp then finds AMX on any
machine with AVX512-BF16. Everything else is what was built for the product, so that whole convolutions, and the
ordinary tests, run through the AMX kernels.
"""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
OBJECTS = ROOT / "build/native-x86_64"  # setup.py's
EMULATED = ("csrc/cpu/gemm/tiles.amx.cpp", "csrc/cpu/machine/machine.cpp", "csrc/cpu/machine/peak.amx.cpp")


class CannotEmulate(Exception):
    """Why the emulation cannot run here."""


def object_of(source):
    return OBJECTS / (source.replace("/", "_") + ".o")


def compile_emulated(source, folder):
    """As setup.py compiled it, with TMC_EMULATE_AMX."""
    command = json.loads(object_of(source).with_suffix(".json").read_text())["command"]
    command = shlex.split(re.sub(r"torch [\d.]+\w*(\+\w+)?(?=/include)", str(Path(torch.__file__).parent), command))
    target = folder / object_of(source).name
    command[command.index("-o") + 1] = str(target)
    command[command.index("-MF") + 1] = f"{target}.d"
    subprocess.run([*command, "-DTMC_EMULATE_AMX", f"-I{HERE}"], check=True, cwd=ROOT)
    return target


@functools.cache
def emulated_package():
    """A folder for PYTHONPATH, in which torch_manual_conv runs on emulated AMX; lives as long as this process."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx512_bf16" not in flags:
        raise CannotEmulate("the kernels around the tiles need AVX512-BF16, which this CPU lacks")
    linked = OBJECTS / "torch_manual_conv._C_cpu.objects"
    if not linked.exists():
        raise CannotEmulate("setup.py's object files are not there")
    holder = tempfile.TemporaryDirectory(prefix="amx_harness_")
    emulated_package.holder = holder  # removed at exit
    folder = Path(holder.name)
    package = folder / "torch_manual_conv"
    shutil.copytree(ROOT / "torch_manual_conv", package, ignore=shutil.ignore_patterns("*.so", "__pycache__", "data"))
    emulated = {object_of(source): compile_emulated(source, folder) for source in EMULATED}
    objects = [emulated.get(ROOT / line, ROOT / line) for line in linked.read_text().split()]
    torch_libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-lc10", "-ltorch_cpu"]
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    subprocess.run([*compiler, "-shared", *objects, *torch_libraries, "-o", package / "_C_cpu.so"], check=True)
    return folder


def compile_driver():
    """The program that holds the emulated tiles against the manual."""
    folder = emulated_package()
    command = [*shlex.split(os.environ.get("CXX", "g++")), "-std=c++20", "-O2", "-mfma", "-DTMC_EMULATE_AMX"]
    command += [f"-I{ROOT / 'csrc'}", f"-I{HERE}", str(HERE / "driver.cpp"), "-o", str(folder / "driver")]
    subprocess.run(command, check=True)
    return folder / "driver"
