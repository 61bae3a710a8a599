"""The devices and dtypes that the operator tests run on."""

import pytest
import torch

import torch_manual_conv

# Their asserts show the values compared, as those of test files do.
pytest.register_assert_rewrite("checks", "instruction_sets", "amx_harness", "training_runs")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


# The tensors are small, and threads waiting for each other on a busy machine cost minutes. test_determinism.py runs
# every operator with more.
torch.set_num_threads(1)

# By default torch computes float32 convolutions on a GPU with TF32, and so do we. The tests' tolerances are float32's.
torch.backends.cudnn.allow_tf32 = False


def pytest_addoption(parser):
    parser.addoption("--device", choices=("cpu", "cuda"), help="run the operator tests on this device only")


def missing(device):
    """Why the tests cannot run on `device`, or None when they can."""
    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return "no CUDA device"
    if not torch_manual_conv.has_cuda:
        return "the CUDA kernels are not built"
    return None


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--device")
        devices = [wanted] if wanted else ["cpu", "cuda"]
        reasons = [missing(device) for device in devices]
        marks = [() if reason is None else pytest.mark.skip(reason=reason) for reason in reasons]
        metafunc.parametrize("device", [pytest.param(d, marks=m) for d, m in zip(devices, marks, strict=True)])
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """torch.empty returns NaN in every test: an output element that a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def kernels():
    """The CUDA kernels, executed on the CPU."""
    from cuda_harness.kernels import Kernels

    return Kernels()


@pytest.fixture
def on_cuda(kernels):
    """Their entry points."""
    from cuda_harness.kernels import EntryPoints

    return EntryPoints(kernels)
