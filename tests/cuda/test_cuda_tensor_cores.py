"""Tensor cores, matrix loads and asynchronous copies as the harness emulates them, held against the PTX ISA's tables.

The tables are written down here a second time, as the PTX ISA words them, so that the emulation
(emulated_tensor_cores.h) and these tests would have to be wrong in the same way. Also what a GPU would punish by
slowness alone: bank conflicts.
"""

import random

import pytest
import torch
from cuda_harness.kernels import HarnessError

LANES = 32


# ---- ldmatrix.


@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrices(kernels, transposed):
    """Lane l holds row l / 4, elements 2 (l % 4) and the next, of each matrix or of its transpose."""
    matrices = torch.randint(-(2**15), 2**15, (4, 8, 8), dtype=torch.int16)
    registers = torch.zeros(LANES, 4, dtype=torch.int32)
    kernels.call("selftest_load_matrices", matrices, transposed, registers)
    read = matrices.transpose(1, 2) if transposed else matrices
    for lane in range(LANES):
        pairs = registers[lane].view(torch.int16).view(4, 2)
        assert torch.equal(pairs, read[:, lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2])


# ---- mma.sync: (row, column) of element i of lane l's fragments, as the PTX ISA gives them.


def half_a(lane, i):
    group, thread = lane >> 2, lane % 4
    row = group if i < 2 or 4 <= i < 6 else group + 8
    return row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)


def half_b(lane, i):
    group, thread = lane >> 2, lane % 4
    return thread * 2 + (i & 1) + (8 if i >= 2 else 0), group


def tf32_a(lane, i):
    group, thread = lane >> 2, lane % 4
    return (group if i in (0, 2) else group + 8), (thread if i < 2 else thread + 4)


def tf32_b(lane, i):
    group, thread = lane >> 2, lane % 4
    return (thread if i == 0 else thread + 4), group


def accumulator(lane, i):
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def fragments(matrix, place, count):
    """The elements of every lane's fragment, lane after lane."""
    return torch.stack([matrix[place(lane, i)] for lane in range(LANES) for i in range(count)])


@pytest.mark.parametrize(
    ("factor", "depth", "a_place", "b_place"),
    [
        (torch.bfloat16, 16, half_a, half_b),
        (torch.float16, 16, half_a, half_b),
        (torch.float32, 8, tf32_a, tf32_b),
    ],
    ids=["bfloat16", "float16", "tf32"],
)
def test_multiply_add(kernels, factor, depth, a_place, b_place):
    a, b = (torch.randint(-9, 10, shape).to(factor) for shape in ((16, depth), (depth, 8)))
    sums = torch.randint(-9, 10, (16, 8)).float()
    kernels.seed = 3
    registers = fragments(sums, accumulator, 4)
    operands = fragments(a, a_place, depth // 2), fragments(b, b_place, depth // 4)
    kernels.call("selftest_multiply_add", factor, *operands, registers)
    assert torch.equal(registers, fragments(sums + a.float() @ b.float(), accumulator, 4))


def test_tf32_reads_ten_bits_of_the_mantissa_and_sums_are_cut_off(kernels):
    operands = [
        fragments(torch.zeros(shape), place, n) for shape, place, n in (((16, 8), tf32_a, 4), ((8, 8), tf32_b, 2))
    ]
    operands[0][0], operands[1][0] = 1 + 2**-10 + 2**-11, 1  # row 0, depth 0, column 0
    registers = torch.zeros(LANES * 4)
    registers[0] = 2.0**24
    kernels.call("selftest_multiply_add", torch.float32, *operands, registers)
    assert registers[0] == 2**24
    registers[0] = 0
    kernels.call("selftest_multiply_add", torch.float32, *operands, registers)
    assert registers[0] == 1 + 2**-10


def test_misused_warp_instructions_are_reported(kernels):
    for launcher, arguments, report in (
        ("selftest_half_a_warp", (), "mma.sync: 16 threads of a warp never reach it"),
        ("selftest_divided_warp", (), "stand at"),
        ("selftest_strided_load", (8, 16), "misaligned"),
        ("selftest_strided_load", (4000, 16), "outside shared memory"),
        ("selftest_strided_load", (0, 32), "bank conflict"),
        ("selftest_too_much_shared_memory", (), "CUDA refuses"),
    ):
        with pytest.raises(HarnessError, match=report):
            kernels.call(launcher, *arguments)
    kernels.call("selftest_strided_load", 0, 16)


# ---- cp.async.


def test_copies_land_when_they_are_waited_for(kernels):
    chunks, results = torch.randn(2, 4), torch.zeros(6, 4)
    kernels.seed = 0  # never at once
    kernels.call("selftest_copy", chunks, results)
    assert torch.equal(results[0], chunks[0]) and results[1:3].isnan().all()
    assert torch.equal(results[3:5], chunks) and not results[5].any()


def test_copies_may_land_at_once(kernels):
    chunks, results, early = torch.randn(2, 4), torch.zeros(6, 4), 0
    for kernels.seed in range(1, 20):
        kernels.call("selftest_copy", chunks, results)
        early += int(torch.equal(results[1], chunks[1]))
    assert 0 < early < 19


def test_copies_that_nobody_waits_for_are_reported(kernels):
    kernels.seed = 0
    with pytest.raises(HarnessError, match="nobody waits for"):
        kernels.call("selftest_unwaited_copy", torch.randn(4))


# ---- Float operands as two TF32 numbers.


def test_split(kernels):
    finite = torch.randn(800) * 10.0 ** torch.randint(-37, 38, (800,))
    finite = torch.cat([finite, torch.tensor([0, -0.0, 1, 1e-45, -1e-40, 3.4028234e38, -3.4028234e38, 3.40256e38])])
    values = torch.cat([finite, torch.tensor([torch.inf, -torch.inf, torch.nan])])
    values = torch.cat([values, torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)])
    hi, lo = torch.zeros_like(values), torch.zeros_like(values)
    kernels.call("selftest_split", values, hi, lo, len(values))
    assert not (hi.view(torch.int32) & 0x1FFF).any()  # the 13 bits that tensor cores do not read
    lo = (lo.view(torch.int32) & ~0x1FFF).view(torch.float32)
    assert hi.isfinite().all() and lo[: len(finite)].isfinite().all()
    smallest = 2.0**-136  # the distance of TF32's denormals
    error = (hi.double() + lo.double() - values.double())[: len(finite)].abs()
    assert (error <= finite.double().abs() * 2.0**-22 + smallest).all()
    assert torch.equal(hi[len(finite) :][:2], torch.tensor([1.0, -1.0]))
    assert torch.equal(lo[len(finite) :][:2], values[len(finite) :][:2])
    assert lo[len(finite) + 2 :].isnan().all()


# ---- Sums in parts.


def test_parts_cover_the_depth_once(kernels):
    random.seed(0)
    sizes = [(0, 1), (2**31 - 2**20, 8), (1, 64), (2047, 9), (2048, 1)]
    sizes += [(random.randint(1, 2**24), random.randint(1, 300)) for _ in range(300)]
    many = 0
    for depth, tiles in sizes:
        for multiple in (32, 64):  # whole tiles, of float32 as of half types; stages of wgmma
            cut = torch.zeros(2, dtype=torch.int64)
            kernels.call("selftest_cut", depth, multiple, tiles, cut)
            parts, part_depth = cut.tolist()
            assert part_depth % multiple == 0
            assert parts * part_depth >= depth and (parts - 1) * part_depth < max(depth, 1)
            assert parts == 1 or depth // parts >= 1024 - multiple
            many += parts > 1
    assert many > 5


# ---- Bank conflicts: 128 bytes of shared memory are 32 banks, or 8 groups of 16 bytes.


def rounds(chunks):
    """How often the most wanted 16-byte group of banks is read for one access of these different chunks."""
    return max(torch.tensor(sorted(set(chunks))).remainder(8).bincount().tolist())


def test_tiles_with_the_depth_inside_have_no_bank_conflicts(kernels):
    address = kernels.library.selftest_depth_inner_chunk
    places = [address(line, chunk) for line in range(256) for chunk in range(4)]
    assert sorted(places) == list(range(1024))
    for thread in range(0, 1024, 8):  # cp.async: neighbouring threads write neighbouring chunks
        assert rounds(places[thread : thread + 8]) == 1
    for line in range(0, 256, 8):  # ldmatrix: the same chunk of eight lines
        for chunk in range(4):
            assert rounds(address(line + i, chunk) for i in range(8)) == 1


@pytest.mark.parametrize("element_bytes", [2, 4])
@pytest.mark.parametrize("extent", [64, 128, 192, 256])
def test_tiles_with_the_depth_outside_have_no_bank_conflicts(kernels, element_bytes, extent):
    lines, chunks = 64 // element_bytes, extent * element_bytes // 16

    def address(line, chunk):
        return kernels.library.selftest_depth_outer_chunk(element_bytes, chunks, line, chunk)

    places = [address(line, chunk) for line in range(lines) for chunk in range(chunks)]
    assert sorted(places) == list(range(lines * chunks))
    for thread in range(0, len(places), 8):
        assert rounds(places[thread : thread + 8]) == 1
    if element_bytes == 2:  # ldmatrix: the same chunk of eight lines
        for line in range(0, lines, 8):
            assert all(rounds(address(line + i, chunk) for i in range(8)) == 1 for chunk in range(chunks))
    else:  # lane l reads one word: depth l % 4, row l / 4
        for line in range(0, lines, 4):
            for row in range(0, extent, 8):
                words = {address(line + t, (row + g) // 4) * 4 + (row + g) % 4 for t in range(4) for g in range(8)}
                assert sorted(word % 32 for word in words) == list(range(32))


@pytest.mark.parametrize("columns", [48, 64])
@pytest.mark.parametrize("element_bytes", [2, 4])
def test_results_are_staged_without_bank_conflicts(kernels, element_bytes, columns):
    """The epilogue (mma_gemm.cuh): lanes write pairs of elements, a half-warp at a time if these are 8 bytes, and read
    chunks of 16 bytes, eight lanes at a time."""
    place = kernels.library.selftest_staged_element
    lanes_at_once = 64 // element_bytes
    for column in range(0, columns, 8):
        words = set()
        for lane in range(lanes_at_once):
            byte = place(columns, lane // 4, column + lane % 4 * 2) * element_bytes
            words |= {byte // 4 + i for i in range(element_bytes // 2)}
        assert len({word % 32 for word in words}) == len(words) == 32
    line_chunks = columns * element_bytes // 16
    chunks = [
        place(columns, e // line_chunks, e % line_chunks * 16 // element_bytes) * element_bytes // 16
        for e in range(16 * line_chunks)
    ]
    assert max(rounds(chunks[lane : lane + 8]) for lane in range(0, len(chunks), 8)) <= (1 if columns == 64 else 2)
