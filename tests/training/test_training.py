"""Training runs: they learn, resume to the same bits, and are the same from one process or two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from comparisons import close
from training_runs import CPU, TINY, assert_same_weights, make_tree, run_script, train

from torch_manual_conv.training import checkpoint, cli, engine
from torch_manual_conv.training.config import TrainConfig
from torch_manual_conv.training.report import Report

ROOT = Path(__file__).parents[2]


# ---- Learning


def test_built_in_images_are_learned(tmp_path, capsys):
    arguments = ["--epochs", 2, "--limit-steps", 25, "--device", "cpu", "--out", tmp_path / "run"]
    assert train(*arguments) == 0
    accuracy = checkpoint.load(tmp_path / "run" / "best.pt")["history"][-1]["val_top1"]
    assert accuracy > 0.6  # chance is 0.1; measured 0.74 after 60 steps
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "last.pt", "best.pt"} <= names
    output = capsys.readouterr().out
    assert f"held-out accuracy after 2 epochs: {accuracy:.4f}" in output
    assert str(tmp_path / "run" / "metrics.jsonl") in output


def test_evaluation_repeats_the_recorded_scores(tmp_path, capsys):
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run") == 0
    record = checkpoint.load(tmp_path / "run")["history"][-1]
    capsys.readouterr()
    assert train("--eval-only", "--resume", tmp_path / "run" / "best.pt") == 0
    assert Report.scores(record) in capsys.readouterr().out


def test_loss_equals_that_of_torch_layers(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--dtype", "float64", "--log-every", 1, "--limit-steps", 100, "--epochs", 1, "--batch-size", 8]
    assert train("--synthetic", "--compare", "--device", "cpu", *arguments, "--out", out) == 0
    assert len(cli.step_losses(out / "manual")) == 100
    count, gap = cli.largest_loss_gap(out / "manual", out / "torch")
    assert count == 100
    assert gap < 1e-4
    output = capsys.readouterr().out
    assert "our layers" in output and "torch.nn's layers" in output


@pytest.mark.parametrize("options", ["--amp", "--channels-last", "--activation tanh --label-smoothing 0.1"])
def test_variants_train(tmp_path, options):
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run", *options.split()) == 0


def test_alexnet_trains_on_a_tree(tmp_path):
    tree = make_tree(tmp_path / "tree")
    small = ["--image-size", 64, "--width", 0.125, "--hidden", 16, "--batch-size", 8, "--epochs", 1, "--workers", 1]
    assert train(tree, *small, "--device", "cpu", "--out", tmp_path / "run") == 0
    state = checkpoint.load(tmp_path / "run")
    assert state["classes"] == ["bag", "sneaker", "trouser"]
    assert state["config"]["model"] == "alexnet"


@pytest.mark.parametrize("name, chance", [("photos", 1 / 28), ("terrain", 1 / 7)])
def test_photographs_are_learned(name, chance, tmp_path):
    folder = ROOT.parent / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    options = ["--image-size", 64, "--width", 0.125, "--hidden", 64, "--epochs", 3, "--lr", 0.05, "--device", "cpu"]
    assert train(folder, *options, "--out", tmp_path / "run") == 0
    assert checkpoint.load(tmp_path / "run")["history"][-1]["val_top1"] > 2 * chance


def test_learning_rate_schedules():
    def rates(points, **options):
        config = TrainConfig(lr=1.0, epochs=10, **options).resolved()
        return [round(engine.learning_rate(config, p), 4) for p in points]

    assert rates((0, 5, 10)) == [1, 0.5, 0]
    assert rates((0, 1, 2, 6, 10), warmup_epochs=2.0) == [0, 0.5, 1, 0.5, 0]
    assert rates((0, 3.9, 4, 8), schedule="step", step_epochs=4) == [1, 1, 0.1, 0.01]
    assert rates((0, 9.9), schedule="constant") == [1, 1]


# ---- Resuming


def stop_in_epoch(monkeypatch, epoch):
    original = Report.step

    def step(self, record):
        if record["epoch"] == epoch:
            raise KeyboardInterrupt
        original(self, record)

    monkeypatch.setattr(Report, "step", step)


@pytest.mark.parametrize("stopped_in", [2, 3])
def test_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch, stopped_in):
    arguments = [*TINY, "--epochs", 3, "--dropout", 0.3, "--log-every", 2]
    assert train(*arguments, "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, stopped_in)
        assert train(*arguments, "--out", tmp_path / "parts") == 130
    assert checkpoint.load(tmp_path / "parts")["epoch"] == stopped_in - 1
    assert train("--resume", tmp_path / "parts", "--workers", 2) == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert cli.step_losses(tmp_path / "whole") == cli.step_losses(tmp_path / "parts")


def test_config_file_repeats_the_run(tmp_path):
    assert train(*TINY, "--epochs", 1, "--seed", 5, "--out", tmp_path / "one") == 0
    assert train("--config", tmp_path / "one" / "config.yaml", "--out", tmp_path / "two") == 0
    assert_same_weights(tmp_path / "one", tmp_path / "two")


def test_seed_changes_the_run(tmp_path):
    for seed in (0, 1):
        assert train(*TINY, "--epochs", 1, "--seed", seed, "--out", tmp_path / str(seed)) == 0
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "0", tmp_path / "1")


def test_resume_refuses_another_model(tmp_path, capsys):
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run") == 0
    assert train("--resume", tmp_path / "run", "--width", 0.5, "--epochs", 2) == 2
    assert "does not fit this model" in capsys.readouterr().err


def test_resume_refuses_other_classes(tmp_path, capsys):
    tree = make_tree(tmp_path / "tree")
    options = [*CPU, "--model", "lecture_net", "--image-size", 28, "--width", 0.25, "--batch-size", 8]
    assert train(tree, *options, "--epochs", 1, "--out", tmp_path / "run") == 0
    for split in ("train", "val"):
        (tree / split / "bag").rename(tree / split / "hat")
    assert train("--resume", tmp_path / "run", "--epochs", 2) == 2
    assert "other classes" in capsys.readouterr().err


# ---- Reporting, and several processes


def test_terminal_shows_a_bar(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Report().progress("epoch 1/2", 10) as advance:
        advance(10, 0.5)
    assert "\x1b[" in capsys.readouterr().out


def test_two_processes_train_as_one(tmp_path):
    """torchrun with 2 x 8 images a step ends with the weights of one process with 16, and prints once, plainly."""
    options = [*TINY, "--no-batch-norm", "--dtype", "float64", "--epochs", 1]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run_script(*options, "--batch-size", 8, "--out", tmp_path / "two", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out accuracy after 1 epochs") == 1
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
    assert train(*options, "--out", tmp_path / "one") == 0
    one, two = checkpoint.load(tmp_path / "one"), checkpoint.load(tmp_path / "two")
    for name, weight in one["model"].items():
        close(weight, two["model"][name], name, rtol=1e-9, atol=1e-12)
    for key in ("train_loss", "val_loss", "val_top1", "val_top5"):
        assert two["history"][-1][key] == pytest.approx(one["history"][-1][key], rel=1e-9)


def test_no_thread_of_a_process_group_is_left(tmp_path):
    """One of gloo's that outlives the interpreter now and then aborts a process whose work is done."""
    script = tmp_path / "threads.py"
    script.write_text(f"""
import sys
from pathlib import Path
from torch_manual_conv.training import cli
assert cli.main({[*TINY, "--epochs", "1", "--out", str(tmp_path / "run")]}) == 0
names = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
assert names and not any("gloo" in name for name in names), names
""")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def test_metrics_are_json_lines(tmp_path):
    assert train(*TINY, "--epochs", 1, "--log-every", 3, "--out", tmp_path / "run") == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record.get("step") for record in records] == [3, 6, None]
    assert records[-1].keys() == {
        "epoch", "train_loss", "val_loss", "val_top1", "val_top5", "seconds", "images_per_second"
    }  # fmt: skip
