"""Barriers, TMA and wgmma as the harness emulates them (emulated_hopper.h), held against the PTX ISA's tables.

As in test_cuda_tensor_cores.py, the tables are written down here a second time.
"""

import ctypes

import pytest
import torch
from cuda_harness.kernels import HarnessError

THREADS = 128


def integers(*shape):
    return torch.randint(-9, 10, shape)


def unswizzled(lines):
    """Lines of eight 16-byte chunks: chunk c of line i lies at c XOR i % 8."""
    chunks = lines.view(len(lines), 8, -1)
    return torch.stack([chunk[torch.arange(8) ^ i % 8] for i, chunk in enumerate(chunks)]).flatten(1)


# ---- TMA.


@pytest.mark.parametrize("element", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("corner", [(0, 0, 0), (32, 2, 5), (64, 1, -3), (-16, 0, 9)], ids=str)
def test_copy_lines(kernels, element, corner):
    column, plane, row = corner
    data, width = integers(11, 3, 72).to(element), 128 // element.itemsize
    result = torch.full((8, width), torch.nan, dtype=element)
    extents = (ctypes.c_int64 * 3)(*data.shape)
    kernels.call("selftest_copy_lines", element, data, extents, column, plane, row, 8, result)
    padded = torch.nn.functional.pad(data[:, plane].float(), (128, 128, 16, 16))
    expected = padded[row + 16 :, column + 128 :][:8, :width]
    assert torch.equal(unswizzled(result).float(), expected)


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)], ids=str)
def test_copy_pixels_walks_as_a_convolution_does(kernels, stride):
    """im2col: every output pixel in turn, from the middle of a row on, past the last sample."""
    (n, c, h, w), (r, s), pads = (2, 72, 9, 8), (3, 2), (2, 1)
    image = integers(n, c, h, w).bfloat16().contiguous(memory_format=torch.channels_last)
    padded = torch.nn.functional.pad(image.float(), (pads[1], pads[1], pads[0], pads[0]))
    p, q = (h + 2 * pads[0] - r) // stride[0] + 1, (w + 2 * pads[1] - s) // stride[1] + 1
    grid = n, h, w, c, p, q, -pads[0], -pads[1], *stride
    for pixel, channel, shift_h, shift_w in ((0, 0, 0, 0), (3, 64, 2, 1), (p * q + 1, 0, 1, 0)):
        at_n, at_p, at_q = pixel // (p * q), pixel // q % p, pixel % q
        at = channel, at_q * stride[1] - pads[1], at_p * stride[0] - pads[0], at_n, shift_w, shift_h
        result = torch.full((64, 64), torch.nan, dtype=torch.bfloat16)
        arrays = (ctypes.c_int * len(grid))(*grid), (ctypes.c_int * len(at))(*at)
        kernels.call("selftest_copy_pixels", image, *arrays, 64, result)
        taps = padded[:, :, shift_h :: stride[0], shift_w :: stride[1]][:, :, :p, :q].permute(0, 2, 3, 1).reshape(-1, c)
        taps = torch.nn.functional.pad(taps, (0, 64, 0, 64))
        assert torch.equal(unswizzled(result).float(), taps[pixel:, channel:][:64, :64])


def test_tf32_is_rounded_on_the_way(kernels):
    data = torch.tensor([1 + 2**-11 + 2**-13, 1 + 2**-12] + [0.0] * 30)
    result = torch.zeros(1, 32)
    kernels.call("selftest_copy_lines", torch.float32, data, (ctypes.c_int64 * 3)(1, 1, 32), 0, 0, 0, 1, result)
    assert result[0, :2].tolist() == [1 + 2**-10, 1]


def test_maps_and_copies_that_a_gpu_refuses_are_reported(kernels):
    data, result = torch.zeros(64, 1, 72, dtype=torch.bfloat16), torch.zeros(300, 64, dtype=torch.bfloat16)

    def lines(rows=64, columns=72, box=8, base=data):
        extents = (ctypes.c_int64 * 3)(rows, 1, columns)
        kernels.call("selftest_copy_lines", torch.bfloat16, base, extents, 0, 0, 0, box, result)

    def pixels(pad=1, step=1, first=0, shift=0):
        count = (6 + 2 * pad - 1) // step + 1
        grid = (ctypes.c_int * 10)(1, 6, 6, 8, count, count, -pad, -pad, step, step)
        at = (ctypes.c_int * 6)(0, first - pad, -pad, 0, shift, 0)
        kernels.call("selftest_copy_pixels", data, grid, at, 8, result)

    lines(), pixels()
    for wrong, report in (
        (lambda: lines(columns=70), "stride that is no multiple of 16"),
        (lambda: lines(rows=0), "extent"),
        (lambda: lines(box=257), "box"),
        (lambda: lines(base=data.flatten()[1:]), "address"),
        (lambda: pixels(pad=129), "corner"),
        (lambda: pixels(step=9), "step"),
        (lambda: pixels(first=8), "first pixel outside"),
        (lambda: pixels(step=2, first=1), "first pixel outside"),
        (lambda: pixels(shift=256), "shift"),
    ):
        with pytest.raises(HarnessError, match=report):
            wrong()


# ---- wgmma: (row, column) of element i of thread t's sums, as the PTX ISA gives them.


def sums_place(thread, i):
    warp, lane = thread // 32, thread % 32
    return warp * 16 + lane // 4 + i // 2 % 2 * 8, i // 4 * 8 + lane % 4 * 2 + i % 2


def fragments(matrix):
    count = matrix.shape[1] // 2
    places = [sums_place(thread, i) for thread in range(THREADS) for i in range(count)]
    rows, columns = zip(*places, strict=True)
    return matrix[list(rows), list(columns)].contiguous()


@pytest.mark.parametrize("columns", [128, 256])
@pytest.mark.parametrize(
    ("element", "outer"),
    [
        (torch.bfloat16, False),
        (torch.bfloat16, True),
        (torch.float16, False),
        (torch.float16, True),
        (torch.float32, 0),
    ],
    ids=str,
)
def test_wgmma(kernels, element, outer, columns):
    line, depth = 128 // element.itemsize, 32 // element.itemsize
    a = integers(64, 64 if outer else line).to(element)
    b = integers(*((64, columns) if outer else (columns, line))).to(element)
    sums = integers(64, columns).float()
    for step, kernels.seed in ((0, 0), (3, 5)):
        registers = fragments(sums)
        kernels.call("selftest_wgmma", element, columns, outer, a, b, step, 63, registers)
        piece = slice(step * depth, (step + 1) * depth)
        product = a[piece].float().T @ b[piece].float() if outer else a[:, piece].float() @ b[:, piece].float().T
        assert torch.equal(registers, fragments(sums + product))


@pytest.mark.parametrize("outer", [False, True], ids=["depth_inner", "depth_outer"])
def test_a_wrong_bit_in_an_operand_is_seen(kernels, outer):
    """Address, distances, base offset, swizzle: but for those that the layout does not read."""
    a, b, sums = integers(64, 64).bfloat16(), integers(64, 256).bfloat16(), torch.zeros(64, 256)
    b = b if outer else b.T.contiguous()
    right = fragments(sums)
    kernels.call("selftest_wgmma", torch.bfloat16, 256, outer, a, b, 0, 63, right)
    leading = range(16, 30) if outer else ()
    for bit in (*range(14), *leading, *range(32, 46), 49, 62):
        wrong = fragments(sums)
        try:
            kernels.call("selftest_wgmma", torch.bfloat16, 256, outer, a, b, 0, bit, wrong)
        except HarnessError:
            continue
        assert not torch.equal(wrong, right), bit


@pytest.mark.parametrize("mistake", range(3), ids=["read_too_early", "no_fence", "no_wait"])
def test_misused_products_are_seen(kernels, mistake):
    sums = torch.zeros(THREADS)
    if mistake == 0:
        kernels.call("selftest_wgmma_misuse", mistake, sums)
        assert sums.isnan().all()
        return
    with pytest.raises(HarnessError, match=("", "without wgmma.fence", "nobody waits for")[mistake]):
        kernels.call("selftest_wgmma_misuse", mistake, sums)


# ---- Barriers.


def test_phases_alternate(kernels):
    kernels.call("selftest_parity")
    parities = [place for place in kernels.barriers if place.endswith("^")]
    assert parities
    for kernels.skipped_barrier in parities:
        with pytest.raises(HarnessError, match="waits for ever"):
            kernels.call("selftest_parity")


def test_threads_that_wait_for_ever_are_reported(kernels):
    with pytest.raises(HarnessError, match="waits for ever"):
        kernels.call("selftest_lost_bytes")
    with pytest.raises(HarnessError, match="not initialised"):
        kernels.call("selftest_no_barrier")
