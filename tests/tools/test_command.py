"""What the commands share: files replaced whole, JSON that is JSON, and one sentence for whatever ends a command."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torch_manual_conv import _command, functional, verify
from torch_manual_conv.bench import cli as bench
from torch_manual_conv.bench.results import dumps
from torch_manual_conv.memory import cli as memory

COMMANDS = {"verify": verify.main, "bench": bench.main, "memory": memory.main}


def ended(error, capsys):
    def work():
        raise error

    status = _command.run("tmc", work)
    said = capsys.readouterr().err
    assert said.startswith("tmc: error: ") and said.count("\n") == 1
    return status, said[len("tmc: error: ") : -1]


@pytest.mark.parametrize(
    "error, wanted",
    [
        (_command.RunError("a\nb"), (2, "a b")),
        (KeyboardInterrupt(), (130, "interrupted")),
        (_command.Terminated(), (143, "terminated")),
        (BrokenPipeError(32, "Broken pipe"), (141, "nobody reads the output any more")),
        (NotADirectoryError(20, "Not a directory", "a/b"), (1, "a/b: Not a directory")),
        (PermissionError(13, "Permission denied", b"\xff"), (1, "\\udcff: Permission denied")),
        (OSError("odd"), (1, "odd")),
        (MemoryError(), (1, "not enough memory")),
        (RuntimeError("CUDA out of memory. Tried"), (1, "not enough memory: CUDA out of memory. Tried")),
        (RuntimeError("TMC_CPU_ISA: must be base\nmore"), (2, "TMC_CPU_ISA: must be base")),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_an_end_is_a_sentence(error, wanted, capsys):
    assert ended(error, capsys) == wanted


def test_memory_that_is_not_there(capsys):
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 60, dtype=torch.uint8)
    status, said = ended(found.value, capsys)
    assert status == 1 and said == f"not enough memory: you tried to allocate {1 << 60} bytes"


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        _command.run("tmc", lambda: 1 // 0)


def test_signals_are_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert _command.run("tmc", lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_files_are_replaced_whole(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("old")
    link.symlink_to(path)
    with pytest.raises(_command.WriteError, match="file could not be written: No space left"):
        with _command.replacing(link) as file:
            file.write(b"half of the n")
            raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and {p.name for p in tmp_path.iterdir()} == {"file", "link"}
    _command.write_text(link, "new")
    assert path.read_text() == "new" and link.is_symlink()
    _command.write_text("/dev/null", "nothing")
    assert not Path("/dev/null").is_file()
    with pytest.raises(_command.WriteError, match="Is a directory"):
        _command.write_text(tmp_path, "new")


def test_json_has_no_nan(tmp_path, monkeypatch, capsys):
    assert _command.to_json({"a": [float("nan"), 1.5], "b": (float("-inf"),)}) == '{"a": [null, 1.5], "b": [null]}'
    assert json.loads(dumps({"error": float("inf")})) == {"error": pytest.approx(sys.float_info.max, rel=1e-5)}
    sigmoid = functional.sigmoid
    monkeypatch.setattr(functional, "sigmoid", lambda x: sigmoid(x) * float("nan"))
    arguments = ["--device", "cpu", "--op", "sigmoid", "--case", "plain", "--dtype", "float32"]
    assert verify.main([*arguments, "--json", str(tmp_path / "found.json")]) == 1
    found = json.loads((tmp_path / "found.json").read_text(), parse_constant=pytest.fail)
    assert {check["status"] for check in found["checks"]} >= {"FAIL"}
    conv2d = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *arguments: conv2d(*arguments) * float("nan"))
    assert bench.main(["alexnet/conv5", "--batch", "1", "--rounds", "1", "--json", str(tmp_path / "run.json")]) == 1
    json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)


NONSENSE = ["--nonsense", "", "x" * 5000, "nan", "-1.5", "a\nb", "ä\udcff"]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "option", ["--json", "--device", "--dtype", "--seed", "--threads", "--input", "--picture", None]
)
def test_nonsense_is_answered_in_one_line(name, option, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    words = [
        *NONSENSE,
        f"{tmp_path}/file/below",
        str(tmp_path),
        "/no/such/folder/x.json",
        "~nobody-of-this-name/x",
        "1e999",
    ]
    model = ["lecture_net"] if name == "memory" else []
    for word in [word for word in words if option in ("--json", "--picture") or not word.startswith(("/", "~"))]:
        if option in ("--json", "--picture") and word in ("x" * 5000, "nan", "-1.5", "a\nb", "ä\udcff", "1e999"):
            continue  # names that a file may have, or that the system refuses when it is written
        with pytest.raises(SystemExit) as stop:
            COMMANDS[name]([*model, option, word] if option else [*model, word, "--nonsense"])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("python -m torch_manual_conv.") and said.count("\n") == 1


@pytest.mark.parametrize("name", ["nowhere..at:x", "sys:exit", "torch:nn", "torch_manual_conv:has_cuda", ":", "a:b:c"])
def test_a_model_that_is_none(name, capsys):
    with pytest.raises(SystemExit) as stop:
        memory.main([name])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "MODEL" in said


@pytest.mark.parametrize("arguments", [["-m", "torch_manual_conv.verify", "--help"], ["train.py", "--help"]])
def test_a_reader_that_has_gone(arguments):
    root = Path(__file__).parents[2]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, cwd=root)
    os.close(write)
    assert done.returncode in (0, 141)  # argparse takes it that nobody wants to know
    assert done.stderr == "" or done.stderr.endswith(": error: nobody reads the output any more\n")
    assert done.stderr.count("\n") <= 1


@pytest.mark.parametrize("name", ["bench", "memory"])
def test_an_instruction_set_that_is_none(name):
    arguments = ["overhead/sigmoid"] if name == "bench" else ["lecture_net"]
    command = [sys.executable, "-m", f"torch_manual_conv.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMC_CPU_ISA": "abacus"})
    assert done.returncode == 2
    assert done.stderr == (
        f"python -m torch_manual_conv.{name}: error: "
        "TMC_CPU_ISA: must be base, avx2, avx512, avx512_bf16 or amx, got abacus\n"
    )
