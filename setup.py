"""Builds the kernels as plain shared libraries on LibTorch's stable ABI: no Python ABI, and torch is never imported.

pip install .                                fresh machine: python3 and g++; CUDA kernels too where nvcc is
pip install -e .                             for hacking; then, after an edit,
python setup.py build_ext --inplace          recompiles what changed

FORCE_CUDA=1 fail without nvcc      TMC_CUDA=0 never build CUDA      TORCH_CUDA_ARCH_LIST="8.0;9.0a;12.0+PTX"
CXX=g++   CXXFLAGS=...   MAX_JOBS=n
"""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
MIN_TORCH = (2, 11)
TARGET = "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000ULL".format(*MIN_TORCH)
DEFAULT_CUDA_ARCHS = "8.0;9.0a;10.0;12.0+PTX"

# File name suffix -> instruction set. Everything else is built for any CPU of the machine's family.
IS_X86 = platform.machine() in ("x86_64", "AMD64")
ISA_FLAGS = {
    "_avx2.cpp": ["-march=x86-64-v3"],
    "_avx512.cpp": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "_avx512bf16.cpp": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512bf16"],
    "_amx.cpp": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}


def site_dirs():
    """Where this environment keeps its packages; pip's build isolation hides them from sys.path."""
    base = sysconfig.get_path("purelib", vars={"base": sys.base_prefix})
    found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return [Path(d) for d in [*found, site.getusersitepackages(), base]]


def find_torch():
    """(torch's folder, its CUDA version or None) of the first torch that is new enough, else (None, None)."""
    spec = importlib.util.find_spec("torch")  # finds, does not import
    here = [Path(spec.origin).parent.parent] if spec and spec.origin else []
    for folder in [d / "torch" for d in here + site_dirs()]:
        if not (folder / "include/torch/csrc/stable/ops.h").exists():
            continue
        text = (folder / "version.py").read_text()
        version = re.search(r"__version__ = '(\d+)\.(\d+)", text)
        cuda = re.search(r"^cuda[^=]*= '([0-9.]+)'", text, re.M)
        if version and tuple(map(int, version.groups())) >= MIN_TORCH:
            return folder, cuda.group(1) if cuda else None
    return None, None


def find_cuda(torch_cuda):
    """(toolkit folder, libcudart) when CUDA kernels are to be built, else None."""
    forced = os.environ.get("FORCE_CUDA") == "1"
    if os.environ.get("TMC_CUDA") == "0":
        return None
    reason = "this torch has no CUDA"
    if torch_cuda:
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


def gencode():
    """nvcc's -gencode flags for TORCH_CUDA_ARCH_LIST, else this machine's GPUs, else DEFAULT_CUDA_ARCHS."""
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if not archs:
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        try:
            archs = ";".join(sorted(set(subprocess.check_output(query, text=True, stderr=subprocess.DEVNULL).split())))
        except (OSError, subprocess.CalledProcessError):
            archs = DEFAULT_CUDA_ARCHS
    flags = []
    for arch in archs.replace(" ", ";").strip(";").split(";"):
        number = arch.replace("+PTX", "").replace(".", "")
        exact = "90a" if number == "90" else number  # every GPU of 9.0 is a Hopper, whose wgmma has no other name
        flags.append(f"-gencode=arch=compute_{exact},code=sm_{exact}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


TORCH, TORCH_CUDA = find_torch()
CUDA = find_cuda(TORCH_CUDA) if TORCH else None


class BuildExt(build_ext):
    """Compiles each source with its own flags, in parallel, skipping what is up to date; then links."""

    def get_ext_filename(self, name):
        return os.path.join(*name.split(".")) + ".so"  # no Python ABI in the name

    def run(self):
        if not TORCH:
            needed = ".".join(map(str, MIN_TORCH))
            raise SystemExit(
                f"torch>={needed} was not found: pip install torch first, or pip install . with build isolation"
            )
        super().run()

    def build_extensions(self):
        self.objects = ROOT / "build" / f"native-{platform.machine()}"  # kept between builds
        self.objects.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(jobs()) as pool:
            for extension in self.extensions:
                extension.objects = list(pool.map(self.compile, extension.sources))
        for extension in self.extensions:
            self.link(extension)

    def compile(self, source):
        obj = self.objects / (source.replace("/", "_") + ".o")
        dependencies = Path(f"{obj}.d")
        cxx = shlex.split(os.environ.get("CXX", "g++"))
        common = ["-O3", "-std=c++20", TARGET, f"-I{TORCH}/include", f"-I{ROOT}/csrc"]
        common += shlex.split(os.environ.get("CXXFLAGS", ""))
        if source.endswith(".cu"):
            command = [f"{CUDA[0]}/bin/nvcc", *common, "-Xcompiler=-fPIC,-fvisibility=hidden", *gencode(), "-MD"]
        else:
            isa = next((flags for suffix, flags in ISA_FLAGS.items() if source.endswith(suffix)), [])
            command = [*cxx, *common, "-fPIC", "-fvisibility=hidden", "-Wall", *isa, "-MMD"]
            if "/cuda/" in source:
                command += ["-DUSE_CUDA", f"-I{CUDA[0]}/include"]
        command += ["-MF", str(dependencies), "-c", str(ROOT / source), "-o", str(obj)]
        stamp = obj.with_suffix(".command")
        if not is_fresh(obj, dependencies, stamp, command):
            run(command)
            stamp.write_text(shlex.join(command))
        return str(obj)

    def link(self, extension):
        out = Path(self.get_ext_fullpath(extension.name))
        out.parent.mkdir(parents=True, exist_ok=True)
        libraries = ["-lc10", "-ltorch_cpu"]
        if extension.name.endswith("_cuda"):
            libraries += ["-ltorch_cuda", str(CUDA[1])]
        cxx = shlex.split(os.environ.get("CXX", "g++"))
        run([*cxx, "-shared", "-s", *extension.objects, f"-L{TORCH}/lib", *libraries, "-o", str(out)])


class Wheel(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]  # any Python 3, this platform


def jobs():
    """Parallel compilers: MAX_JOBS, else one a core but no more than one for each 2 GiB of memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**31
    return int(os.environ.get("MAX_JOBS") or max(1, min(os.cpu_count() or 1, memory)))


def is_fresh(obj, dependencies, stamp, command):
    if not (obj.exists() and dependencies.exists() and stamp.exists() and stamp.read_text() == shlex.join(command)):
        return False
    needed = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    return all(os.path.exists(f) and os.path.getmtime(f) <= obj.stat().st_mtime for f in needed)


def run(command):
    print(shlex.join(command), flush=True)
    subprocess.run(command, check=True)


def sources(folder):
    found = [f for pattern in ("*.cpp", "*.cu") for f in sorted((ROOT / folder).rglob(pattern))]
    return [str(f.relative_to(ROOT)) for f in found if IS_X86 or not f.name.endswith(tuple(ISA_FLAGS))]


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
)
