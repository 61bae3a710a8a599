"""Checkpoints: tensors and plain values, replaced atomically, read without running any code from the file."""

import os
import zipfile
from pathlib import Path

import torch

from .config import RunError

FORMAT = 1  # raised when an older reader could not make sense of the file
KEYS = {
    "format": int,
    "model": dict,
    "optimizer": dict,
    "epoch": int,
    "history": list,
    "config": dict,
    "classes": list,
}


class CheckpointError(RunError):
    """A file that is not a usable checkpoint; the message says why."""


def save(state, path):
    """Whatever happens while it writes, `path` is afterwards the old file or the new one, never half of either."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({**state, "format": FORMAT}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, survives a power cut
    finally:
        os.close(folder)


def load(path):
    """The state that `save` wrote. Raises: CheckpointError on anything else."""
    path = find(path)
    try:
        _refuse_archive_bombs(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, BadZipFile, ...: no common base
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason}") from error
    missing = [key for key in KEYS if not isinstance(state, dict) or key not in state]
    if missing:
        raise CheckpointError(f"{path} is not a checkpoint of train.py: it lacks {', '.join(missing)}")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {state['format']}; this version reads {FORMAT}")
    for key, kind in KEYS.items():
        if not isinstance(state[key], kind):
            raise CheckpointError(f"{path}: {key} must be of type {kind.__name__}, got {type(state[key]).__name__}")
    if len(state["history"]) != state["epoch"] or not all(isinstance(record, dict) for record in state["history"]):
        raise CheckpointError(f"{path}: history must hold a record for each epoch of {state['epoch']}")
    return state


def find(path):
    """The checkpoint itself; for a run folder, its last one."""
    path = Path(path)
    if path.is_dir():
        path = path / "last.pt"
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no checkpoint here")
    return path


def restore(model, optimizer, state, path):
    """Puts the state's tensors into both."""
    for name, owner in ("model", model), ("optimizer", optimizer):
        try:
            owner.load_state_dict(state[name])
        except Exception as error:  # what torch's readers of foreign structures happen to raise
            raise CheckpointError(f"{path} does not fit this {name}: {error}") from error


def _refuse_archive_bombs(path):
    """torch stores tensors uncompressed, so the parts of an honest file add up to no more than the file."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(part.file_size for part in archive.infolist())
    if claimed > path.stat().st_size:
        raise CheckpointError(f"{path} claims to unpack to {claimed} bytes, more than it has")
