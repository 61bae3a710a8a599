"""Convolution on AMX: emulated (amx_harness/build.py), and on the processor where it has AMX."""

import re
import subprocess

import pytest
from amx_harness import cases
from amx_harness.build import OBJECTS, ROOT, CannotEmulate, compile_driver, emulated_package, object_of
from instruction_sets import run_on
from test_determinism import EACH_ISA

SOURCE = "csrc/cpu/gemm/tiles.amx.cpp"
CASE = """
import sys, torch
from amx_harness import cases
assert torch.ops.tmc.cpu_isa() == "amx"
getattr(cases, sys.argv[1])(*sys.argv[2:])
"""


@pytest.fixture(scope="module", params=["emulated", "hardware"])
def on_amx(request):
    """Runs a program in a process in which all our convolutions, but those in float64, use AMX."""
    package = ROOT
    if request.param == "emulated":
        try:
            package = emulated_package()
        except CannotEmulate as reason:
            pytest.skip(str(reason))

    def run(program, *arguments):
        run_on("amx", program, *arguments, package=package, TMC_CONV2D_ALGORITHM="tile_product")

    return run


def test_every_convolution_of_the_instruction_set_test(on_amx):
    on_amx(EACH_ISA, "amx")


def test_same_bits_for_any_number_of_threads(on_amx):
    on_amx(CASE, "threads")


@pytest.mark.parametrize("operands", cases.OPERANDS)
def test_error_against_float64(on_amx, operands):
    on_amx(CASE, "accuracy", operands)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_infinity_and_nan(on_amx, value):
    on_amx(CASE, "special_values", value)


def test_a_sample_has_its_bits_whatever_its_batch(on_amx):
    on_amx(CASE, "batch")


def test_extents_around_the_tiles(on_amx):
    on_amx(CASE, "edges")


# ---- The emulation itself, against what Intel's manual says of the instructions.


@pytest.fixture(scope="module")
def driver():
    try:
        return compile_driver()
    except CannotEmulate as reason:
        pytest.skip(str(reason))


def test_the_emulated_tiles_compute_as_the_manual_says(driver):
    child = subprocess.run([driver], capture_output=True, text=True)
    assert child.returncode == 0, child.stdout


@pytest.mark.parametrize(
    "mistake, rule",
    {
        "unconfigured": "tiles are configured",
        "released": "tiles are configured",
        "shapes": "shapes that fit together",
        "palette": "palette 1",
    }.items(),
)
def test_what_the_hardware_faults_on_ends_the_emulation(driver, mistake, rule):
    child = subprocess.run([driver, mistake], capture_output=True, text=True)
    assert child.returncode < 0 and "AMX would fault: " in child.stderr and rule in child.stderr


# ---- The product's object file.


def test_the_inner_loops_hold_the_instructions_that_the_budget_counts():
    """Per 32 terms: 4 tdpbf16ps a product and the loads of the table in gemm_amx.cpp, six products being a loop of five
    and a loop of one; nothing on the stack."""
    if not object_of(SOURCE).exists():
        pytest.skip(f"{OBJECTS.name} does not hold the product's object files")
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", object_of(SOURCE)], capture_output=True, text=True, check=True
    ).stdout
    found = set()
    for function in re.split(r"\n\n", text):
        for loop in loops_with(function, "tdpbf16ps"):
            counts = tuple(sum(name in line for line in loop) for name in ("tdpbf16ps", "tileloadd"))
            assert not any("(%rsp" in line or "(%rbp" in line for line in loop), "\n".join(loop)
            found.add(counts)
    assert found == {(4, 4), (12, 8), (16, 10), (20, 12)}


def loops_with(function, instruction):
    """The innermost loops of a disassembled function that hold the instruction, as lists of lines."""
    lines = re.findall(r"^ *([0-9a-f]+):\s+(.*)$", function, re.M)
    at = {int(address, 16): i for i, (address, _) in enumerate(lines)}
    loops = []
    for end, (address, text) in enumerate(lines):
        jump = re.match(r"j\w+ +([0-9a-f]+)", text)
        if jump and int(jump[1], 16) in at and int(jump[1], 16) <= int(address, 16):
            loops.append(range(at[int(jump[1], 16)], end + 1))
    innermost = [
        loop for loop in loops if not any(o != loop and o.start >= loop.start and o.stop <= loop.stop for o in loops)
    ]
    bodies = [[lines[i][1] for i in loop] for loop in innermost]
    return [body for body in bodies if any(instruction in text for text in body)]
