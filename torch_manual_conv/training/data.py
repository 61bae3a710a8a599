"""Where images come from, and in which order: the built-in Fashion-MNIST, a folder of classes, or drawn images.

A dataset answers `__getitems__(keys)` with a whole batch, each key an (epoch, index) pair, so the crop of an image is a
function of (seed, epoch, index) whatever worker makes it. Images travel as uint8; the engine standardises them.
"""

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset, Sampler

from .folders import DataError, LeftOut, check_tree, image_files
from .images import MAX_PIXELS, ImageError, random_resized_crop_flip, read_image, resized_center_crop, stream, to_tensor
from .loading import Loader

FASHION_PNG = Path(__file__).parent / "data" / "fashion_mnist_12k.png"
FASHION_CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


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
    left_out: str = ""  # what a folder holds that is not read


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
    """The files below root/<class>/; in training cropped and mirrored at random.

    An unreadable file is replaced by the next readable one of its class, the same one on every run, and reported.
    """

    def __init__(self, root, classes, image_size, seed, min_crop=None, max_pixels=MAX_PIXELS, left_out=None):
        self.image_size, self.seed, self.min_crop, self.max_pixels = image_size, seed, min_crop, max_pixels
        self.folders = [root / name for name in classes]
        self.paths, self.targets, self.class_range = [], [], []
        self.stand_in = {}  # of the files that could not be read: with many bad ones, each is tried once
        for target, folder in enumerate(self.folders):
            paths = image_files(folder, LeftOut() if left_out is None else left_out)
            self.class_range.append(range(len(self.paths), len(self.paths) + len(paths)))
            self.paths += paths
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
        target, bad = self.targets[index], {}
        own = self.class_range[target]
        for _ in own:
            index = self.stand_in.get(index, index)
            try:
                image = read_image(self.paths[index], max_pixels=self.max_pixels)
            except ImageError as error:
                bad[index] = str(error)
                problems.append((self.paths[index], bad[index]))
                index = own[(index - own.start + 1) % len(own)]
            else:
                self.stand_in |= dict.fromkeys(bad, index)
                return image
        first = min(bad)  # the same one in every process
        raise DataError(
            f"not one image in {self.folders[target]} can be read; {Path(self.paths[first]).name}: {bad[first]}"
        )


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
    root, left_out = Path(config.data), LeftOut()
    classes = check_tree(root, left_out)
    options = dict(image_size=config.image_size, seed=config.seed, max_pixels=config.max_pixels, left_out=left_out)
    train = FolderImages(root / "train", classes, min_crop=config.min_crop, **options)
    val = FolderImages(root / "val", classes, **options)
    # ImageNet's statistics, as every model trained on photographs uses them.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Split(train, val, tuple(classes), mean, std, str(left_out) if left_out else "")


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


def usable_cpus(proc="/proc/self/cgroup", mounted="/sys/fs/cgroup"):
    """The CPUs that this process may use: fewer than there are under taskset, Slurm, or a container's limit."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        for line in Path(proc).read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = Path(mounted, "cpu" if controllers else "")
            for folder in (root / group.strip("/"), *(root / group.strip("/")).parents):
                count = min(count, _cpu_quota(folder))
    return count


def _cpu_quota(group):
    """CPUs that a control group allows: microseconds of CPU time in each period; "max" or -1 stand for all."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):
            quota, period = map(int, " ".join((group / name).read_text() for name in files).split())
            if quota > 0:
                return math.ceil(quota / period)
    return math.inf


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
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world))  # those of other machines have CPUs of their own
        workers = 0 if isinstance(dataset, MemoryImages) else min(4, max(1, usable_cpus() // here))
    return Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else it draws from the one that dropout uses, as often as there are workers
    )
