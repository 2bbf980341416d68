"""What an image file holds: size, kind and format, mostly without decoding it, and whether it is damaged."""

import hashlib
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from torch import Tensor

from senet.data.channels import Picture, to_channels
from senet.data.reading import open_image, read_named, read_picture
from senet.errors import SenetError, counted

KINDS = {
    "1": "black and white",
    "L": "gray",
    "LA": "gray with transparency",
    "P": "palette",
    "PA": "palette",
    "RGB": "color",
    "RGBA": "color with transparency",
    "RGBX": "4 channels",
    "CMYK": "CMYK",
    "YCbCr": "color",
    "LAB": "LAB",
    "I": "gray, 16 or 32 bits",
    "F": "floating-point",
}
"""The kinds of PIL's modes, in words."""
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
"""What a whole file of a format has at its end."""
END = 1024


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What is known of an image.

    Args:
        name: of the image in messages.
        width: in pixels; 0 if it cannot be read.
        height: in pixels; 0 if it cannot be read.
        kind: such as "color" or "gray, 16 bits".
        format: such as "JPEG"; "" for an array.
        pixels: digest of the decoded picture; None if it was not decoded.
        content: digest of the file's content, if that was given.
        problem: why the network cannot take it, a sentence; "" if it can, as far as is known.
    """

    name: str
    width: int = 0
    height: int = 0
    kind: str = ""
    format: str = ""
    pixels: bytes | None = None
    content: bytes | None = None
    problem: str = ""


def inspect(name: str, source: str | bytes | Picture, channels: int, *, decode: bool) -> Inspected:
    """Look at an image file, its content or a picture.

    Without `decode`, a file's header is read, and its end, which a file that is cut off lacks; only where these do not
    do is it decoded.

    Args:
        name: of the image, for messages.
        source: path, content or picture.
        channels: that the network takes.
        decode: decode the whole image.
    """
    content = hashlib.sha256(source).digest() if isinstance(source, bytes) else None
    try:
        seen = read_named(name, lambda: glance(name, source)) if isinstance(source, str | bytes) else None
        if decode or seen is None:
            whole = read_named(name, lambda: decoded(name, source, channels))
            seen = whole if seen is None else replace(seen, pixels=whole.pixels, width=whole.width, height=whole.height)
        return replace(seen, content=content)
    except SenetError as error:
        return Inspected(name=name, problem=str(error))


def glance(name: str, source: str | bytes) -> Inspected | None:
    """Return what the header of a file tells; None if it must be decoded to be judged."""
    with opened(source) as file:
        header = file.read(16)
        file.seek(0)
        image = None if header.startswith(b"\x93NUMPY") else open_image(file, header)
        if image is None or image.format == "TIFF" or image.mode in ("I", "F"):
            return None
        moving = ", the first of several frames" if getattr(image, "is_animated", False) else ""
        kind, name_of_format = kind_of(image.mode) + moving, image.format or ""
        seen = Inspected(name=name, width=image.width, height=image.height, kind=kind, format=name_of_format)
        file.seek(max(0, file.seek(0, 2) - END))
        return seen if ENDS.get(seen.format, b"") in file.read() else None


def decoded(name: str, source: str | bytes | Picture, channels: int) -> Inspected:
    """Return what is known of an image after decoding it.

    Raises:
        SenetError: the network cannot take it.
        Exception: whatever decoders raise.
    """
    picture = read_picture(source) if isinstance(source, str | bytes) else source
    to_channels(picture, channels)
    if isinstance(picture, Image.Image):
        width, height = picture.size
        form, content = (picture.mode, width, height), picture.convert("RGBA" if picture.mode == "P" else picture.mode)
        digest = hashlib.sha256(repr(form).encode() + content.tobytes()).digest()
        kind, name_of_format = kind_of(picture.mode), picture.format or ""
    else:
        array = picture.numpy() if isinstance(picture, Tensor) else picture
        last = array.ndim == 3 and array.shape[2] < array.shape[0]
        height, width = array.shape[:2] if array.ndim == 2 or last else array.shape[1:]
        digest = hashlib.sha256(repr((array.shape, array.dtype)).encode() + array.tobytes()).digest()
        number = 1 if array.ndim == 2 else array.shape[2 if last else 0]
        depth = "" if array.dtype.itemsize == 1 else f", {8 * array.dtype.itemsize} bits"
        kind, name_of_format = f"{counted(number, 'channel')}{depth}", ""
    return Inspected(name=name, width=width, height=height, kind=kind, format=name_of_format, pixels=digest)


def kind_of(mode: str) -> str:
    """Return what kind of picture an image of one of PIL's modes is, in words."""
    return "gray, 16 bits" if mode.startswith("I;16") else KINDS.get(mode, mode)


def opened(source: str | bytes) -> BinaryIO:
    """Return a file or its content, open for reading."""
    return BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")
