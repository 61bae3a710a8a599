"""What the tests of training share: the command run in this process, a tiny run, a tiny folder of images."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comparisons import same_values

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("yaml")

from torch_manual_conv.training import checkpoint, cli, data  # noqa: E402

ROOT = Path(__file__).parents[2]
CPU = ["--device", "cpu", "--workers", "0"]
TINY = [*CPU, "--synthetic", "--width", "0.25", "--batch-size", "16", "--limit-steps", "6"]


def train(*arguments):
    """Runs the command; returns its exit status. One thread: small tensors gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return cli.main([str(a) for a in arguments])
    finally:
        torch.set_num_threads(threads)


def run_script(*arguments, launcher=(), limit_bytes=None):
    """train.py in a process of its own, which may write files of `limit_bytes` at most."""

    def limit():
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(ROOT / "train.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, preexec_fn=limit)


def assert_same_weights(one, other):
    one, other = checkpoint.load(one), checkpoint.load(other)
    for name, weight in one["model"].items():
        same_values(weight, other["model"][name], name)
    for index, state in one["optimizer"]["state"].items():
        momentum = other["optimizer"]["state"][index]["momentum_buffer"]
        same_values(state["momentum_buffer"], momentum, f"momentum of parameter {index}")


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
