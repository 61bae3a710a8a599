"""Checkpoints: tensors and plain values, replaced atomically, read without running any code from the file."""

import shutil
import zipfile
from pathlib import Path

import torch

from .._command import replacing
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
RECORD = ("epoch", "train_loss", "val_loss", "val_top1", "val_top5", "seconds", "images_per_second")  # of an epoch


class CheckpointError(RunError):
    """A file that is not a usable checkpoint; the message says why."""


def save(state, path):
    """Whatever happens while it writes, `path` is afterwards the old file or the new one, never half of either.

    Raises: WriteError when there is no new one.
    """
    with replacing(path) as file:
        torch.save({**state, "format": FORMAT}, file)


def check_room(folder, tensors):
    """Before an epoch is spent. Raises: CheckpointError where the best, the last and the next one find no room."""
    missing = 1 + sum(not (folder / name).exists() for name in ("best.pt", "last.pt"))
    needed, free = missing * sum(tensor.nbytes for tensor in tensors), shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(f"{folder} has room for {free / 1e6:.0f} MB, and checkpoints need {needed / 1e6:.0f} MB")


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
    if len(state["history"]) != state["epoch"]:
        raise CheckpointError(f"{path}: history must hold a record for each epoch of {state['epoch']}")
    for epoch, record in enumerate(state["history"], start=1):
        if not _is_record(record) or record["epoch"] != epoch:
            raise CheckpointError(f"{path}: the record of epoch {epoch} lacks one of {', '.join(RECORD)}, all numbers")
    return state


def _is_record(record):
    if not isinstance(record, dict) or not record.keys() >= set(RECORD):
        return False
    return all(type(value) in (int, float) for value in record.values())


def not_finite(tensors):
    """Which of {name: tensor} hold an infinity or NaN, in words; "" if none do."""
    names = [name for name, value in tensors.items() if not value.isfinite().all()]
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else ""


def find(path):
    """The checkpoint itself; for a run folder, its last one."""
    path = Path(path)
    if path.is_dir():
        path = path / "last.pt"
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no checkpoint here")
    return path


def restore(model, optimizer, state, path):
    """Puts the state's tensors into both. The optimizer keeps its own rate, momentum and decay, the options'."""
    try:
        model.load_state_dict(state["model"])
    except Exception as error:  # what torch's reader of foreign structures happens to raise
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    if lost := not_finite(model.state_dict()):
        raise CheckpointError(f"{path} holds weights that are not finite, {lost}: take an earlier checkpoint")
    try:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state["optimizer"]["state"]})
        for parameter, values in optimizer.state.items():
            for value in values.values():
                if value is not None and value.shape != parameter.shape:
                    raise ValueError(f"{list(value.shape)} for weights {list(parameter.shape)}")
    except Exception as error:
        raise CheckpointError(f"{path} does not fit this optimizer: {error}") from error


def _refuse_archive_bombs(path):
    """torch stores tensors uncompressed, so the parts of an honest file add up to no more than the file."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(part.file_size for part in archive.infolist())
    if claimed > path.stat().st_size:
        raise CheckpointError(f"{path} claims to unpack to {claimed} bytes, more than it has")
