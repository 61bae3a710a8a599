"""A fused stage on CUDA, executed on the CPU (cuda_harness/): its kernels one by one, and its entry points."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cuda_harness.kernels import dense
from cuda_harness.shapes import ACTIVATIONS, Conv, Pool, Stage
from test_cuda_harness import missed_barriers
from test_cuda_kernels import SEEDS, check, conv_operands
from test_cuda_pool2d import torch_max_pool2d

import torch_manual_conv  # noqa: F401  the CPU operators

ACTIVATE = {"none": lambda z: z, "sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}
SLOPE = {
    "none": lambda o: torch.ones_like(o),
    "sigmoid": lambda o: o * (1 - o),
    "relu": lambda o: (o > 0).to(o.dtype),
    "tanh": lambda o: 1 - o * o,
}
POOLS = {
    "overlapping": Pool(2, 24, (13, 11), (6, 5), (3, 3), (2, 2)),
    "overlapping_padded": Pool(2, 3, (12, 9), (6, 5), (3, 3), (2, 2), (1, 1)),
    "tiling": Pool(3, 16, (9, 8), (4, 4), (2, 2), (2, 2)),
    "many_channels": Pool(1, 520, (4, 5), (2, 2), (2, 2), (2, 2)),
    "uneven": Pool(1, 16, (9, 10), (5, 9), (3, 2), (2, 1), (1, 0)),
    "one_channel": Pool(4, 1, (7, 7), (3, 3), (3, 3), (2, 2)),
    "large_windows": Pool(1, 8, (20, 22), (2, 4), (17, 16), (3, 2)),  # int32 winners
    "many_tiles": Pool(5, 40, (30, 31), (15, 15), (2, 2), (2, 2)),
}


def stage_of(pool, activation, pooling):
    """The stage around a pool; the kernels here do not look at its convolution."""
    if pooling == "none":
        pool = replace(pool, output_size=pool.input_size, kernel=(1, 1), stride=(1, 1), pad=(0, 0))
    return Stage(Conv(pool.n, 1, *pool.input_size, pool.c, 1, 1), activation, pooling, pool)


def map_gradient_case(stage, dtype):
    """grad_output, activated map and winners; the map's gradient and that of the bias in float64."""
    generator = torch.Generator().manual_seed(3)
    map_size, output_size = stage.pool.sizes
    z = torch.randn(map_size, generator=generator, dtype=torch.float64).to(dtype)
    grad_output = torch.randn(output_size, generator=generator, dtype=torch.float64).to(dtype)
    leaf, winners = z.double().requires_grad_(), None
    if stage.pooling == "max":
        pooled, indices = torch_max_pool2d(stage.pool, leaf)
        activated = ACTIVATE[stage.activation](pooled).detach().to(dtype)
        winners = winner_taps(stage.pool, indices)
        slopes = grad_output.double() * SLOPE[stage.activation](activated.double())
        (gradient,) = torch.autograd.grad(pooled, leaf, slopes)
    else:
        activated = ACTIVATE[stage.activation](leaf).detach().to(dtype)
        pooled = leaf
        if stage.pooling != "none":
            divisor = 1 if stage.pooling == "sum" else None
            windows = stage.pool.kernel, stage.pool.stride, stage.pool.pad
            pooled = F.avg_pool2d(leaf, *windows, divisor_override=divisor)
        (gradient,) = torch.autograd.grad(pooled, leaf, grad_output.double())
        gradient = gradient * SLOPE[stage.activation](activated.double())
    given = grad_output, None if stage.activation == "none" else activated, winners
    return given, (gradient, gradient.sum((0, 2, 3)))


def winner_taps(pool, indices):
    """torch's flat positions as offsets in the window."""
    h, w = indices // pool.input_size[1], indices % pool.input_size[1]
    p, q = torch.arange(pool.output_size[0]).view(-1, 1), torch.arange(pool.output_size[1])
    taps = (h - p * pool.stride[0] + pool.pad[0]) * pool.kernel[1] + w - q * pool.stride[1] + pool.pad[1]
    return taps.to(pool.winner_dtype)


def check_map_gradient(actual, expected, stage):
    windows = stage.pool.kernel[0] * stage.pool.kernel[1]
    check(actual[0], expected[0], windows)
    check(actual[1], expected[1], stage.pool.n * stage.pool.input_size[0] * stage.pool.input_size[1])


@pytest.mark.parametrize("pooling", ["none", "max", "avg", "sum"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_map_gradient_of_every_stage(kernels, activation, pooling, dtype):
    stage = stage_of(POOLS["overlapping"], activation, pooling)
    given, expected = map_gradient_case(stage, dtype)
    check_map_gradient(kernels.conv_act_pool2d_map_gradient(stage, *given), expected, stage)


@pytest.mark.parametrize("pooling", ["none", "max", "avg"])
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
def test_map_gradient_of_every_window(kernels, pool, pooling, dtype):
    stage = stage_of(pool, "sigmoid", pooling)
    given, expected = map_gradient_case(stage, dtype)
    check_map_gradient(kernels.conv_act_pool2d_map_gradient(stage, *given), expected, stage)


@pytest.mark.parametrize("name", ["overlapping_padded", "uneven", "large_windows"])
def test_winners_outside_their_windows_touch_nothing(kernels, name):
    stage = stage_of(POOLS[name], "relu", "max")
    (grad_output, activated, winners), _ = map_gradient_case(stage, torch.float32)
    winners.fill_(255 if winners.dtype == torch.uint8 else 2**31 - 1)
    for result in kernels.conv_act_pool2d_map_gradient(stage, grad_output, activated, winners):
        assert not result.any()


def test_map_gradient_of_what_is_not_finite(kernels):
    """NaN passes relu's slope; what is zero behind it is zero whatever arrives."""
    stage = stage_of(POOLS["tiling"], "relu", "none")
    (grad_output, activated, _), _ = map_gradient_case(stage, torch.float32)
    activated[0, 0, 0, 0], activated[0, 1], grad_output[0, 1, 2, 2] = torch.nan, 0, torch.inf
    gradient, grad_bias = kernels.conv_act_pool2d_map_gradient(stage, grad_output, activated, None)
    assert gradient[0, 0, 0, 0] == grad_output[0, 0, 0, 0] and not gradient[0, 1].any()
    assert grad_bias.isfinite().all()


@pytest.mark.parametrize("pooling", ["none", "max", "avg"])
@pytest.mark.parametrize("name", ["overlapping_padded", "many_tiles"])
def test_map_gradient_bits(kernels, name, pooling):
    """Neither the order of threads nor, for a sample's map, the batch."""
    stage = stage_of(POOLS[name], "tanh", pooling)
    given, _ = map_gradient_case(stage, torch.bfloat16)
    every = []
    for kernels.seed in SEEDS:
        every.append(kernels.conv_act_pool2d_map_gradient(stage, *given))
    for other in every[1:]:
        assert all(map(torch.equal, every[0], other))
    alone = replace(stage, pool=replace(stage.pool, n=1))
    given = [None if tensor is None else tensor[1:2] for tensor in given]
    assert torch.equal(every[0][0][1:2], kernels.conv_act_pool2d_map_gradient(alone, *given)[0])


def test_every_missing_barrier_of_the_bias_sums_is_caught(kernels):
    stage = stage_of(POOLS["many_tiles"], "none", "avg")
    given, (_, grad_bias) = map_gradient_case(stage, torch.float32)

    def launch():
        return kernels.conv_act_pool2d_map_gradient(stage, *given)[1]

    check(launch(), grad_bias, terms=5000)
    assert len(kernels.barriers) == 2
    assert not missed_barriers(kernels, kernels.barriers, [(launch, grad_bias)])


# ---- The entry points.

# name: convolution, pool's window
STAGES = {
    "alexnet": (Conv(2, 3, 31, 35, 16, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2)), [3, 3, 2, 2, 0, 0]),
    "one_filter_chunk": (Conv(2, 8, 9, 10, 8, 3, 3, pads=(1, 1, 1, 1)), [2, 2, 2, 2, 0, 0]),
    "odd_channels": (Conv(1, 3, 8, 9, 5, 3, 2, groups=1), [3, 2, 2, 1, 1, 0]),
    "one_channel": (Conv(2, 1, 7, 6, 1, 2, 2), [2, 2, 1, 1, 0, 0]),
}


def stage_arguments(conv, window, activation, pooling, precision="highest"):
    return [*conv.stride, *conv.dilation, *conv.pads], conv.groups, activation, pooling, window, precision


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("keep", [True, False], ids=["keep", "recompute"])
@pytest.mark.parametrize("pooling", ["none", "max", "avg", "sum"])
@pytest.mark.parametrize("name", STAGES)
def test_stage_is_its_parts(on_cuda, name, pooling, keep, channels_last):
    """The convolution, the pool and the activation one after the other, and what the CPU makes of it."""
    conv, window = STAGES[name]
    activation = {"none": "relu", "max": "sigmoid", "avg": "tanh", "sum": "none"}[pooling]
    (x, w, b, _), _ = conv_operands(conv, torch.float32)
    x, w = dense(x, channels_last), dense(w, channels_last)
    arguments = stage_arguments(conv, window, activation, pooling)
    output, kept = on_cuda.conv_act_pool2d(x, w, b, *arguments, keep)
    z = on_cuda.conv2d(x if pooling == "none" else dense(x, True), w, b, *arguments[:2], "highest")
    o, winners, activates = z, None, ACTIVATE[activation]
    if pooling == "max":
        o, winners = on_cuda.max_pool2d(z, [*window, 1, 1], False)
        assert torch.equal(kept, winners) and kept.is_contiguous(memory_format=torch.channels_last)
    o = activates(o)
    expected = o
    if pooling in ("avg", "sum"):
        expected = on_cuda.avg_pool2d(o, window, False, True, 1 if pooling == "sum" else None)
    check(output, expected.double(), terms=4)
    same = torch.ops.tmc.conv_act_pool2d(x, w, b, *arguments, keep)
    assert (output.stride(), kept.stride()) == tuple(tensor.stride() for tensor in same)
    keeps_map = keep and pooling == "avg"
    assert kept.numel() == (o.numel() if keeps_map else output.numel() if pooling == "max" else 0)
    if keeps_map:
        check(kept, o.double())

    grad_output = torch.randn_like(output)
    activated = kept if keeps_map else None if pooling in ("avg", "sum") else output
    given = grad_output, x, w, b, activated, kept if pooling == "max" else None, x.shape, w.shape
    grads = on_cuda.conv_act_pool2d_gradients(*given, *arguments, True, True, True)
    wide = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given]
    expected = torch.ops.tmc.conv_act_pool2d_gradients(*wide, *arguments, True, True, True)
    for actual, exact, terms in zip(grads, expected, (w.numel(), output.numel(), output.numel()), strict=True):
        check(actual, exact.double(), terms)
        assert actual.stride() == exact.stride()
    for only in range(3):
        wanted = [i == only for i in range(3)]
        some = on_cuda.conv_act_pool2d_gradients(*given, *arguments, *wanted)
        assert torch.equal(some[only], grads[only]) and sum(grad.numel() for grad in some) == some[only].numel()
