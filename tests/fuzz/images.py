"""Image files of all modes and formats, whole and damaged, through `senet predict`."""

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from PIL import Image, TiffImagePlugin

from fuzz.judge import Case
from fuzz.pictures import SIDE, logits_of, named, packaged, pixels

Expected = tuple[Literal["done", "refused", "either"], np.ndarray | None]
"""Whether a file must be read, and the RGB pixels that must be seen if it is; None where nobody can say."""
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
"""What each EXIF orientation asks for (EXIF 2.32, tag 0x0112: where the stored first row and column belong)."""
MODES = ("RGB", "L", "LA", "P", "1", "RGBA", "CMYK", "YCbCr", "LAB")
FORMATS = (".png", ".jpg", ".webp", ".bmp", ".tif", ".gif", ".ppm", ".ico", ".jp2", ".tga")


def by_pillow(content: bytes) -> Expected:
    """Return what Pillow alone reads: what it refuses must be refused, other sizes and depths are not compared."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            deep = image.mode in ("I", "F") or image.mode.startswith("I;")
            if image.size != (SIDE, SIDE) or deep or 0x0112 in image.getexif():
                return "either", None
            return "either", np.asarray(image.convert("RGB"))
    except Exception:  # damaged files make Pillow raise kinds without a common parent
        return ("either" if content[:2] in (b"II", b"MM") else "refused"), None  # TIFF has other readers


def encoded(image: Image.Image, extension: str, **options: object) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[extension], **options)
    return file.getvalue()


def of_a_mode(random: Random) -> tuple[str, str, bytes, Expected]:
    """An 8-bit picture of any mode in a format that has it."""
    while True:
        mode, extension = random.choice(MODES), random.choice(FORMATS)
        image = Image.fromarray(pixels(random))
        image = image.convert("RGB").convert("L").convert("LA") if mode == "LA" else to_mode(image, mode)
        options = {"lossless": True} if extension == ".webp" else {}
        try:
            content = encoded(image, extension, **options)
        except (OSError, KeyError, ValueError):
            continue  # a format that has no such mode
        return f"{mode} {extension}", extension, content, ("done", by_pillow(content)[1])


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert a picture, to LAB through its color profile."""
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    return image.convert(mode)


def deep(random: Random) -> tuple[str, str, bytes, Expected]:
    """A gray picture of more than 8 bits."""
    gray = pixels(random, 1)[..., 0]
    seen = np.repeat(gray[..., None], 3, -1)
    kind = random.choice(("u2", "u2", "i4", "f4", "f4 odd"))
    extension = random.choice((".png", ".tif")) if kind == "u2" else ".tif"
    values = {"u2": gray * 257.0, "i4": gray, "f4": gray / 255, "f4 odd": gray * 40.0 - 3000}[kind]
    content = encoded(Image.fromarray(values.astype(kind.split()[0])), extension)
    what: Expected = {"u2": ("done", seen), "f4 odd": ("refused", None)}.get(kind, ("either", seen))
    return f"{kind} {extension}", extension, content, what


def turned(random: Random) -> tuple[str, str, bytes, Expected]:
    """A picture with an EXIF orientation, or with one that does not exist."""
    extension, turn = random.choice((".jpg", ".png", ".webp", ".tif")), random.randrange(10)
    image = Image.fromarray(pixels(random))
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"tiffinfo": tiff_tags(turn)} if extension == ".tif" else {"exif": exif}
    content = encoded(image, extension, **options)
    with Image.open(io.BytesIO(encoded(image, extension))) as stored:  # without the orientation
        rgb = np.asarray(stored.convert("RGB"))
    return f"orientation {turn} {extension}", extension, content, ("done", TURNS.get(turn, TURNS[1])(rgb))


def tiff_tags(turn: int) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the tags of a TIFF with an orientation."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = turn
    return tags


def of_several(random: Random) -> tuple[str, str, bytes, Expected]:
    """A file of several frames, of which the first is the picture, or of pages, which may be refused."""
    extension = random.choice((".gif", ".webp", ".png", ".tif"))
    first, *others = (Image.fromarray(pixels(random)) for _ in range(3))
    options = {"lossless": True} if extension == ".webp" else {}
    content = encoded(first, extension, save_all=True, append_images=others, **options)
    whether = "either" if extension == ".tif" else "done"
    return f"3 frames {extension}", extension, content, (whether, by_pillow(content)[1])


def damaged(random: Random) -> tuple[str, str, bytes, Expected]:
    """A file that was cut short, or of which some bytes are others."""
    about, extension, content, _ = random.choice((of_a_mode, of_several))(random)
    if random.random() < 0.5:
        content = content[: random.randrange(len(content))]
        return f"cut {about}", extension, content, by_pillow(content)
    changed = bytearray(content)
    for _ in range(random.choice((1, 3, 30))):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return f"changed {about}", extension, bytes(changed), by_pillow(bytes(changed))


def misnamed(random: Random) -> tuple[str, str, bytes, Expected]:
    """A picture under the extension of something else."""
    about, extension, content, (_, seen) = of_a_mode(random)
    other = random.choice((*FORMATS, ".txt", ".JPG", ".jpeg.png", "", ".npy", ".heic"))
    return f"{about} named {other}", other, content, ("done" if other in (".JPG", extension) else "either", seen)


def no_picture(random: Random) -> tuple[str, str, bytes, Expected]:
    """A file that is none."""
    header = bytearray(encoded(Image.new("L", (1, 1)), ".png"))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    kinds = {
        "empty": b"",
        "text": b"not a picture\n",
        "HTML": b"<!doctype html><title>404</title>",
        "huge": bytes(header),
        "zeros": bytes(5000),
        "noise": random.randbytes(3000),
        "pickle": b"\x80\x04\x95",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    }
    kind = random.choice(list(kinds))
    return kind, random.choice(FORMATS), kinds[kind], ("refused", None)


KINDS = (of_a_mode, of_a_mode, deep, turned, of_several, damaged, damaged, misnamed, no_picture)
network = cache(packaged)


def make(random: Random, folder: Path) -> Case:
    """Make one to three files, and ask what is in them."""
    about, files, expected = [], [], []
    for number in range(random.choice((1, 1, 3))):
        said, extension, content, what = random.choice(KINDS)(random)
        path = named(random, folder / str(number), extension)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        about.append(said)
        files.append(str(path.relative_to(folder)))
        expected.append(what)
    whether = [what for what, _ in expected]
    good = [file for file, what in zip(files, whether, strict=True) if what == "done"]
    return Case(
        about=", ".join(about),
        argv=["predict", *files, "--top", "10", "--json"],
        names=tuple(file for file in files if file not in good) or ("nothing to refuse",),
        expected="done" if len(good) == len(files) else "refused" if "refused" in whether else "either",
        wanted=tuple(files),
        check=lambda out, _: compared(out, dict(zip(files, (seen for _, seen in expected), strict=True)), good),
    )


def compared(out: str, expected: dict[str, np.ndarray | None], good: list[str]) -> str:
    """Compare probabilities with those of the pixels that must be seen."""
    found = json.loads(out) if out.startswith("[") else [json.loads(line) for line in out.splitlines()]
    rows = {row["image"]: {one["class_name"]: one["probability"] for one in row["classes"]} for row in found}
    for file in good:
        if file not in rows:
            return f"{file} is missing"
    for file, row in rows.items():
        seen = expected[file]
        if seen is None:
            continue
        model = network()
        right = dict(zip(model.class_names, logits_of(model, seen).softmax(0).tolist(), strict=True))
        apart = max(abs(right[name] - row[name]) for name in right)
        if apart > 0.03:
            return f"{file} is seen as other pixels: probabilities differ by {apart:.2f}"
    return ""
