"""Which images are meant: files, folders, patterns such as "photos/**/*.jpg", and lists of files."""

import codecs
import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np
from PIL import Image
from torch import Tensor

from senet.data.channels import Picture
from senet.data.folders import Skipped, images_below, left_out, walk
from senet.errors import MissingFileError, SenetError, first_line
from senet.shards.patterns import is_address

OnError = Literal["raise", "keep"]


def find_images(source: str | Path) -> list[str]:
    """Return the files that a name stands for.

    Args:
        source: a folder, for the images in it, sorted, and then those of the folders in it; a pattern with *, ?, [...],
            or ** for folders at any depth, for the images that it matches, sorted; or a file, which need not exist: it
            is returned as it is.

    Raises:
        SenetError: a folder without images, a pattern that matches none, or an address.
    """
    name, skipped = str(source), Skipped()
    if is_address(name):
        raise SenetError(f"{name} is an address, and images are read from files; download it, and name the file")
    if os.path.isdir(name):  # noqa: PTH112  # Path("") would be the current folder
        found, problem = list(images_below(Path(name), skipped)), f"{name} has no images"
    elif glob.has_magic(name) and not os.path.lexists(name):
        files = (path for path in sorted(set(matches(name))) if os.path.isfile(path))  # noqa: PTH113
        found, problem = [path for path in files if skipped.take(os.path.basename(path))], f"{name} matches no images"  # noqa: PTH119
    else:
        return [name]
    if not found:
        raise SenetError(f"{problem}{left_out(skipped)}; check the path")
    skipped.warn(Path(name))
    return found


def matches(pattern: str) -> Iterator[str]:
    """Yield what a pattern matches; `glob` itself follows links that lead back, for hours if there are two of them."""
    before, found, after = f"/{pattern}{'/*' if pattern.endswith('**') else ''}".partition("/**/")
    if not found:
        yield from glob.glob(pattern, recursive=True)  # noqa: PTH207
        return
    for top in matches(before[1:]) if before[1:] else ["/" if before else "."]:
        for folder, _ in walk(top) if os.path.isdir(top) else ():  # noqa: PTH112
            inside = os.path.join(glob.escape(folder), after)  # noqa: PTH118
            yield from matches(inside if before else inside.removeprefix("./"))


def listed_images(lines: Iterable[str]) -> Iterator[str]:
    """Yield the files of a list that has one a line; empty lines and a byte order mark do not count.

    Raises:
        SenetError: the files are separated by NUL characters.
    """
    for line in lines:
        name = line.rstrip("\r\n").removeprefix("\ufeff")
        if "\0" in name:
            raise SenetError(
                "the list has NUL characters; list one file a line, or name the files as arguments, as by xargs -0"
            )
        if name:
            yield name


def read_list(file: str | Path) -> list[str]:
    """Return the files that a text file lists, one a line.

    Raises:
        SenetError: it cannot be read, or lists nothing.
    """
    try:
        content = Path(file).read_bytes()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell writes it
        text = content.decode("utf-16" if is_utf16 else sys.getfilesystemencoding(), "surrogateescape")
        found = list(listed_images(io.StringIO(text, newline=None)))
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no list {file}; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SenetError(f"{file} cannot be read as a list of files ({first_line(error)})") from error
    if not found:
        raise SenetError(f"{file} lists no files; it needs the path of an image on each line")
    return found


def is_one(images: str | Path | Picture | Iterable[str | Path | Picture]) -> TypeGuard[str | Path | Picture]:
    """Return whether this is a single file, folder, pattern or picture; an array of four dimensions is several.

    What could be neither, such as None, bytes or an open file, counts as one: whoever reads it says what is expected.
    """
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim in (2, 3)
    return isinstance(images, str | Path | Image.Image | bytes | io.IOBase) or not isinstance(images, Iterable)


def expanded(
    images: str | Path | Picture | Iterable[str | Path | Picture], on_error: OnError = "raise"
) -> Iterator[str | Path | Picture]:
    """Yield images, with the files of folders and patterns in their places; each is looked up when it comes.

    Args:
        images: one file, folder, pattern or picture; or several of them.
        on_error: "keep" yields what stands for no images as it is, for whoever reads it to say so.
    """
    several: Iterable[str | Path | Picture] = [images] if is_one(images) else images  # type: ignore[assignment]
    for image in several:
        try:
            found = find_images(image) if isinstance(image, str | Path) else []
        except SenetError:
            if on_error == "raise":
                raise
            found = [str(image)]
        if isinstance(image, str | Path) and found != [str(image)]:
            yield from found
        else:
            yield image
