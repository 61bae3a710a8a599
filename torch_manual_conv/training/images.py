"""One image file to one uint8 tensor: decode, crop, flip, resize."""

import math
import random
import warnings

import torch
from PIL import Image

MAX_PIXELS = 64_000_000  # a header that claims more is refused before anything is allocated
SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageError(ValueError):
    """A file that cannot be used as an image; the message says why."""


def read_image(path, mode="RGB"):
    """The decoded image. Only JPEG and PNG decoders are let near the file, whatever its name says.

    Raises: ImageError on anything that is not a whole, sane image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"claims {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
                return image.convert(mode)
    except ImageError:
        raise
    except Exception as error:  # on broken files Pillow raises OSError, SyntaxError, struct.error, ...
        raise ImageError(str(error).replace(str(path), "file") or type(error).__name__) from error


def to_tensor(image):
    """[C, H, W] uint8."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()


def random_resized_crop_flip(image, size, min_crop, rng):
    """A crop of `min_crop` to all of the area and of aspect 3:4 to 4:3, at size x size, mirrored half of the time."""
    box = _random_box(image.width, image.height, min_crop, rng)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return to_tensor(image)


def resized_center_crop(image, size):
    """The centre square at size x size. It is 7/8 of the shorter side: 224 of 256, as is usual on ImageNet."""
    side = min(image.width, image.height) * 7 / 8
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return to_tensor(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def _random_box(width, height, min_crop, rng):
    for _ in range(10):
        area = width * height * rng.uniform(min_crop, 1.0)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return (left, top, left + w, top + h)
    side = min(width, height)  # a very long image: its middle
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def stream(*key):
    """A random stream that depends on `key` alone, so that no worker or process count changes what is drawn."""
    return random.Random("/".join(map(str, key)))
