"""A stage's gradients by weight and bias on CUDA, the gradient of its map rebuilt in shared memory, executed on the CPU
(cuda_harness/)."""

from dataclasses import replace

import pytest
import torch
from cuda_harness.kernels import dense
from cuda_harness.shapes import ACTIVATIONS, Conv
from test_cuda_conv2d import PRECISIONS
from test_cuda_conv2d import check as check_product
from test_cuda_conv_act_pool2d import stage_arguments
from test_cuda_harness import missed_barriers
from test_cuda_kernels import SEEDS, check, conv_operands

# name: convolution, pool's window
STAGES = {
    "alexnet_first": (Conv(2, 3, 63, 67, 64, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2)), [3, 3, 2, 2, 0, 0]),
    "several_parts": (Conv(2, 8, 40, 41, 24, 3, 3, pads=(1, 1, 1, 1)), [2, 2, 2, 2, 0, 0]),
    "padded_windows": (Conv(1, 1, 20, 21, 40, 5, 5, pads=(2, 1, 0, 2)), [3, 3, 2, 2, 1, 1]),
    "many_channels": (Conv(1, 24, 9, 12, 136, 5, 5, pads=(2, 2, 2, 2)), [3, 2, 1, 2, 0, 0]),
    "groups": (Conv(2, 16, 14, 13, 32, 3, 3, groups=2), [3, 2, 2, 1, 1, 0]),
    "gaps": (Conv(1, 16, 24, 25, 8, 2, 2), [1, 2, 2, 4, 0, 0]),
    "odd_stride": (
        Conv(2, 8, 23, 40, 16, 3, 2, stride=(1, 3), pads=(0, 1, 2, 2), dilation=(2, 1)),
        [2, 2, 2, 2, 0, 0],
    ),
    "one_pixel": (Conv(1, 8, 3, 3, 8, 3, 3), [1, 1, 1, 1, 0, 0]),
}


@pytest.fixture(params=PRECISIONS.values(), ids=PRECISIONS.keys())
def precision(request):
    return request.param


@pytest.fixture
def form(monkeypatch):
    return lambda name: monkeypatch.setenv("TMC_STAGE_MAP_GRADIENT", name)


def stage_case(conv, window, activation, pooling, dtype, allowed, whole=False):
    """The operator's arguments; whole: of integers, whose sums are exact in any order."""
    if whole:
        generator = torch.Generator().manual_seed(2)
        values = [torch.randint(-3, 4, size, generator=generator).to(dtype) for size in (*conv.sizes[:2], (conv.k,))]
        x, w, b = values
    else:
        (x, w, b, _), _ = conv_operands(conv, dtype)
    arguments = stage_arguments(conv, window, activation, pooling, allowed)
    output, kept = torch.ops.tmc.conv_act_pool2d(dense(x, True), w, b, *arguments, True)
    generator = torch.Generator().manual_seed(4)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype)
    if whole:
        grad_output = torch.randint(-200, 201, output.shape, generator=generator).to(dtype)
        if pooling == "avg":  # of whole shares
            grad_output = (grad_output / 8).round() * (window[0] * window[1])
    activated = None if activation == "none" else kept if pooling in ("avg", "sum") else output
    winners = kept if pooling == "max" else None
    given = dense(grad_output, True), x, None, b, activated, winners, x.shape, w.shape
    return given, arguments


def exact_gradients(given, arguments):
    """By the CPU in float64, of the same tensors."""
    tensors = [t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in given]
    return torch.ops.tmc.conv_act_pool2d_gradients(*tensors, *arguments, False, True, True)[1:]


def gradients(on_cuda, given, arguments):
    return on_cuda.conv_act_pool2d_gradients(*given, *arguments, False, True, True)[1:]


def terms_of(conv):
    return conv.n * conv.p * conv.q


def check_gradients(actual, expected, conv, rounding=0):
    """rounding: of a product's operands; the map's gradient is rounded to the tensors' dtype besides."""
    rounding = max(rounding, torch.finfo(actual[0].dtype).eps / 2)
    check_product(actual[0], expected[0], rounding, terms_of(conv))
    check(actual[1], expected[1], terms_of(conv))
    assert actual[0].stride() == expected[0].stride()


def algorithm(on_cuda, given, arguments):
    x, weight_size = given[1], given[7]
    answer = on_cuda.conv_act_pool2d_algorithm(x, torch.empty(weight_size, dtype=x.dtype), *arguments, True)
    return answer.splitlines()[1].removeprefix("gradient of the map: ").split("; scratch")[0]


@pytest.mark.parametrize("pooling", ["none", "max", "avg", "sum"])
@pytest.mark.parametrize("name", STAGES)
def test_rebuilt_gradients(on_cuda, form, name, pooling, precision):
    dtype, allowed, rounding = precision
    conv, window = STAGES[name]
    activation = {"none": "relu", "max": "sigmoid", "avg": "tanh", "sum": "none"}[pooling]
    given, arguments = stage_case(conv, window, activation, pooling, dtype, allowed)
    form("rebuilt")
    assert algorithm(on_cuda, given, arguments).startswith("rebuilt")
    check_gradients(gradients(on_cuda, given, arguments), exact_gradients(given, arguments), conv, rounding)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("pooling", ["none", "max", "avg", "sum"])
@pytest.mark.parametrize("name", ["several_parts", "padded_windows", "groups"])
def test_rebuilt_gradients_are_those_of_the_stored_map(on_cuda, form, name, pooling, activation, precision):
    """To the bit, where the order of the sums does not matter: the same rounding before the product."""
    dtype, allowed, _ = precision
    conv, window = STAGES[name]
    given, arguments = stage_case(conv, window, activation, pooling, dtype, allowed, whole=True)
    results = []
    for each in ("rebuilt", "stored"):
        form(each)
        results.append(gradients(on_cuda, given, arguments))
    assert all(map(torch.equal, *results)) and all(result.any() for result in results[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_rebuilt_gradients_with_every_activation(on_cuda, form, activation, pooling):
    conv, window = STAGES["padded_windows"]
    given, arguments = stage_case(conv, window, activation, pooling, torch.bfloat16, "highest")
    form("rebuilt")
    check_gradients(gradients(on_cuda, given, arguments), exact_gradients(given, arguments), conv)


@pytest.mark.parametrize("last", [True, False], ids=["channels_last", "contiguous"])
def test_rebuilt_gradients_alone(on_cuda, form, last):
    """Of either layout; each without the other; with an input that needs one too, the map's gradient is stored."""
    conv, window = STAGES["alexnet_first"]
    given, arguments = stage_case(conv, window, "relu", "max", torch.bfloat16, "highest")
    given = dense(given[0], last), dense(given[1], last), *given[2:]
    form("rebuilt")
    both = gradients(on_cuda, given, arguments)
    alone = on_cuda.conv_act_pool2d_gradients(*given, *arguments, False, True, False)
    assert torch.equal(alone[1], both[0]) and alone[2].numel() == 0
    by_bias = on_cuda.conv_act_pool2d_gradients(*given, *arguments, False, False, True)
    check(by_bias[2], both[1].double(), terms_of(conv))
    check_gradients(both, exact_gradients(given, arguments), conv)


def test_image_that_is_not_finite(on_cuda, form):
    """Where a tile hangs over the map, what is read beside the map counts for nothing, whatever it is."""
    conv, window = Conv(1, 8, 11, 13, 8, 3, 3), [2, 2, 2, 2, 0, 0]
    for dtype, allowed, rounding in PRECISIONS.values():
        (values, *given), arguments = stage_case(conv, window, "none", "avg", dtype, allowed)
        x = given[0].clone()
        x[:, :, -1, -1] = torch.inf
        given = values, x, *given[1:]
        expected = exact_gradients(given, arguments)
        form("rebuilt")
        actual = gradients(on_cuda, given, arguments)
        reaches = torch.isfinite(expected[0])
        assert not reaches[:, :, 2, 2].any() and reaches[:, :, :2, :2].all()
        assert torch.equal(actual[0].isfinite(), reaches)
        rounding = max(rounding, torch.finfo(dtype).eps / 2)
        check_product(actual[0].where(reaches, 0), expected[0].where(reaches, 0), rounding, terms_of(conv))


def test_gradient_that_is_not_finite(on_cuda, form):
    conv, window = STAGES["padded_windows"]
    for pooling in ("max", "avg"):
        (grad_output, *given), arguments = stage_case(conv, window, "relu", pooling, torch.float32, "highest")
        grad_output = grad_output.clone()
        grad_output[0, 3, 2, 1], grad_output[0, 5, 3, 3] = torch.inf, torch.nan
        results = []
        for each in ("rebuilt", "stored"):
            form(each)
            results.append(gradients(on_cuda, (grad_output, *given), arguments))
        for one, other in zip(*results, strict=True):
            assert torch.equal(one.isfinite(), other.isfinite()) and not one.isfinite().all()


def test_winners_outside_their_windows_touch_nothing(on_cuda, form):
    conv, window = STAGES["padded_windows"]
    (*given, winners, input_size, weight_size), arguments = stage_case(
        conv, window, "relu", "max", torch.float16, "highest"
    )
    form("rebuilt")
    for result in gradients(on_cuda, (*given, torch.full_like(winners, 255), input_size, weight_size), arguments):
        assert not result.any()


@pytest.mark.parametrize("name", ["several_parts", "many_channels"])
@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_rebuilt_bits(on_cuda, kernels, form, name, pooling, precision):
    dtype, allowed, _ = precision
    conv, window = STAGES[name]
    given, arguments = stage_case(conv, window, "tanh", pooling, dtype, allowed)
    form("rebuilt")
    every = []
    for kernels.seed in SEEDS:
        every.append(gradients(on_cuda, given, arguments))
    for other in every[1:]:
        assert all(map(torch.equal, every[0], other))


def test_every_missing_barrier_and_wait_is_caught(on_cuda, kernels, form):
    form("rebuilt")
    launches, places = [], set()
    for name, pooling in (("several_parts", "max"), ("several_parts", "avg"), ("alexnet_first", "none")):
        conv, window = STAGES[name]
        given, arguments = stage_case(conv, window, "sigmoid", pooling, torch.float32, "highest")
        exact = exact_gradients(given, arguments)
        for i in range(2):
            launches.append((lambda a=(given, arguments), i=i: gradients(on_cuda, *a)[i], exact[i]))
            check(launches[-1][0](), exact[i], terms_of(conv))
            places |= {place for place in kernels.barriers if place.startswith("conv_act_pool2d_grad_weight")}
    assert len(places) == 6
    assert not missed_barriers(kernels, sorted(places), launches)


def test_which_gradients_are_rebuilt(on_cuda, form, monkeypatch):
    def chosen(conv, window, pooling="max", dtype=torch.bfloat16, allowed="highest"):
        x, w = (torch.empty(size, dtype=dtype) for size in conv.sizes[:2])
        arguments = stage_arguments(conv, window, "sigmoid", pooling, allowed)
        return algorithm(on_cuda, (None, x, *[None] * 5, w.shape), arguments)

    overlapping = [3, 3, 2, 2, 0, 0]
    first = Conv(1, 3, 224, 224, 64, 11, 11, stride=(4, 4), pads=(2, 2, 2, 2))
    second = Conv(1, 64, 27, 27, 192, 5, 5, pads=(2, 2, 2, 2))
    for dtype, allowed, _ in PRECISIONS.values():
        for pooling in ("none", "max", "avg", "sum"):
            assert chosen(first, overlapping, pooling, dtype, allowed).startswith("rebuilt")
        assert chosen(replace(first, n=5), overlapping, "max", dtype, allowed) == chosen(first, overlapping)
    form("stored")
    assert chosen(first, overlapping).startswith("stored: preferred")
    form("rebuilt")
    assert chosen(second, overlapping).startswith("rebuilt: preferred")
    assert "even stride" in chosen(replace(second, stride=(1, 2)), overlapping)
    assert "strides" in chosen(first, [3, 3, 2, 3, 0, 0])
    assert "shared memory" in chosen(replace(second, c=512), overlapping)
    assert "bytes" in chosen(first, [17, 17, 2, 2, 0, 0])
    assert "tensor cores" in chosen(first, overlapping, dtype=torch.float64)
    form("")
    monkeypatch.setenv("TMC_HARNESS_CAPABILITY", "8")
    assert "too often" in chosen(second, overlapping)
    monkeypatch.delenv("TMC_HARNESS_CAPABILITY")
    assert "wgmma" in chosen(second, overlapping)
