"""Image files written byte by byte, and what each shows by numpy's arithmetic: no image library has a say in it."""

import struct
import zlib

import numpy as np

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


def packed(values, bits, order=">"):
    """[H, W, C] integers as rows of samples of `bits` bits, the first sample in the highest bits of a byte."""
    values = np.asarray(values)
    rows = values.reshape(len(values), -1)
    if bits % 8 == 0:
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in rows]
    each = (rows[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return [np.packbits(row.reshape(-1)).tobytes() for row in each]


def png(values, bits, colour_type, palette=None, palette_alpha=None, clear=None, exif=None):
    """colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha; `clear`, a colour, is transparent."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = np.shape(values)[:2]
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))]
    if palette is not None:
        parts.append(chunk(b"PLTE", np.asarray(palette, np.uint8).tobytes()))
    if palette_alpha is not None:
        parts.append(chunk(b"tRNS", np.asarray(palette_alpha, np.uint8).tobytes()))
    if clear is not None:
        parts.append(chunk(b"tRNS", np.asarray(clear, ">u2").tobytes()))
    if exif is not None:
        parts.append(chunk(b"eXIf", exif))
    parts.append(chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed(values, bits)))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tiff(
    pixels, width, height, bits, photometric, *, order="<", sample_format=None, extra=None, palette=None, turn=None
):
    """One uncompressed strip of `pixels`, bytes in the byte order `order`.

    photometric: 0 grey from white, 1 grey from black, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr, 8 L*a*b*.
    """
    tags = {256: (width,), 257: (height,), 258: bits, 259: (1,), 262: (photometric,), 277: (len(bits),)}
    tags |= {278: (height,), 279: (len(pixels),)}
    optional = {274: turn and (turn,), 320: palette, 338: extra, 339: sample_format}
    tags |= {tag: values for tag, values in optional.items() if values is not None}
    tags[273] = None  # where the pixels are: after everything else
    end = 8 + 2 + 12 * len(tags) + 4
    long_values = {tag: values for tag, values in tags.items() if values and len(values) > 2}
    tags[273] = (end + sum(2 * len(values) for values in long_values.values()),)
    directory, tail = struct.pack(order + "H", len(tags)), b""
    for tag, values in sorted(tags.items()):
        kind, code = ("L", 4) if tag in (273, 279) else ("H", 3)
        data = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(data) > 4:
            data, tail = struct.pack(order + "L", end + len(tail)), tail + data
        directory += struct.pack(order + "HHL", tag, code, len(values)) + data.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "L", 8) + directory + b"\0\0\0\0" + tail + pixels


# ---- Every kind: its name, the file, the expected [H, W, 1 or 3], the tolerance


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
