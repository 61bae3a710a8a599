"""The check for machines with a GPU, as far as it goes without one."""

import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "benchmarks" / "gpu_check"


@pytest.fixture(scope="module")
def modules():
    """__main__, parts and results of the check, which is a folder of scripts and no package."""
    sys.path.insert(0, str(CHECK))
    spec = importlib.util.spec_from_file_location("gpu_check", CHECK / "__main__.py")
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    yield main, sys.modules["parts"], sys.modules["results"]
    sys.path.remove(str(CHECK))


def run(*arguments):
    command = [sys.executable, str(CHECK), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_dry_run_of_every_part_that_measures():
    measuring = ["machine", "bits", "graphs", "sanitizer", "layers", "pools", "stages", "steps", "batches"]
    done = run("--dry-run", "--only", *measuring)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-25:]
    for part in measuring:
        assert any(line.split()[:2] == [part, "passed"] for line in summary), done.stdout
    assert any(line.startswith("bits: 42 cases, 2 repeats") and "0 differ" in line for line in summary)
    assert "graphs: 42 cases replayed with other numbers: 0 differ or wait" in summary
    assert "graphs: 21 cases beside a busy stream: 0 differ or wait" in summary
    assert sum(line.startswith("largest batch in 24 GB: AlexNet") for line in summary) == 3
    eager = [line for line in summary if "x torch, geometric mean of 1" in line and "CUDA graph" not in line]
    assert len(eager) == 4  # layers, pools, stages, steps


def test_without_a_gpu_it_says_so(modules, monkeypatch, capsys):
    main, _, _ = modules
    monkeypatch.setattr(main, "gpu_is_there", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    assert main.main() == 2
    assert "--dry-run" in capsys.readouterr().err


def test_unknown_part_is_rejected():
    done = run("--only", "nothing")
    assert done.returncode == 2 and "invalid choice: 'nothing'" in done.stderr


def test_dry_run_writes_tables(modules, monkeypatch, tmp_path):
    main, _, _ = modules
    options = main.build_parser().parse_args(["--dry-run", "--only", "machine", "layers", "pools", "stages"])
    found = main.check(options, "cpu", tmp_path)
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text()) == found and len(found["records"]) == 3
    text = path.with_suffix(".md").read_text()
    assert "No tables" not in text and "conv5" in text and "global 7" in text and "CUDA graph, ours / torch" in text


def test_tables_that_cannot_be_made_lose_no_numbers(modules, tmp_path, monkeypatch):
    _, _, results = modules
    monkeypatch.setattr(results, "tables", lambda found, device: 1 / 0)
    results.write({"environment": {}, "parts": []}, tmp_path)
    assert (tmp_path / "unknown-gpu.json").exists()
    assert "ZeroDivisionError" in (tmp_path / "unknown-gpu.md").read_text()


def script(text):
    return lambda device: [([sys.executable, "-c", text], {})]


def writing(records, rest="", part="None"):
    """A part's command that is given --records FILE, writes these lines and goes on with `rest`."""
    text = f"""
import sys
open(sys.argv[sys.argv.index("--records") + 1], "w").write({records!r})
{rest}
"""
    return lambda device: [([sys.executable, "-c", text, "--part", part], {})]


@pytest.fixture
def check(modules, monkeypatch, tmp_path):
    """check({name: commands}, seconds of each): what is found when these are the parts."""
    main, parts, results = modules
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")

    def run_parts(commands, seconds, *arguments, **rest):
        table = {name: parts.Part(seconds, command, **rest) for name, command in commands.items()}
        monkeypatch.setattr(main, "PARTS", table)
        options = main.build_parser().parse_args(["--minutes", str(len(table) * seconds / 60), *arguments])
        return main.check(options, "cuda", tmp_path)

    return run_parts


ENVIRONMENT = json.dumps({"environment": {"machine": "NVIDIA H100 80GB HBM3"}}) + "\n"
CHECKED = json.dumps({"check": {"name": "conv2d", "repeats": 100, "differ": 0, "same_in_any_batch": True}}) + "\n"


@pytest.fixture
def hangs(modules, monkeypatch, tmp_path):
    """Python text after which a command hangs; its time is then over at once, so that no test waits for a limit."""
    running = sys.modules["running"]
    sign, wait = tmp_path / "it-hangs", running.wait

    def wait_until_it_hangs(process, seconds):
        while process.poll() is None and not sign.exists():
            time.sleep(0.01)
        return wait(process, 0 if sign.exists() else seconds)

    monkeypatch.setattr(running, "wait", wait_until_it_hangs)
    yield f"import signal; open({str(sign)!r}, 'w').close(); signal.pause()"


def test_a_part_that_fails_crashes_or_hangs_loses_nothing(check, modules, hangs, tmp_path):
    _, _, results = modules
    found = check(
        {
            "machine": writing(ENVIRONMENT),
            "fails": script("raise SystemExit(3)"),
            "crashes": writing(CHECKED + '{"check": {"na', "import os; os.abort()"),
            "missing": lambda device: None,  # its tool
            "hangs": writing(CHECKED, hangs),
        },
        seconds=60,
    )
    assert [part["passed"] for part in found["parts"]] == [True, False, False, False, False]
    notes = [part["note"] for part in found["parts"]]
    assert "exit code 3" in notes[1] and "exit code -6" in notes[2] and "stopped after" in notes[4]
    assert len(found["checks"]) == 2  # what was written before the end, but for a torn line
    path = tmp_path / "results" / "nvidia-h100-80gb-hbm3"
    assert json.loads(path.with_suffix(".json").read_text()) == found
    assert "NVIDIA H100 80GB HBM3" in path.with_suffix(".md").read_text()
    summary = results.summary(found).splitlines()
    assert [line.split()[1] for line in summary[:5]] == ["passed", "FAILED", "FAILED", "FAILED", "FAILED"]
    assert summary[5] == "bits: 2 cases, 100 repeats each and every batch size: 0 differ"


def test_a_part_goes_on_behind_the_case_that_lost_the_gpu(check, modules):
    text = """
import json, sys
begin = int(sys.argv[sys.argv.index("--begin") + 1]) if "--begin" in sys.argv else 0
with open(sys.argv[sys.argv.index("--records") + 1], "a") as file:
    for place in range(begin, 6):
        if place in (2, 3):
            print(json.dumps({"lost": place}), file=file, flush=True)
            sys.exit(3)
        print(json.dumps({"checks": {"name": str(place)}}), file=file)
"""
    found = check({"bits": lambda device: [([sys.executable, "-c", text, "--part", "bits"], {})]}, seconds=20)
    assert [each["name"] for each in found["checks"]] == ["0", "1", "4", "5"]
    assert not found["parts"][0]["passed"] and "lost the GPU 2 times" in found["parts"][0]["note"]


def test_a_gpu_that_is_lost_at_once_ends_the_part(check, tmp_path):
    starts = tmp_path / "starts"
    always = f"""
import sys
open({str(starts)!r}, "a").write("started ")
open(sys.argv[sys.argv.index("--records") + 1], "a").write('{{"lost": 0}}\\n')
sys.exit(3)
"""
    found = check({"bits": lambda device: [([sys.executable, "-c", always, "--part", "bits"], {})]}, seconds=20)
    assert "exit code 3" in found["parts"][0]["note"] and starts.read_text() == "started started "


def test_a_case_that_raises_is_noted_and_the_next_one_runs(modules, monkeypatch):
    measuring = importlib.import_module("measuring")
    told = []

    def compute(case):
        if case == 1:
            raise ValueError("one")
        return case != 2

    cases = {"zero": 0, "one": 1, "two": 2, "three": 3}
    tell = lambda **found: told.append(found)  # noqa: E731
    assert not measuring.each(cases, 0, time.monotonic() + 60, tell, compute)
    assert told == [{"failed": "one: ValueError: one"}]
    assert measuring.each(cases, 3, time.monotonic() + 60, tell, compute)
    told.clear()
    assert measuring.each(cases, 2, time.monotonic() - 1, tell, compute)
    assert told == [{"skipped": "two"}, {"skipped": "three"}]
    monkeypatch.setattr(measuring, "gpu_is_lost", lambda: True)
    with pytest.raises(SystemExit) as ended:
        measuring.each(cases, 0, time.monotonic() + 60, tell, compute)
    assert ended.value.code == 3 and told[-1] == {"lost": 1}


def test_commands_side_by_side(check, tmp_path):
    """All run at once, each with all the time of the part, and what failed in pytest is told."""
    failing = "print('FAILED tests/ops/test_conv2d.py::test_x - assert 0'); raise SystemExit(1)"
    meeting = f"""
import pathlib, sys, time
folder = pathlib.Path({str(tmp_path)!r})
(folder / f"here-{{sys.argv[1]}}").touch()
while len(list(folder.glob("here-*"))) < 3:
    time.sleep(0.01)
"""
    commands = [([sys.executable, "-c", meeting, str(i)], {}) for i in range(3)]
    commands.insert(1, ([sys.executable, "-c", failing], {}))
    found = check({"tests": lambda device: commands}, 60, processes=4)
    assert found["parts"][0]["note"].endswith("exit code 1") and "stopped" not in found["parts"][0]["note"]
    assert found["failed"] == ["FAILED tests/ops/test_conv2d.py::test_x - assert 0"]


def test_processes_of_a_stopped_part_end_with_it(check, hangs, tmp_path):
    """A pipe that only the grandchild holds open ends when the grandchild does."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    grandchild = f"held = open({str(pipe)!r}, 'w'); {hangs}"
    text = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    found = check({"hangs": script(text)}, seconds=60)
    assert not found["parts"][0]["passed"]
    os.set_blocking(reader, True)
    readable, _, _ = select.select([reader], [], [], 60)
    assert readable and os.read(reader, 1) == b"", "the grandchild lives on"
    os.close(reader)


def test_time_that_is_left_goes_to_later_parts(modules, check, monkeypatch):
    main, _, _ = modules
    now, limits = [0.0], []

    def run_part(name, device, options, limit, folder):
        limits.append(limit)
        now[0] += {"quick": 1, "slow": 30}[name]
        return {"name": name, "passed": True, "seconds": 0, "note": ""}

    monkeypatch.setattr(main, "run_part", run_part)
    monkeypatch.setattr(main.time, "monotonic", lambda: now[0])
    check({"quick": None, "slow": None}, seconds=20)
    assert limits == [20, 39]


def test_results_are_written_after_each_part(check, tmp_path):
    path = tmp_path / "results" / "nvidia-h100-80gb-hbm3.json"
    looks = f"import json; assert [p['name'] for p in json.load(open({str(path)!r}))['parts']] == ['machine']"
    found = check({"machine": writing(ENVIRONMENT), "looks": script(looks)}, seconds=10)
    assert found["parts"][1]["passed"]


def test_wrong_results_are_named_in_the_summary(modules):
    _, _, results = modules
    record = {"group": "pools", "name": "max", "pass": "forward", "dtype": "float32", "precision": "highest"}
    found = {
        "parts": [],
        "checks": [{"name": "sigmoid", "repeats": 100, "differ": 1, "same_in_any_batch": True}],
        "records": [{**record, "verified": True, "ratio": {"median": r}} for r in (1.0, 4.0)]
        + [{**record, "name": "avg", "verified": False}],
        "captured": [{"name": "a", "same": True}, {"name": "b", "same": False}],
        "streamed": [{"name": "c", "same": True, "independent": False}],
        "batches": [{"name": "AlexNet", "gigabytes": 24, "largest": {"ours": 3072, "torch": 2048}}],
        "sanitized": [{"name": "memcheck", "cases": 60, "all": 80}],
        "failed": ["steps: full relu: OutOfMemoryError"],
        "skipped": ["layers: conv5", "layers: conv4"],
    }
    assert results.summary(found).splitlines() == [
        "bits: 1 cases, 100 repeats each and every batch size: 1 differ",
        "graphs: 2 cases replayed with other numbers: 1 differ or wait, the first: b",
        "graphs: 1 cases beside a busy stream: 1 differ or wait, the first: c",
        "memcheck: 60 of 80 cases",
        "pools, float32 highest, forward: 2.00 x torch, geometric mean of 2",
        "WRONG: pools avg forward",
        "largest batch in 24 GB: AlexNet: ours 3072, torch 2048, x1.50",
        "failed: steps: full relu: OutOfMemoryError",
        "no time left for 2 cases, the first: layers: conv5",
    ]


def test_commands_for_a_gpu(modules, monkeypatch):
    _, parts, _ = modules
    monkeypatch.setattr(parts.shutil, "which", lambda tool: f"/bin/{tool}")
    commands = parts.PARTS["sanitizer"].commands("cuda")
    assert [command[:3] for command, _ in commands] == [
        ["/bin/compute-sanitizer", "--tool", tool] for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
    ]
    assert all("--dry-run" not in command for part in parts.PARTS.values() for command, _ in part.commands("cuda"))
    tests = [" ".join(command) for command, _ in parts.PARTS["tests"].commands("cuda")]
    assert all("--device cuda" in command and "test_cuda_" not in command for command in tests)
    for stem in ("conv2d", "conv_act_pool2d", "pool2d", "sigmoid"):
        assert any(f"tests/ops/test_{stem}.py" in command for command in tests), stem
    assert sum(part.seconds for part in parts.PARTS.values()) <= 600
