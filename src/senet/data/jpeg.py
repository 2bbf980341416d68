"""JPEG files that torchvision decodes to the same pixels as PIL, in a third of the time and without Python's lock."""

from functools import cache, lru_cache
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_jpeg

START, SCAN, END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
FRAMES = (0xC0, 0xC2)
"""The markers of baseline and progressive frames."""
PASSED_OVER = (0xE0, 0xDB, 0xC4, 0xDD, 0xFE)
"""The markers of JFIF, quantization and Huffman tables, restart intervals and comments.

Any other is PIL's to read, such as that of EXIF data (orientation), of Adobe's color transforms, of a second picture.
"""
SAMPLINGS = {b"\x11": "L", b"\x11\x11\x11": "4:4:4", b"\x21\x11\x11": "4:2:2", b"\x22\x11\x11": "4:2:0"}
"""The forms that are compared in `decoders_agree`, by the sampling factors in the frame's header."""


def shape_of(content: bytes) -> tuple[int, int, int] | None:
    """Return (height, width, channels) of a complete JPEG file in one of the forms that both decoders read alike.

    Returns:
        None for other forms and for whatever is not a JPEG file; 1 channel is gray, 3 are RGB.
    """
    complete = content.startswith(START) and content.endswith(END)
    return shape_in(content[: content.find(SCAN) + len(SCAN)]) if complete else None


@lru_cache
def shape_in(header: bytes) -> tuple[int, int, int] | None:
    """Return the shape that the segments up to the first scan say, see `shape_of`.

    Files that one program wrote have the same header, so that most are found in the cache.

    Source: ITU-T T.81, annex B.
    """
    shape, position = None, len(START)
    while position + 4 <= len(header) and header[position] == 0xFF:
        marker, length = header[position + 1], int.from_bytes(header[position + 2 : position + 4], "big")
        if marker in FRAMES:  # bits, height (2 bytes), width (2), components; of each: name, sampling, table
            frame = header[position + 4 : position + 2 + length]
            sampling = frame[7::3]
            if shape or frame[:1] != b"\x08" or sampling not in SAMPLINGS or len(sampling) != frame[5]:
                return None
            shape = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big"), len(sampling)
        elif marker not in PASSED_OVER:
            return None
        position += 2 + length
    return shape if header[position:] == SCAN else None


def decoded(content: bytes) -> np.ndarray:
    """Decode a JPEG file with torchvision.

    Returns:
        (H, W, C) in uint8.

    Raises:
        RuntimeError: it is damaged, or torchvision was built without libjpeg.
    """
    pixels: np.ndarray = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8)).permute(1, 2, 0).numpy()
    return pixels


@cache
def decoders_agree() -> bool:
    """Return whether torchvision and PIL decode noise to the same pixels, in every form that `shape_of` accepts.

    They do if both were built with libjpeg-turbo, as their wheels are: 60,000 images of CIFAR-10 and 464 photographs
    did not differ in one pixel. Another libjpeg rounds otherwise in its cosine transform and its upsampling.
    """
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    try:
        return all(agree_on(noise, form, progressive) for form in SAMPLINGS.values() for progressive in (False, True))
    except Exception:  # a decoder is missing or failed: whatever it raises, PIL decodes
        return False


def agree_on(picture: Image.Image, form: str, progressive: bool) -> bool:
    """Return whether both decoders read the same pixels from a picture saved in a form of `SAMPLINGS`."""
    file = BytesIO()
    if form == "L":
        picture.convert("L").save(file, "JPEG", progressive=progressive)
    else:
        picture.save(file, "JPEG", progressive=progressive, subsampling=form)
    content = file.getvalue()
    with Image.open(file, formats=("JPEG",)) as read:
        expected = np.asarray(read)
    return shape_of(content) is not None and np.array_equal(decoded(content).squeeze(), expected)
