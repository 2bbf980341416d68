"""Tar files as webdataset writes them: the files of an image follow each other, called alike up to the first dot.

Nothing is ever extracted: members are bytes at a place in the file, whatever their names say. Links, devices and
folders are passed over.

Source: webdataset 1.0, `base_plus_ext` and `tar_file_iterator`, for names, and what does not count.
"""

import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from senet.errors import SenetError
from senet.files import parse_json
from senet.shards.samples import Label, Sample, Shape

NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
PASSED_OVER = re.compile(r"__[^/]*__($|/)")
LABELS = ("cls", "json", "txt")
"""The extensions of the files that say the class, the first one that is there counts."""
MOST_TEXT = 2**20
"""Most bytes of such a file."""
BLOCK = 512
FEW = 4
"""Names in a message."""
Member = tuple[str, int, int]
"""Name, place and size of a file."""


def members_of(file: BinaryIO, size: int, name: str) -> Iterator[Member]:
    """Yield the files of a tar file.

    Args:
        file: the tar file, opened.
        size: of it, in bytes.
        name: of it in messages.

    Raises:
        SenetError: it is none, is damaged or cut short.
    """
    try:
        archive = tarfile.TarFile(fileobj=file, mode="r")
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else all are kept
            if member.offset_data + member.size > size:
                raise SenetError(f"{name} is cut short in {member.name!r}; copy it again")
            if member.isreg() and not member.issparse():
                yield member.name, member.offset_data, member.size
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SenetError(f"{name} cannot be read as a tar file ({error}); it is damaged: copy it again") from error
    except SenetError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:  # numbers that are none, headers without end
        raise SenetError(f"{name} cannot be read as a tar file; it is damaged: copy it again") from error
    file.seek(archive.offset)
    if file.read(BLOCK) != bytes(BLOCK):  # tarfile takes what it cannot read for the end
        raise SenetError(
            f"{name} is cut short or damaged at byte {archive.offset:,}, where no file begins; copy it again"
        )


def samples_in(file: BinaryIO, size: int, name: str, extensions: frozenset[str], shape: Shape) -> list[Sample]:
    """Return the images of a tar file.

    Args:
        file: the tar file, opened.
        size: of it, in bytes.
        name: of it in messages.
        extensions: of images, without a dot.
        shape: which of several files of a sample is meant.

    Raises:
        SenetError: it is damaged, or does not hold images with classes.
    """
    found = []
    parts: dict[str, tuple[int, int]] = {}
    current = ""
    members = list(members_of(file, size, name))
    for member, offset, length in members:
        named = None if PASSED_OVER.match(member) else NAME.fullmatch(member)
        if named is None:
            continue
        key, extension = named[1], named[2].lower()
        if key != current or extension in parts:
            if parts:
                found.append(sample_of(file, name, current, parts, extensions, shape))
            current, parts = key, {}
        parts[extension] = offset, length
    if parts:
        found.append(sample_of(file, name, current, parts, extensions, shape))
    return found


def sample_of(
    file: BinaryIO,
    name: str,
    key: str,
    parts: dict[str, tuple[int, int]],
    extensions: frozenset[str],
    shape: Shape,
) -> Sample:
    """Return an image from the places of its files by extension, see `samples_in`."""
    images = [each for each in parts if each.rpartition(".")[2] in extensions]
    if shape.image.lower() in parts:
        images = [shape.image.lower()]
    if len(images) != 1:
        found = images or [*parts]
        few = ", ".join(found[:FEW]) + (", ..." if len(found) > FEW else "")
        what, remedy = f"no image, but {few}", "take it out, or name other shards"
        if images:
            what, remedy = (
                f"the images {few}",
                "set data.image_column to the one that is meant, or, if they are different samples, write names in "
                "which the first dot is that of the extension",
            )
        raise SenetError(f"{name} has {what} for {key!r}; {remedy}")
    offset, length = parts[images[0]]
    label = label_of(file, name, key, parts, shape)
    return Sample(name=f"{key}.{images[0]}", offset=offset, size=length, label=label)


def label_of(file: BinaryIO, name: str, key: str, parts: dict[str, tuple[int, int]], shape: Shape) -> Label:
    """Return the class of an image from the places of its files by extension; None where none says it.

    Raises:
        SenetError: the file of the class does not hold one.
    """
    extension = next((each for each in (shape.label.lower(), *LABELS) if each in parts), None)
    if extension is None:
        return None
    offset, length = parts[extension]
    file.seek(offset)
    try:
        text = file.read(min(length, MOST_TEXT)).decode().strip()
        label = parse_json(text) if extension.endswith("json") else text
    except ValueError as error:
        raise SenetError(f"{key}.{extension} of {name} is no text or JSON ({error}); write it again") from error
    if isinstance(label, dict):
        if shape.label not in label:
            raise SenetError(
                f"{key}.{extension} of {name} has {', '.join(label) or 'nothing'}; set data.label_column, which is "
                f"{shape.label!r}, to the one with the class"
            )
        label = label[shape.label]
    if isinstance(label, str) and re.fullmatch(r"\d{1,15}", label):
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "" or len(str(label)) > 1000:
        raise SenetError(f"{key}.{extension} of {name} does not hold a class; expected a number or a name")
    return label
