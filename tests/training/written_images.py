"""Image files written byte by byte, so that what they hold is known without an image library."""

import struct
import zlib

import numpy as np


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
