"""How a run ends, and what it leaves: finite weights, true records, whole files, one sentence."""

import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from comparisons import same_values
from training_runs import TINY, make_tree, run_script, train

from torch_manual_conv.training import checkpoint, cli, data, distributed, engine, loading
from torch_manual_conv.training.config import TrainConfig, parse_values
from torch_manual_conv.training.report import Report, read_steps

PLAIN = [*TINY, "--activation", "relu", "--no-batch-norm"]


def records(folder):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    """A run of one epoch, to copy from."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(*TINY, "--epochs", 1, "--log-every", 3, "--out", folder) == 0
    return folder


@pytest.fixture
def run(one_epoch, tmp_path):
    (tmp_path / "run").mkdir()
    for path in one_epoch.iterdir():
        (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "run"


# ---- What is saved is good


@pytest.mark.parametrize("lr, steps", [(1e30, 2), (1e10, 1), (1e38, 6)])
def test_weights_that_are_not_finite_are_never_saved(lr, steps, tmp_path, capsys):
    """The last step spoils them: its loss was still finite."""
    assert train(*PLAIN, "--epochs", 3, "--lr", lr, "--limit-steps", steps, "--out", tmp_path / "run") == 1
    for path in (tmp_path / "run").glob("*.pt"):
        assert not checkpoint.not_finite(checkpoint.load(path)["model"])
    assert all(math_is_finite(record) for record in records(tmp_path / "run"))
    error = capsys.readouterr().err
    assert "training stopped" in error and error.count("\n") == 1
    assert ("last good epoch" in error) == (tmp_path / "run" / "last.pt").exists()


def math_is_finite(record):
    return all(torch.tensor(float(value)).isfinite() for value in record.values())


@pytest.mark.parametrize("where", ["weight", "buffer", "momentum", "held-out loss"])
def test_good_checkpoints_outlive_bad_ones(where, run, monkeypatch, capsys):
    before = {name: (run / name).read_bytes() for name in ("last.pt", "best.pt")}
    train_epoch = engine.Trainer.train_epoch

    def spoiled(trainer):
        found = train_epoch(trainer)
        with torch.no_grad():
            if where == "weight":
                next(trainer.model.parameters())[0] = torch.nan
            elif where == "buffer":
                next(b for b in trainer.model.buffers() if b.dim()).fill_(torch.inf)
            elif where == "momentum":
                next(iter(trainer.optimizer.state.values()))["momentum_buffer"].fill_(-torch.inf)
            else:
                list(trainer.model.parameters())[-1].fill_(3e38)
                list(trainer.model.parameters())[-2].fill_(3e38)
        return found

    monkeypatch.setattr(engine.Trainer, "train_epoch", spoiled)
    assert train("--resume", run, "--epochs", 2) == 1
    error = capsys.readouterr().err
    assert "training stopped; the last good epoch is in" in error and error.count("\n") == 1
    assert before == {name: (run / name).read_bytes() for name in before}
    assert [record["epoch"] for record in records(run) if "val_loss" in record] == [1]


def test_a_bad_checkpoint_is_not_gone_on_from(run, capsys):
    state = torch.load(run / "last.pt")
    next(iter(state["model"].values()))[0] = torch.nan
    torch.save(state, run / "last.pt")
    for arguments in (["--epochs", 2], ["--eval-only"]):
        assert train("--resume", run, *arguments) == 2
        error = capsys.readouterr().err
        assert "holds weights that are not finite, features.0.weight" in error and error.count("\n") == 1


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_a_failed_save_ends_the_run_in_a_sentence(call, run, monkeypatch, capsys):
    before = {path.name: path.read_bytes() for path in run.glob("*.pt")}

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    save = checkpoint.save

    def failing(state, path):
        with monkeypatch.context() as patch:
            if call == "write":
                state = {**state, "classes": Unwritable()}
            else:
                patch.setattr(os, call, fail)
            save(state, path)

    class Unwritable:
        def __reduce__(self):
            fail()

    monkeypatch.setattr(checkpoint, "save", failing)
    assert train("--resume", run, "--epochs", 2) == 1
    error = capsys.readouterr().err
    assert "could not be written: No space left on device; --resume" in error and error.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in run.glob("*.pt")}
    assert not list(run.glob("*.tmp"))


def test_a_full_disk(tmp_path):
    """The limit on a file's size stands in for it: torch's writer hides the reason in an error of its own."""
    done = run_script(*TINY, "--epochs", 1, "--out", tmp_path / "run", limit_bytes=20_000)
    assert done.returncode == 1
    assert "best.pt could not be written: File too large; no epoch was finished\n" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "run").glob("*.pt*"))


def test_room_for_checkpoints_is_looked_for_first(run, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(engine.Trainer, "train_epoch", lambda trainer: pytest.fail("an epoch was spent"))
    assert train("--resume", run, "--epochs", 2) == 2
    assert "has room for 0 MB, and checkpoints need" in capsys.readouterr().err


def test_best_is_written_before_last(run, monkeypatch):
    """Interrupted between the two, the run repeats the epoch, and finds it the best again."""
    names = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda state, path: (names.append(path.name), save(state, path)))
    monkeypatch.setattr(
        engine.Trainer, "evaluate", lambda trainer: dict.fromkeys(("val_loss", "val_top1", "val_top5"), 1)
    )
    assert train("--resume", run, "--epochs", 2) == 0
    assert names == ["best.pt", "last.pt"]


# ---- What is recorded is true


def test_processes_evaluate_what_is_saved(tmp_path):
    """Each has batch norm's statistics of its own images; the first one's are saved, so all evaluate with those."""
    options = [*TINY, "--batch-size", 4, "--epochs", 2, "--log-every", 2, "--out", tmp_path / "run"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run_script(*options, launcher=launcher)
    assert done.returncode == 0, done.stderr
    state = checkpoint.load(tmp_path / "run")
    values = parse_values(state["config"], "last.pt") | {"resume": str(tmp_path / "run"), "eval_only": True}
    again = cli.train(TrainConfig(**values).resolved(), torch.device("cpu"), None, state).evaluate()
    for name, value in again.items():
        assert state["history"][-1][name] == pytest.approx(value, rel=1e-6)


def test_options_of_a_resumed_run_hold(run):
    """Also those that the optimizer's saved state has values of."""
    assert train("--resume", run, "--epochs", 2, "--momentum", 0.5, "--weight-decay", 0.25) == 0
    (group,) = checkpoint.load(run)["optimizer"]["param_groups"]
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.25)


DAMAGE = {
    "half a line": lambda good: good + b'{"epoch": 2, "st',
    "NULs": lambda good: good + bytes(64),
    "blank lines": lambda good: b"\n" + good + b"\n \n",
    "foreign JSON": lambda good: good + b'{"note": 1}\n[]\n3\n"epoch"\nnull\n{"epoch": "x"}\n',
    "no UTF-8": lambda good: b"\xff\xfe\n" + good,
    "NaN": lambda good: good + b'{"epoch": 1, "step": 9, "loss": NaN, "lr": Infinity}\n',
    "deep": lambda good: good + b"[" * 100_000 + b"\n",
    "empty": lambda good: b"",
    "all of it": lambda good: b"\0" * len(good),
    "first half": lambda good: good[: len(good) // 2],
}


@pytest.mark.parametrize("kind", [*DAMAGE, "folder", "pipe", "missing", "link to nowhere"])
def test_a_damaged_log_is_written_anew(kind, run, capsys):
    metrics = run / "metrics.jsonl"
    good = metrics.read_bytes()
    metrics.unlink()
    if kind in DAMAGE:
        metrics.write_bytes(DAMAGE[kind](good))
    elif kind != "missing":
        {"folder": os.mkdir, "pipe": os.mkfifo, "link to nowhere": lambda path: os.symlink("nowhere", path)}[kind](
            metrics
        )
    assert train("--resume", run, "--epochs", 2, "--log-every", 3) == 0
    found = records(run)
    assert [record["epoch"] for record in found if "val_loss" in record] == [1, 2]
    assert [record for record in found if "val_loss" in record] == checkpoint.load(run)["history"]
    if kind in DAMAGE and good in DAMAGE[kind](good):
        assert [record["step"] for record in found if record["epoch"] == 1 and "step" in record] == [3, 6]
    warning = capsys.readouterr().err
    is_damage = kind != "missing"
    assert ("written anew from the checkpoint" in warning) == is_damage
    assert os.path.lexists(run / "metrics.jsonl.damaged-1") == is_damage


def test_steps_of_a_sound_log(run):
    steps, damage = read_steps(run / "metrics.jsonl", 1)
    assert [record["step"] for record in steps] == [3, 6] and damage is None
    assert read_steps(run / "metrics.jsonl", 3)[1] == "lacks 2 of 3 epochs"


def test_numbers_that_are_none_are_null(tmp_path):
    report = Report(tmp_path)
    report.write({"epoch": 1, "loss": float("nan"), "lr": float("inf")})
    assert records(tmp_path) == [{"epoch": 1, "loss": None, "lr": None}]


# ---- Every end is a sentence


def test_files_in_the_way_of_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.yaml").write_text("mine: 1")
    for out in (None, "runs", "runs/x", "loop", "loop/x", "x" * 300, "/dev/null", "project"):
        assert train(*TINY, "--epochs", 1, *(["--out", out] if out else [])) in (1, 2)
        error = capsys.readouterr().err
        assert error.startswith("train.py: error: ") and error.count("\n") == 1
    assert (tmp_path / "project" / "config.yaml").read_text() == "mine: 1"


def test_resume_into_another_run_is_refused(run, one_epoch, capsys):
    assert train("--resume", run, "--out", one_epoch, "--epochs", 2) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize("number, word", [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_signals(number, word, run, request, monkeypatch, capsys):
    original = Report.step

    def step(report, record):
        os.kill(os.getpid(), number)
        original(report, record)

    monkeypatch.setattr(Report, "step", step)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background process ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    assert train("--resume", run, "--epochs", 2) == 128 + number
    assert capsys.readouterr().err == (
        f"train.py: error: {word}; --resume {run / 'last.pt'} goes on from the last whole epoch\n"
    )
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]


LAUNCHES = {
    "WORLD_SIZE alone": ({"WORLD_SIZE": "4"}, "no RANK, MASTER_ADDR, MASTER_PORT"),
    "a word": ({"WORLD_SIZE": "many", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "WORLD_SIZE=many"),
    "none": ({"WORLD_SIZE": "0", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "WORLD_SIZE=0"),
    "rank": ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK=2"),
    "port": ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "99999"}, "MASTER_PORT=99999"),
    "host": (
        {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "no.such.host.invalid", "MASTER_PORT": "9"},
        "process 1 of 2",
    ),
    "nobody": ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}, "process 1 of 2"),
}


@pytest.mark.parametrize("kind", LAUNCHES)
def test_variables_left_in_the_environment(kind, tmp_path, monkeypatch, capsys):
    variables, message = LAUNCHES[kind]
    monkeypatch.setattr(distributed, "PATIENCE", 0)
    monkeypatch.setattr(distributed, "_is_lost", False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}, {"RANK": "3", "LOCAL_RANK": "3"}])
def test_variables_that_mean_one_process(variables, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with distributed.process_group("cpu"):
        assert distributed.world_size() == 1
    assert train("--epochs", 0) == 2
    assert capsys.readouterr().err == "train.py: error: --epochs must be at least 1; got 0\n"


class Images(torch.utils.data.Dataset):
    """Eight batches, of which the worker that makes one does what `act` says."""

    def __init__(self, act):
        self.act = act

    def __len__(self):
        return 8

    def __getitems__(self, keys):
        self.act()
        return data.Batch(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), [])


class Unpicklable:
    """Stands in for what goes wrong while a batch leaves the worker."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


def raises(error):
    def act():
        raise error

    return act


WORKERS = {
    "shared memory": (raises(RuntimeError("unable to allocate shared memory(shm) for file </torch_1>")), "--shm-size"),
    "files": (raises(OSError(24, "Too many open files")), "ulimit -n"),
    "memory": (raises(MemoryError()), "not enough memory"),
    "folder": (raises(data.DataError("not one image in x can be read")), "^not one image in x can be read$"),
    "other": (raises(RuntimeError("first line\nlast line")), "has failed: last line$"),
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "--workers 0"),
    "left": (lambda: os._exit(3), "--workers 0"),
}


@pytest.mark.parametrize("kind", WORKERS)
def test_the_end_of_a_worker(kind):
    act, message = WORKERS[kind]
    loader = loading.Loader(Images(act), num_workers=1, batch_size=2)
    with pytest.raises((loading.WorkerLost, data.DataError), match=message), loading.watched():
        list(loader)


def test_a_batch_that_cannot_leave_its_worker(monkeypatch):
    """torch's own loader prints the error in a thread and waits for ever."""
    monkeypatch.setattr(data, "Batch", lambda *parts: Unpicklable(OSError(28, "No space left on device")))
    with pytest.raises(loading.WorkerLost, match="--shm-size"):
        list(loading.Loader(Images(lambda: None), num_workers=1, batch_size=2))


def test_batches_are_the_same_through_a_worker():
    here, there = (list(loading.Loader(Images(lambda: None), num_workers=n, batch_size=2)) for n in (0, 1))
    assert len(here) == len(there) == 4
    same_values(here[0].images, there[0].images, "images")


def test_a_resumed_run_needs_no_folder_to_stand_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_tree(tmp_path / "tree", train=4, val=2)
    options = ["--model", "lecture_net", "--image-size", 28, "--width", 0.25, "--batch-size", 4, "--workers", 0]
    assert train("tree", *options, "--device", "cpu", "--epochs", 1, "--out", "run") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train("--resume", "../run", "--epochs", 2) == 0


@pytest.mark.parametrize("change", ["foreign", "other shapes", "words"])
def test_an_optimizer_state_of_something_else(change, run, capsys):
    state = torch.load(run / "last.pt")
    if change == "foreign":
        state["optimizer"] = {"state": {99: {"momentum_buffer": torch.zeros(1)}}}
    for values in state["optimizer"]["state"].values() if change != "foreign" else ():
        values["momentum_buffer"] = torch.zeros(7) if change == "other shapes" else "x"
    torch.save(state, run / "last.pt")
    assert train("--resume", run, "--epochs", 2) == 2
    error = capsys.readouterr().err
    assert "does not fit this optimizer" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "record",
    [{}, {"epoch": 1}, 3, dict.fromkeys(checkpoint.RECORD, "x"), dict.fromkeys(checkpoint.RECORD, 7)],
    ids=range(5),
)
def test_a_history_of_something_else(record, run, capsys):
    torch.save({**torch.load(run / "last.pt"), "history": [record]}, run / "last.pt")
    assert train("--resume", run, "--epochs", 2) == 2
    assert "the record of epoch 1 lacks" in capsys.readouterr().err


def test_a_bar_needs_no_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with Report().progress("epoch 1/2", 10) as advance:
        advance(10, 0.5)
    assert "\x1b" not in capsys.readouterr().out


def test_messages_are_said_once(tmp_path):
    """However many processes come to them."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "file").write_text("")
    done = run_script(*TINY, "--epochs", 1, "--out", tmp_path / "file", launcher=launcher)
    assert done.returncode == 1 and done.stderr.count("train.py: error:") == 1
    assert f"{tmp_path / 'file'} is no folder" in done.stderr
    done = run_script("--epocs", 1, launcher=launcher)
    assert done.returncode == 1 and done.stderr.count("did you mean --epochs?") == 1
