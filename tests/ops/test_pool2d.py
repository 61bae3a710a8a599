"""Max, average and sum pooling over sliding windows."""

import pytest
import torch
import torch.nn.functional as torch_F
from checks import DENSE, check_op, check_registration, check_values, in_both_layouts, ops_called, saved_tensors
from comparisons import close, same_values

import torch_manual_conv.functional as F

# name: input shape, window arguments
MAX_CASES = {
    "alexnet": ((2, 3, 9, 9), dict(kernel_size=3, stride=2)),
    "odd-size": ((2, 2, 7, 5), dict(kernel_size=2)),
    "stride-over-kernel": ((1, 2, 11, 8), dict(kernel_size=2, stride=3)),
    "padding": ((2, 2, 6, 7), dict(kernel_size=3, stride=2, padding=1)),
    "not-square": ((2, 3, 9, 8), dict(kernel_size=(3, 2), stride=(1, 2), padding=(1, 0))),
    "dilation": ((1, 2, 11, 10), dict(kernel_size=3, stride=2, padding=1, dilation=2)),
    "ceil-mode": ((2, 2, 8, 7), dict(kernel_size=3, stride=2, ceil_mode=True)),
    "ceil-mode-drops-window-in-padding": ((1, 1, 6, 6), dict(kernel_size=2, stride=3, padding=1, ceil_mode=True)),
    "ceil-mode-dilation": ((1, 2, 10, 9), dict(kernel_size=2, stride=3, dilation=3, ceil_mode=True)),
    "one-pixel": ((2, 3, 1, 1), dict(kernel_size=1)),
    "whole-input": ((2, 2, 5, 4), dict(kernel_size=(5, 4))),
    "many-channels": ((1, 37, 5, 5), dict(kernel_size=3, stride=2)),
    "window-256-taps": ((1, 2, 17, 17), dict(kernel_size=16, stride=1)),
    "window-over-256-taps": ((1, 2, 19, 20), dict(kernel_size=17, stride=2)),
}

AVG_CASES = {
    "lecture": ((2, 3, 8, 8), dict(kernel_size=2)),
    "odd-size": ((2, 2, 7, 5), dict(kernel_size=2)),
    "overlapping": ((2, 2, 9, 8), dict(kernel_size=3, stride=2)),
    "stride-over-kernel": ((1, 2, 11, 8), dict(kernel_size=2, stride=3)),
    "stride-one": ((2, 37, 11, 6), dict(kernel_size=3, stride=1)),
    "stride-one-padding-not-counted": (
        (2, 20, 9, 7),
        dict(kernel_size=3, stride=1, padding=1, count_include_pad=False),
    ),
    "padding": ((2, 2, 6, 7), dict(kernel_size=3, stride=2, padding=1)),
    "padding-not-counted": ((2, 2, 6, 7), dict(kernel_size=3, stride=2, padding=1, count_include_pad=False)),
    "not-square": ((2, 3, 9, 8), dict(kernel_size=(3, 2), stride=(1, 2), padding=(1, 0))),
    "ceil-mode": ((2, 2, 8, 7), dict(kernel_size=3, stride=2, ceil_mode=True)),
    "ceil-mode-padding": ((1, 2, 8, 7), dict(kernel_size=4, stride=3, padding=2, ceil_mode=True)),
    "ceil-mode-padding-not-counted": (
        (1, 2, 8, 7),
        dict(kernel_size=4, stride=3, padding=2, ceil_mode=True, count_include_pad=False),
    ),
    "divisor": ((2, 2, 6, 6), dict(kernel_size=3, stride=2, padding=1, divisor_override=5)),
    "negative-divisor": ((1, 2, 6, 6), dict(kernel_size=3, divisor_override=-2)),
    "one-pixel": ((2, 3, 1, 1), dict(kernel_size=1)),
    "whole-input": ((2, 2, 5, 4), dict(kernel_size=(5, 4))),
    "many-channels": ((1, 37, 5, 5), dict(kernel_size=3, stride=2)),
}


# Rows of several vectors or less than one, planes that tasks take several of or in several parts: (shape, windows).
LONG_ROWS = {
    "stride-1": ((2, 3, 6, 33), dict(kernel_size=3, stride=1, padding=1)),
    "stride-2": ((3, 5, 9, 67), dict(kernel_size=3, stride=2)),
    "stride-2-padding": ((2, 3, 8, 70), dict(kernel_size=3, stride=2, padding=1)),
    "stride-2-even-kernel": ((2, 3, 7, 64), dict(kernel_size=2)),
    "not-square": ((1, 3, 9, 55), dict(kernel_size=(3, 5), stride=(1, 2), padding=(0, 2))),
    "ceil-mode": ((2, 2, 10, 60), dict(kernel_size=3, stride=2, ceil_mode=True)),
    "stride-2-even-kernel-odd-size": ((2, 3, 7, 77), dict(kernel_size=2)),
    "stride-3": ((1, 5, 10, 80), dict(kernel_size=4, stride=3, padding=2)),
    "rows-in-parts": ((1, 2, 150, 131), dict(kernel_size=3, stride=2, padding=1)),
    "few-channels": ((2, 3, 12, 53), dict(kernel_size=2, stride=2)),
    "many-planes": ((3, 50, 13, 13), dict(kernel_size=3, stride=2)),
    "many-planes-padding": ((2, 70, 10, 17), dict(kernel_size=3, stride=2, padding=1, ceil_mode=True)),
    "many-planes-stride-1": ((2, 40, 9, 18), dict(kernel_size=3, stride=1, padding=1)),
    "many-planes-even-kernel": ((2, 40, 5, 33), dict(kernel_size=2, stride=2, padding=1)),
    "many-planes-even-kernel-stride-1": ((2, 40, 9, 16), dict(kernel_size=2, stride=1)),
}


def distinct(shape):
    """No two values closer than a finite difference, so that each maximum keeps its winner in gradcheck."""
    numel = torch.Size(shape).numel()
    return (torch.randperm(numel).double().reshape(shape) - 0.45 * numel) / numel**0.5


def taps(arguments):
    kernel_size = arguments["kernel_size"]
    return kernel_size**2 if isinstance(kernel_size, int) else kernel_size[0] * kernel_size[1]


@pytest.mark.parametrize("shape, arguments", MAX_CASES.values(), ids=MAX_CASES)
def test_max_matches_torch(shape, arguments, dtype, device):
    check_op(
        lambda x: F.max_pool2d(x, **arguments, return_indices=True),
        lambda x: torch_F.max_pool2d(x, **arguments, return_indices=True),
        distinct(shape), terms=taps(arguments), dtype=dtype, device=device,
    )  # fmt: skip


@pytest.mark.parametrize("shape, arguments", AVG_CASES.values(), ids=AVG_CASES)
def test_avg_matches_torch(shape, arguments, dtype, device):
    check_op(
        lambda x: F.avg_pool2d(x, **arguments),
        lambda x: torch_F.avg_pool2d(x, **arguments),
        torch.randn(shape, dtype=torch.float64), terms=taps(arguments), dtype=dtype, device=device,
    )  # fmt: skip


@in_both_layouts
@pytest.mark.parametrize("shape, arguments", LONG_ROWS.values(), ids=LONG_ROWS)
def test_long_rows_match_torch(shape, arguments, layout, dtype, device):
    """Values and gradients, with ties, infinities and NaN for max pooling."""
    special = torch.randn(shape, dtype=torch.float64).round(decimals=1)
    special.view(-1)[::13], special.view(-1)[5::31], special.view(-1)[7::43] = -torch.inf, torch.inf, torch.nan
    special[..., :9] = -torch.inf
    for ours, twin, x in (
        (F.max_pool2d, torch_F.max_pool2d, special),
        (F.avg_pool2d, torch_F.avg_pool2d, torch.randn(shape, dtype=torch.float64)),
    ):
        indices = dict(return_indices=True) if ours is F.max_pool2d else dict(count_include_pad=False)
        check_values(
            lambda x: ours(x, **arguments, **indices),  # noqa: B023
            lambda x: twin(x, **arguments, **indices),  # noqa: B023
            [layout(x.to(device, dtype))], terms=taps(arguments), trusted=False,
        )  # fmt: skip


@pytest.mark.parametrize("dilation", [2, 3])
def test_long_rows_with_dilation(dilation, dtype, device):
    x = distinct((2, 3, 14, 66))
    check_values(
        lambda x: F.max_pool2d(x, 3, 2, 1, dilation, return_indices=True),
        lambda x: torch_F.max_pool2d(x, 3, 2, 1, dilation, return_indices=True),
        [x.to(device, dtype)], terms=9,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [dict(kernel_size=2), dict(kernel_size=3, stride=2, padding=1, ceil_mode=True)])
def test_sum_matches_torch(arguments, dtype, device):
    check_op(
        lambda x: F.sum_pool2d(x, **arguments),
        lambda x: torch_F.avg_pool2d(x, **arguments, divisor_override=1),
        torch.randn(2, 3, 8, 6, dtype=torch.float64), terms=taps(arguments), dtype=dtype, device=device,
    )  # fmt: skip


def test_max_ties_nan_and_infinity(dtype, device):
    """The first of equal maxima wins, the last NaN wins, and a window of -inf still has a winner (torch's rules)."""
    inf, nan = torch.inf, torch.nan
    image = torch.tensor(
        [
            [1, 1, nan, 0, -inf, -inf, 7],
            [1, 1, 2, nan, -inf, -inf, inf],
            [-0.0, 0.0, 3, 3, nan, inf, -inf],
            [0.0, -0.0, 3, 1, inf, -inf, nan],
            [5, -inf, -inf, -inf, -inf, 4, 4],
        ],
        dtype=torch.float64,
    )
    for arguments in (dict(kernel_size=2), dict(kernel_size=3, stride=1, padding=1), dict(kernel_size=2, dilation=2)):
        for layout in DENSE.values():
            check_values(
                lambda x: F.max_pool2d(x, **arguments, return_indices=True),  # noqa: B023
                lambda x: torch_F.max_pool2d(x, **arguments, return_indices=True),  # noqa: B023
                [layout(image.expand(2, 3, 5, 7).to(device, dtype))],
                trusted=False,
            )  # fmt: skip


@in_both_layouts
def test_max_of_special_values_in_some_channels(layout, dtype, device):
    """Vectors of channels, and rows, with a NaN stand beside others without; a zero keeps its sign."""
    values = torch.tensor([-0.0, 0.0, -0.0, 0.0, -1.0, 6e-8, torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
    generator = torch.Generator().manual_seed(7)
    kinds = torch.randint(0, 9, (3, 150, 9, 7), generator=generator)
    kinds[:, :70] = kinds[:, :70].clamp(max=3)  # of zeros alone
    kinds[1, 90:] = kinds[1, 90:].clamp(max=7)
    kinds[2] = kinds[2].clamp(min=3, max=7)  # ordinary, but for two rows
    kinds[2, 33, 5, 2], kinds[2, 140, 8, 6] = 0, 8
    images = layout(values[kinds].to(device, dtype))
    apart = dict(kernel_size=2, stride=1, dilation=3, padding=1)
    for arguments in (dict(kernel_size=2), dict(kernel_size=3, stride=1, padding=1), apart):
        output, indices = F.max_pool2d(images, **arguments, return_indices=True)
        wanted, wanted_indices = torch_F.max_pool2d(images, **arguments, return_indices=True)
        same_values(indices, wanted_indices, "indices")
        close(output, wanted, "output", rtol=0, atol=0, equal_nan=True)
        same_values(output.signbit() | output.isnan(), wanted.signbit() | wanted.isnan(), "output: signs")


@in_both_layouts
@pytest.mark.parametrize("width", [6, 40])
def test_averages_do_not_depend_on_their_neighbours(width, layout, dtype, device):
    """Sums that rows of outputs share change no bit: each row alone gives the same."""
    x = layout(torch.randn(2, 70, 12, width, device=device).to(dtype))
    x[0, :, ::5], x[1, ::7] = -0.0, 1e-38
    y = F.avg_pool2d(x, 3, stride=1, padding=(0, 1))
    for row in range(10):
        alone = F.avg_pool2d(layout(x[:, :, row : row + 3]), 3, stride=1, padding=(0, 1))
        same_values(y[:, :, row], alone[:, :, 0], f"row {row}, wanted as alone")
        same_values(y[:, :, row].signbit(), alone[:, :, 0].signbit(), f"row {row}: signs")


@in_both_layouts
@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_few_channels_give_the_bits_of_many(channels, layout, dtype, device):
    """A row of few channels is worked on as a whole, which changes no bit: not at edges, not of NaN and infinities."""
    many = torch.randn(2, 70, 9, 123, dtype=torch.float64).round(decimals=1)
    many[0].view(-1)[::7], many[1].view(-1)[3::29], many[1, :, 3:5] = -torch.inf, torch.nan, -0.0
    many = many.to(device, dtype)

    def values_and_gradients(pool, channels):
        x = layout(many[:, :channels].clone()).requires_grad_()
        y = pool(x)
        g = torch.linspace(-1, 1, many[:, :, : y.size(2), : y.size(3)].numel(), dtype=torch.float64)
        g = g.reshape(2, 70, y.size(2), y.size(3))[:, :channels].to(device, dtype)
        return [t[:, :few].detach().nan_to_num(3.0) for t in (y, torch.autograd.grad(y, x, layout(g))[0])]

    few = channels
    for window in ((2, 2), (3, 2, 1), (3, 1, 1), (5, 3, 2), (2, 3)):
        for pool in (F.max_pool2d, F.avg_pool2d):
            mine, wanted = (values_and_gradients(lambda x: pool(x, *window), c) for c in (channels, 70))  # noqa: B023
            same_values(mine, wanted, f"{pool.__name__}{window}", ("output", "grad_input"))
            same_values([t.signbit() for t in mine], [t.signbit() for t in wanted], "signs", ("output", "grad_input"))


@in_both_layouts
@pytest.mark.parametrize("channels", [1, 20])
def test_windows_around_the_input(channels, layout, dtype, device):
    """Dilated windows that step over the whole input: -inf, and their gradients go nowhere (torch's to another pixel,
    or beyond the tensor)."""
    x = layout(torch.ones(2, channels, 12, 1, dtype=dtype, device=device)).requires_grad_()
    y = F.max_pool2d(x, (1, 2), stride=1, padding=(0, 1), dilation=(1, 2))
    same_values(y, torch.full_like(y, -torch.inf), "output")
    y.backward(torch.ones_like(y))
    same_values(x.grad, torch.zeros_like(x), "grad_input")


def test_registration(device):
    x, window = distinct((2, 3, 7, 6)).to(device), (3, 2, 1)
    called = ops_called(lambda x: F.max_pool2d(x, *window, ceil_mode=True, return_indices=True), [x])
    called |= ops_called(lambda x: F.avg_pool2d(x, *window), [x])
    called |= ops_called(lambda x: F.sum_pool2d(x, *window), [x])
    maximum = {"max_pool2d", "max_pool2d_grad_input", "max_pool2d_select", "max_pool2d_indices"}
    assert {op.name().removeprefix("tmc::") for op in called} == maximum | {"avg_pool2d", "avg_pool2d_grad_input"}
    check_registration(called)


def test_stride_omitted():
    """None and an empty list mean kernel_size, as in torch."""
    x = torch.randn(1, 2, 6, 6)
    for stride in (None, [], ()):
        same_values(F.max_pool2d(x, 2, stride), torch_F.max_pool2d(x, 2), f"maxima, stride {stride}")
        same_values(F.avg_pool2d(x, 2, stride), F.avg_pool2d(x, 2), f"averages, stride {stride}")


@pytest.mark.parametrize("kernel_size, dtype_saved", [(2, torch.uint8), (16, torch.uint8), (17, torch.int32)])
def test_max_saves_one_byte_per_output(kernel_size, dtype_saved, device):
    x = torch.randn(2, 3, 40, 40, device=device, requires_grad=True)
    output = []
    (saved,) = saved_tensors(lambda: output.append(F.max_pool2d(x, kernel_size)))
    assert saved.dtype == dtype_saved and saved.shape == output[0].shape


def test_avg_saves_no_tensor(device):
    x = torch.randn(2, 3, 8, 8, device=device, requires_grad=True)
    assert not saved_tensors(lambda: F.avg_pool2d(x, 2)) and not saved_tensors(lambda: F.sum_pool2d(x, 2))


def test_winners_are_released_after_backward(device):
    """They pass through saved-tensor hooks (checkpointing, offloading) and are gone when the graph is."""
    for pool in (lambda x: F.max_pool2d(x, 2), lambda x: F.adaptive_max_pool2d(x, 3)):
        unpacked = []

        def unpack(tensor, seen=unpacked):
            seen.append(tensor.dtype)
            return tensor

        x = torch.randn(1, 2, 6, 6, device=device, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
            output = pool(x).sum()
        output.backward()
        assert unpacked == [torch.uint8]
        with pytest.raises(RuntimeError, match="second time"):
            output.backward()
