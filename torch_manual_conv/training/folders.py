"""A folder of train/<class>/ and val/<class>/: its classes, their image files, and what is left out."""

import os

from .._command import RunError
from .images import SUFFIXES


class DataError(RunError):
    """A folder that cannot be trained on; the message says what to change."""


class LeftOut(dict):
    """Paths of what is not read, by what it is."""

    def add(self, kind, path):
        self.setdefault(kind, []).append(path)

    def __str__(self):
        kinds = sorted(self, key=lambda kind: -len(self[kind]))
        counts = [f"{kind} {len(self[kind]):,}" for kind in kinds[:8]]
        if kinds[8:]:
            counts.append(f"others {sum(len(self[kind]) for kind in kinds[8:]):,}")
        return f"{', '.join(counts)}; such as {self[kinds[0]][0]}"


def check_tree(root, left_out):
    """The class names of a folder that can be trained on. Raises: DataError saying what is wrong with it."""
    expected = "expected one with train/<class>/ and val/<class>/"
    there = [entry.name for entry in _entries(root, f"{root} is not a folder; {expected}")]
    names = {}
    for split in ("train", "val"):
        missing = f"{root} has no folder {split}/; {expected}, found {', '.join(there[:5]) or 'nothing'}"
        names[split] = []
        for entry in _entries(root / split, missing):
            if (kind := _kind(entry)) == "folders":
                names[split].append(entry.name)
            else:
                left_out.add("images beside the classes' folders" if kind == "images" else kind, entry.path)
    for one, other in (("train", "val"), ("val", "train")):
        missing = sorted(set(names[one]) - set(names[other]))
        if missing:
            raise DataError(f"{root}: {other}/ lacks {len(missing)} of the classes in {one}/: {', '.join(missing[:5])}")
    if len(names["train"]) < 2:
        raise DataError(f"{root}/train holds {len(names['train'])} classes; at least 2 are needed to tell apart")
    return names["train"]


def image_files(folder, left_out):
    """The images anywhere below `folder`, links followed, in the order of their paths. Raises: DataError without any.

    No folder is entered twice, nor one that holds `folder`: links in a circle end, and bring in no other class.
    """
    seen = {_identity(path) for path in (*folder.absolute().parents, *folder.resolve().parents)}
    found, own, waiting = [], LeftOut(), [str(folder)]
    while waiting:
        here = waiting.pop()
        try:
            identity, entries = _identity(here), _entries(here)
        except OSError as error:
            own.add(f"folders that cannot be listed ({error.strerror})", here)
            continue
        if identity in seen:
            own.add("folders that were read already", here)
            continue
        seen.add(identity)
        for entry in reversed(entries):
            kind = _kind(entry)
            if kind == "images":
                found.append(entry.path)
            elif kind == "folders":
                waiting.append(entry.path)
            else:
                own.add(kind, entry.path)
    if not found:
        but = f", but there are {own}" if own else ""
        raise DataError(f"class {folder} is empty: no file ends in {', '.join(SUFFIXES)}{but}")
    for kind, paths in own.items():
        left_out.setdefault(kind, []).extend(paths)
    return sorted(found)


def _entries(folder, missing=None):
    """What is in a folder, in the order of the names. Raises: DataError, if `missing` is the message for no folder."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        if missing is None:
            raise
        is_none = isinstance(error, (FileNotFoundError, NotADirectoryError))
        raise DataError(missing if is_none else f"{folder} cannot be listed: {error.strerror}") from error


def _identity(folder):
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _kind(entry):
    """What to do with it: one of "folders" and "images", else a plural for what is left out."""
    hidden = entry.name.startswith(".")
    try:
        if entry.is_dir():
            return "hidden folders" if hidden else "folders"
        if not entry.is_file():
            os.stat(entry.path)
            return "special files"  # FIFOs, sockets, devices: opening one may wait for ever
    except OSError:
        return "links that lead nowhere"
    suffix = os.path.splitext(entry.name)[1].lower()
    if hidden:
        return "hidden files"
    return "images" if suffix in SUFFIXES else suffix or "files without a suffix"
