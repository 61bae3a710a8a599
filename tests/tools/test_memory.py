"""What is kept for backward: counted like a pencil would, by the layer that keeps it, for a reason that is given."""

import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch

from torch_manual_conv import _accuracy, functional, models
from torch_manual_conv.memory import cli
from torch_manual_conv.memory.ledger import MODEL_INPUT, PARAMETER, Ledger, saved_bytes
from torch_manual_conv.memory.peak import peak_bytes
from torch_manual_conv.memory.reasons import reason

SMALL = ["--input", "2", "1", "28", "28"]


def stage():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Sigmoid(), torch.nn.MaxPool2d(2))


def listen(model, images):
    ledger = Ledger()
    with ledger.listening(model):
        outputs = model(images)
    ledger.settle(model.parameters(), [images])
    ledger.name_roles([outputs])
    return ledger


def run(capsys, *arguments):
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def test_one_stage_counted_by_hand():
    """2 images 3 x 12 x 12 through 8 filters 3 x 3: maps of 10 x 10, pooled to 5 x 5."""
    ledger = listen(stage(), torch.rand(2, 3, 12, 12))
    found = [(e.layer, e.node.rstrip("0123456789"), e.role, e.nbytes, e.holder) for e in ledger.entries]
    map_bytes, indices_bytes = 2 * 8 * 10 * 10 * 4, 2 * 8 * 5 * 5 * 8
    assert found == [
        ("0", "ConvolutionBackward", "input", 0, MODEL_INPUT),
        ("0", "ConvolutionBackward", "weight", 0, PARAMETER),
        ("1", "SigmoidBackward", "result", map_bytes, "1"),
        ("2", "MaxPool2DWithIndicesBackward", "self", 0, "1"),
        ("2", "MaxPool2DWithIndicesBackward", "result1", indices_bytes, "2"),
    ]
    assert ledger.total() == map_bytes + indices_bytes


def test_ours_keeps_one_byte_a_pooled_value():
    kept = {name: cli.keep(model, (2, 3, 12, 12), "float32") for name, model in cli.variants(stage()).items()}
    maps, pooled = 2 * 8 * 10 * 10 * 4, 2 * 8 * 5 * 5
    assert kept["torch"]["saved_bytes"] == maps + 8 * pooled
    assert kept["ours"]["saved_bytes"] == maps + pooled
    assert kept["ours, fused"]["saved_bytes"] == 4 * pooled + pooled


def test_total_is_what_the_hooks_saw():
    """The same count in three lines, without layers and reasons."""
    model, images = models.lecture_net(layers="torch"), torch.rand(2, 1, 28, 28)
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(images)
    for there in (*model.parameters(), images):
        storages.pop(there.untyped_storage().data_ptr(), None)
    expected = sum(storage.nbytes() for storage in storages.values())
    assert listen(model, images).total() == expected > 0
    assert output.requires_grad


def test_saved_bytes_leaves_parameters_out():
    x, weight = torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(4, 3, 3, 3, requires_grad=True)
    call = lambda: torch.nn.functional.conv2d(x, weight)  # noqa: E731
    assert saved_bytes(call) == x.nbytes + weight.nbytes
    assert saved_bytes(call, [weight]) == x.nbytes


def test_hooks_are_gone_afterwards():
    model = stage()
    listen(model, torch.rand(1, 3, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("op", functional.__all__)
def test_our_operators_give_their_reasons(op):
    """An operator that saves something new needs a line in reasons.py."""
    case = next(case for case in _accuracy.CASES if case.op == op)
    tensors, _, _ = _accuracy.problem(case, torch.float32, 0)
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    ledger = Ledger()
    with ledger.listening():
        output = getattr(functional, op)(*leaves, **case.arguments)
    ledger.settle()
    ledger.name_roles([output])
    assert all(entry.node for entry in ledger.entries)
    assert not [why for _, why in map(reason, ledger.entries) if "asked for by" in why]


def test_peak_sees_what_a_call_allocates():
    if peak_bytes(lambda: None) is None:
        pytest.skip("this system does not tell")
    size = 50_000_000
    peak = peak_bytes(lambda: torch.ones(size, dtype=torch.uint8))
    assert 0.95 * size < peak < 1.5 * size  # Linux counts resident pages in batches
    assert peak_bytes(lambda: None) < 0.1 * size  # given back


def test_peak_counts_scratch_that_is_kept():
    if peak_bytes(lambda: None) is None:
        pytest.skip("this system does not tell")
    image, weight = torch.rand(8, 256, 13, 13), torch.rand(256, 256, 3, 3)  # repacked, and larger than the output
    peaks = [peak_bytes(lambda: functional.conv2d(image, weight, padding=1)) for _ in range(2)]
    assert all(peak > 0.9 * weight.nbytes for peak in peaks), peaks


def test_table_names_layers_tensors_and_reasons(capsys):
    out = run(capsys, "lecture_net", *SMALL)
    assert re.search(
        r"features\.0 Conv2d +input: for the gradient of weight \(eq\. 3\) +(= input +){2}= input$", out, re.M
    )
    assert re.search(r"features\.2 MaxPool2d +input: .* only reads its sizes +(= features\.1)$", out, re.M)
    assert re.search(r"indices: where each maximum is, 8 bytes a pooled value +[\d.]+$", out, re.M)
    assert re.search(r"winners: where each maximum is, 1 byte a pooled value", out)
    assert re.search(r"^total +[\d.]+ +[\d.]+ +[\d.]+$", out, re.M)


def test_json_holds_everything(tmp_path, capsys):
    file = tmp_path / "memory.json"
    run(capsys, "lecture_net", *SMALL, "--json", str(file))
    results = json.loads(file.read_text())
    assert {"machine", "torch", "date", "command", "cpu_isa"} <= results["environment"].keys()
    torchs, ours, fused = (results["variants"][name]["saved_bytes"] for name in ("torch", "ours", "ours, fused"))
    assert torchs > ours > fused > 0
    for variant in results["variants"].values():
        assert sum(row["bytes"] for row in variant["saved"]) == variant["saved_bytes"]
        assert {row["layer"] for row in variant["saved"]} <= results["layers"].keys()


def test_half_types_run_under_autocast(capsys):
    out = run(capsys, "lecture_net", *SMALL, "--dtype", "bfloat16")
    assert "bfloat16; kB kept" in out


def test_picture(tmp_path, capsys):
    for name, model in (("layers", "lecture_net"), ("blocks", "torchvision.models:resnet50")):
        if ":" in model:
            pytest.importorskip("torchvision")
        file = tmp_path / f"{name}.svg"
        run(capsys, model, *(SMALL if name == "layers" else ["--input", "2", "3", "32", "32"]), "--picture", str(file))
        drawn = ElementTree.fromstring(file.read_text())
        assert len(list(drawn.iter("{http://www.w3.org/2000/svg}rect"))) > 8  # bars


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: MODEL"),
        (["alexnt"], "MODEL must be alexnet, .*, got 'alexnt'"),
        (["nowhere.at_all:model"], "cannot import nowhere.at_all"),
        (["torch:nothing"], "torch has no nothing"),
        (["torch.nn:Linear"], r"calling Linear\(\) failed: TypeError"),
        (["torch:Tensor"], "must be or return a torch.nn.Module, got Tensor"),
        (["lecture_net", "--input", "1", "3", "28", "28"], r"cannot train on an input of shape \[1, 3, 28, 28\]"),
        (["torch.nn:ReLU"], "nothing to train"),
        (["lecture_net", "--input", "0"], "must be an integer from 1 to"),
        (["lecture_net", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["lecture_net", "--json", "/no/such/folder/x.json"], "no such folder"),
        (["lecture_net", "--picture", "x.txt"], "must end in .svg"),
    ],
)
def test_rejects_nonsense_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_runs_as_a_command():
    command = [sys.executable, "-m", "torch_manual_conv.memory", "--help"]
    assert "examples" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
