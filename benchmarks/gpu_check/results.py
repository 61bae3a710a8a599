"""What the parts found: read as it comes in, written after each part, summed up at the end."""

import json
import re
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"
MOST_FAILURES = 30  # in the summary; the .json has them all
UNKNOWN = "unknown GPU"  # until the part that asks for the name has run


def collect(found, folder):
    """Adds the lines of JSON that a part has written; the last of a file may be torn if its process was stopped."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                ((kind, value),) = json.loads(line).items()
            except ValueError:
                continue
            if kind == "environment":
                found["environment"] = value
            elif kind != "lost":
                found[{"check": "checks", "record": "records", "batch": "batches"}.get(kind, kind)].append(value)


def write(found, folder):
    """<device>.json and .md in this folder."""
    device = found["environment"].get("machine", UNKNOWN)
    folder.mkdir(exist_ok=True)
    path = folder / re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    path.with_suffix(".json").write_text(by_line(found))
    try:
        text = tables(found, device)
    except Exception as error:  # the numbers are safe in the other file
        text = f"No tables: {type(error).__name__}: {error}\n"
        print(text, flush=True)
    path.with_suffix(".md").write_text(text)


def by_line(found):
    """JSON, a line for each thing that was found; the package may not be there to help."""

    def shown(value):
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if isinstance(value, list) else json.dumps(value)

    return "{\n" + ",\n".join(f"{json.dumps(key)}: {shown(value)}" for key, value in found.items()) + "\n}\n"


def tables(found, device):
    from torch_manual_conv.bench.results import markdown

    facts = {"environment": {"machine": device, "command": "make gpu-check", **found["environment"]}}
    lines = "\n".join(f"- {line}" for line in summary(found).splitlines())
    return f"{markdown([{**found, **facts}])}\n## The check itself\n\n{lines}\n"


def summary(found):
    """One line for each part, then what a reader wants to know first."""
    lines = []
    for part in found["parts"]:
        verdict = "passed" if part["passed"] else "FAILED"
        lines.append(f"{part['name']:10}{verdict}  {part['seconds']:6.1f} s  {part['note']}".rstrip())
    lines += bits(found["checks"]) + graphs(found) + sanitized(found["sanitized"]) + speeds(found["records"])
    lines += batches(found.get("batches", []))
    lines += [f"failed: {name}" for name in found["failed"][:MOST_FAILURES]]
    if len(found["failed"]) > MOST_FAILURES:
        lines.append(f"failed: {len(found['failed']) - MOST_FAILURES} more")
    if found["skipped"]:
        lines.append(f"no time left for {len(found['skipped'])} cases, the first: {found['skipped'][0]}")
    return "\n".join(lines)


def bits(checks):
    if not checks:
        return []
    wrong = [check["name"] for check in checks if check["differ"] or not check["same_in_any_batch"]]
    repeats = max(check["repeats"] for check in checks)
    return [f"bits: {len(checks)} cases, {repeats} repeats each and every batch size: {len(wrong)} differ"]


def graphs(found):
    lines = []
    for kind, about in (("captured", "replayed with other numbers"), ("streamed", "beside a busy stream")):
        told = found.get(kind, [])
        wrong = [case["name"] for case in told if not (case["same"] and case.get("independent", True))]
        if told:
            first = f", the first: {wrong[0]}" if wrong else ""
            lines.append(f"graphs: {len(told)} cases {about}: {len(wrong)} differ or wait{first}")
    return lines


def batches(sizes):
    return [
        f"largest batch in {size['gigabytes']} GB: {size['name']}: ours {size['largest']['ours']}, "
        f"torch {size['largest']['torch']}, x{size['largest']['ours'] / size['largest']['torch']:.2f}"
        for size in sizes
    ]


def sanitized(tools):
    return [f"{tool['name']}: {tool['cases']} of {tool['all']} cases" for tool in tools]


def speeds(records):
    """torch's time over ours, as the geometric mean of each group, dtype, precision, pass and way to run it."""
    from torch_manual_conv.bench.measure import geometric_mean
    from torch_manual_conv.bench.ways import WAYS

    groups = {}
    for record in records:
        key = f"{record['group']}, {record['dtype']} {record['precision']}, {record['pass']}"
        if "ratio" in record:
            groups.setdefault(key, []).append(record["ratio"]["median"])
        for way, (ours, torchs) in list(WAYS.items())[1:]:
            seconds = record.get("seconds", {})
            if ours in seconds and torchs in seconds:
                groups.setdefault(f"{key}, {way}", []).append(seconds[torchs] / seconds[ours])
    lines = [
        f"{key}: {geometric_mean(ratios):.2f} x torch, geometric mean of {len(ratios)}"
        for key, ratios in groups.items()
    ]
    wrong = [f"{record['group']} {record['name']} {record['pass']}" for record in records if not record["verified"]]
    return lines + [f"WRONG: {name}" for name in wrong]
