"""python -m torch_manual_conv.bench as a command: options, records, tables, pictures, scaling."""

import contextlib
import io
import math
import re
import subprocess
import sys

import pytest
import torch
from pictures import flaws

from torch_manual_conv.bench import cli, options, problems, results, scaling
from torch_manual_conv.bench.cases import GROUPS

ORIGIN = {"machine", "cores", "cpu_isa", "torch", "python", "date", "command"}
HOW = {"threads", "clock", "dtype", "rounds", "seconds", "verified"}


def run(*arguments):
    """Exit code of the command on little work."""
    return cli.main([*arguments, "--batch", "1", "--rounds", "2"])


def test_a_wrong_result_is_an_exit_code(monkeypatch, capsys):
    right = problems.functional.conv2d
    monkeypatch.setattr(problems.functional, "conv2d", lambda *arguments: right(*arguments) + 1)
    assert run("alexnet/conv5") == 1
    assert "WRONG" in capsys.readouterr().out


def test_records_say_where_they_come_from(tmp_path, capsys):
    file = tmp_path / "run.json"
    arguments = ["alexnet/conv5", "pools/max alexnet 13", "--dtype", "float32", "bfloat16", "--json", str(file)]
    assert run(*arguments, "--markdown", str(tmp_path / "run.md")) == 0
    (run_found,) = results.load(file)
    assert run_found["environment"].keys() >= ORIGIN
    assert run_found["environment"]["command"].startswith("python -m torch_manual_conv.bench alexnet/conv5")
    assert len(run_found["records"]) == 2 * (3 + 2)
    for found in run_found["records"]:
        assert found.keys() >= HOW | {"error", "limit_seconds", "peak_bytes", "saved_bytes"}
    out = capsys.readouterr().out
    for text in (out, (tmp_path / "run.md").read_text()):
        assert "conv2 to conv5 alone" not in text
        assert re.search(r"alexnet: torchvision's AlexNet\. bfloat16, 1 thread, GFLOP/s", text)
        assert "geometric mean" in text and "layout by layout" in text and "limit: copy of the same bytes" in text


def test_own_shape(capsys):
    own = ["--conv", "2", "6", "17", "19", "8", "3", "2", "--stride", "2", "1", "--groups", "2"]
    assert cli.main([*own, "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^own\. float32, 1 thread, GFLOP/s$", out, re.M)
    assert all(re.search(rf"^own +{what} ", out, re.M) for what in problems.PASSES)


def test_threads_are_put_back():
    def settings():
        conv = torch.backends.mkldnn.conv.fp32_precision
        return torch.get_num_threads(), torch.get_float32_matmul_precision(), conv

    before = settings()
    run("overhead/sigmoid", "--precision", "high")
    assert settings() == before


def test_isa_is_forced():
    command = [sys.executable, "-m", "torch_manual_conv.bench", "overhead/sigmoid", "--rounds", "1", "--isa", "base"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^cpu_isa +base$", out, re.M)


@pytest.mark.parametrize("with_rich", [True, False])
def test_tables_on_a_terminal(with_rich, monkeypatch, capsys):
    if with_rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run("overhead/sigmoid") == 0
    out = capsys.readouterr().out
    assert "x torch" in out and ("\x1b[" in out) == with_rich


def test_help_shows_cases_and_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(re.search(rf"^  {group} ", out, re.M) for group in GROUPS)
    assert "examples, after python -m torch_manual_conv.bench:" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["alexnt"], "unknown case 'alexnt': did you mean alexnet"),
        (["alexnet/conv9"], "unknown case 'alexnet/conv9': did you mean alexnet/conv"),
        (["--batch", "0"], "must be an integer from 1 to 1048576, got '0'"),
        (["--rounds", "many"], "must be an integer from 1 to"),
        (["--threads", "4096"], r"--threads: must be at most the \d+ cores of this process, got 4096"),
        (["--conv", "1", "3", "8", "8", "4", "3"], "--conv: expected 7 arguments"),
        (["--conv", "1", "3", "8", "8", "4", "9", "3"], r"must fit into the padded input \[8, 8\], got 9 x 3"),
        (["--conv", "1", "3", "8", "8", "4", "3", "3", "--groups", "2"], "--groups: must divide C and K"),
        (["--conv", "1", "3", "8", "8", "4", "3", "3", "--stride", "0"], "--stride: must be an integer from 1"),
        (["--conv", "1", "3", "8", "8", "4", "3", "3", "--padding", "1", "2", "3"], "--padding: must be one integer"),
        (["--conv", *["99999"] * 5, "9", "9"], r"these sizes need about \d+ GB, this machine has"),
        (["alexnet", "--batch", "1000000"], r"these sizes need about \d+ GB"),
        (["step", "--batch", "1000000"], r"these sizes need about \d+ GB"),
        (["--stride", "2"], "--stride: describes your own layer, so it needs --conv"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["step", "--dtype", "float64"], "step: --dtype must be float32, or bfloat16 or float16"),
        (["--scaling", "alexnet"], "--scaling measures AlexNet's convolutional part"),
        (["--isa", "abacus"], "TMC_CPU_ISA: must be base, .*, got abacus"),
        (["--json", "/no/such/folder/run.json"], "--json: no such folder"),
        (["--markdown", "."], "--markdown: must be a file"),
        (["--picture", "roofline.txt"], "--picture: must end in .svg, got roofline.txt"),
        (["--faster"], "unrecognized arguments: --faster"),
    ],
)
def test_rejects_nonsense_in_one_line(arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "torch_manual_conv.bench", *arguments], capture_output=True, text=True
    ) if "--isa" in arguments else _in_process(arguments)  # fmt: skip
    assert done.returncode == 2
    assert re.search(message, done.stderr) and done.stderr.count("\n") == 1


def _in_process(arguments):
    """The same without another import of torch."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as stopped:
        options.parse(arguments)
    return subprocess.CompletedProcess(arguments, stopped.value.code, "", errors.getvalue())


def test_roofline_picture(tmp_path):
    file = tmp_path / "roofline.svg"
    assert run("alexnet/conv5", "pools/max alexnet 13", "overhead/sigmoid", "--picture", str(file)) == 0
    assert list(flaws(file.read_text())) == []


def test_command_joins_a_file(tmp_path, capsys):
    file, tables = tmp_path / "run.json", tmp_path / "run.md"
    for cases in (["overhead"], ["sigmoid"], ["overhead"]):
        assert run(*cases, "--json", str(file), "--markdown", str(tables)) == 0
    assert [r["records"][0]["group"] for r in results.load(file)] == ["overhead", "sigmoid"]
    assert tables.read_text().count("### overhead") == tables.read_text().count("### sigmoid") == 1
    before = file.read_text()
    with pytest.raises(SystemExit):
        run("overhead/sigmoid", "--json", str(file))
    assert "overhead/sigmoid would replace all of overhead in" in capsys.readouterr().err
    file.write_text(before.replace('"machine": "', '"machine": "not '))
    assert run("overhead", "--json", str(file)) == 2
    assert re.search(r"--json: .*run\.json holds results of not ", capsys.readouterr().err)
    file.write_text('{"environment": {}}')  # as other commands write
    assert run("overhead", "--json", str(file)) == 2
    assert "holds no results of this command" in capsys.readouterr().err


def test_an_interruption_keeps_whole_tables(tmp_path, monkeypatch, capsys):
    """Of `overhead`, which had begun, nothing: it would take the place of a whole table."""
    file, measure = tmp_path / "run.json", cli.measure

    def interrupted(problem, *arguments):
        if (problem.group, problem.name) == ("overhead", "stage"):
            raise KeyboardInterrupt
        return measure(problem, *arguments)

    monkeypatch.setattr(cli, "measure", interrupted)
    assert run("sigmoid", "overhead", "--json", str(file)) == 130
    assert capsys.readouterr().err.endswith("bench: error: interrupted\n")
    (found,) = results.load(file)
    assert {record["group"] for record in found["records"]} == {"sigmoid"}


# ---- Scaling.


def synthetic(threads=1, power=1.0):
    """Records of a machine on which time grows as batch^power and side^2, and torch takes twice as long."""
    points = [("batch", n, n, scaling.USUAL_SIZE, n**power) for n in scaling.BATCHES]
    points += [("size", side, 8, side, 8 * (side / 224) ** 2) for side in scaling.SIZES]
    for axis, at, images, size, seconds in points:
        yield {
            "dtype": "float32", "threads": threads, "axis": axis, "at": at, "images": images, "size": size,
            "seconds": {"ours": seconds / threads / 1e3, "torch": 2 * seconds / threads / 1e3}, "verified": True,
        }  # fmt: skip


def test_exponent_of_a_power_law():
    assert math.isclose(scaling.exponent([(n, 3 * n**1.7) for n in (1, 2, 5, 9)]), 1.7)


def test_sentence_says_how_cost_grows():
    one, two = scaling.sentences({"records": [*synthetic(), *synthetic(threads=2)]})
    assert "1.00 ms at batch 1 and 1.00 ms at batch 256 (torch 2.00 and 2.00)" in one
    assert "batch^1.00 (torch 1.00)" in one and "side^2.00" in one
    assert "2.00 times as fast as one thread at batch 256 (torch 2.00)" in two
    (steep,) = scaling.sentences({"records": list(synthetic(power=1.5))})
    assert "batch^1.50" in steep


def test_no_sentence_about_a_wrong_result():
    records = list(synthetic())
    records[3]["verified"] = False
    (sentence,) = scaling.sentences({"records": records})
    assert "ours differs from torch's" in sentence


def test_scaling_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "BATCHES", (1, 2))
    monkeypatch.setattr(scaling, "SIZES", (64, 72))
    monkeypatch.setattr(scaling, "USUAL_SIZE", 64)
    files = [tmp_path / name for name in ("scaling.json", "scaling.md", "scaling.svg")]
    named = zip(("--json", "--markdown", "--picture"), map(str, files), strict=True)
    assert cli.main(["--scaling", "--threads", "1", "--rounds", "1", *(word for pair in named for word in pair)]) == 0
    (found,) = results.load(files[0])
    assert found["environment"].keys() >= ORIGIN
    assert all(record.keys() >= HOW and record["verified"] for record in found["records"])
    assert re.search("float32, 1 thread: an image of 64 x 64 takes .* ms", capsys.readouterr().out)
    assert "- float32, 1 thread: an image of 64 x 64 takes " in files[1].read_text()
    assert list(flaws(files[2].read_text())) == []
