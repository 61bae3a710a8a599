"""A machine's file of results: its runs, each with its tables, machine, versions, date and command.

One record is one line, so that a diff shows what was measured again. What all records of a table share is written
once, and fractions have six digits, more than a clock can tell that other programs disturb. JSON knows no infinity: an
error that is none of its numbers is the largest of them.
"""

import json
import math
import sys

from .._command import write_text
from . import report, scaling

BY_NAME = "seconds", "error"  # {contestant: number} in a record, a list in the file


def load(path):
    """[{"environment": ..., "peaks": [...], "records": [...]}, ...]"""
    runs = json.loads(path.read_bytes())
    return [
        {
            "environment": run["environment"],
            "peaks": run["peaks"],
            "records": [record for table in run["tables"] for record in _unpacked(**table)],
        }
        for run in runs
    ]


def save(path, runs):
    write_text(path, dumps([_with_tables(run) for run in runs]))


def to_join(path, machine):
    """The runs of the file that a run on this machine will join; none where no file is."""
    if path is None or not path.is_file():
        return []
    try:
        runs = load(path)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"--json: {path} is there and holds no results of this command") from None
    for there in (run["environment"]["machine"] for run in runs):
        if there != machine:
            raise ValueError(f"--json: {path} holds results of {there}, this machine is {machine}")
    return runs


def joined(runs, run):
    """`runs` with the tables of `run` in place of their own; what has no table left is gone."""
    new = {report.table_key(record) for record in run["records"]}
    kept = [{**old, "records": [r for r in old["records"] if report.table_key(r) not in new]} for old in runs]
    place = next((place for place, old in enumerate(kept) if not old["records"]), len(kept))
    kept.insert(place, run)  # where the first one was that it replaces
    return [old for old in kept if old["records"]]


def markdown(runs):
    """The whole file, for reading."""
    lines = [f"# {runs[0]['environment']['machine']}", "", report.READING]
    for run in runs:
        tables = scaling.tables if scaling.GROUP in (r["group"] for r in run["records"]) else report.tables
        lines += ["", *report.origin(run), *tables(run)]
    return "\n".join(lines) + "\n"


def dumps(value):
    """JSON in which each item of a list of objects is a line."""
    return _lines(_rounded(value)) + "\n"


def _lines(value):
    if not _is_long(value):
        return json.dumps(value, allow_nan=False)
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(_lines, value)) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {_lines(item)}" for key, item in value.items()) + "\n}"


def _is_long(value):
    if isinstance(value, list):
        return any(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and any(map(_is_long, value.values()))


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if not isinstance(value, float):
        return value
    return float(f"{value if math.isfinite(value) else sys.float_info.max:.6g}")


def _with_tables(run):
    tables = [_packed(records) for _, records in report.sections(run["records"])]
    return {"environment": run["environment"], "peaks": run["peaks"], "tables": tables}


def _packed(records):
    """A table: what its records share, the contestants' names, and what is left of each record."""
    common = {key: value for key, value in records[0].items() if all(key in r and r[key] == value for r in records)}
    common = {key: value for key, value in common.items() if key not in BY_NAME}
    names = list(dict.fromkeys(name for record in records for key in BY_NAME for name in record.get(key, {})))
    rest = [{key: value for key, value in record.items() if key not in common} for record in records]
    for record in rest:
        record |= {key: [record[key].get(name) for name in names] for key in BY_NAME if key in record}
    return {"common": common, "names": names, "records": rest}


def _unpacked(common, names, records):
    for record in records:
        lists = {key: zip(names, record[key], strict=True) for key in BY_NAME if key in record}
        yield common | record | {key: {n: v for n, v in pairs if v is not None} for key, pairs in lists.items()}
