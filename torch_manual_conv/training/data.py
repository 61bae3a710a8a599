"""Where images come from, and in which order: the built-in Fashion-MNIST, a folder of classes, or drawn images.

A dataset answers `__getitems__(keys)` with a whole batch, each key an (epoch, index) pair, so the crop of an image is a
function of (seed, epoch, index) whatever worker makes it. Images travel as uint8; the engine standardises them.
"""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset, Sampler

from .config import RunError
from .images import SUFFIXES, ImageError, random_resized_crop_flip, read_image, resized_center_crop, stream, to_tensor
from .loading import Loader

FASHION_PNG = Path(__file__).parent / "data" / "fashion_mnist_12k.png"
FASHION_CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


class DataError(RunError):
    """A folder that cannot be trained on; the message says what to change."""


class Batch(NamedTuple):
    images: torch.Tensor  # [N, C, H, W] uint8
    targets: torch.Tensor  # [N] int64
    problems: list  # (path, reason) of each file that could not be read


class Split(NamedTuple):
    """What a run needs to know of its data."""

    train: Dataset
    val: Dataset
    classes: tuple
    mean: tuple  # of each channel, of pixels in [0, 1]
    std: tuple


class MemoryImages(Dataset):
    """Images that fit in memory, as they are."""

    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    def __len__(self):
        return len(self.targets)

    def __getitems__(self, keys):
        index = torch.tensor([index for _, index in keys])
        return Batch(self.images[index], self.targets[index], [])


class FolderImages(Dataset):
    """The files of root/<class>/; in training cropped and mirrored at random.

    An unreadable file is replaced by the next readable one of its class, the same one on every run, and reported.
    """

    def __init__(self, root, classes, image_size, seed, min_crop=None):
        self.image_size, self.seed, self.min_crop = image_size, seed, min_crop
        self.paths, self.targets, self.class_range = [], [], []
        for target, name in enumerate(classes):
            paths = image_files(root / name)
            self.class_range.append(range(len(self.paths), len(self.paths) + len(paths)))
            self.paths += map(str, paths)
            self.targets += [target] * len(paths)

    def __len__(self):
        return len(self.paths)

    def __getitems__(self, keys):
        problems = []
        images = torch.stack([self.load(epoch, index, problems) for epoch, index in keys])
        return Batch(images, torch.tensor([self.targets[index] for _, index in keys]), problems)

    def load(self, epoch, index, problems):
        image = self.read(index, problems)
        if self.min_crop is None:
            return resized_center_crop(image, self.image_size)
        return random_resized_crop_flip(image, self.image_size, self.min_crop, stream(self.seed, epoch, index))

    def read(self, index, problems):
        own = self.class_range[self.targets[index]]
        for step in range(len(own)):
            candidate = own[(index - own.start + step) % len(own)]
            try:
                return read_image(self.paths[candidate])
            except ImageError as error:
                problems.append((self.paths[candidate], str(error)))
        path, reason = problems[-1]
        raise DataError(f"not one image in {Path(path).parent} can be read; {Path(path).name}: {reason}")


class DrawnImages(Dataset):
    """Noise over a coarse pattern of its own for each class: learnable, free, and any size."""

    classes = 10

    def __init__(self, count, channels, image_size, seed, split):
        self.count, self.seed, self.split = count, seed, split
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(self.classes, channels, 4, 4, generator=generator) * 128
        cell = -(-image_size // 4)
        fine = coarse.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
        self.patterns = fine[:, :, :image_size, :image_size]

    def __len__(self):
        return self.count

    def __getitems__(self, keys):
        targets = torch.tensor([index % self.classes for _, index in keys])
        images = torch.stack([self.draw(index) for _, index in keys])
        return Batch(images.to(torch.uint8), targets, [])

    def draw(self, index):
        generator = torch.Generator().manual_seed(stream(self.seed, self.split, index).getrandbits(63))
        pattern = self.patterns[index % self.classes]
        return pattern + 127 * torch.rand(pattern.shape, generator=generator)


def open_data(config):
    """The Split that a resolved config asks for."""
    if config.synthetic:
        channels = 1 if config.model == "lecture_net" else 3
        train = DrawnImages(2000, channels, config.image_size, config.seed, "train")
        val = DrawnImages(500, channels, config.image_size, config.seed, "val")
        names = tuple(f"pattern {i}" for i in range(DrawnImages.classes))
        return Split(train, val, names, (0.5,) * channels, (0.2,) * channels)
    return open_tree(config) if config.is_tree else open_fashion()


def open_fashion():
    """Ten classes of clothes, 1,000 training and 200 validation images each, 28 x 28, grey.

    One PNG of 300 x 40 tiles: class c is tile rows 30c to 30c + 29, its training images first.
    """
    sheet = to_tensor(read_image(FASHION_PNG, mode="L"))
    tiles = sheet.view(300, 28, 40, 28).transpose(1, 2).reshape(10, 1200, 1, 28, 28)
    targets = torch.arange(10)[:, None].expand(10, 1200)
    train, val = tiles[:, :1000].flatten(0, 1), tiles[:, 1000:].flatten(0, 1)
    std, mean = torch.std_mean(train.double() / 255)
    return Split(
        MemoryImages(train, targets[:, :1000].flatten()),
        MemoryImages(val, targets[:, 1000:].flatten()),
        FASHION_CLASSES,
        (mean.item(),),
        (std.item(),),
    )


def open_tree(config):
    root = Path(config.data)
    classes = check_tree(root)
    train = FolderImages(root / "train", classes, config.image_size, config.seed, config.min_crop)
    val = FolderImages(root / "val", classes, config.image_size, config.seed)
    # ImageNet's statistics, as every model trained on photographs uses them.
    return Split(train, val, tuple(classes), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def check_tree(root):
    """The class names of a folder that can be trained on. Raises: DataError saying what is wrong with it."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected one with train/<class>/ and val/<class>/")
    names = {}
    for split in ("train", "val"):
        folder = root / split
        if not folder.is_dir():
            there = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
            raise DataError(f"{root} has no folder {split}/; expected train/<class>/ and val/<class>/, found {there}")
        names[split] = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        for name in names[split]:
            if not image_files(folder / name):
                raise DataError(f"class {folder / name} is empty: no file ends in {', '.join(SUFFIXES)}")
    for one, other in (("train", "val"), ("val", "train")):
        missing = sorted(set(names[one]) - set(names[other]))
        if missing:
            raise DataError(f"{root}: {other}/ lacks {len(missing)} of the classes in {one}/: {', '.join(missing[:5])}")
    if len(names["train"]) < 2:
        raise DataError(f"{root}/train holds {len(names['train'])} classes; at least 2 are needed to tell apart")
    return names["train"]


def image_files(folder):
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


class EpochBatches(Sampler):
    """Batches of (epoch, index) keys for this process, a new order each epoch that depends on (seed, epoch) alone.

    Training drops the images that do not fill a step of all processes; evaluation takes every image exactly once.
    """

    def __init__(self, count, batch_size, *, seed, shuffle, rank, world, limit=None):
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self.rank, self.world, self.epoch = rank, world, 0
        self.share = range(rank, count, world)
        if shuffle:
            if count < world:
                raise DataError(f"{count} training images are too few for {world} processes")
            self.batch_size = min(batch_size, count // world)
        self.steps = count // (self.batch_size * world) if shuffle else -(-len(self.share) // batch_size)
        self.steps = min(self.steps, limit or self.steps)

    def __len__(self):
        return self.steps

    def __iter__(self):
        order = list(self.share)
        if self.shuffle:
            generator = torch.Generator().manual_seed(stream(self.seed, self.epoch).getrandbits(63))
            order = torch.randperm(self.count, generator=generator)[self.rank :: self.world].tolist()
        for start in range(0, self.steps * self.batch_size, self.batch_size):
            yield [(self.epoch, index) for index in order[start : start + self.batch_size]]


def make_loader(dataset, config, *, train, rank, world, pin_memory):
    batches = EpochBatches(
        len(dataset),
        config.batch_size,
        seed=config.seed,
        shuffle=train,
        rank=rank,
        world=world,
        limit=config.limit_steps if train else None,
    )
    workers = config.workers
    if workers is None:
        workers = 0 if isinstance(dataset, MemoryImages) else min(4, max(1, (os.cpu_count() or 1) // world))
    return Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else it draws from the one that dropout uses, as often as there are workers
    )
