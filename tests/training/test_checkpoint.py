"""Checkpoints: replaced whole or not at all, and never able to run code."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from comparisons import same_values
from training_runs import TINY, train

from torch_manual_conv.training import checkpoint

ROOT = Path(__file__).parents[2]


class Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def test_checkpoint_runs_no_code(tmp_path):
    path, canary = tmp_path / "last.pt", tmp_path / "canary"
    for write in (torch.save, lambda value, to: to.write_bytes(pickle.dumps(value))):
        write({"model": Payload(canary)}, path)
        with pytest.raises(checkpoint.CheckpointError, match="is not a readable checkpoint"):
            checkpoint.load(path)
        assert not canary.exists()


def test_no_unsafe_loading_in_the_sources():
    for path in (ROOT / "torch_manual_conv").rglob("*.py"):
        text = path.read_text()
        assert "weights_only=False" not in text and "pickle.load" not in text and "add_safe_globals" not in text


def rezip(path):
    """The same archive, its parts compressed."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def rewrite(path, **values):
    torch.save({**torch.load(path), **values}, path)


BAD_CHECKPOINTS = {
    "truncated": (cut, "not a readable checkpoint"),
    "bomb": (rezip, "claims to unpack to"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable checkpoint"),
    "other content": (lambda path: torch.save([1, 2], path), "not a checkpoint of train.py"),
    "other format": (lambda path: torch.save({key: 99 for key in checkpoint.KEYS}, path), "has checkpoint format 99"),
    "no model": (lambda path: rewrite(path, model=None), "model must be of type dict, got NoneType"),
    "no list of epochs": (lambda path: rewrite(path, history=3), "history must be of type list, got int"),
    "epochs without a record": (lambda path: rewrite(path, epoch=2), "a record for each epoch of 2"),
    "missing": (Path.unlink, "there is no checkpoint here"),
}


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_bad_checkpoint_is_explained(kind, tmp_path, capsys):
    spoil, message = BAD_CHECKPOINTS[kind]
    state = {key: kind() for key, kind in checkpoint.KEYS.items()} | {"model": {"weight": torch.zeros(5000)}}
    checkpoint.save(state, tmp_path / "last.pt")
    same_values(checkpoint.load(tmp_path)["model"]["weight"], torch.zeros(5000), "weight")
    spoil(tmp_path / "last.pt")
    assert train("--resume", tmp_path / "last.pt") == 2
    assert message in capsys.readouterr().err


def test_state_of_something_else_is_explained():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    own = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    for name, foreign in ("model", {"bias": 0}), ("optimizer", {"state": 3}):
        with pytest.raises(checkpoint.CheckpointError, match=f"last.pt does not fit this {name}"):
            checkpoint.restore(model, optimizer, own | {name: foreign}, "last.pt")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_save_keeps_the_old_checkpoint(call, tmp_path, monkeypatch):
    state = dict.fromkeys(checkpoint.KEYS, 0)
    checkpoint.save(state, tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, call, fail)
        checkpoint.save(state | {"epoch": 1}, tmp_path / "last.pt")
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_divergence_stops_and_keeps_the_last_good_epoch(tmp_path, capsys):
    arguments = [*TINY, "--activation", "relu", "--no-batch-norm", "--out", tmp_path / "run"]
    assert train(*arguments, "--epochs", 1) == 0
    good = (tmp_path / "run" / "last.pt").read_bytes()
    assert train("--resume", tmp_path / "run", "--epochs", 3, "--lr", 1e20) == 1
    error = capsys.readouterr().err
    assert "training stopped" in error and "--lr" in error and "last good epoch" in error
    assert (tmp_path / "run" / "last.pt").read_bytes() == good
