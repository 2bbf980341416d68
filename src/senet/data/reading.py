"""Reading image files: upright, with all their channels."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError, features
from torch import Tensor

from senet.data.channels import Picture, UnfitPictureError, array_to_eight_bits, to_eight_bits
from senet.errors import MissingFileError, SenetError

NEEDS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".npy"), ""),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), ""),
    **dict.fromkeys((".jp2", ".j2k"), "jpg_2000"),
    ".webp": "webp",
    ".avif": "avif",
    **dict.fromkeys((".heic", ".heif", ".hif"), "heif"),
}
"""The extensions of image files, each with the optional feature that reads it, or ""."""
PROGRAMS = ("EPS",)
"""PIL's names of formats that it hands to another program: PostScript is one itself, which Ghostscript would run."""
OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")
"""What only a programmer reads."""
REMEDIES = {
    "jpg_2000": "install a Pillow that reads JPEG 2000",
    "webp": "install a Pillow that reads WebP",
    "avif": "install Pillow 11.3 or newer",
    "heif": "pip install 'senet[heif]'",
    "tiff": "pip install 'senet[tiff]'",
}
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image upright, by the orientation in its EXIF data (Exif 2.32, section 4.6.4)."""
TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SAMPLES_PER_PIXEL, SUBFILE_TYPE = 277, 254
Result = TypeVar("Result")


def is_no_complaint_about_channels(record: logging.LogRecord) -> bool:
    """Whether PIL logs something else than that a TIFF has too many channels for it: tifffile reads it then."""
    return not str(record.msg).startswith("More samples per pixel")


logging.getLogger("PIL.TiffImagePlugin").addFilter(is_no_complaint_about_channels)


@cache
def can_read(needed: str) -> bool:
    """Return whether an optional feature of `NEEDS` is available."""
    if needed == "heif":
        return find_spec("pillow_heif") is not None
    return not needed or bool(features.check(needed))


def missing_for(extension: str) -> str | None:
    """Return how to make files with an extension readable; "" if they are, None if they are no images."""
    needed = NEEDS.get(extension.lower())
    return None if needed is None else "" if can_read(needed) else REMEDIES[needed]


def read_picture(source: str | Path | bytes) -> Picture:
    """Read an image file or its content.

    Only the first frame of an animation is read. The pages of a TIFF become channels if each has one; thumbnails among
    the pages are left out.

    Returns:
        A PIL image, turned upright as its EXIF data says; a uint8 tensor (C, H, W) for a TIFF whose channels PIL does
        not support; or the array of a .npy file.

    Raises:
        UnfitPictureError: values whose range is not known, or pages that are not channels.
        Exception: whatever the decoder raises on a damaged file; `read_named` makes one sentence of it.
    """
    # Path.open takes 10 microseconds more, as long as a small picture's crop.
    with BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:  # noqa: PTH123
        header = file.read(16)
        file.seek(0)
        if header.startswith(b"\x93NUMPY"):
            with memory_enough():
                array: np.ndarray = np.load(file, allow_pickle=False)
            return array
        image = open_image(file, header)
        if image is None or (image.format == "TIFF" and samples(image) > len(image.getbands())):
            return read_with_tifffile(file)
        if image.format == "TIFF" and len(pages := pages_of(image)) > 1:
            return stacked(image, pages)
        image.load()
        return upright(image)


def formats() -> list[str]:
    """Return PIL's names of the formats that may be opened, whatever a file is called."""
    Image.init()
    return [name for name in Image.ID if name not in PROGRAMS]


def open_image(file: BinaryIO, header: bytes) -> Image.Image | None:
    """Open an image with PIL; None for a TIFF that PIL does not support."""
    try:
        return Image.open(file, formats=formats())
    except UnidentifiedImageError:
        if header.startswith(TIFF_HEADERS):
            return None
        if header[4:8] != b"ftyp":
            raise
    if not can_read("heif"):
        raise UnfitPictureError(f"is a HEIC image, which Pillow does not read by itself; {REMEDIES['heif']}")
    from pillow_heif import register_heif_opener

    register_heif_opener()
    file.seek(0)
    return Image.open(file, formats=formats())


def upright(image: Image.Image) -> Image.Image:
    """Turn an image upright as its EXIF data says; damaged EXIF data are ignored."""
    try:
        how = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # what PIL raises on damaged EXIF data has no common parent
        how = None
    if how is None:
        return image
    turned = image.transpose(how)
    turned.format = image.format
    return turned


def samples(image: Image.Image) -> int:
    """Return the number of samples per pixel of a TIFF; PIL drops those that it does not support."""
    return int(image.tag_v2.get(SAMPLES_PER_PIXEL, 1)) if hasattr(image, "tag_v2") else 1


def pages_of(image: Image.Image) -> list[int]:
    """Return the numbers of a TIFF's pages, without thumbnails."""
    found: list[int] = []
    size: tuple[int, int] | None = None
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        small = int(image.tag_v2.get(SUBFILE_TYPE, 0)) & 1  # type: ignore[attr-defined]
        if not small and image.size == (size or image.size):
            size = image.size
            found.append(number)
    image.seek(found[0] if found else 0)
    return found


def stacked(image: Image.Image, pages: list[int]) -> Tensor:
    """Return a TIFF's pages as the channels of one image, uint8 (C, H, W)."""
    planes = []
    for number in pages:
        image.seek(number)
        if len(image.getbands()) > 1 or image.mode == "P":
            raise UnfitPictureError(
                f"has {len(pages)} pages of mode {image.mode}; save the one to use as a file of its own"
            )
        planes.append(np.array(to_eight_bits(image).convert("L")))
    return torch.from_numpy(np.stack(planes))


def read_with_tifffile(file: BinaryIO) -> Tensor:
    """Read a TIFF whose channels PIL does not support, as uint8 (C, H, W)."""
    if find_spec("tifffile") is None:
        raise UnfitPictureError(f"is a TIFF that Pillow does not support; {REMEDIES['tiff']}, or save .npy")
    import tifffile

    file.seek(0)
    with memory_enough(), tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        array, axes = series.asarray(), series.axes
    if sorted(axes)[-2:] != ["X", "Y"] or len(axes) not in (2, 3):
        raise UnfitPictureError(f"is a TIFF of shape {array.shape}; expected one image with its channels")
    if len(axes) == 2:
        array, axes = array[None], f"C{axes}"
    (channel,) = set(axes) - {"X", "Y"}
    array = np.transpose(array, [axes.index(axis) for axis in (channel, "Y", "X")])
    return torch.from_numpy(np.ascontiguousarray(array_to_eight_bits(array)))


def read_named(name: str, read: Callable[[], Result]) -> Result:
    """Call a function that reads an image, and turn whatever it raises into one sentence.

    Raises:
        MissingFileError: there is no such file.
        SenetError: names the image, the problem and the remedy.
    """
    try:
        with naming(name):
            return read()
    except (SenetError, MemoryError):  # a lack of memory is no fault of the image
        raise
    except FileNotFoundError as error:
        if Path(name).is_symlink():
            raise MissingFileError(
                f"{name} is a link to a file that is not there; remove it, or restore the file"
            ) from error
        missing = error.filename
        if missing and os.fspath(missing) != name:  # of a row of a table
            raise MissingFileError(f"there is no file {missing} for {name}; restore it") from error
        raise MissingFileError(f"there is no image {name}; check the path") from error
    except IsADirectoryError as error:
        raise SenetError(f"{name} is a folder, not an image; name the files in it") from error
    except Exception as error:  # what decoders raise on damaged files has no common parent
        lines = str(error).splitlines()
        reason = OBJECT.sub("an object", lines[0]) if lines else type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "it is not an image in a known format"
        raise SenetError(f"{name} cannot be read ({reason}); replace or remove it") from error


@contextmanager
def memory_enough() -> Iterator[None]:
    """Refuse a file whose header claims more values than fit in memory, as a damaged header may."""
    try:
        yield
    except MemoryError as error:
        raise UnfitPictureError("claims more values than fit in memory; it is damaged or too large") from error


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of the image into an `UnfitPictureError`."""
    try:
        yield
    except UnfitPictureError as error:
        raise SenetError(f"{name} {error.problem}") from error
