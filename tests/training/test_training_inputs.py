"""What a run is given: images and their order, files and folders that cannot be used, options that make no sense."""

import shutil
import sys
import zlib

import pytest
from comparisons import same_values
from training_runs import TINY, make_tree, train

from torch_manual_conv.training import data, images
from torch_manual_conv.training.config import TrainConfig

# ---- Images and their order


def batches(config, workers):
    split = data.open_data(config)
    loader = data.make_loader(split.train, TrainConfig(**{**config.record(), "workers": workers}), train=True, rank=0,
                              world=1, pin_memory=False)  # fmt: skip
    loader.batch_sampler.epoch = 3
    return list(loader)


def test_crops_do_not_depend_on_workers(tmp_path):
    tree = make_tree(tmp_path / "tree")
    config = TrainConfig(data=str(tree), image_size=64, batch_size=8).resolved()
    for one, other in zip(batches(config, 0), batches(config, 2), strict=True):
        same_values(one.images, other.images, "images")
        same_values(one.targets, other.targets, "targets")


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
def test_bad_image_is_named_and_replaced(kind, tmp_path):
    tree = make_tree(tmp_path / "tree")
    folder = tree / "train" / "bag"
    bad = folder / "03.png"
    bad.write_bytes(BAD_FILES[kind](bad.read_bytes()))
    with pytest.raises(images.ImageError):
        images.read_image(bad)
    dataset = data.FolderImages(tree / "train", ["bag", "sneaker"], 28, seed=0)
    batch = dataset.__getitems__([(1, 3), (1, 4)])
    assert [path for path, _ in batch.problems] == [str(bad)]
    same_values(batch.images[0], batch.images[1], "the image that stands in")


def test_bad_image_in_a_run(tmp_path, capsys):
    tree = make_tree(tmp_path / "tree")
    (tree / "train" / "bag" / "03.png").write_bytes(b"")
    options = ["--model", "lecture_net", "--image-size", 28, "--width", 0.25, "--batch-size", 8, "--epochs", 2]
    assert train(tree, *options, "--workers", 1, "--device", "cpu", "--out", tmp_path / "run") == 0
    said = capsys.readouterr()
    assert said.err.count(str(tree / "train" / "bag" / "03.png")) == 1
    assert "1 image files could not be read" in said.out


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
def test_unusable_tree_is_explained(kind, tmp_path, capsys):
    tree = make_tree(tmp_path / "tree")
    spoil, message = BAD_TREES[kind]
    spoil(tree)
    options = ["--model", "lecture_net", "--image-size", 28, "--workers", 1, "--device", "cpu"]
    assert train(tree, *options, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


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


def test_missing_package_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run") == 2
    assert "pip install 'torch_manual_conv[train]'" in capsys.readouterr().err


def test_out_folder_of_another_run_is_not_overwritten(tmp_path, capsys):
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run") == 0
    assert train(*TINY, "--epochs", 1, "--out", tmp_path / "run") == 2
    assert "already holds a run" in capsys.readouterr().err
