"""A stage's gradients by weight and bias on CUDA, through the entry points, executed on the CPU (cuda_harness/)."""

import pytest
import torch
from cuda_harness.kernels import dense
from cuda_harness.shapes import Conv
from test_cuda_conv2d import PRECISIONS
from test_cuda_conv2d import check as check_product
from test_cuda_conv_act_pool2d import stage_arguments
from test_cuda_kernels import check, conv_operands

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


def stage_case(conv, window, activation, pooling, dtype, allowed):
    """The operator's arguments."""
    (x, w, b, _), _ = conv_operands(conv, dtype)
    arguments = stage_arguments(conv, window, activation, pooling, allowed)
    output, kept = torch.ops.tmc.conv_act_pool2d(dense(x, True), w, b, *arguments, True)
    generator = torch.Generator().manual_seed(4)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype)
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


@pytest.mark.parametrize("pooling", ["none", "max", "avg", "sum"])
@pytest.mark.parametrize("name", STAGES)
def test_gradients_match_float64(on_cuda, name, pooling, precision):
    dtype, allowed, rounding = precision
    conv, window = STAGES[name]
    activation = {"none": "relu", "max": "sigmoid", "avg": "tanh", "sum": "none"}[pooling]
    given, arguments = stage_case(conv, window, activation, pooling, dtype, allowed)
    check_gradients(gradients(on_cuda, given, arguments), exact_gradients(given, arguments), conv, rounding)


@pytest.mark.parametrize("last", [True, False], ids=["channels_last", "contiguous"])
def test_each_gradient_alone(on_cuda, last):
    """Of either layout; each without the other, with the same bits."""
    conv, window = STAGES["alexnet_first"]
    given, arguments = stage_case(conv, window, "relu", "max", torch.bfloat16, "highest")
    given = dense(given[0], last), dense(given[1], last), *given[2:]
    both = gradients(on_cuda, given, arguments)
    by_weight = on_cuda.conv_act_pool2d_gradients(*given, *arguments, False, True, False)
    by_bias = on_cuda.conv_act_pool2d_gradients(*given, *arguments, False, False, True)
    assert torch.equal(by_weight[1], both[0]) and by_weight[2].numel() == 0
    assert torch.equal(by_bias[2], both[1]) and by_bias[1].numel() == 0
    check_gradients(both, exact_gradients(given, arguments), conv)


def test_winners_outside_their_windows_touch_nothing(on_cuda):
    conv, window = STAGES["padded_windows"]
    (*given, winners, input_size, weight_size), arguments = stage_case(
        conv, window, "relu", "max", torch.float16, "highest"
    )
    for result in gradients(on_cuda, (*given, torch.full_like(winners, 255), input_size, weight_size), arguments):
        assert not result.any()
