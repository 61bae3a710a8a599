"""train.py: a run learns, resumes to the same bits, survives bad files, and says clearly what it cannot use."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

pytest.importorskip("yaml")
Image = pytest.importorskip("PIL.Image")

from torch_manual_conv.training import checkpoint, cli, data, engine, images  # noqa: E402
from torch_manual_conv.training.config import TrainConfig  # noqa: E402
from torch_manual_conv.training.report import Report  # noqa: E402

ROOT = Path(__file__).parent.parent
CPU = ["--device", "cpu", "--workers", "0"]
TINY = [*CPU, "--synthetic", "--width", "0.25", "--batch-size", "16", "--limit-steps", "6"]


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors gain nothing from more, and a busy machine loses much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(*arguments):
    """Runs the command in this process; returns its exit status."""
    return cli.main([str(a) for a in arguments])


def losses(folder):
    return cli.step_losses(folder)


def assert_same_weights(one, other):
    one, other = checkpoint.load(one), checkpoint.load(other)
    for name, weight in one["model"].items():
        assert torch.equal(weight, other["model"][name]), name
    for index, state in one["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], other["optimizer"]["state"][index]["momentum_buffer"])


def make_tree(root, classes=("bag", "sneaker", "trouser"), train=8, val=4, size=32):
    """A small tree of clothes; the first image of each class is a JPEG, the others are PNGs."""
    fashion = data.open_fashion()
    for name, target in zip(classes, (8, 7, 1), strict=True):
        for split, count in (("train", train), ("val", val)):
            folder = root / split / name
            folder.mkdir(parents=True)
            own = (getattr(fashion, split).targets == target).nonzero().flatten()[:count]
            for number, pixels in enumerate(getattr(fashion, split).images[own, 0]):
                image = Image.fromarray(pixels.numpy()).resize((size, size))
                image.save(folder / f"{number:02}.{'JPG' if number == 0 else 'png'}", "JPEG" if number == 0 else "PNG")
    return root


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree")


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
    assert len(losses(out / "manual")) == 100
    steps, gap = cli.largest_loss_gap(out / "manual", out / "torch")
    assert steps == 100
    assert gap < 1e-4
    output = capsys.readouterr().out
    assert "our layers" in output and "torch.nn's layers" in output


@pytest.mark.parametrize("options", ["--amp", "--channels-last", "--activation tanh --label-smoothing 0.1"])
def test_variants_train(tmp_path, options):
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run", *options.split()) == 0


def test_alexnet_trains_on_a_tree(tree, tmp_path):
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
    options = ["--image-size", 64, "--width", 0.125, "--hidden", 64, "--epochs", 2, "--lr", 0.05, "--device", "cpu"]
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
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_config_file_repeats_the_run(tmp_path):
    assert train(*TINY, "--epochs", 1, "--seed", 5, "--out", tmp_path / "one") == 0
    assert train("--config", tmp_path / "one" / "config.yaml", "--out", tmp_path / "two") == 0
    assert_same_weights(tmp_path / "one", tmp_path / "two")


def test_seed_changes_the_run(tmp_path):
    for seed in (0, 1):
        assert train(*TINY, "--epochs", 1, "--seed", seed, "--out", tmp_path / str(seed)) == 0
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "0", tmp_path / "1")


def test_resume_refuses_other_classes(tree, tmp_path, capsys):
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run") == 0
    assert train("--resume", tmp_path / "run", "--out", tmp_path / "other", *TINY, "--width", 0.5, "--epochs", 2) == 2
    assert "does not fit this model" in capsys.readouterr().err


# ---- Images and their order


def batches(config, workers):
    split = data.open_data(config)
    loader = data.make_loader(split.train, TrainConfig(**{**config.record(), "workers": workers}), train=True, rank=0,
                              world=1, pin_memory=False)  # fmt: skip
    loader.batch_sampler.epoch = 3
    return list(loader)


def test_crops_do_not_depend_on_workers(tree):
    config = TrainConfig(data=str(tree), image_size=64, batch_size=8).resolved()
    for one, other in zip(batches(config, 0), batches(config, 2), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 5, 17, 64])
def test_evaluation_takes_every_image_once(count, world):
    seen = []
    for rank in range(world):
        options = dict(seed=0, shuffle=False, rank=rank, world=world)
        sampler = data.EpochBatches(count, 4, **options)
        chunks = list(sampler)
        assert len(chunks) == len(sampler)
        seen += [index for chunk in chunks for _, index in chunk]
    assert sorted(seen) == list(range(count))


def test_processes_share_each_step():
    alone = list(data.EpochBatches(50, 8, seed=1, shuffle=True, rank=0, world=1))
    parts = [list(data.EpochBatches(50, 4, seed=1, shuffle=True, rank=rank, world=2)) for rank in (0, 1)]
    assert [set(batch) for batch in alone] == [set(a + b) for a, b in zip(*parts, strict=True)]


def test_random_crops_stay_inside():
    rng = images.stream("crops")
    for width, height in ((400, 300), (1, 1), (1000, 3), (2, 500)):
        for _ in range(100):
            left, top, right, bottom = images._random_box(width, height, 0.25, rng)
            assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_standardised_fashion():
    split = data.open_fashion()
    assert split.train.images.shape == (10_000, 1, 28, 28)
    assert split.val.images.shape == (2_000, 1, 28, 28)
    assert split.train.targets.bincount().tolist() == [1000] * 10
    assert split.mean[0] == pytest.approx(0.286, abs=0.002)  # Zalando's 60,000 images: 0.2860, 0.3530
    assert split.std[0] == pytest.approx(0.353, abs=0.002)


# ---- Bad files and folders


def png_header_of(width, height):
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + chunk + crc


BAD_FILES = {
    "empty": lambda good: b"",
    "text": lambda good: b"<html>not found</html>",
    "truncated": lambda good: good[: len(good) // 2],
    "gif": lambda good: b"GIF89a" + good[6:],
    "huge": lambda good: png_header_of(60_000, 60_000),
    "no pixels": lambda good: png_header_of(0, 5),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_image_is_named_and_replaced(kind, tree):
    folder = tree / "train" / "bag"
    bad = folder / "03.png"
    bad.write_bytes(BAD_FILES[kind](bad.read_bytes()))
    with pytest.raises(images.ImageError):
        images.read_image(bad)
    dataset = data.FolderImages(tree / "train", ["bag", "sneaker"], 28, seed=0)
    batch = dataset.__getitems__([(1, 3), (1, 4)])
    assert [path for path, _ in batch.problems] == [str(bad)]
    assert torch.equal(batch.images[0], batch.images[1])


def test_bad_image_in_a_run(tree, tmp_path, capsys):
    (tree / "train" / "bag" / "03.png").write_bytes(b"")
    options = ["--model", "lecture_net", "--image-size", 28, "--width", 0.25, "--batch-size", 8, "--epochs", 2]
    assert train(tree, *options, "--workers", 1, "--device", "cpu", "--out", tmp_path / "run") == 0
    said = capsys.readouterr()
    assert said.err.count(str(tree / "train" / "bag" / "03.png")) == 1
    assert "1 image files could not be read" in said.out


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_colour_mode_becomes_rgb(mode, tmp_path):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (9, 7)).save(tmp_path / f"image.{suffix}")
    assert images.to_tensor(images.read_image(tmp_path / f"image.{suffix}")).shape == (3, 7, 9)


def remove(path):
    return lambda root: shutil.rmtree(root / path)


def empty_class(root):
    shutil.rmtree(root / "train" / "bag")
    (root / "train" / "bag").mkdir()
    (root / "train" / "bag" / "notes.txt").write_text("no image")


def spoil_class(root):
    for path in (root / "train" / "bag").iterdir():
        path.write_bytes(b"")


BAD_TREES = {
    "no folder": (remove("."), "is not a folder"),
    "no train": (remove("train"), "has no folder train/"),
    "no val": (remove("val"), "has no folder val/"),
    "class missing in val": (remove("val/bag"), "val/ lacks 1 of the classes in train/: bag"),
    "class missing in train": (remove("train/bag"), "train/ lacks 1 of the classes in val/: bag"),
    "empty class": (empty_class, "bag is empty"),
    "no readable image": (spoil_class, "not one image in"),
}


@pytest.mark.parametrize("kind", BAD_TREES)
def test_unusable_tree_is_explained(kind, tree, tmp_path, capsys):
    spoil, message = BAD_TREES[kind]
    spoil(tree)
    options = ["--model", "lecture_net", "--image-size", 28, "--workers", 0, "--device", "cpu"]
    assert train(tree, *options, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# ---- Checkpoints


class Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def test_checkpoint_runs_no_code(tmp_path):
    path, canary = tmp_path / "last.pt", tmp_path / "canary"
    for write in (torch.save, lambda value, to: to.write_bytes(pickle.dumps(value))):
        write({"model": Payload(canary)}, path)
        with pytest.raises(checkpoint.CheckpointError, match="is not a readable checkpoint"):
            checkpoint.load(path)
        assert not canary.exists()


def test_no_unsafe_loading_in_the_sources():
    for path in (ROOT / "torch_manual_conv").rglob("*.py"):
        text = path.read_text()
        assert "weights_only=False" not in text and "pickle.load" not in text and "add_safe_globals" not in text


def rezip(path):
    """The same archive, its parts compressed."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


BAD_CHECKPOINTS = {
    "truncated": (cut, "not a readable checkpoint"),
    "bomb": (rezip, "claims to unpack to"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable checkpoint"),
    "other content": (lambda path: torch.save([1, 2], path), "not a checkpoint of train.py"),
    "other format": (lambda path: torch.save({key: 99 for key in checkpoint.KEYS}, path), "has checkpoint format 99"),
    "missing": (Path.unlink, "there is no checkpoint here"),
}


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_bad_checkpoint_is_explained(kind, tmp_path, capsys):
    spoil, message = BAD_CHECKPOINTS[kind]
    state = dict.fromkeys(checkpoint.KEYS, 0) | {"model": {"weight": torch.zeros(5000)}}
    checkpoint.save(state, tmp_path / "last.pt")
    assert torch.equal(checkpoint.load(tmp_path)["model"]["weight"], torch.zeros(5000))
    spoil(tmp_path / "last.pt")
    assert train("--resume", tmp_path / "last.pt") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_save_keeps_the_old_checkpoint(call, tmp_path, monkeypatch):
    state = dict.fromkeys(checkpoint.KEYS, 0)
    checkpoint.save(state, tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, call, fail)
        checkpoint.save(state | {"epoch": 1}, tmp_path / "last.pt")
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_divergence_stops_and_keeps_the_last_good_epoch(tmp_path, capsys):
    arguments = [*TINY, "--activation", "relu", "--no-batch-norm", "--out", tmp_path / "run"]
    assert train(*arguments, "--epochs", 1) == 0
    good = (tmp_path / "run" / "last.pt").read_bytes()
    assert train("--resume", tmp_path / "run", "--epochs", 3, "--lr", 1e20) == 1
    error = capsys.readouterr().err
    assert "training stopped" in error and "--lr" in error and "last good epoch" in error
    assert (tmp_path / "run" / "last.pt").read_bytes() == good


# ---- The command


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        train("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for name in TrainConfig.__dataclass_fields__:
        assert ("DATA_DIR" if name == "data" else "--" + name.replace("_", "-")) in shown


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epoch", "3"], "unknown argument --epoch: did you mean --epochs?"),
        (["--layers", "cudnn"], "invalid choice: 'cudnn'"),
        (["--batch-size", "many"], "invalid int value: 'many'"),
    ],
)
def test_mistyped_option(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--batch-size", "0"], "--batch-size must be at least 1; got 0"),
        (["--batch-size", "1"], "--batch-size must be at least 2 with batch norm; got 1"),
        (["--lr", "-1"], "--lr must be positive; got -1.0"),
        (["--lr", "nan"], "--lr must be positive; got nan"),
        (["--min-crop", "0"], "--min-crop must be in (0, 1]; got 0.0"),
        (["--model", "alexnet"], "--model must be lecture_net for the built-in images; got alexnet"),
        (["--synthetic", "--model", "alexnet", "--image-size", "32"], "must be at least 63 for alexnet; got 32"),
        (["--eval-only"], "--eval-only needs --resume"),
        (["--synthetic", "folder"], "--synthetic draws its images"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml"),
    ],
)
def test_impossible_option(arguments, message, capsys):
    assert train(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, message",
    [
        ("epoch: 3", "unknown option 'epoch': did you mean epochs?"),
        ("epochs: many", "epochs must be int; got 'many'"),
        ("layers: cudnn", "--layers must be one of manual, torch; got cudnn"),
        ("- 1", "expected options and their values, got list"),
        ("{", "--config"),
    ],
)
def test_bad_config_file(text, message, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text)
    assert train("--config", tmp_path / "config.yaml") == 2
    assert message in capsys.readouterr().err


def test_out_folder_of_another_run_is_not_overwritten(tmp_path, capsys):
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run") == 0
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run") == 2
    assert "already holds a run" in capsys.readouterr().err


def test_terminal_shows_a_bar(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Report().progress("epoch 1/2", 10) as advance:
        advance(10, 0.5)
    assert "\x1b[" in capsys.readouterr().out


def run_script(*arguments, launcher=()):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(ROOT / "train.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


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
        torch.testing.assert_close(weight, two["model"][name], rtol=1e-9, atol=1e-12)
    for key in ("train_loss", "val_loss", "val_top1", "val_top5"):
        assert two["history"][-1][key] == pytest.approx(one["history"][-1][key], rel=1e-9)


def test_metrics_are_json_lines(tmp_path):
    assert train(*TINY, "--epochs", 1, "--log-every", 3, "--out", tmp_path / "run") == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record.get("step") for record in records] == [3, 6, None]
    assert records[-1].keys() == {
        "epoch", "train_loss", "val_loss", "val_top1", "val_top5", "seconds", "images_per_second"
    }  # fmt: skip
