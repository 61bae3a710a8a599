"""Every kind of image is read by value: each pixel is compared with numpy's arithmetic on the numbers in the file."""

import io
import struct

import numpy as np
import pytest

PIL = pytest.importorskip("PIL")
from PIL import Image, PngImagePlugin  # noqa: E402
from written_images import packed, png, tiff  # noqa: E402

from torch_manual_conv.training import images  # noqa: E402

H, W = 5, 8
RANDOM = np.random.default_rng(0)


def some(channels, top=256):
    """[H, W, channels] of 0 to top - 1, both among them."""
    values = RANDOM.integers(0, top, (H, W, channels))
    values[0, 0], values[0, 1] = 0, top - 1
    return values


def over_white(colour, alpha):
    return np.rint((colour * alpha + 255.0 * (255 - alpha)) / 255)


def rounded(values):
    return np.floor(np.asarray(values, np.float64) + 0.5)


def read(data, tmp_path):
    (tmp_path / "image.jpg").write_bytes(data)  # whatever the name says
    return pixels(images.read_image(tmp_path / "image.jpg"))


def pixels(image):
    return images.to_tensor(image).permute(1, 2, 0).numpy().astype(np.int64)


def check(got, expected, tolerance=0):
    expected = np.broadcast_to(expected, (*np.shape(expected)[:2], 3))
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance


# ---- PNG and TIFF, written byte by byte: name -> (file, expected [H, W, 1 or 3], tolerance)


def png_files():
    for bits in (1, 2, 4, 8, 16):
        grey = some(1, 2**bits)
        shown = grey * (255 // (2**bits - 1)) if bits <= 8 else grey >> 8
        one = grey[2, 3]
        yield f"grey {bits}", png(grey, bits, 0), shown
        yield f"grey {bits}, one value clear", png(grey, bits, 0, clear=one), np.where(grey == one, 255, shown)
        if bits <= 8:
            palette, alpha = some(3).reshape(-1, 3).repeat(7, 0)[: 2**bits], RANDOM.integers(0, 256, (2**bits, 1))
            colours, index = palette[grey[..., 0]], grey[..., 0]
            yield f"palette {bits}", png(grey, bits, 3, palette), colours
            file = png(grey, bits, 3, palette, palette_alpha=alpha)
            yield f"palette {bits} with alpha", file, over_white(colours, alpha[index])
            alpha = np.where(np.arange(2**bits) == 1, 0, 255)[:, None]
            file = png(grey, bits, 3, palette, palette_alpha=alpha)
            yield f"palette {bits}, one entry clear", file, over_white(colours, alpha[index])
    for bits in (8, 16):
        to_8 = bits - 8
        colour = some(3, 2**bits)
        clear = (colour == colour[2, 3]).all(-1, keepdims=True)
        yield f"RGB {bits}", png(colour, bits, 2), colour >> to_8
        file = png(colour, bits, 2, clear=colour[2, 3])
        yield f"RGB {bits}, one colour clear", file, np.where(clear, 255, colour >> to_8)
        for kind, channels in ((4, 2), (6, 4)):
            values = some(channels, 2**bits)
            shown = over_white(values[..., :-1] >> to_8, values[..., -1:] >> to_8)
            yield f"{channels - 1} channels and alpha, {bits}", png(values, bits, kind), shown


def tiff_files():
    for order in "<>":
        for name, values, bits, photometric, expected, tolerance, options in tiff_kinds(order):
            data = options.pop("data", None)
            if data is None:
                data = b"".join(packed(values, bits[0], order))
            yield f"{name} {order}", tiff(data, W, H, bits, photometric, order=order, **options), expected, tolerance


def tiff_kinds(order):
    for bits in (1, 2, 4, 8):
        grey = some(1, 2**bits)
        shown = grey * (255 // (2**bits - 1))
        yield f"grey {bits}", grey, (bits,), 1, shown, 0, {}
        yield f"grey {bits} from white", grey, (bits,), 0, 255 - shown, 0, {}
        palette = RANDOM.integers(0, 256, (3, 2**bits))
        for scale in (257, 1):  # as the standard says, and as some programs write
            options = {"palette": [scale * int(v) for v in palette.flat]}
            yield f"palette {bits} of {scale}", grey, (bits,), 3, palette.T[grey[..., 0]], 0, options
    grey = some(1, 65536)
    yield "grey 16", grey, (16,), 1, grey >> 8, 0, {}
    if order == "<":  # Pillow knows these in this byte order only
        yield "grey 16 from white", grey, (16,), 0, (65535 - grey) >> 8, 0, {}
        yield "grey 12", (grey >> 4), (12,), 1, grey >> 8, 0, {}
        yield "grey 32", grey, (32,), 1, grey >> 8, 0, {}
    yield "signed 16", grey // 2, (16,), 1, grey >> 9, 0, {"sample_format": (2,)}
    yield "signed 32", grey, (32,), 1, grey >> 8, 0, {"sample_format": (2,)}
    yield "signed 32 of 8", some(1) * 0 + 200, (32,), 1, np.full((H, W, 1), 200), 0, {"sample_format": (2,)}
    for white in (1, 255, 65535):
        share = RANDOM.random((H, W, 1)).astype(np.float32)
        share[0, 0], share[0, 1] = 0, 1
        stored = (share * white).astype(order + "f4")
        shown = rounded(255.0 * stored) if white == 1 else rounded(stored) if white == 255 else rounded(stored / 256)
        options = {"sample_format": (3,), "data": stored.tobytes()}
        yield f"float to {white}", None, (32,), 1, np.minimum(shown, 255), 0, dict(options)
        yield f"float to {white} from white", None, (32,), 0, 255 - np.minimum(shown, 255), 0, dict(options)
    for bits in (8, 16):
        to_8 = bits - 8
        two, four = some(2, 2**bits), some(4, 2**bits)
        colour, alpha = four[..., :3] >> to_8, four[..., 3:] >> to_8
        four_bits = (bits,) * 4
        yield f"RGB {bits}", four[..., :3], four_bits[1:], 2, colour, 0, {}
        yield f"RGB and unused {bits}", four, four_bits, 2, colour, 0, {"extra": (0,)}
        yield f"RGB and alpha {bits}", four, four_bits, 2, over_white(colour, alpha), 0, {"extra": (2,)}
        multiplied = np.concatenate([np.minimum(four[..., :3], four[..., 3:]), four[..., 3:]], -1)
        shown = np.rint((multiplied[..., :3] - multiplied[..., 3:]) / (2**bits - 1) * 255) + 255
        yield f"RGB times alpha {bits}", multiplied, four_bits, 2, shown, 1 + to_8 // 8, {"extra": (1,)}
        yield f"CMYK {bits}", four, four_bits, 5, np.rint((255.0 - colour) * (255 - alpha) / 255), 1, {}
        if bits == 8:
            yield "grey and unused", two, (8, 8), 1, two[..., :1], 0, {"extra": (0,)}
            yield "grey and alpha", two, (8, 8), 1, over_white(two[..., :1], two[..., 1:]), 0, {"extra": (2,)}
            multiplied = np.stack([np.minimum(two[..., 0], two[..., 1]), two[..., 1]], -1)
            shown = multiplied[..., :1] + 255 - two[..., 1:]
            yield "grey times alpha", multiplied, (8, 8), 1, shown, 1, {"extra": (1,)}
            palette = RANDOM.integers(0, 256, (3, 256))
            shown = over_white(palette.T[two[..., 0]], two[..., 1:])
            options = {"extra": (2,), "palette": [257 * int(v) for v in palette.flat]}
            yield "palette and alpha", two, (8, 8), 3, shown, 0, options
    three = some(3)
    yield "YCbCr", three, (8,) * 3, 6, from_ycbcr(three), 1, {}
    lab = np.concatenate([some(1), RANDOM.integers(-20, 21, (H, W, 2))], -1)
    yield "Lab", lab & 255, (8,) * 3, 8, from_lab(lab), 1, {}
    for turn in range(1, 9):
        yield f"turned {turn}", three, (8,) * 3, 2, upright(three, turn), 0, {"turn": turn}


def from_ycbcr(values):
    y, cb, cr = np.moveaxis(values - [0.0, 128, 128], -1, 0)
    return np.clip(np.rint(np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)), 0, 255)


def from_lab(values):
    """By the CIE's formulas to XYZ under D50, and from there to sRGB."""
    lightness, a, b = np.moveaxis(values.astype(np.float64), -1, 0)
    y = (lightness / 255 * 100 + 16) / 116
    shares = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(shares > 6 / 29, shares**3, 3 * (6 / 29) ** 2 * (shares - 4 / 29)) * [0.9642, 1, 0.8249]
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(xyz @ np.array(matrix).T, 0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def upright(stored, orientation):
    """As the EXIF standard defines its eight orientations: where row 0 and column 0 of the stored image belong."""
    return {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored[::-1].swapaxes(0, 1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: stored[:, ::-1].swapaxes(0, 1),
    }[orientation]


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
    with pytest.raises(images.ImageError, match="(?i)too large"):
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
