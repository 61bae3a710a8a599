"""The benchmark: correct before fast, alternating, complete records. No test depends on how long anything takes."""

import math
from functools import partial

import pytest
import torch

from torch_manual_conv import models
from torch_manual_conv.bench import machine, measure, networks, problems, record, report
from torch_manual_conv.bench.cases import cases_of
from torch_manual_conv.bench.shapes import NETWORKS, Layer
from torch_manual_conv.bench.ways import best

RATES = {"copy": 1e10, "float32": 1e11, "float64": 5e10}
LAYERS = [(group, layer) for group, network in NETWORKS.items() for layer in network.layers]


def measured(word, **settings):
    """The first case that the word stands for, at batch 1."""
    settings = record.Settings(rounds=1, **settings)
    case = cases_of(word)[0]
    return record.measure(case.problem(settings, 1), settings, RATES)


# ---- Measuring.


def test_contestants_take_turns_in_changing_order(monkeypatch):
    monkeypatch.setattr(measure, "_cpu_seconds", lambda call, repeats: call() or 1.0)
    turns = []
    seconds = measure.alternate({name: partial(turns.append, name) for name in "abc"}, 9)
    assert [len(s) for s in seconds.values()] == [9, 9, 9]
    rounds = list(zip(*[iter(turns[len("aabbcc") :])] * 3, strict=True))
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1


def test_ratio_is_taken_turn_by_turn():
    """The machine slows down tenfold in the third turn; the ratio does not notice."""
    ratio = measure.ratio([2.0, 2.0, 20.0], [1.0, 1.0, 10.0])
    assert ratio == (2.0, 2.0, 2.0)
    assert measure.ratio([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) == (2.0, 1.5, 2.5)
    assert measure.ratio([3.0], [2.0]) == (1.5, 1.5, 1.5)


def test_geometric_mean():
    assert math.isclose(measure.geometric_mean([2.0, 0.5, 8.0]), 2.0)


@pytest.mark.parametrize("unit", ["float32", "float64", "bfloat16_pairs", "bfloat16_tiles"])
def test_peak_counts_its_operations(unit):
    one, two = (torch.ops.tmc.cpu_peak(unit, rounds) for rounds in (1, 2))
    assert two == 2 * one
    assert one > 0 or unit.startswith("bfloat16")


def test_peak_rejects_nonsense():
    with pytest.raises(RuntimeError, match=r"cpu_peak: unit must be float32, .*, got abacus"):
        torch.ops.tmc.cpu_peak("abacus", 1)
    for rounds in (-1, 2**24 + 1):
        with pytest.raises(RuntimeError, match=rf"cpu_peak: rounds must be from 0 to 2\^24, got {rounds}"):
            torch.ops.tmc.cpu_peak("float32", rounds)


def test_fastest_unit():
    """The rates of a machine with AMX: six bfloat16 products still beat a multiply-add, for float32 alone."""
    rates = {"copy": 13e9, "float32": 224e9, "float64": 112e9, "bfloat16_pairs": 448e9, "bfloat16_tiles": 3224e9}
    assert machine.fastest_unit(rates, "float32") == ("bfloat16_tiles", 6)
    assert machine.fastest_unit(rates, "float32", "high") == ("bfloat16_tiles", 3)
    assert machine.fastest_unit(rates, "bfloat16") == ("bfloat16_tiles", 1)
    assert machine.fastest_unit(rates, "float16") == ("float32", 1)
    assert machine.fastest_unit(rates, "float64") == ("float64", 1)
    del rates["bfloat16_tiles"]
    assert machine.fastest_unit(rates, "float32") == ("float32", 1)
    assert machine.fastest_unit(rates, "bfloat16") == ("bfloat16_pairs", 1)
    rates = {"float32": 50e12, "tensorfloat32": 400e12, "bfloat16": 720e12}  # a GPU's
    assert machine.fastest_unit(rates, "float32") == ("tensorfloat32", 3)
    assert machine.fastest_unit(rates, "float32", "high") == ("tensorfloat32", 1)
    assert machine.fastest_unit(rates, "bfloat16") == ("bfloat16", 1)


# ---- Cases.


@pytest.mark.parametrize("group, layer", LAYERS, ids=lambda value: getattr(value, "name", value))
def test_layers_are_what_torch_makes_of_them(group, layer):
    """One channel of ones: each output counts the taps that are not on padding."""
    small = layer._replace(c=1, k=1, groups=1)
    ones = torch.ones(1, 1, small.h, small.w), torch.ones(1, 1, small.r, small.s)
    counts = torch.nn.functional.conv2d(*ones, None, small.stride, small.padding, small.dilation)
    assert counts.shape[2:] == layer.output_size()
    assert counts.sum() == layer.taps()
    assert layer.c % layer.groups == layer.k % layer.groups == 0


def test_layers_in_words():
    assert str(NETWORKS["alexnet"].layers[0]) == "3 -> 64, 11 x 11, stride 4"
    assert str(Layer("", 8, 9, 9, 8, 3, 1, (2, 1), groups=8)) == "8 -> 8, 3 x 1, stride 2 x 1, depthwise"
    assert str(Layer("", 8, 9, 9, 4, 3, 3, dilation=(2, 2), groups=2)) == "8 -> 4, 3 x 3, dilation 2, 2 groups"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "word",
    [
        "alexnet/conv5", "others/uneven", "mobilenet/depthwise 14", "pools/max alexnet 13", "pools/avg alexnet 13",
        "pools/max global 7", "pools/avg adaptive 13 to 6", "sigmoid/alexnet 13", "stages/conv5 relu",
        "stages/conv1 sigmoid", "overhead/conv2d", "overhead/stage", "step/features sigmoid",
    ],
)  # fmt: skip
def test_every_kind_of_case_is_right(word, precision):
    settings = record.Settings(dtype=precision, rounds=1)
    for case in cases_of(word):
        found = record.measure(case.problem(settings, 1), settings, RATES)
        assert found["verified"], found["error"]
        assert {"ours contiguous", "ours channels_last"} <= found["seconds"].keys()
        assert found["ratio"]["low"] <= found["ratio"]["median"] <= found["ratio"]["high"]


def test_full_step(monkeypatch):
    """AlexNet's 60 million weights are not what is tested."""
    monkeypatch.setattr(networks.models, "alexnet", partial(models.alexnet, width=0.1))
    found = measured("step/full relu")
    assert found["verified"] and found["saved_bytes"]["ours"] < found["saved_bytes"]["torch"]


def test_operations_of_a_network_are_counted():
    network = models.lecture_net(layers="torch")
    images = torch.rand(1, 1, 28, 28)
    with torch.no_grad():
        counted = networks._operations(lambda: network.features[0](images))
    assert counted == 2 * 28 * 28 * 16 * 25


def test_work_of_a_convolution():
    """conv5: 13 x 13 outputs, 256 -> 256, 3 x 3; at the border 2 of 13 positions miss one of three taps."""
    found = measured("alexnet/conv5")
    assert found["operations"] == 2 * 13 * 13 * 256 * 256 * 9
    assert found["operations_needed"] == 2 * (3 * 13 - 2) ** 2 * 256 * 256
    assert found["bytes_moved"] == 4 * (2 * 256 * 13 * 13 + 256 * 256 * 9)
    assert found["saved_bytes"]["ours"] == 4 * 256 * 13 * 13
    name, reason = found["algorithm"]
    assert name and reason


def test_summary_tells_the_share_of_the_copy():
    found = measured("sigmoid")
    rate = report.value(found, found["seconds"][best(found["seconds"])["ours"]])  # GB/s
    assert (
        f"of the copy of a large array, 10.0 GB/s: geometric mean {rate / 10:.0%}, "
        f"60 % and more in {int(rate >= 6)} of 1 rows"
    ) in report.summary([found], RATES)


# ---- Never a speed for a wrong result.


@pytest.mark.parametrize("broken", [lambda y: y * 1.001, lambda y: y * float("nan"), lambda y: y[..., 1:]])
def test_a_wrong_result_gets_no_speed(broken, monkeypatch):
    right = problems.functional.conv2d
    monkeypatch.setattr(problems.functional, "conv2d", lambda *arguments: broken(right(*arguments)))
    found = measured("alexnet/conv5")
    assert not found["verified"]
    assert not [name for name in found["seconds"] if name.startswith("ours")] and "ratio" not in found
    header, (row,) = report.speed_table([found])
    assert row[header.index("ours")] == row[header.index("ours c.l.")] == "WRONG"
    assert any(line.startswith("WRONG: conv5 forward") for line in report.summary([found], RATES))


def test_a_lost_channels_last_result_is_noticed(monkeypatch):
    """One layout alone may be wrong."""
    right = problems.functional.conv2d

    def broken(x, *rest):
        return right(x, *rest) * (1.01 if x.is_contiguous(memory_format=torch.channels_last) else 1)

    monkeypatch.setattr(problems.functional, "conv2d", broken)
    found = measured("alexnet/conv5")
    assert not found["verified"]
    assert "ours contiguous" in found["seconds"] and "ours channels_last" not in found["seconds"]
