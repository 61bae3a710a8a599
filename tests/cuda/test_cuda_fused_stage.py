"""A stage on CUDA in one kernel, the map before the pool in shared memory, executed on the CPU (cuda_harness/)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cuda_harness.kernels import dense
from cuda_harness.shapes import ACTIVATIONS, Conv
from test_cuda_conv_act_pool2d import stage_arguments
from test_cuda_harness import missed_barriers
from test_cuda_kernels import SEEDS, check, conv_operands

PRECISIONS = {
    "bfloat16": (torch.bfloat16, "highest"),
    "float16": (torch.float16, "highest"),
    "float32": (torch.float32, "highest"),
    "tf32": (torch.float32, "high"),
}
# name: convolution, pool's window
FUSED = {
    "one_tile": (Conv(2, 8, 13, 13, 16, 3, 3), [3, 3, 2, 2, 0, 0]),
    "several_tiles": (Conv(2, 16, 27, 29, 24, 3, 3, pads=(1, 1, 1, 1)), [2, 2, 2, 2, 0, 0]),
    "padded_windows": (Conv(1, 24, 30, 31, 40, 3, 3), [3, 3, 2, 2, 1, 1]),
    "alexnet_first": (Conv(2, 3, 63, 67, 64, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2)), [3, 3, 2, 2, 0, 0]),
    "wide": (Conv(1, 8, 17, 17, 136, 3, 3), [3, 3, 2, 2, 0, 0]),
    "wider": (Conv(1, 16, 16, 16, 192, 3, 3), [2, 2, 2, 2, 0, 0]),
    "wide_and_low": (Conv(1, 8, 30, 30, 128, 3, 3), [2, 2, 2, 2, 0, 0]),
    "groups": (Conv(2, 16, 13, 12, 32, 3, 3, groups=2), [3, 2, 2, 2, 0, 0]),
    "gaps": (Conv(1, 16, 29, 30, 8, 2, 2), [1, 2, 2, 3, 0, 0]),
}


@pytest.fixture(params=PRECISIONS.values(), ids=PRECISIONS.keys())
def precision(request):
    return request.param


@pytest.fixture
def mma_sync(monkeypatch):
    """conv2d multiplies as the fused kernel does, not by wgmma, whose sums may differ in their last bits."""
    monkeypatch.setenv("TMC_CONV2D_ALGORITHM", "tensor_cores")


def composed(on_cuda, x, w, b, arguments, activation, pooling, window):
    """The stage's output and what it keeps, from the convolution, the pool and the activation alone."""
    z = on_cuda.conv2d(x, w, b, *arguments[:2], arguments[-1])
    one = on_cuda.conv_act_pool2d
    plain = [1, 1, 1, 1, 0, 0]

    def activate(values):  # by the kernel that activates alone
        if activation == "none":
            return values
        channels = values.size(1)
        identity = torch.ones(channels, 1, 1, 1, dtype=values.dtype)
        nothing = activation, "none", [1, 1, 1, 1, 0, 0], "highest"
        return one(values, identity, None, plain, channels, *nothing, False)[0]

    if pooling == "max":
        pooled, winners = on_cuda.max_pool2d(z, [*window, 1, 1], False)
        return activate(pooled), winners
    o = activate(z)
    return on_cuda.avg_pool2d(o, window, False, True, 1 if pooling == "sum" else None), o


@pytest.mark.usefixtures("mma_sync")
@pytest.mark.parametrize("pooling", ["max", "avg", "sum"])
@pytest.mark.parametrize("name", FUSED)
def test_fused_stage_is_its_parts(on_cuda, name, pooling, precision):
    dtype, allowed = precision
    conv, window = FUSED[name]
    activation = {"max": "sigmoid", "avg": "tanh", "sum": "relu"}[pooling]
    (x, w, b, _), _ = conv_operands(conv, dtype)
    x, w = dense(x, True), dense(w, True)
    arguments = stage_arguments(conv, window, activation, pooling, allowed)
    assert on_cuda.conv_act_pool2d_algorithm(x, w, *arguments, True).startswith("fused")
    expected, expected_kept = composed(on_cuda, x, w, b, arguments, activation, pooling, window)
    output, kept = on_cuda.conv_act_pool2d(x, w, b, *arguments, True)
    assert torch.equal(output, expected) and torch.equal(kept, expected_kept)
    assert output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("mma_sync")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pooling", ["max", "avg", "sum"])
def test_fused_stage_with_every_activation(on_cuda, activation, pooling):
    """And, of averages, without a map that is kept; in a contiguous model, without a bias."""
    conv, window = FUSED["several_tiles"]
    (x, w, _, _), _ = conv_operands(conv, torch.bfloat16)
    arguments = stage_arguments(conv, window, activation, pooling)
    expected, _ = composed(on_cuda, dense(x, True), dense(w, True), None, arguments, activation, pooling, window)
    output, kept = on_cuda.conv_act_pool2d(x, w, None, *arguments, False)
    assert torch.equal(output, expected) and output.is_contiguous()
    assert (kept.numel() == 0) == (pooling != "max")


@pytest.mark.usefixtures("mma_sync")
def test_fused_stage_of_what_is_not_finite(on_cuda):
    """NaN wins, the last one of a window; of equal values the first."""
    conv, window = Conv(1, 8, 10, 10, 8, 1, 1), [3, 3, 2, 2, 1, 1]
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, 1.0])
    generator = torch.Generator().manual_seed(5)
    x = values[torch.randint(0, 7, (1, 8, 10, 10), generator=generator)]
    x = dense(torch.cat([x[:, :1].expand(-1, 1, -1, -1), torch.zeros(1, 7, 10, 10)], 1).bfloat16(), True)
    w = torch.zeros(8, 8, 1, 1, dtype=torch.bfloat16)
    w[:, 0] = 1
    arguments = stage_arguments(conv, window, "relu", "max")
    assert on_cuda.conv_act_pool2d_algorithm(x, w, *arguments, True).startswith("fused")
    output, winners = on_cuda.conv_act_pool2d(x, w, None, *arguments, True)
    expected, expected_winners = composed(on_cuda, x, w, None, arguments, "relu", "max", window)
    assert output.isnan().any() and torch.equal(output.isnan(), expected.isnan())
    assert torch.equal(output.nan_to_num(), expected.nan_to_num()) and torch.equal(winners, expected_winners)


@pytest.mark.parametrize("name", ["alexnet_first", "wider"])
def test_fused_bits(on_cuda, kernels, name, precision):
    """Neither the order of threads nor the batch."""
    dtype, allowed = precision
    conv, window = FUSED[name]
    (x, w, b, _), _ = conv_operands(conv, dtype)
    arguments = stage_arguments(conv, window, "tanh", "max", allowed)
    every = []
    for kernels.seed in SEEDS:
        every.append(on_cuda.conv_act_pool2d(dense(x, True), w, b, *arguments, True))
    for other in every[1:]:
        assert all(map(torch.equal, every[0], other))
    alone = on_cuda.conv_act_pool2d(dense(x[-1:], True), w, b, *arguments, True)
    assert all(torch.equal(batch[-1:], one) for batch, one in zip(every[0], alone, strict=True))


@pytest.mark.usefixtures("mma_sync")
def test_every_missing_barrier_of_the_fused_kernel_is_caught(on_cuda, kernels):
    """A map in one piece, one in slices (float32, two columns of warps), and one that is activated before the pool."""
    launches = []
    for name, pooling, dtype in (("several_tiles", "avg", torch.bfloat16), ("wide_and_low", "max", torch.float32)):
        conv, window = FUSED[name]
        (x, w, b, _), _ = conv_operands(conv, dtype)
        x, w = dense(x, True), dense(w, True)
        arguments = stage_arguments(conv, window, "sigmoid", pooling, "high")
        assert "192 x 128" in on_cuda.conv_act_pool2d_algorithm(x, w, *arguments, True) or pooling == "avg"
        expected, _ = composed(on_cuda, x, w, b, arguments, "sigmoid", pooling, window)
        launches.append((lambda a=(x, w, b, *arguments): on_cuda.conv_act_pool2d(*a, True)[0], expected.double()))
    places = set()
    for launch, expected in launches:
        check(launch(), expected)
        places |= kernels.barriers
    assert not missed_barriers(kernels, sorted(places), launches)


def test_stage_where_conv2d_takes_wgmma(on_cuda, monkeypatch):
    """On a Hopper it is composed, with conv2d's bits; fused if conv2d takes mma.sync."""
    conv, window = Conv(1, 192, 13, 13, 128, 3, 3, pads=(1, 1, 1, 1)), [3, 3, 2, 2, 0, 0]
    (x, w, b, _), (exact, *_) = conv_operands(conv, torch.bfloat16)
    x, w = dense(x, True), dense(w, True)
    arguments = stage_arguments(conv, window, "sigmoid", "max")
    forward = on_cuda.conv2d_algorithms(x, w, *arguments[:2], "highest").splitlines()[0]
    assert forward.startswith("forward: wgmma")
    by_wgmma = "composed: the convolution runs by wgmma"
    answers = {"": by_wgmma, "wgmma": by_wgmma, "tensor_cores": "fused"}
    for preferred, answer in (answers | {"implicit_gemm": "composed: "}).items():
        monkeypatch.setenv("TMC_CONV2D_ALGORITHM", preferred)
        assert on_cuda.conv_act_pool2d_algorithm(x, w, *arguments, False).startswith(answer)
        output, winners = on_cuda.conv_act_pool2d(x, w, b, *arguments, False)
        check(output, torch.sigmoid(F.max_pool2d(exact, window[:2], window[2:4], window[4:])), conv.c * conv.r * conv.s)
        expected, expected_winners = composed(on_cuda, x, w, b, arguments, "sigmoid", "max", window)
        assert torch.equal(output, expected) and torch.equal(winners, expected_winners)


def test_which_stages_are_fused(on_cuda, monkeypatch):
    def algorithm(conv, window, pooling="max", dtype=torch.bfloat16, precision="highest", keep=False):
        x, w = (torch.empty(size, dtype=dtype) for size in conv.sizes[:2])
        arguments = stage_arguments(conv, window, "sigmoid", pooling, precision)
        return on_cuda.conv_act_pool2d_algorithm(x, w, *arguments, keep).split("; scratch")[0]

    overlapping, single = [3, 3, 2, 2, 0, 0], [1, 1, 1, 1, 0, 0]
    alexnet = (
        Conv(1, 3, 224, 224, 64, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2)),
        Conv(1, 64, 27, 27, 192, 5, 5, pads=(2, 2, 2, 2)),
        Conv(1, 256, 13, 13, 256, 3, 3, pads=(1, 1, 1, 1)),
    )
    for conv in alexnet:
        for dtype, precision in PRECISIONS.values():
            answers = []
            for capability in ("8", "12", "9"):
                monkeypatch.setenv("TMC_HARNESS_CAPABILITY", capability)
                answers.append(algorithm(conv, overlapping, "max", dtype, precision))
                assert answers[-1] == algorithm(replace(conv, n=7), overlapping, "max", dtype, precision)
            strict = dtype == torch.float32 and precision == "highest"  # no block of 192 pixels, for maps of 13 x 13
            fused = conv.k == 64 or (conv.k == 256 and not strict)  # the second layer is computed 1.4 times
            assert answers[0].startswith("fused" if fused else "composed") and answers[0] == answers[1]
            has_wgmma = conv.k > 64 and (dtype != torch.float32 or precision == "high")
            assert answers[2] == answers[0] or (has_wgmma and "by wgmma" in answers[2])
            monkeypatch.delenv("TMC_HARNESS_CAPABILITY")
    assert algorithm(alexnet[0], single, "none").startswith("composed: no pooling")
    assert "tensor cores" in algorithm(alexnet[0], overlapping, dtype=torch.float64)
    assert "tensor cores" in algorithm(replace(alexnet[0], k=63), overlapping)
    assert "larger than a tile" in algorithm(alexnet[0], [17, 17, 8, 8, 0, 0])
    assert "too often" in algorithm(alexnet[0], [9, 9, 1, 1, 0, 0])
    monkeypatch.setenv("TMC_HARNESS_CAPABILITY", "7")
    assert "tensor cores" in algorithm(alexnet[0], overlapping)
