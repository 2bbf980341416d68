"""Writing one shard: a tar file as webdataset reads it, or a parquet file as Hugging Face's `datasets` does."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from senet.checksums import digest_of
from senet.errors import SenetError, needed_for
from senet.shards.index import Shard, short_digest
from senet.shards.parquet import Places, contents_in, metadata_of

ROWS = 64
"""Images of a row group, which readers decode at once."""


class Writer(Protocol):
    """A shard that is being written."""

    @property
    def size(self) -> int:
        """Bytes of the images so far."""
        ...

    def add(self, key: str, ending: str, content: bytes, label: int, name: str) -> None:
        """Add an image."""
        ...

    def close(self, name: str, split: str) -> Shard:
        """Complete the file and describe it."""
        ...


class Described:
    """What is known of the images of a shard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.labels: list[int] = []
        self.sizes: list[int] = []
        self.names: list[str] = []
        self.digests: list[str] = []
        self.size = 0

    def note(self, content: bytes, label: int, name: str) -> None:
        """Note an image."""
        self.labels.append(label)
        self.sizes.append(len(content))
        self.names.append(name)
        self.digests.append(short_digest(content))
        self.size += len(content)

    def shard(self, name: str, split: str, offsets: Sequence[int]) -> Shard:
        """Describe the shard."""
        return Shard(
            name=name,
            split=split,
            size=self.path.stat().st_size,
            sha256=digest_of(self.path),
            packed=False,
            labels=np.array(self.labels, np.int64),
            offsets=np.array(offsets, np.int64),
            sizes=np.array(self.sizes, np.int64),
            names=tuple(self.names),
            digests=tuple(self.digests),
        )


class TarShard(Described):
    """A tar file with `KEY.jpg` and `KEY.cls`, the number of the class, for each image.

    The same images give the same file, byte for byte: owners and times are zero.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        super().__init__(path)
        self.offsets: list[int] = []
        self.archive = tarfile.TarFile(path, "w", format=tarfile.USTAR_FORMAT)

    def add(self, key: str, ending: str, content: bytes, label: int, name: str) -> None:
        """Add an image."""
        self.offsets.append(self.member(f"{key}.{ending}", content))
        self.member(f"{key}.cls", str(label).encode())
        self.note(content, label, name)

    def member(self, name: str, content: bytes) -> int:
        """Add a file, and return where its content begins."""
        described = tarfile.TarInfo(name)
        described.size, described.mode = len(content), 0o644
        self.archive.addfile(described, io.BytesIO(content))
        padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return int(self.archive.offset) - padded

    def close(self, name: str, split: str) -> Shard:
        """Complete the file and describe it."""
        self.archive.close()
        return self.shard(name, split, self.offsets)


class ParquetShard(Described):
    """A parquet file with a column of images, bytes and path, and one of classes."""

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        super().__init__(path)
        with needed_for("parquet"):
            import pyarrow as pa
            from pyarrow import parquet as pq

        image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        self.schema = pa.schema({"image": image, "label": pa.int64()}, metadata=metadata_of(class_names))
        # Not compressed and without a dictionary, so that each image lies in the file as it is.
        self.file: Any = pq.ParquetWriter(path, self.schema, compression="none", use_dictionary=False)
        self.rows: list[dict[str, Any]] = []

    def add(self, key: str, ending: str, content: bytes, label: int, name: str) -> None:
        """Add an image."""
        self.rows.append({"image": {"bytes": content, "path": name}, "label": label})
        self.note(content, label, name)
        if len(self.rows) == ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows so far as a group."""
        import pyarrow as pa

        if self.rows:
            self.file.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows = []

    def close(self, name: str, split: str) -> Shard:
        """Complete the file and describe it."""
        self.flush()
        self.file.close()
        places = Places(self.path)
        for content in contents_in(self.path, "image"):
            places.find(content)
        places.close()
        if places.offsets is None:
            raise SenetError("this version of pyarrow changes the bytes of images in parquet; write tar files")
        return self.shard(name, split, places.offsets)
