"""Parquet files as Hugging Face's `datasets` writes images: a column of bytes and path, and one of classes.

The bytes of the images mostly lie in the file as they are, for `datasets` does not compress them; where each begins is
found once, and then it is read like a member of a tar file.
"""

import json
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from senet.errors import SenetError, first_line, needed_for
from senet.files import parse_json
from senet.shards.samples import Label, Sample, Shape

ROWS = 8
"""Rows that are read at once: a small file may have the same large image in many of them."""


@contextmanager
def opened_parquet(path: Path, name: str) -> Iterator[Any]:
    """Open a parquet file.

    Raises:
        SenetError: it is none, or damaged.
    """
    with needed_for("a parquet file"):
        import pyarrow as pa
        from pyarrow import parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = first_line(error)
        raise SenetError(f"{name} cannot be read as parquet ({reason}); it is damaged: copy it again") from error


def contents_in(path: Path, column: str) -> Iterator[bytes]:
    """Yield the contents of the images of a parquet file, one after the other.

    Raises:
        SenetError: it is damaged.
    """
    with opened_parquet(path, str(path)) as file:
        for batch in file.iter_batches(batch_size=ROWS, columns=[column]):
            for value in batch.column(0):
                yield content_in(value.as_py())


def content_in(value: Any) -> bytes:
    """Return the content in a value of a column of images, which are bytes, or bytes and path; empty where none is."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else b""


def samples_in(path: Path, name: str, shape: Shape) -> tuple[list[Sample], tuple[str, ...], bool]:
    """Return the images of a parquet file, the names of its classes, and whether it has to be unpacked.

    Args:
        path: of the file.
        name: of it in messages.
        shape: which columns are meant.

    Raises:
        SenetError: it is damaged, or has no such columns.
    """
    with opened_parquet(path, name) as file:
        known = file.schema_arrow.names
        for option, column in (("image_column", shape.image), ("label_column", shape.label)):
            if column not in known and not (option == "label_column" and shape.label == Shape().label):
                raise SenetError(
                    f"{name} has the columns {', '.join(known)}; set data.{option}, which is {column!r}, to the one "
                    f"with the {'images' if option == 'image_column' else 'classes'}"
                )
        columns = [shape.image, *([shape.label] if shape.label in known else [])]
        rows: list[tuple[str, int, Label]] = []
        places = Places(path)
        for batch in file.iter_batches(batch_size=ROWS, columns=columns):
            labels = batch.column(1).to_pylist() if len(columns) > 1 else [None] * len(batch)
            for scalar, label in zip(batch.column(0), labels, strict=True):
                value = scalar.as_py()
                content = content_in(value)
                if not content:
                    raise SenetError(f"{name} has no image in row {len(rows)}; remove the row")
                if label is not None and not isinstance(label, int | str):
                    raise SenetError(f"column {shape.label!r} of {name} holds {type(label).__name__}; expected classes")
                places.find(content)
                path_of = value.get("path") if isinstance(value, dict) else None
                rows.append((str(path_of or f"row {len(rows)}"), len(content), label))
        names = class_names_in(file.schema_arrow.metadata, shape.label)
        places.close()
    offsets = places.offsets
    packed = offsets is None
    if offsets is None:
        offsets, end = [], 0
        for _, size, _ in rows:
            offsets.append(end)
            end += size
    samples = [
        Sample(name=row, offset=offset, size=size, label=label)
        for (row, size, label), offset in zip(rows, offsets, strict=True)
    ]
    return samples, names, packed


class Places:
    """Finds where the contents of a column begin in a file, one after the other.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.offsets: list[int] | None = []
        self.end = 0
        with path.open("rb") as opened:
            self.map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    def find(self, content: bytes) -> None:
        """Find the next content; once one does not lie in the file as it is, nothing is looked for any more."""
        if self.offsets is None:
            return
        place = self.map.find(content, self.end)
        if place < 0:  # a copy of an earlier one, which a dictionary has only once
            place = self.map.find(content)
        if place < 0:
            self.offsets = None
            return
        self.offsets.append(place)
        self.end = max(self.end, place + len(content))

    def close(self) -> None:
        """Close the file."""
        self.map.close()


def class_names_in(metadata: dict[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """Return the names of the classes that `datasets` notes in a parquet file; empty where there are none."""
    try:
        features = parse_json((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
        names = names.get("0") if isinstance(names, dict) else names
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def metadata_of(class_names: Sequence[str]) -> dict[bytes, bytes]:
    """Return what `datasets` notes in a parquet file with a column of images and one of classes."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(class_names), "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
