"""What the compiled CUDA kernels cost, read from the library without a GPU: registers, stack, shared memory, opcodes.

A kernel that starts to spill, or a vector load that falls apart into scalars, shows here and in no other test.

    python tests/cuda/test_cuda_budgets.py        writes the library's figures into cuda_budgets.json, to be reviewed
"""

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "torch_manual_conv" / "_C_cuda.so"
BUDGETS = Path(__file__).with_name("cuda_budgets.json")

# Which instructions a kernel must have: what it is fast by. The patterns are for "<kernel> on <architecture>".
REQUIRED = {
    r"elementwise_kernel": ("LDG.E.128", "STG.E.128"),
    r"(max|avg)_pool2d\w*_kernel<.*, Channels<[248]>": ("LDG.E.128", "STG.E.128"),
    r"conv_act_pool2d_kernel": ("HMMA", "LDSM.16.M88.4", "LDGSTS.E", "LDS.128", "STG.E.128"),
    r"map_gradient_kernel<.*, Channels<[248]>": ("LDG.E.128", "STG.E.128"),
    r"implicit_gemm_kernel<.*<(float|__half|__nv_bfloat16)>": ("LDS.128", "FFMA"),
    r"implicit_gemm_kernel<.*<double>": ("LDS.128", "DFMA"),
    r"mma_gemm_kernel<": ("HMMA", "LDGSTS.E.128", "LDGSTS.E.BYPASS.128", "STG.E.128"),
    r"mma_gemm_kernel<WindowProduct": ("LDSM.16.M88.4",),
    r"mma_gemm_kernel<GradWeightProduct<__": ("LDSM.16.MT88.4",),
    r"pack_image_kernel": ("STG.E.128",),
    r"sum_pixels_kernel<.*, [248]>": ("LDG.E.128",),
    r"wgmma_gemm_kernel<.* on sm_90a": ("HGMMA", "UTMALDG.3D", "UTMALDG.4D.IM2COL", "SYNCS.PHASECHK"),
    r"wgmma_gemm_kernel<WgmmaWindows<__.* on sm_90a": ("STSM.16.MT88.4", "STG.E.128"),
    r"wgmma_gemm_kernel<WgmmaWindows<float.* on sm_90a": ("STG.E.128",),
    r"wgmma_gemm_kernel<.*WgmmaBlock<(3, 1, 2, 128|1, 2, 1, 256), .* on sm_90a": ("USETMAXREG",),
}
# Local memory: spilled registers, and arrays with an index that is not known at compile time.
FORBIDDEN = ("LDL", "STL")
REGISTER_GRANULE = 8  # a GPU gives a thread its registers in eights, so that fewer than eight cost nothing


def find_cuobjdump():
    """The toolkit's, or the one that comes with triton, which torch's CUDA wheels depend on."""
    triton = find_spec("triton")
    bundled = [Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"] if triton and triton.origin else []
    found = [shutil.which("cuobjdump"), *Path("/usr/local").glob("cuda*/bin/cuobjdump"), *bundled]
    return next((str(path) for path in found if path and Path(path).exists()), None)


def cuobjdump(*options):
    with subprocess.Popen([find_cuobjdump(), *options, LIBRARY], stdout=subprocess.PIPE, text=True) as process:
        yield from process.stdout
    assert process.returncode == 0


@cache
def readable(symbol):
    """implicit_gemm_kernel<OutputMap<float>>, for a mangled name."""
    name = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"tmc::|\(anonymous namespace\)::|_GLOBAL__N_\w+::|^void ", "", name)
    return re.sub(r"\(.*", "", name).replace("> >", ">>")


def read_library():
    """{(kernel, arch): {"registers", "stack", "shared"}}, and the same for the set of its opcodes."""
    figures, opcodes, arch = {}, defaultdict(set), None
    for line in cuobjdump("--dump-resource-usage"):
        if match := re.match(r"arch = (\w+)", line):
            arch = match[1]
        elif match := re.match(r" Function (\S+):", line):
            kernel = readable(match[1])
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            figures[kernel, arch] = dict(zip(("registers", "stack", "shared"), map(int, match.groups()), strict=True))
    for line in cuobjdump("--dump-sass"):
        if match := re.match(r"arch = (\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s+Function : (\S+)", line):
            found = opcodes[readable(match[1]), arch]
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", line):
            found.add(match[1])
    return figures, opcodes


def toolkit_release():
    """Of the nvcc that built the library; it notes itself in the file."""
    return re.search(rb"Cuda compilation tools, release ([\d.]+)", LIBRARY.read_bytes())[1].decode()


def write_budgets():
    figures, _ = read_library()
    kernels = defaultdict(dict)
    for (kernel, arch), figure in sorted(figures.items()):
        granules = -(-figure["registers"] // REGISTER_GRANULE)
        kernels[kernel][arch] = {"registers": granules * REGISTER_GRANULE, "shared": figure["shared"]}
    lines = [f"    {json.dumps(kernel)}: {json.dumps(archs)}" for kernel, archs in kernels.items()]
    head = f'{{\n  "nvcc": "{toolkit_release()}",\n  "kernels": {{\n'
    BUDGETS.write_text(head + ",\n".join(lines) + "\n  }\n}\n")


@pytest.fixture(scope="module")
def library():
    if not LIBRARY.exists():
        pytest.skip("the CUDA kernels are not built: setup.py found no nvcc")
    if find_cuobjdump() is None or shutil.which("c++filt") is None:
        pytest.skip("needs cuobjdump (CUDA toolkit or triton) and c++filt (binutils)")
    return read_library()


def test_no_kernel_uses_local_memory(library):
    figures, opcodes = library
    assert figures and figures.keys() == opcodes.keys()
    assert not [kernel for kernel, figure in figures.items() if figure["stack"]]
    assert not [kernel for kernel, found in opcodes.items() if any(code.startswith(FORBIDDEN) for code in found)]


def test_required_opcodes(library):
    _, opcodes = library
    for pattern, required in REQUIRED.items():
        matching = {kernel: found for kernel, found in opcodes.items() if re.match(pattern, " on ".join(kernel))}
        assert matching
        for kernel, found in matching.items():
            for opcode in required:
                assert any(code.startswith(opcode) for code in found), f"{kernel} has no {opcode}"


def test_registers_and_shared_memory_are_within_budget(library):
    figures, _ = library
    budgets = json.loads(BUDGETS.read_text())
    if toolkit_release() != budgets["nvcc"]:
        pytest.skip(f"the budgets are for nvcc {budgets['nvcc']}, the library was built by {toolkit_release()}")
    assert {kernel for kernel, _ in figures} == budgets["kernels"].keys()
    over = []
    for (kernel, arch), figure in figures.items():
        budget = budgets["kernels"][kernel].get(arch)  # none for an architecture that is not in the default list
        if budget and (figure["registers"] > budget["registers"] or figure["shared"] > budget["shared"]):
            over.append(f"{kernel} on {arch}: {figure}, budget {budget}")
    assert not over


if __name__ == "__main__":
    sys.exit(write_budgets())
