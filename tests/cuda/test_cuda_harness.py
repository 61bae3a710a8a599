"""The harness that runs CUDA kernels on the CPU: does it see the mistakes that it is there for?"""

import ctypes
import faulthandler
import itertools
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from cuda_harness.kernels import SANITIZED, HarnessError
from test_cuda_kernels import CONVS, EMPTY_BATCH, SEEDS, check, conv_operands


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_emulated_types_round_as_torch_does(kernels, half):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(half).float()
    between = (every[1:].double() + every[:-1].double()).div(2).float()  # ties, and their neighbours
    values = torch.cat([every, between, between * 1.0001, between * 0.9999, torch.randn(1000) * 1e-6])
    rounded, back = values.to(half).fill_(0), torch.zeros_like(values)
    kernels.call("selftest_convert", half, values, rounded, back, ctypes.c_int64(len(values)))
    expected = values.to(half)
    assert torch.equal(rounded.isnan(), values.isnan()) and torch.equal(back.isnan(), values.isnan())
    number = ~values.isnan()
    assert torch.equal(rounded[number].view(torch.int16), expected[number].view(torch.int16))
    assert torch.equal(back[number], expected[number].float())


def test_blocks_beyond_one_axis_of_the_grid(kernels):
    extents, indices = torch.zeros(2, dtype=torch.int64), torch.zeros(12, dtype=torch.int64)
    for blocks in (1, 2**30, 2**30 + 1, 2**45):
        kernels.call("selftest_grid_of", ctypes.c_int64(blocks), extents)
        x, y = extents.tolist()
        assert x * y >= blocks and x < 2**31 and y < 2**16
    kernels.call("selftest_block_index", 3, 4, indices)
    assert indices.tolist() == list(range(12))


def test_shared_memory_starts_poisoned(kernels):
    values = torch.zeros(64)
    kernels.call("selftest_read_unwritten", values)
    assert values.isnan().all()


@pytest.mark.parametrize(
    ("launcher", "report"),
    [
        ("selftest_early_exit", "never reach"),
        ("selftest_divergent", "different barriers"),
        ("selftest_bad_launch", "CUDA refuses"),
    ],
)
def test_misuse_is_reported(kernels, launcher, report):
    with pytest.raises(HarnessError, match=report):
        kernels.call(launcher)


def goes_wrong(launch, expected):
    """Whether launch() gives a wrong result, a report, or a crash: in a process of its own."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    faulthandler.disable()
    try:
        check(launch(), expected, terms=200)
    except AssertionError:
        os._exit(1)
    os._exit(0)


def missed_barriers(kernels, barriers, launches):
    """Those without which all (launch, expected result) go right, whatever the order of the threads."""
    missed = []
    for kernels.skipped_barrier in barriers:
        attempts = itertools.product(SEEDS[1:], launches)
        if not any(goes_wrong(*launch) for kernels.seed, launch in attempts):
            missed.append(kernels.skipped_barrier)
    return missed


def test_every_missing_barrier_is_caught(kernels):
    """Leaves out each barrier of the kernels in turn: some launch must then go wrong."""
    launches = []
    for conv in (CONVS["several_tiles"], EMPTY_BATCH):
        (input, _, _, grad_output), (_, _, grad_weight, grad_bias) = conv_operands(conv, torch.float32)
        launches.append((partial(kernels.conv2d_grad_weight, conv, False, grad_output, input), grad_weight))
        launches.append((partial(kernels.conv2d_grad_bias, True, grad_output), grad_bias))
    barriers = set()
    for launch, expected in launches:
        check(launch(), expected, terms=200)
        barriers |= kernels.barriers
    assert barriers
    assert not missed_barriers(kernels, barriers, launches)


@pytest.mark.skipif(not SANITIZED, reason="needs the address sanitizer: test_no_access_outside_an_array runs it")
def test_an_access_outside_is_seen(kernels):
    def one_element_too_far():
        indices = torch.zeros(11, dtype=torch.int64)
        kernels.call("selftest_block_index", 3, 4, indices)
        return indices

    assert goes_wrong(one_element_too_far, torch.arange(11))


SANITIZED_FILES = ("harness", "kernels", "pool2d", "sigmoid", "tensor_cores", "conv2d", "hopper", "wgmma")
SANITIZED_FILES += ("conv_act_pool2d", "fused_stage", "stage_gradients")
# Tests of bits go the same ways again; indices beyond 32 bits would take a build of their own.
SANITIZED_TESTS = "(float32 or outside or (wgmma and matches and bfloat16)) and not bits"


@pytest.mark.skipif(SANITIZED, reason="this is that run")
@pytest.mark.timeout(1800)  # builds every kernel once more
def test_no_access_outside_an_array():
    """The kernels' tests again, in a process whose allocator guards every tensor and every kernel's shared memory."""
    files = [Path(__file__).with_name(f"test_cuda_{name}.py") for name in SANITIZED_FILES]
    compiler = shutil.which(os.environ.get("CXX", "g++"))

    def runtime(library):
        path = subprocess.run([compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True)
        return path.stdout.strip()

    if not Path(runtime("libasan.so")).is_absolute():
        pytest.skip("this compiler has no address sanitizer")
    environment = {
        **os.environ,
        "TMC_HARNESS_SANITIZED": "1",
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libstdc++.so')}",  # the second for its exceptions
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-s", *files, "-p", "no:cacheprovider"]
    result = subprocess.run([*command, "-k", SANITIZED_TESTS], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
