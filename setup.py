"""Builds the kernels as plain shared libraries on LibTorch's stable ABI: no Python ABI, and torch is never imported.

pip install .                                fresh machine: python3 and g++; CUDA kernels too where nvcc is
pip install -e .                             for hacking; then, after an edit,
python setup.py build_ext --inplace          recompiles what changed

CUDA kernels are built where a GPU, nvcc and a CUDA torch are. TMC_CUDA=1 builds them without a GPU, too; FORCE_CUDA=1
fails where they cannot be built; TMC_CUDA=0 never builds them. TORCH_CUDA_ARCH_LIST="8.0;9.0a;12.0+PTX" chooses for
which GPUs: by default for those that are there, without one for all that the kernels are tuned for.
CXX=g++   CXXFLAGS=...   MAX_JOBS=n   VERBOSE=1 prints each command
"""

import functools
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

MIN_SETUPTOOLS = 77  # pyproject.toml's; with --no-build-isolation, or without pip, nobody else looks
try:
    from setuptools import Extension, __version__, setup
except ImportError:
    __version__ = "0"
if int(re.match(r"\d+", __version__).group()) < MIN_SETUPTOOLS:
    has = "none" if __version__ == "0" else __version__
    raise SystemExit(
        f"torch_manual_conv: setuptools >= {MIN_SETUPTOOLS} is needed to build it, {sys.executable} has {has}: "
        f"pip install 'setuptools>={MIN_SETUPTOOLS}', or pip install . without --no-build-isolation"
    )
from setuptools.command.bdist_wheel import bdist_wheel  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402

ROOT = Path(__file__).parent.resolve()
# What is built is kept beside the sources for the next time, if these may be written.
TEMPORARY = None if os.access(ROOT, os.W_OK) else tempfile.TemporaryDirectory(prefix="torch_manual_conv-")
SCRATCH = Path(TEMPORARY.name if TEMPORARY else "")
OPTIONS = {"build": {"build_base": str(SCRATCH / "build")}, "egg_info": {"egg_base": str(SCRATCH)}} if TEMPORARY else {}
OBJECTS = SCRATCH / "build" / f"native-{platform.machine()}"
MIN_TORCH = (2, 11)
STANDARD = ["-std=c++20"]
TARGET = "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000ULL".format(*MIN_TORCH)
DEFAULT_CUDA_ARCHS = "8.0;9.0a;10.0;12.0+PTX"

# NAME.isa.cpp is compiled for each of VECTORS, NAME.avx512_bf16.cpp and NAME.amx.cpp for that one (csrc/cpu/machine/
# machine.h). Every other source is built for any CPU of the machine's family.
IS_X86 = platform.machine() in ("x86_64", "AMD64")
VECTORS = ("base", "avx2", "avx512") if IS_X86 else ("base",)
ISA_FLAGS = {
    "base": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx512_bf16": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512bf16"],
    "amx": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}


def site_dirs():
    """Where this environment keeps its packages; pip's build isolation hides them from sys.path."""
    base = sysconfig.get_path("purelib", vars={"base": sys.base_prefix})
    found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return [Path(d) for d in [*found, site.getusersitepackages(), base]]


def find_torch():
    """(torch's folder, its version, its CUDA version or None) of the first torch that is new enough. Without a folder:
    of one that is too old."""
    old = None
    spec = importlib.util.find_spec("torch")  # finds, does not import
    here = [Path(spec.origin).parent.parent] if spec and spec.origin else []
    for folder in [d / "torch" for d in here + site_dirs()]:
        if not (folder / "version.py").exists():
            continue
        text = (folder / "version.py").read_text()
        version = re.search(r"__version__ = '((\d+)\.(\d+)[^']*)'", text)
        cuda = re.search(r"^cuda[^=]*= '([0-9.]+)'", text, re.M)
        if version and tuple(map(int, version.groups()[1:])) >= MIN_TORCH:
            return folder, version.group(1), cuda.group(1) if cuda else None
        old = old or (version and f"{version.group(1)} in {folder}")
    return None, old, None


def find_cuda(torch_cuda):
    """(toolkit folder, libcudart) when CUDA kernels are to be built, else None."""
    forced, wanted = os.environ.get("FORCE_CUDA") == "1", os.environ.get("TMC_CUDA", "")
    if wanted == "0":
        return None
    reason = "this torch has no CUDA"
    if torch_cuda and not forced and wanted != "1" and not gpus():
        reason = "no GPU is here (TMC_CUDA=1 builds them all the same)"
    elif torch_cuda:
        major = torch_cuda.split(".")[0]
        nvcc = shutil.which("nvcc")
        homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
        homes += [nvcc and Path(nvcc).resolve().parent.parent, "/usr/local/cuda", f"/usr/local/cuda-{torch_cuda}"]
        homes += [d / "nvidia" / f"cu{major}" for d in site_dirs()]  # pip install "cuda-toolkit[nvcc,cccl]"
        reason = "no CUDA toolkit with nvcc and libcudart was found (set CUDA_HOME)"
        for home in (Path(h) for h in homes if h):
            runtimes = sorted(home.glob("lib64/libcudart.so*")) + sorted(home.glob("lib/libcudart.so*"))
            if not (home / "bin/nvcc").exists() or not runtimes:
                continue
            said = subprocess.check_output([home / "bin/nvcc", "-V"], text=True)
            release = re.search(r"release (\d+)", said).group(1)
            if release == major:
                return home, runtimes[0]
            reason = f"nvcc in {home} is CUDA {release}, torch is CUDA {major}"
    if forced:
        raise SystemExit(f"FORCE_CUDA=1, but {reason}")
    print(f"torch_manual_conv: building without CUDA kernels: {reason}", file=sys.stderr)
    return None


@functools.cache
def gpus():
    """The compute capabilities of this machine's GPUs."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        return sorted(set(subprocess.check_output(query, text=True, stderr=subprocess.DEVNULL).split()))
    except (OSError, subprocess.CalledProcessError):
        return []


def gencode():
    """nvcc's -gencode flags for TORCH_CUDA_ARCH_LIST, else this machine's GPUs, else DEFAULT_CUDA_ARCHS."""
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "") or ";".join(gpus()) or DEFAULT_CUDA_ARCHS
    flags = []
    for arch in archs.replace(" ", ";").strip(";").split(";"):
        number = arch.replace("+PTX", "").replace(".", "")
        exact = "90a" if number == "90" else number  # every GPU of 9.0 is a Hopper, whose wgmma has no other name
        flags.append(f"-gencode=arch=compute_{exact},code=sm_{exact}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


TORCH, TORCH_VERSION, TORCH_CUDA = find_torch()
CUDA = find_cuda(TORCH_CUDA) if TORCH else None


class BuildExt(build_ext):
    """Compiles each source with its own flags, in parallel, skipping what is up to date; then links."""

    def get_ext_filename(self, name):
        return os.path.join(*name.split(".")) + ".so"  # no Python ABI in the name

    def run(self):
        if not TORCH:
            needed, found = ".".join(map(str, MIN_TORCH)), f"torch {TORCH_VERSION}" if TORCH_VERSION else "no torch"
            raise SystemExit(
                f"torch_manual_conv: torch>={needed} is needed to build it, {found} was found: "
                "pip install torch first, or pip install . with build isolation"
            )
        super().run()

    def build_extensions(self):
        (ROOT / OBJECTS).mkdir(parents=True, exist_ok=True)
        units = {e.name: [u for source in e.sources for u in compiled_as(source)] for e in self.extensions}
        stale = [u for u in dict.fromkeys(itertools.chain(*units.values())) if not is_fresh(u)]
        stale.sort(key=lambda unit: not unit.source.endswith(".cu"))  # the longest first
        if stale:
            check_compiler()
        started = time.monotonic()
        with ThreadPoolExecutor(jobs()) as pool:
            compiling = [pool.submit(compile_unit, unit) for unit in stale]
            try:
                for done, unit in enumerate(as_completed(compiling), 1):
                    print(f"[{done}/{len(stale)}, {time.monotonic() - started:.0f} s] {unit.result()}", flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # what has not begun need not
                raise
        for extension in self.extensions:
            self.link(extension, [str(unit.object) for unit in units[extension.name]])

    def link(self, extension, objects):
        out = Path(self.get_ext_fullpath(extension.name)).absolute()
        out.parent.mkdir(parents=True, exist_ok=True)
        libraries = ["-lc10", "-ltorch_cpu"]
        if extension.name.endswith("_cuda"):
            libraries += ["-ltorch_cuda", str(CUDA[1])]
        (ROOT / OBJECTS / f"{extension.name}.objects").write_text("\n".join(objects))  # tests/cpu/amx_harness reads it
        run([*compiler(), "-shared", "-s", *objects, f"-L{TORCH}/lib", *libraries, "-o", str(out)])


class Unit(NamedTuple):
    """A source, and, where it is compiled several times, the instruction set."""

    source: str
    isa: str = ""

    def __str__(self):
        return f"{self.source} for {self.isa}" if self.isa else self.source

    @property
    def object(self):
        return OBJECTS / (self.source.replace("/", "_") + (f".{self.isa}" if self.isa else "") + ".o")

    @property
    def flags(self):
        only = next((isa for isa in ISA_FLAGS if self.source.endswith(f".{isa}.cpp")), "base")
        return [*ISA_FLAGS[self.isa], f"-DTMC_ISA={self.isa}"] if self.isa else ISA_FLAGS[only]

    @property
    def dependencies(self):
        return self.object.with_suffix(".d")

    @property
    def stamp(self):
        """What the object was made by: the command, and the contents that went into it."""
        return self.object.with_suffix(".json")


def compiled_as(source):
    """The units of a source: none where this machine's family has no such instruction set."""
    if source.endswith(".isa.cpp"):
        return [Unit(source, isa) for isa in VECTORS]
    return [Unit(source)] if IS_X86 or not source.endswith((".avx512_bf16.cpp", ".amx.cpp")) else []


def compiler():
    return shlex.split(os.environ.get("CXX", "g++"))


def check_compiler():
    """Ends with one sentence where every source would fail."""
    flags = [*STANDARD, *ISA_FLAGS["amx" if IS_X86 else "base"], "-fsyntax-only"]
    try:
        tried = subprocess.run([*compiler(), *flags, "-x", "c++", os.devnull], capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f"torch_manual_conv: a C++ compiler is needed: {error} (CXX=... names another)") from None
    if tried.returncode:
        said = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[0]
        raise SystemExit(
            f"torch_manual_conv: {shlex.join(compiler())} does not take {' '.join(flags)}; GCC 11 and Clang 13 do, "
            f"CXX=... names another compiler: {said}"
        )


def command_for(unit):
    """Paths are relative to ROOT, where it runs: what is compiled stays valid when the tree is copied or moved."""
    flags = ["-O3", *STANDARD, TARGET, "-isystem", f"{TORCH}/include", "-Icsrc"]
    flags += shlex.split(os.environ.get("CXXFLAGS", ""))
    if unit.source.endswith(".cu"):
        command = [f"{CUDA[0]}/bin/nvcc", *flags, "-Xcompiler=-fPIC,-fvisibility=hidden", *gencode()]
    else:
        command = [*compiler(), *flags, "-fPIC", "-fvisibility=hidden", "-Wall", *unit.flags]
        if "/cuda/" in unit.source:
            command += ["-DUSE_CUDA", "-isystem", f"{CUDA[0]}/include"]
    return [*command, "-MMD", "-MF", str(unit.dependencies), "-c", unit.source, "-o", str(unit.object)]


def made_by(unit):
    """The stamp that an up-to-date object of this unit has. torch's headers are known by their version."""
    command = shlex.join(command_for(unit)).replace(str(TORCH), f"torch {TORCH_VERSION}")
    needed = (ROOT / unit.dependencies).read_text().replace("\\\n", " ").split(":", 1)[1].split()
    own = [f for f in needed if not os.path.isabs(f)]
    return {"command": command, "files": {f: hashlib.sha256((ROOT / f).read_bytes()).hexdigest()[:16] for f in own}}


def is_fresh(unit):
    try:
        return (ROOT / unit.object).exists() and json.loads((ROOT / unit.stamp).read_text()) == made_by(unit)
    except (OSError, ValueError, IndexError):
        return False


def compile_unit(unit):
    started = time.time()
    run(command_for(unit))
    stamp = made_by(unit)
    if all((ROOT / file).stat().st_mtime < started for file in stamp["files"]):  # else it may be of older contents
        (ROOT / unit.stamp).write_text(json.dumps(stamp, indent=0))
    return unit


class Wheel(bdist_wheel):
    def run(self):
        if "$" in sys.prefix:  # setuptools takes what follows for the name of a variable
            raise SystemExit(f"torch_manual_conv: setuptools builds for no Python whose path has a $: {sys.prefix}")
        super().run()

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]  # any Python 3, this platform


def jobs():
    """Parallel compilers: MAX_JOBS, else one a core but no more than one for each 2 GiB of memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**31
    return int(os.environ.get("MAX_JOBS") or max(1, min(os.cpu_count() or 1, memory)))


def run(command):
    if os.environ.get("VERBOSE") == "1":
        print(shlex.join(command), flush=True)
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit(f"torch_manual_conv: this failed: {shlex.join(command)}")


def sources(folder):
    found = [f for pattern in ("*.cpp", "*.cu") for f in sorted((ROOT / folder).rglob(pattern))]
    return [f.relative_to(ROOT).as_posix() for f in found]


# Schemas live in the CPU library, which is always there; the checks are linked into both.
checks = [f"csrc/{f.name}" for f in sorted((ROOT / "csrc").glob("*.cpp")) if f.name != "ops.cpp"]
libraries = [Extension("torch_manual_conv._C_cpu", ["csrc/ops.cpp", *checks, *sources("csrc/cpu")])]
if CUDA:
    libraries.append(Extension("torch_manual_conv._C_cuda", [*checks, *sources("csrc/cuda")]))

setup(
    ext_modules=libraries,
    setup_requires=[]
    if TORCH
    else ["torch>=" + ".".join(map(str, MIN_TORCH))],  # fetched for an isolated build only then
    cmdclass={"build_ext": BuildExt, "bdist_wheel": Wheel},
    options=OPTIONS,
)
