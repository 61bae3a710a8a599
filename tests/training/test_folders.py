"""What lies in a folder of images: found, passed over and said, or refused, but never waited for."""

import errno
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from comparisons import same_values
from training_runs import Image, make_tree, train

from torch_manual_conv._command import one_line
from torch_manual_conv.training import checkpoint, data, folders, images
from torch_manual_conv.training.report import Report

SMALL = ["--model", "lecture_net", "--image-size", 28, "--width", 0.25, "--batch-size", 8, "--device", "cpu"]


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree")


def found(folder):
    left_out = folders.LeftOut()
    names = [os.path.relpath(path, folder) for path in folders.image_files(folder, left_out)]
    return names, {kind: [os.path.relpath(path, folder) for path in paths] for kind, paths in left_out.items()}


# ---- What is read, what is left out


def test_images_of_subfolders_and_all_suffixes_are_read(tree):
    folder = tree / "train" / "bag"
    expected = [f"{n:02}.png" for n in range(1, 8)] + ["00.JPG", "2024/may/x.png"]
    (folder / "2024" / "may").mkdir(parents=True)
    shutil.copy(folder / "01.png", folder / "2024" / "may" / "x.png")
    for suffix in images.SUFFIXES:
        shutil.copy(folder / "01.png", folder / f"copy{suffix}")
        expected.append(f"copy{suffix}")
    names, left_out = found(folder)
    assert names == sorted(expected) and left_out == {}


def test_what_is_left_out_is_counted(tree):
    folder = tree / "train" / "bag"
    names = found(folder)[0]
    for name in ("a.HEIC", "b.heic", "notes.txt", "README", ".hidden.png", "._00.JPG"):
        (folder / name).touch()
    (folder / ".cache").mkdir()
    assert found(folder) == (names, {
        ".heic": ["b.heic", "a.HEIC"], ".txt": ["notes.txt"], "files without a suffix": ["README"],
        "hidden files": [".hidden.png", "._00.JPG"], "hidden folders": [".cache"],
    })  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs")
def test_nothing_is_waited_for(tree, monkeypatch):
    folder = tree / "train" / "bag"
    names = found(folder)[0]
    os.mkfifo(folder / "fifo.jpg")
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "fifo too.jpg").symlink_to("fifo.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "self.jpg").symlink_to("self.jpg")
    assert found(folder) == (names, {
        "links that lead nowhere": ["self.jpg", "gone.jpg"],
        "special files": ["socket.jpg", "fifo.jpg", "fifo too.jpg", "device.jpg"],
    })  # fmt: skip
    for name in ("fifo.jpg", "device.jpg", "."):
        with pytest.raises(images.ImageError, match="is not a regular file"):
            images.read_image(folder / name)
    with pytest.raises(images.ImageError, match="No such file"):
        images.read_image(folder / "gone.jpg")


def test_links_in_a_circle_end(tree):
    """And bring no other class in."""
    folder = tree / "train" / "bag"
    names = found(folder)[0]
    for name, target in (("here", "."), ("up", ".."), ("far up", "../../.."), ("root", "/")):
        (folder / name).symlink_to(target)
    (folder / "a").mkdir()
    (folder / "a" / "b").symlink_to("../a")
    assert found(folder) == (names, {"folders that were read already": ["a/b", "far up", "here", "root", "up"]})


def test_links_to_elsewhere_are_followed(tree, tmp_path):
    folder = tree / "train" / "bag"
    names = found(folder)[0]
    store = tmp_path / "store"
    shutil.copytree(tree / "train" / "trouser", store / "trousers")
    folder.rename(store / "bags")
    folder.symlink_to(store / "bags")
    (tmp_path / "more").mkdir()
    shutil.copy(folder / "01.png", tmp_path / "more")
    (folder / "more").symlink_to(tmp_path / "more")
    (folder / "08.png").symlink_to("01.png")
    (folder / "up").symlink_to(store)  # to other classes
    left_out = {"folders that were read already": ["up"]}
    assert found(folder) == (sorted([*names, "08.png", "more/01.png"]), left_out)


def test_folder_that_cannot_be_listed(tree, monkeypatch):
    folder = tree / "train" / "bag"
    names = found(folder)[0]
    (folder / "private").mkdir()
    listed = os.scandir

    def refuse(path):
        if Path(path) in refused:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who may list all
    refused = [folder / "private"]
    assert found(folder) == (names, {"folders that cannot be listed (Permission denied)": ["private"]})
    refused = [folder]
    with pytest.raises(data.DataError, match=r"bag is empty: .* folders that cannot be listed \(Permission denied\) 1"):
        found(folder)
    for refused in [tree], [tree / "train"]:
        with pytest.raises(data.DataError, match=f"{refused[0]} cannot be listed: Permission denied"):
            folders.check_tree(tree, folders.LeftOut())


def test_a_run_says_what_it_skips(tree, tmp_path, capsys):
    (tree / "train" / "bag" / "list.csv").touch()
    (tree / "train" / "beside.png").touch()
    (tree / "val" / ".ipynb_checkpoints").mkdir()
    assert train(tree, *SMALL, "--epochs", 1, "--workers", 0, "--out", tmp_path / "run") == 0
    expected = (
        f"skipped in {tree}: images beside the classes' folders 1, hidden folders 1, .csv 1; such as {tree}/train/"
    )
    assert expected in capsys.readouterr().err


def test_class_without_images(tree):
    folder = tree / "train" / "hat"
    folder.mkdir()
    with pytest.raises(data.DataError, match=r"hat is empty: no file ends in .*\.pnm(, \.avif)?$"):
        found(folder)
    (folder / "a.heic").touch()
    with pytest.raises(data.DataError, match=r"hat is empty: .*, but there are \.heic 1; such as .*a\.heic$"):
        found(folder)


def test_many_kinds_are_summed_up():
    left_out = folders.LeftOut()
    for number in range(1000):
        left_out.add(f".{number}", f"a.{number}")
    left_out.add(".7", "b.7")
    assert str(left_out) == ".7 2, .0 1, .1 1, .2 1, .3 1, .4 1, .5 1, .6 1, others 992; such as a.7"


# ---- Names


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_of_any_bytes(tree, tmp_path, capsys):
    folder = os.fsencode(tree / "train" / "bag")
    for name in (b"\xff\xfe.png", b"line\nend.png", b"\x1b[31mred.png", "日本.png".encode()):
        shutil.copy(folder + b"/01.png", folder + b"/" + name)
    Path(os.fsdecode(folder + b"/bad\xff\x1b[2J.png")).touch()
    for split in ("train", "val"):
        (tree / split / "sneaker").rename(os.fsdecode(os.fsencode(tree / split) + b"/sn\xe9aker\x1b[1m"))
    assert train(tree, *SMALL, "--epochs", 1, "--workers", 1, "--out", tmp_path / "run") == 0
    said = capsys.readouterr()
    assert "bad\\udcff\\x1b[2J.png cannot be read (is empty)" in said.err
    assert "\x1b" not in said.err + said.out
    assert checkpoint.load(tmp_path / "run")["classes"][1] == "sn\udce9aker\x1b[1m"
    assert train("--resume", tmp_path / "run", "--epochs", 2) == 0


def test_messages_hold_no_terminal_codes():
    assert one_line("a\x1b[2Jb\nc\u202ed\udce9 é") == "a\\x1b[2Jb c\\u202ed\\udce9 é"


# ---- Files that are no images, or too much of one


FOREIGN = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "a video": b"\0\0\0\x18ftypmp42\0\0\0\0",
    "PDF": b"%PDF-1.7",
    "HTML": b"\n<!DOCTYPE html><p>404",
    "SVG": b'<?xml version="1.0"?><svg/>',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1",
    "JSON": b'{"error": 403}',
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_formats_are_named(kind, tmp_path):
    (tmp_path / "image.jpg").write_bytes(FOREIGN[kind] + bytes(50))
    with pytest.raises(images.ImageError, match=f"is {kind}, which is not read"):
        images.read_image(tmp_path / "image.jpg")


@pytest.mark.parametrize("form", images.FORMATS)
def test_half_a_file_is_no_image(form, tmp_path):
    """At any length: never pixels that the file does not hold."""
    path = tmp_path / "image.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(path, form)
    whole, content = images.read_image(path).tobytes(), path.read_bytes()
    for length in range(1, len(content) - 1, max(1, len(content) // 50)):
        path.write_bytes(content[:length])
        try:
            assert images.read_image(path).tobytes() == whole  # what was cut off were no pixels
        except images.ImageError as error:
            assert str(error)


def test_large_images(tmp_path):
    path = tmp_path / "image"
    Image.new("RGB", (80, 60), (10, 20, 30)).save(path, "PNG")
    assert images.read_image(path, max_pixels=4800).size == (80, 60)
    with pytest.raises(images.ImageError, match=r"has 80 x 60 pixels; the limit is 4,799 \(--max-pixels\)"):
        images.read_image(path, max_pixels=4799)
    with pytest.raises(images.ImageError, match=r"claims more than 4,796 pixels; the limit is 1,199"):
        images.read_image(path, max_pixels=1199)
    with pytest.raises(images.ImageError, match=r"bytes, too many for an image; the limit is 2 \(--max-pixels\)"):
        images.read_image(path, max_pixels=2)


def test_large_jpegs_are_decoded_at_half_their_size(tmp_path):
    path = tmp_path / "image"
    stored = Image.new("RGB", (82, 61), (10, 20, 30))
    stored.save(path, "JPEG", quality=100)
    assert images.read_image(path, max_pixels=2000).size == (41, 31)
    assert images.read_image(path, max_pixels=2000).getpixel((20, 15)) == (10, 20, 30)
    stored.save(path, "JPEG", progressive=True)  # decoding one takes memory for all of its pixels
    with pytest.raises(images.ImageError, match="has 82 x 61 pixels"):
        images.read_image(path, max_pixels=2000)


def test_scans_without_end(tmp_path):
    path = tmp_path / "image"
    Image.new("L", (64, 64), 100).save(path, "JPEG", progressive=True)
    content = path.read_bytes()
    last = content[content.rindex(b"\xff\xda") : -2]
    path.write_bytes(content[:-2] + 200 * last + content[-2:])
    with pytest.raises(images.ImageError, match="is a progressive JPEG of 206 scans, more than 100"):
        images.read_image(path)


def test_no_image_is_blamed_for_too_many_open_files(tree, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        images.read_image(tree / "train" / "bag" / "01.png")


def test_each_bad_file_is_tried_once(tree, monkeypatch):
    """However many there are: the image that takes their place is remembered."""
    for number in range(300):
        (tree / "train" / "bag" / f"a{number:03}.png").touch()
    dataset = data.FolderImages(tree / "train", ["bag", "sneaker"], 28, seed=0)
    assert len(dataset) == 308 + 8
    tried = []
    monkeypatch.setattr(data, "read_image", lambda path, **options: tried.append(path) or images.read_image(path))
    for epoch in (1, 2):
        batch = dataset.__getitems__([(epoch, index) for index in range(308)])
    assert len(tried) == 2 * 308 + 300 and batch.problems == []
    same_values(batch.images[100:101], data.FolderImages.__getitems__(dataset, [(2, 100)]).images, "the same again")


# ---- Before the first epoch


def test_held_out_images_are_looked_at_first(tree, tmp_path, capsys, monkeypatch):
    (tree / "val" / "bag" / "02.png").write_bytes(b"<html>")
    spoken = []
    monkeypatch.setattr(Report, "step", lambda self, record: spoken.append(capsys.readouterr().err))
    assert train(tree, *SMALL, "--epochs", 1, "--workers", 0, "--out", tmp_path / "run") == 0
    assert "02.png cannot be read (is HTML" in spoken[0]


def test_class_without_held_out_images_stops_before_the_first_epoch(tree, tmp_path, capsys):
    for path in (tree / "val" / "bag").iterdir():
        path.write_bytes(b"")
    assert train(tree, *SMALL, "--workers", 1, "--out", tmp_path / "run") == 2
    assert f"not one image in {tree / 'val' / 'bag'} can be read; 00.JPG: is empty" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


# ---- Where a run starts


def test_resuming_from_another_folder(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train("tree", *SMALL, "--epochs", 1, "--workers", 0, "--out", "runs/mine") == 0
    state = checkpoint.load("runs/mine")
    assert state["config"]["data"] == str(tree)
    monkeypatch.chdir("/")
    assert train("--resume", tmp_path / "runs" / "mine", "--epochs", 2) == 0
    state["config"]["data"] = "tree"  # as runs were recorded once
    checkpoint.save(state, tmp_path / "runs" / "mine" / "last.pt")
    assert train("--resume", tmp_path / "runs" / "mine", "--epochs", 2) == 0


def test_usable_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5, 7, 9, 11}, raising=False)
    group, mounted = tmp_path / "cgroup", tmp_path / "mounted"
    files = {"job/cpu.max": "max 100000", "job/step/cpu.max": "250000 100000", "cpu/a/cpu.cfs_quota_us": "-1"}
    files |= {"cpu/a/cpu.cfs_period_us": "100000", "cpu/b/cpu.cfs_quota_us": "50000"}
    files |= {"cpu/b/cpu.cfs_period_us": "100000"}
    for name, content in files.items():
        (mounted / name).parent.mkdir(parents=True, exist_ok=True)
        (mounted / name).write_text(content + "\n")
    for line, count in {
        "0::/": 6,
        "0::/job": 6,
        "0::/job/step": 3,
        "0::/job/step/inner": 3,
        "4:memory:/job/step": 6,
        "3:cpu,cpuacct:/a": 6,
        "3:cpu,cpuacct:/b": 1,
        "nonsense": 6,
    }.items():
        group.write_text(line + "\n")
        assert data.usable_cpus(group, mounted) == count
    assert data.usable_cpus(tmp_path / "missing", mounted) == 6
