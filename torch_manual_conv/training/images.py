"""One image file to one uint8 tensor: decode, turn upright, reduce to opaque 8 bits, crop, flip, resize."""

import errno
import math
import os
import random
import re
import stat
import warnings
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from PIL import Image, ImageChops, ImageCms, ImageOps, ImagePalette, PngImagePlugin

MAX_PIXELS = 64_000_000  # a header that claims more is refused before anything is allocated
MAX_PNG_TEXT = 1 << 26  # bytes, unpacked
MAX_JPEG_SCANS = 100  # an honest progressive file has about ten; each costs a pass over all pixels, and few bytes

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]  # JPEG includes MPO, the stereo and burst photographs
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
if find_spec("PIL.AvifImagePlugin"):
    FORMATS.append("AVIF")
    SUFFIXES += (".avif",)

# What is met under these names, by its first bytes.
MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "WEBP": rb"RIFF.{4}WEBP",
    "GIF": rb"GIF8",
    "BMP": rb"BM",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PPM": rb"P[1-6]\s",
    "HEIC": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "AVIF": rb".{4}ftypavi",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "a video": rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ",
    "Photoshop": rb"8BPS",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "PDF": rb"%PDF",
    "SVG": rb"\s*(<\?xml|<svg)",
    "an icon": rb"\0\0[\x01\x02]\0",
    "HTML": rb"(?i)\s*<(!doctype|html|head)",
    "JSON": rb"\s*[{\[]",
    "a Git LFS pointer": rb"version https://git-lfs",
    "a ZIP archive": rb"PK\x03\x04",
    "gzip": rb"\x1f\x8b",
    "HDF5": rb"\x89HDF",
    "a NumPy array": rb"\x93NUMPY",
}


class ImageError(ValueError):
    """A file that cannot be used as an image; the message says why."""


def read_image(path, mode="RGB", max_pixels=MAX_PIXELS):
    """The decoded image, upright, in `mode` "RGB" or "L". Of an animation it is the first frame.

    What is transparent shows a white ground. Of 16 bits the upper 8 count. A JPEG of up to four times `max_pixels` is
    decoded at half its width and height. Only the decoders of FORMATS are let near the file, whatever its name says.

    Raises: ImageError on anything that is not a whole, sane image.
    """
    try:
        _check_file(os.stat(path), max_pixels)
        # Given a path instead of a file Pillow maps it into memory: whoever shortens it meanwhile kills the process.
        with open(path, "rb") as file, warnings.catch_warnings(), _pillow_limits(4 * max_pixels):
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            with Image.open(file, formats=FORMATS) as image:
                _check_size(image, file, max_pixels)
                _match_palette(image)
                image.load()
                _turn_upright(image)
                return _opaque_8_bits(image).convert(mode)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"claims more than {4 * max_pixels:,} pixels; {_limit(max_pixels)}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(_identify(path)) from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # nothing is wrong with the image
            raise
        raise ImageError(error.strerror or str(error)) from error
    except Exception as error:  # on broken files Pillow raises SyntaxError, struct.error, MemoryError, ...
        raise ImageError(str(error) or type(error).__name__) from error


def _limit(max_pixels):
    return f"the limit is {max_pixels:,} (--max-pixels)"


def _check_file(status, max_pixels):
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for its writer, reading a device for ever
        raise ImageError("is not a regular file")
    if status.st_size == 0:
        raise ImageError("is empty")
    if status.st_size > 16 * max_pixels:  # twice what the widest pixels fill; some decoders read all of a file first
        raise ImageError(f"has {status.st_size:,} bytes, too many for an image; {_limit(max_pixels)}")


@contextmanager
def _pillow_limits(pixels):
    """Pillow's own guards, at our limits: it refuses twice MAX_IMAGE_PIXELS, and of text or a profile in a PNG 1 MB,
    which is less than some programs write."""
    limits = {(Image, "MAX_IMAGE_PIXELS"): pixels // 2, (PngImagePlugin, "MAX_TEXT_CHUNK"): MAX_PNG_TEXT}
    before = {(module, name): getattr(module, name) for module, name in limits}
    try:
        for (module, name), limit in limits.items():
            setattr(module, name, limit)
        yield
    finally:
        for (module, name), limit in before.items():
            setattr(module, name, limit)


def _check_size(image, file, max_pixels):
    is_jpeg, is_progressive = image.format in ("JPEG", "MPO"), "progressive" in image.info
    width, height = image.size
    if is_jpeg and not is_progressive and width * height > max_pixels:
        image.draft(None, (width // 2, height // 2))
    if image.width * image.height > max_pixels:
        raise ImageError(f"has {width} x {height} pixels; {_limit(max_pixels)}")
    if is_jpeg and is_progressive:
        position = file.tell()
        file.seek(0)
        scans = file.read().count(b"\xff\xda")
        file.seek(position)
        if scans > MAX_JPEG_SCANS:
            raise ImageError(f"is a progressive JPEG of {scans} scans, more than {MAX_JPEG_SCANS}")


def _match_palette(image):
    """Before the pixels are decoded. Pillow brings a PNG's samples to 8 bits, but not the colour that its header calls
    transparent; and it takes a TIFF's palette to be of 16 bits, as the standard says, though some programs write 8."""
    rawmode = image.tile[0][3] if image.format == "PNG" and image.tile else None
    factor = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}.get(rawmode)
    colour = image.info.get("transparency")
    if factor and colour is not None:
        image.info["transparency"] = tuple(int(factor * c) for c in colour) if rawmode[0] == "R" else factor * colour
    if image.format == "TIFF" and image.mode in ("P", "PA") and max(image.tag_v2[320]) < 256:
        palette = bytes(image.tag_v2[320])
        image.palette = ImagePalette.raw("RGB;L", palette)


def _turn_upright(image):
    """As the camera's note in the EXIF data says. It turns first, then deletes the note, and may fail at either."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged notes do not make the pixels unreadable
        pass


def _opaque_8_bits(image):
    """The same image in mode 1, L or RGB."""
    if image.mode.startswith("I;16"):
        image = _from_16_bits(image)
    elif image.mode in ("I", "F"):
        image = _from_32_bits(image)
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "LAB":
        spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        flags = ImageCms.Flags.NOOPTIMIZE  # its tables are up to 17 of 255 off, in dark colours
        image = ImageCms.buildTransform(*spaces, "LAB", "RGB", flags=flags).apply(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image)
        return ground
    return image if image.mode in ("1", "L", "RGB") else image.convert("RGB")


def _from_16_bits(image):
    bits = _tag(image, 258, 16)
    if bits < 16:  # a TIFF of 12
        image = image.point(lambda value: value * 2 ** (16 - bits))
    data, first = image.tobytes(), int(image.mode != "I;16B")
    upper, lower = (Image.frombytes("L", image.size, data[byte::2]) for byte in (first, 1 - first))
    if "transparency" in image.info:
        high, low = divmod(image.info["transparency"], 256)
        differs = (upper.point(lambda v: 255 * (v != high)), lower.point(lambda v: 255 * (v != low)))
        return Image.merge("LA", (upper, ImageChops.lighter(*differs)))
    return _invert_if_white_is_zero(image, upper)


def _from_32_bits(image):
    """Of integers and floats of 32 bits a TIFF does not say which is white: 1 (floats), 255 or 65,535 is taken, the
    least of them that no pixel exceeds. Other formats use 16 of the bits."""
    dtype = torch.float32 if image.mode == "F" else torch.int32
    low, high = (
        value.item() for value in torch.frombuffer(bytearray(image.tobytes()), dtype=dtype).aminmax()
    )  # NaN stays
    whites = [65535] if image.format != "TIFF" and image.mode == "I" else [255, 65535]
    whites = [1] * (image.mode == "F") + whites
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is None:
        raise ImageError(f"holds values from {low:g} to {high:g}; white must be {' or '.join(map(str, whites))}")
    scale = {1: 255, 255: 1, 65535: 1 / 256}[white]
    offset = 0.5 * (image.mode == "F")
    return _invert_if_white_is_zero(image, image.point(lambda value: value * scale + offset).convert("L"))


def _invert_if_white_is_zero(image, grey):
    return ImageOps.invert(grey) if _tag(image, 262, 1) == 0 else grey


def _tag(image, number, default):
    """A number from the header of a TIFF: 258 is bits per sample, 262 which end of grey is white."""
    value = image.tag_v2.get(number, default) if image.format == "TIFF" else default
    return value[0] if isinstance(value, tuple) else value


def _identify(path):
    """What a file is that no decoder takes."""
    with open(path, "rb") as file:
        head = file.read(64)
    for name, magic in MAGIC.items():
        if re.match(magic, head, re.DOTALL):
            return f"is {name}, but cannot be decoded" if name in FORMATS else f"is {name}, which is not read"
    return f"is none of {', '.join(FORMATS)}"


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
