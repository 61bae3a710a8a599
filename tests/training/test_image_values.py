"""Every kind of image is read by value: each pixel is compared with numpy's arithmetic on the numbers in the file."""

import io
import struct

import numpy as np
import pytest

PIL = pytest.importorskip("PIL")
from PIL import Image, PngImagePlugin  # noqa: E402
from written_images import RANDOM, H, W, from_ycbcr, over_white, png, png_files, some, tiff_files, upright  # noqa: E402

from torch_manual_conv.training import images  # noqa: E402


def read(data, tmp_path):
    (tmp_path / "image.jpg").write_bytes(data)  # whatever the name says
    return pixels(images.read_image(tmp_path / "image.jpg"))


def pixels(image):
    return images.to_tensor(image).permute(1, 2, 0).numpy().astype(np.int64)


def check(got, expected, tolerance=0):
    expected = np.broadcast_to(expected, (*np.shape(expected)[:2], 3))
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance


WRITTEN = {f"PNG {name}": rest for name, *rest in png_files()} | {f"TIFF {name}": rest for name, *rest in tiff_files()}


NEW_IN_PILLOW_13 = ("TIFF grey and unused", "TIFF grey times alpha", "TIFF YCbCr", "TIFF CMYK 16 >")


@pytest.mark.parametrize("kind", WRITTEN)
def test_png_and_tiff(kind, tmp_path):
    data, *expected = WRITTEN[kind]
    if kind.startswith(NEW_IN_PILLOW_13) and int(PIL.__version__.partition(".")[0]) < 13:
        with pytest.raises(images.ImageError):
            read(data, tmp_path)
        pytest.skip(f"Pillow {PIL.__version__} cannot decode it")
    check(read(data, tmp_path), *expected)


# ---- Formats that Pillow writes from known pixels


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def colour_image(values):
    return Image.fromarray(np.asarray(values, np.uint8))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(compression, tmp_path):
    values, wide = some(4), some(1, 65536)[..., 0]
    check(read(saved(colour_image(values), "TIFF", compression=compression), tmp_path),
          over_white(values[..., :3], values[..., 3:]))  # fmt: skip
    check(read(saved(Image.fromarray(wide.astype(np.uint16)), "TIFF", compression=compression), tmp_path),
          (wide >> 8)[..., None])  # fmt: skip


def test_bitmap(tmp_path):
    values = some(3)
    check(read(saved(colour_image(values), "BMP"), tmp_path), values)
    check(read(saved(colour_image(values[..., 0]), "BMP"), tmp_path), values[..., :1])


@pytest.mark.parametrize("white", [1, 15, 255, 1023, 65535])
def test_portable_pixmap(white, tmp_path):
    """`white` is in the file's header: 255 pixels are rounded from it, more than 8 bits of grey are 16, cut to 8."""
    for kind, channels in ((5, 1), (6, 3), (2, 1), (3, 3)):
        values = some(channels, white + 1)
        header = b"P%d\n# a comment\n%d %d\n%d\n" % (kind, W, H, white)
        binary = values.astype(">u2" if white > 255 else "u1").tobytes()
        text = b" ".join(b"%d" % value for value in values.flat)
        shown = np.rint(values * 65535 / white).astype(int) >> 8 if white > 255 and channels == 1 else None
        expected = np.rint(values * 255 / white) if shown is None else shown
        check(read(header + (binary if kind > 3 else text), tmp_path), expected)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(form, tmp_path):
    values = np.repeat(some(1), 3, -1)
    frames = {"save_all": True, "append_images": [colour_image(255 - values)]}
    options = {"lossless": True} if form == "WEBP" else {}
    check(read(saved(colour_image(values), form, **frames, **options), tmp_path), values)


def test_clear_colour_of_a_gif(tmp_path):
    image = colour_image(some(3)).quantize(16)
    index, palette = np.asarray(image), np.array(image.getpalette()).reshape(-1, 3)
    expected = np.where((index == 3)[..., None], 255, palette[index])
    check(read(saved(image, "GIF", transparency=3), tmp_path), expected)


def test_webp(tmp_path):
    values = some(4)
    data = saved(colour_image(values), "WEBP", lossless=True, exact=True)
    check(read(data, tmp_path), over_white(values[..., :3], values[..., 3:]))


@pytest.mark.parametrize("form", images.FORMATS)
def test_one_colour(form, tmp_path):
    """What the lossy formats keep, too."""
    colour = np.array([10, 200, 90])
    exact = {"quality": 100} if form in ("JPEG", "AVIF", "WEBP") else {}
    data = saved(Image.new("RGB", (64, 48), tuple(colour)), form, **exact)
    check(read(data, tmp_path), np.full((48, 64, 3), colour), tolerance=3)


def test_cmyk_jpeg(tmp_path):
    ink = np.array([10, 200, 90, 60])
    expected = np.full((16, 16, 3), np.rint((255.0 - ink[:3]) * (255 - ink[3]) / 255))
    check(read(saved(Image.new("CMYK", (16, 16), tuple(ink)), "JPEG", quality=100), tmp_path), expected, tolerance=2)


# ---- Modes that no file of these formats yields


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_wide_grey_modes(mode):
    values = some(1, 65536)
    dtype = {"I": "=i4", "I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    check(pixels(images._opaque_8_bits(Image.frombytes(mode, (W, H), values.astype(dtype).tobytes())).convert("RGB")),
          values >> 8)  # fmt: skip


@pytest.mark.parametrize("mode", ["La", "RGBa", "RGBX", "YCbCr", "HSV", "PA", "P"])
def test_rare_modes(mode):
    values = some({"La": 2, "YCbCr": 3, "HSV": 3, "PA": 2, "P": 1}.get(mode, 4))
    if mode in ("La", "RGBa"):  # colours were multiplied by alpha
        values = np.minimum(values, values[..., -1:])
    image = Image.frombytes(mode, (W, H), values.astype(np.uint8).tobytes())
    palette, alpha = RANDOM.integers(0, 256, (256, 3)), RANDOM.integers(0, 256, (256, 1))
    if mode in ("P", "PA"):
        image.putpalette(palette.astype(np.uint8).tobytes())
    if mode == "P":
        image.info["transparency"] = alpha.astype(np.uint8).tobytes()
    index = values[..., 0]
    expected = {
        "La": lambda: values[..., :1] + 255 - values[..., 1:],
        "RGBa": lambda: values[..., :3] + 255 - values[..., 3:],
        "RGBX": lambda: values[..., :3],
        "YCbCr": lambda: from_ycbcr(values),
        "HSV": lambda: from_hsv(values),
        "PA": lambda: over_white(palette[index], values[..., 1:]),
        "P": lambda: over_white(palette[index], alpha[index]),
    }[mode]()
    check(pixels(images._opaque_8_bits(image).convert("RGB")), expected, mode not in ("RGBX", "PA", "P"))


def from_hsv(values):
    """Each channel is v (1 - s (1 - k)), with k the share of red, green or blue in the pure hue."""
    hue, saturation, value = np.moveaxis(values / 255.0, -1, 0)
    share = np.stack([np.clip(np.abs((6 * hue + turn) % 6 - 3) - 1, 0, 1) for turn in (0, 4, 2)], -1)
    return np.rint(255 * value[..., None] * (1 - saturation[..., None] * (1 - share)))


@pytest.mark.parametrize("values", [[0.5, np.nan], [np.nan, 0.5], [-0.1, 1], [0, 65536], [0, np.inf]])
def test_grey_without_a_white_is_refused(values, tmp_path):
    (tmp_path / "a.tif").write_bytes(saved(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    with pytest.raises(images.ImageError, match=r"holds values from .* white must be 1 or 255 or 65535"):
        images.read_image(tmp_path / "a.tif")


def test_long_text_costs_no_pixels(tmp_path):
    """Some programs write megabytes of notes into a PNG."""
    values = some(3)
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    check(read(saved(colour_image(values), "PNG", pnginfo=info), tmp_path), values)
    info.add_text("bomb", "x" * 100_000_000, zip=True)
    with pytest.raises(images.ImageError, match=r"(?i)too large"):
        read(saved(colour_image(values), "PNG", pnginfo=info), tmp_path)
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1 << 20  # Pillow's own, for all others


# ---- Orientation


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photographs_stand_upright(form, orientation, tmp_path):
    stored = np.zeros((32, 64, 3), int)
    stored[:16, :32] = 255
    image = colour_image(stored)
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(form, {})
    got = read(saved(image, form, exif=exif, **options), tmp_path)
    check(got, upright(stored, orientation or 1), tolerance=2)


def test_damaged_exif_costs_no_pixels(tmp_path):
    """Of a note that can be read in part the orientation counts; one that cannot be read at all is passed over."""
    values = some(3)
    entry = struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0)
    resolution = struct.pack("<HHLL", 0x011A, 5, 1, 0xFFFFFF)  # a number that lies beyond the end
    for exif, orientation in (
        (b"II*\0" + struct.pack("<LH", 8, 1) + entry + bytes(4), 6),
        (b"II*\0" + struct.pack("<LH", 8, 2) + entry + resolution + bytes(4), 6),
        (b"II*\0" + struct.pack("<LH", 8, 9) + entry, 6),
        (b"II*\0" + struct.pack("<LH", 0xFFFFFFF0, 1), 1),
        (b"II*\0", 1),
        (b"nonsense", 1),
        (b"", 1),
    ):
        check(read(png(values, 8, 2, exif=exif), tmp_path), upright(values, orientation))
