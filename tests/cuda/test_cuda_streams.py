"""What an entry point asks of CUDA and of torch: what a CUDA graph can capture, on the current stream alone, and
scratch memory as conv2d_algorithms says. The entry points run on the CPU, where what they ask for is noted
(cuda_harness/recorder.h)."""

import re
from pathlib import Path

import pytest
import torch
from checks import LAYOUTS
from cuda_harness.kernels import Conv, dense, load_entry_points
from cuda_harness.recorder import DEVICE, nbytes, recording
from test_cuda_conv2d import geometry
from test_cuda_conv_act_pool2d import stage_arguments
from test_cuda_entry_points import OPS
from test_cuda_kernels import conv_operands
from test_cuda_stage_gradients import stage_case

CSRC = Path(__file__).parents[2] / "csrc"
STREAMS = 0x5EED0, 0xFEED0

# Of torch's operators these run on the current stream and do not wait for it.
CAPTURABLE = {"aten::contiguous", "aten::clone", "aten::copy_", "aten::zero_", "aten::empty_like"}

# CUDA's functions that host code calls beside launches: no work on a stream, nothing that waits for one, so that a
# graph is captured around them; and nothing slow, as cudaGetDeviceProperties would be.
ASKED = {
    "cudaDeviceGetAttribute",
    "cudaGetDevice",
    "cudaFuncSetAttribute",  # of the kernel, before its launch
    "cudaGetDriverEntryPointByVersion",  # once
    "cuTensorMapEncodeTiled",  # maps are made on the host, and are a kernel's arguments by value
    "cuTensorMapEncodeIm2col",
}

CONVS = {
    "general": ("", Conv(2, 6, 9, 8, 10, 3, 2, stride=(2, 1), pads=(1, 0, 2, 1)), torch.float64),
    "general_float32": ("implicit_gemm", Conv(2, 8, 9, 8, 8, 3, 2, groups=2), torch.float32),
    "tensor_cores": ("tensor_cores", Conv(2, 16, 9, 8, 24, 3, 3, stride=(2, 2), pads=(1, 1, 1, 1)), torch.bfloat16),
    "in_parts": ("tensor_cores", Conv(9, 8, 16, 17, 8, 3, 3), torch.float16),
    "strict": ("tensor_cores", Conv(2, 8, 9, 8, 16, 3, 3, groups=2), torch.float32),
    "packed": ("tensor_cores", Conv(2, 3, 19, 23, 16, 5, 5, stride=(2, 2), pads=(2, 2, 2, 2)), torch.bfloat16),
    "wgmma": ("wgmma", Conv(2, 64, 7, 8, 64, 3, 3, pads=(1, 1, 1, 1)), torch.bfloat16),
    "wgmma_in_parts": ("wgmma", Conv(3, 8, 29, 31, 64, 3, 3, pads=(1, 1, 1, 1)), torch.float16),
    "wgmma_packed": ("wgmma", Conv(2, 3, 31, 35, 64, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2)), torch.bfloat16),
    "one_pixel": ("tensor_cores", Conv(3, 8, 1, 1, 8, 1, 1), torch.bfloat16),
}
STAGES = {
    "fused": (Conv(1, 16, 14, 13, 16, 3, 3), torch.bfloat16, "max"),
    "fused_packed": (Conv(1, 3, 63, 67, 64, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2)), torch.bfloat16, "max"),
    "fused_average": (Conv(1, 16, 13, 13, 16, 3, 3), torch.bfloat16, "avg"),
    "composed": (Conv(1, 6, 9, 8, 10, 3, 2), torch.float32, "max"),
    "composed_average": (Conv(1, 6, 9, 8, 10, 3, 2), torch.float64, "avg"),
}
WINDOW = [3, 3, 2, 2, 0, 0]


@pytest.fixture(scope="module")
def on_cuda():
    return load_entry_points()


@pytest.fixture(params=[True, False], ids=["channels_last", "contiguous"])
def channels_last(request):
    return request.param


def watch(call, stream=STREAMS[0]):
    """(what it returns, Record), after every check that holds for all entry points."""
    with recording(stream) as recorded:
        result = call()
    record, guarded = recorded(), 0
    for name, *told in record.events:
        if name == "guard":
            assert told == [str(DEVICE)]
            guarded += 1
        elif name == "unguard":
            guarded -= 1
        elif name == "stream":
            assert told == [str(DEVICE)]
        elif name == "launch":
            assert guarded and told == [str(stream)]
        elif name == "allocate":
            assert guarded
        elif name == "call":
            assert guarded and told[0] in CAPTURABLE
    assert guarded == 0 and record.told("launch")
    return result, record


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_every_operator_works_on_the_current_stream(on_cuda, op, layout, stream):
    # LAYOUTS["strided"] puts NaN in between
    movable = [isinstance(a, torch.Tensor) and (a.is_floating_point() or layout != "strided") for a in OPS[op]]
    arguments = [LAYOUTS[layout](a) if moves else a for a, moves in zip(OPS[op], movable, strict=True)]
    watch(lambda: getattr(on_cuda, op)(*arguments), stream)


def passes(on_cuda, name, channels_last):
    """{pass: function of nothing}, and what conv2d_algorithms says of their scratch memory, in bytes."""
    _, conv, dtype = CONVS[name]
    (x, w, b, g), _ = conv_operands(conv, dtype)
    x, w, g = (dense(t, channels_last) for t in (x, w, g))
    arguments = geometry(conv, "highest")
    calls = {
        "forward": lambda: on_cuda.conv2d(x, w, b, *arguments),
        "grad_input": lambda: on_cuda.conv2d_grad_input(g, w, x.shape[2:], *arguments),
        "grad_weight": lambda: on_cuda.conv2d_grad_weight(g, x, w.shape[2:], *arguments),
    }
    lines = on_cuda.conv2d_algorithms(x, w, *arguments).splitlines()
    said = {line.split(":")[0]: int(re.search(r"scratch memory: (\d+) bytes", line)[1]) for line in lines}
    return calls, said, lines


@pytest.mark.parametrize("name", CONVS)
def test_convolution_takes_the_scratch_memory_that_it_says(on_cuda, name, channels_last, monkeypatch):
    algorithm = CONVS[name][0]
    monkeypatch.setenv("TMC_CONV2D_ALGORITHM", algorithm)
    calls, said, lines = passes(on_cuda, name, channels_last)
    assert algorithm == "" or any(algorithm in line for line in lines)
    for what, call in calls.items():
        result, record = watch(call)
        assert record.peak_bytes() - nbytes(result) == said[what], what
        if channels_last:
            assert not record.told("call"), what
        assert dense(result, channels_last).stride() == result.stride(), what


@pytest.mark.parametrize("name", STAGES)
def test_stage_takes_the_scratch_memory_that_it_says(on_cuda, name):
    conv, dtype, pooling = STAGES[name]
    (x, w, b, _), _ = conv_operands(conv, dtype)
    x, w = dense(x, True), dense(w, True)
    arguments = stage_arguments(conv, WINDOW, "relu", pooling)
    said = on_cuda.conv_act_pool2d_algorithm(x, w, *arguments, True)
    assert said.startswith(name.split("_")[0])
    result, record = watch(lambda: on_cuda.conv_act_pool2d(x, w, b, *arguments, True))
    assert f"scratch memory: {record.peak_bytes() - nbytes(result)} bytes" in said
    assert not record.told("call")


@pytest.mark.parametrize("with_input", [False, True], ids=["weight", "input_and_weight"])
@pytest.mark.parametrize("name", STAGES)
def test_a_stages_gradients_take_the_scratch_memory_that_it_says(on_cuda, name, with_input):
    conv, dtype, pooling = STAGES[name]
    given, arguments = stage_case(conv, WINDOW, "relu", pooling, dtype, "highest")
    x, w = dense(given[1], True), dense(conv_operands(conv, dtype)[0][1], True)
    said = on_cuda.conv_act_pool2d_algorithm(x, w, *arguments, True)
    bytes_ = int(re.search(r"gradients (\d+) bytes", said)[1])
    operands = given[0], x, w, *given[3:], *arguments
    call = on_cuda.conv_act_pool2d_gradients
    results, record = watch(lambda: call(*operands, with_input, True, True))
    taken = record.peak_bytes() - nbytes(results)
    # One gradient after the other: the first one's scratch memory before the last result.
    assert taken <= bytes_ <= taken + nbytes(results)
    assert not record.told("call")


def test_scratch_memory_is_bounded(on_cuda, monkeypatch):
    """docs/gpu.md, "Scratch memory": of AlexNet's layers and of larger ones, in any batch."""
    torch.use_deterministic_algorithms(False)  # large tensors that nobody fills
    sums = 2 * 132 * 192 * 256 * 4  # two rounds of 132 multiprocessors, each with its largest tile of float32 sums
    shapes = {
        "conv1": ((3, 224, 224), (64, 3, 11, 11), 4, 2),
        "conv2": ((64, 27, 27), (192, 64, 5, 5), 1, 2),
        "conv3": ((192, 13, 13), (384, 192, 3, 3), 1, 1),
        "wide": ((512, 14, 14), (2048, 512, 3, 3), 1, 1),
        "odd": ((37, 56, 56), (53, 37, 3, 3), 1, 1),
        "depthwise": ((384, 14, 14), (384, 1, 3, 3), 1, 1),
    }
    for algorithm in ("implicit_gemm", "tensor_cores", "wgmma"):
        monkeypatch.setenv("TMC_CONV2D_ALGORITHM", algorithm)
        for (c, h, w), filters, stride, pad in shapes.values():
            for batch in (1, 256, 1024):
                x, weight = (
                    torch.empty(s, dtype=torch.bfloat16, memory_format=torch.channels_last)
                    for s in ((batch, c, h, w), filters)
                )
                said = scratch(on_cuda, x, weight, stride, pad, c // filters[1])
                image = batch * 16 * (h + 2 * pad) * (w + 2 * pad) if c == 3 else 0
                matrix = 2 * weight.numel()
                assert said["forward"] <= image + 16 * matrix
                assert said["grad_input"] <= matrix + 1024
                assert said["grad_weight"] <= image + max(sums, 4 * weight.numel()) + 1024


def scratch(on_cuda, x, weight, stride, pad, groups):
    arguments = [stride, stride, 1, 1, pad, pad], groups, "highest"
    lines = on_cuda.conv2d_algorithms(x, weight, *arguments).splitlines()
    return {line.split(":")[0]: int(re.search(r"scratch memory: (\d+) bytes", line)[1]) for line in lines}


def test_host_code_asks_cuda_for_nothing_that_a_graph_cannot_capture():
    asked = set()
    for path in sorted(p for p in (CSRC / "cuda").rglob("*") if p.is_file()):
        text = re.sub(r"//.*", "", path.read_text())
        asked |= set(re.findall(r"\b(cu(?:da)?[A-Z]\w+)(?=\()", text)) | set(re.findall(r"&(cu[A-Z]\w+)", text))
    assert asked == ASKED
