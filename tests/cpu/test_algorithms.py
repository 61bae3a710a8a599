"""Which algorithm runs: visible, forcible, and the same for every batch size."""

import re
from pathlib import Path

import pytest
import torch

import torch_manual_conv as tmc

ROOT = Path(__file__).parents[2]
PASSES = ("forward", "grad_input", "grad_weight")


@pytest.fixture
def prefer():
    """torch.ops.tmc.prefer_conv2d_algorithm, undone after the test."""
    yield torch.ops.tmc.prefer_conv2d_algorithm
    torch.ops.tmc.prefer_conv2d_algorithm("")


def test_every_pass_has_a_name_and_a_reason():
    chosen = tmc.conv2d_algorithms(torch.empty(2, 8, 13, 13), torch.empty(16, 8, 3, 3), padding=1)
    assert tuple(chosen) == PASSES
    assert all(name and reason for name, reason in chosen.values())


def test_the_choice_does_not_depend_on_the_batch():
    weight = torch.empty(64, 64, 3, 3)
    for size in (7, 14, 56):
        small, large = (tmc.conv2d_algorithms(torch.empty(n, 64, size, size), weight, padding=1) for n in (1, 64))
        assert small == large


def test_a_stage_has_a_name_and_a_reason():
    def chosen(n, *names):
        operands = torch.empty(n, 8, 13, 13), torch.empty(16, 8, 3, 3), [1] * 6, 1
        return torch.ops.tmc.conv_act_pool2d_algorithm(*operands, *names, [3, 3, 2, 2, 0, 0], "highest", True)

    assert chosen(3, "relu", "max") == "fused: 3 images at a time, whose maps stay in cache"
    assert chosen(0, "relu", "avg").startswith("fused: ")
    with pytest.raises(RuntimeError, match="gelu"):
        chosen(3, "gelu", "max")


def test_a_preferred_algorithm_is_used_and_named(prefer):
    prefer("matrix_product")
    chosen = tmc.conv2d_algorithms(torch.empty(2, 8, 13, 13), torch.empty(16, 8, 3, 3), padding=1)
    assert {name for name, _ in chosen.values()} == {"matrix_product"}
    assert all("preferred" in reason for _, reason in chosen.values())


def test_the_documents_have_the_rows_of_the_table():
    """docs/cpu.md names each algorithm, in the order in which they are asked, and says when as the library does."""
    source = (ROOT / "csrc/cpu/conv2d/algorithm.cpp").read_text()
    rows = re.findall(r'\.name = "(\w+)",\s+\.why =\s+((?:"[^"]*"\s*)+)', source)
    rows = [(name, "".join(re.findall(r'"([^"]*)"', why))) for name, why in rows]
    documented = re.findall(r"^\| `(\w+)` \| ([^|]+) \| `csrc/", (ROOT / "docs/cpu.md").read_text(), re.M)
    assert len(rows) == 6 and documented == rows


def test_an_unknown_algorithm_is_refused(prefer):
    with pytest.raises(RuntimeError, match=r"name must be one of tile_product.*matrix_product.*or empty, got magic"):
        prefer("magic")


def test_shapes_that_conv2d_refuses_are_refused():
    with pytest.raises(RuntimeError, match="groups"):
        tmc.conv2d_algorithms(torch.empty(2, 8, 13, 13), torch.empty(16, 7, 3, 3))


def test_precision_must_be_one_of_torchs_three():
    operands = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3)
    with pytest.raises(RuntimeError, match="conv2d: precision must be highest, high or medium, got exact"):
        torch.ops.tmc.conv2d(*operands, None, [1, 1, 1, 1, 0, 0], 1, "exact")
