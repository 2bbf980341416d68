"""Writing a data set as shards: tar files or parquet with the original bytes of its images, and an index.

Each shard is written beside, synchronized and renamed, and then described in a file of its own, so that a run that was
killed goes on after the last complete one. The index comes last, when every shard has been read back and compared.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from senet.checksums import digest_of
from senet.data.config import DataConfig
from senet.data.datasets import has_evaluation_images, open_unread
from senet.data.folders import path_below
from senet.data.images import ImageSplit
from senet.data.order import seed_of
from senet.data.readers import contents_of, shards_read
from senet.data.reading import NEEDS, formats
from senet.data.splitting import size_of
from senet.errors import MissingFileError, SenetError, check_ranges, counted
from senet.files import check_writable, make_folder, parse_json, write_json, writing_to, written_beside
from senet.locks import held
from senet.shards.index import (
    EVALUATION,
    INDEX,
    SPLITS,
    TRAIN,
    WHOLE,
    Shard,
    index_from_json,
    index_to_json,
    shard_from_json,
    shard_to_json,
    short_digest,
)
from senet.shards.writing import ParquetShard, TarShard, Writer
from senet.terminal import tracked

Form = Literal["tar", "parquet"]
LOCK, MOST_SHARDS = ".senet-shard.lock", 10**6
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp", "AVIF": "avif"}
"""How files end, by PIL's name of their format, where the data set does not say."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of a split, in the order in which they are written.

    Args:
        split: "train", "val", or "all" where the data set does not say.
        images: those of the data set.
        order: (N,), their numbers.
        names: of the images, by number.
    """

    split: str
    images: ImageSplit
    order: np.ndarray
    names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `write_shards` has written.

    Args:
        folder: of the shards and the index.
        class_names: of the labels 0, 1, ...
        shards: in their order.
        num_kept: of them, those that an earlier run had written.
    """

    folder: Path
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...]
    num_kept: int

    @property
    def num_images(self) -> int:
        """Number of images."""
        return sum(map(len, self.shards))

    def __str__(self) -> str:
        numbers = {split: sum(shard.split == split for shard in self.shards) for split in SPLITS}
        splits = ", ".join(f"{number:,} {split}" for split, number in numbers.items() if number)
        kept = f", {self.num_kept:,} of them from before" if self.num_kept else ""
        return (
            f"{self.folder} holds {counted(self.num_images, 'image')} of {len(self.class_names):,} classes in "
            f"{counted(len(self.shards), 'shard')} ({splits}; {sum(shard.size for shard in self.shards) / 1e6:,.1f} MB"
            f"{kept}), all read back and compared"
        )


def write_shards(
    data: DataConfig | str | Path,
    folder: str | Path,
    *,
    form: Form = "tar",
    megabytes: float = 128,
    seed: int | None = 0,
) -> Written:
    """Write a data set as shards, or go on with it.

    The content of image files is copied as it is. Pictures that are no files, as those of CIFAR, become PNG files.

    Args:
        data: the data set, as for `--data`; of its configuration the columns, the root and the class names count.
        folder: where the shards go; one in which an earlier call was stopped is completed.
        form: "tar", as webdataset writes them, or "parquet", as Hugging Face's `datasets` does.
        megabytes: size after which a shard is closed, in 10**6 bytes.
        seed: of the order of the images; None for that of the data set.

    Raises:
        SenetError: the data set cannot be opened, an image cannot be read, or the folder holds something else.
    """
    check_ranges(Asked(megabytes=megabytes, seed=seed or 0), "", {"megabytes": (1e-3, 1e6), "seed": (0, 2**63 - 1)})
    config = data if isinstance(data, DataConfig) else DataConfig(dataset=str(data), in_memory=False)
    target = Path(folder)
    check_writable(target / INDEX)
    parts = parts_of(config, seed)
    job = Job(folder=target, parts=parts, form=form, size=int(megabytes * 1e6), seed=seed)
    with job.alone():
        return job.run()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The numbers that `write_shards` takes."""

    megabytes: float
    seed: int


def parts_of(config: DataConfig, seed: int | None) -> list[Part]:
    """Open what is to be written: training and evaluation images; one of them where the data set is not divided."""
    config = replace(config, val_fraction=None, split_seed=0)
    if has_evaluation_images(config):
        opened = [(EVALUATION, open_unread(config, "eval"))]
        with suppress(MissingFileError):  # where there are images to evaluate on alone
            opened.insert(0, (TRAIN, open_unread(config, "train")))
    else:
        try:
            opened = [(TRAIN, open_unread(config, "train"))]
        except SenetError:  # nothing says that these are to train on
            opened = [(WHOLE, open_unread(config, "eval"))]
    parts = []
    for number, (split, images) in enumerate(opened):
        if not images.class_names:
            raise SenetError(f"{images.source} has no classes; expected a folder of images for each")
        rng = None if seed is None else np.random.default_rng(seed_of(seed, number))
        order = np.arange(len(images)) if rng is None else rng.permutation(len(images))
        parts.append(Part(split=split, images=images, order=order, names=names_of(images, config)))
    if len({part.images.class_names for part in parts}) > 1:
        raise SenetError(f"{config.dataset} has other classes to train on than to evaluate on; both need the same")
    return parts


def names_of(images: ImageSplit, config: DataConfig) -> Sequence[str]:
    """Return a name for each image: its path below the folder of its split, or what messages call it."""
    if (shards := shards_read(images.read_image)) is not None:
        names = [name for shard in shards.store.shards for name in shard.names]
        return [names[number] for number in shards.numbers.tolist()]
    if images.files is None:
        return [images.name(index) for index in range(len(images))]
    folder = Path(images.source) if Path(images.source).is_dir() else Path(config.dataset)
    folder = folder if folder.is_dir() else folder.parent
    inside = f"{folder}{os.sep}"
    return [path_below(folder, file) if file.startswith(inside) else Path(file).name for file, _ in images.files]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A data set that is being written.

    Args:
        folder: where it goes.
        parts: what is written.
        form: see `write_shards`.
        size: bytes after which a shard is closed.
        seed: see `write_shards`.
    """

    folder: Path
    parts: Sequence[Part]
    form: Form
    size: int
    seed: int | None

    @cached_property
    def identity(self) -> str:
        """A SHA-256 that tells the same job from another one."""
        said = hashlib.sha256(json.dumps([self.form, self.size, self.seed, self.parts[0].images.class_names]).encode())
        for part in self.parts:
            labels = part.images.labels
            said.update(f"\n{part.split} {len(part.order)}\n".encode())
            said.update(b"" if labels is None else labels.tobytes())
            said.update("\n".join(part.names).encode("utf-8", "surrogateescape"))
            said.update(json.dumps([size_of(file) for file, _ in part.images.files or ()]).encode())
        return said.hexdigest()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refuse a second process in the same folder; the system releases the lock where one is killed."""
        refusal = f"another process writes shards to {self.folder}; wait for it, or name another"
        with ExitStack() as stack:
            with writing_to(self.folder, "name another output"):
                make_folder(self.folder)
                stack.enter_context(held(self.folder / LOCK, refusal))
            yield

    def run(self) -> Written:
        """Write what is missing, read everything back, and write the index."""
        names = self.parts[0].images.class_names
        try:
            index = self.folder / INDEX
            if index.exists():
                return self.complete(index)
            self.check_folder()
            shards: list[Shard] = []
            kept = 0
            for part in self.parts:
                found = self.kept(part)
                kept += len(found)
                shards += found
                shards += self.write(part, found)
            for shard in tracked(shards, "Comparing shards", len(shards)):
                check_shard(self.folder / shard.name, shard)
            write_json(index, {**index_to_json(names, shards), "job": self.identity})
            self.remove_notes(shards)
        except OSError as error:
            if error.strerror is None:
                raise
            raise SenetError(
                f"{self.folder} cannot be written ({error.strerror}); make room or change its permissions, then the "
                "same command goes on"
            ) from error
        return Written(folder=self.folder, class_names=names, shards=tuple(shards), num_kept=kept)

    def complete(self, index: Path) -> Written:
        """Return what is complete already, after it has been compared."""
        try:
            value = parse_json(index.read_text())
        except ValueError as error:
            raise SenetError(
                f"{index} is damaged ({error}); remove it, and the same command writes it again"
            ) from error
        found = index_from_json(value, str(self.folder), str(index))
        if value.get("job") != self.identity:
            raise SenetError(
                f"{self.folder} holds shards of other images, or written in another way; name another output"
            )
        for shard in tracked(found.shards, "Comparing shards", len(found.shards)):
            check_shard(self.folder / shard.name, shard)
        self.remove_notes(found.shards)  # after a kill between the index and this
        return Written(
            folder=self.folder, class_names=found.class_names, shards=found.shards, num_kept=len(found.shards)
        )

    def check_folder(self) -> None:
        """Raise a SenetError for a folder that holds something else; remove what a kill has left half written."""
        for entry in sorted(self.folder.iterdir()):
            if entry.name.startswith(".") and entry.name.endswith(".part"):
                entry.unlink()
                continue
            name = entry.name.removeprefix(".").removesuffix(".json")
            if entry.name != LOCK and not (name.endswith(f".{self.form}") and self.note_of(name).exists()):
                is_own = name.partition("-")[0] in SPLITS and name.endswith(f".{self.form}")
                if not is_own:
                    raise SenetError(f"{self.folder} is not empty (it has {entry.name}); name a new folder")

    def remove_notes(self, shards: Sequence[Shard]) -> None:
        """Remove what described shards until the index did."""
        for shard in shards:
            self.note_of(shard.name).unlink(missing_ok=True)

    def note_of(self, name: str) -> Path:
        """Return the file that describes a shard until the index does."""
        return self.folder / f".{name}.json"

    def shard_name(self, part: Part, number: int) -> str:
        """Return what a shard is called."""
        return f"{part.split}-{number:06d}.{self.form}"

    def kept(self, part: Part) -> list[Shard]:
        """Return the shards of a split that are complete, from the first on without a gap.

        Raises:
            SenetError: they are of another data set, or written in another way.
        """
        found: list[Shard] = []
        while (note := self.note_of(name := self.shard_name(part, len(found)))).exists():
            try:
                value = parse_json(note.read_text())
                shard = shard_from_json(value, len(part.images.class_names))
                is_same, is_whole = value.get("job") == self.identity, shard.name == name
            except (ValueError, KeyError, TypeError):
                break
            if not is_same:
                raise SenetError(
                    f"{self.folder} holds shards of other images, or written in another way; name another output"
                )
            file = self.folder / name
            if not (is_whole and file.is_file() and digest_of(file) == shard.sha256):
                break
            found.append(shard)
        return found

    def write(self, part: Part, kept: Sequence[Shard]) -> Iterator[Shard]:
        """Write the shards of a split that are missing, and yield each when it is complete."""
        done, number = sum(map(len, kept)), len(kept)
        numbers = iter(tracked(part.order[done:].tolist(), f"Writing {part.split}", len(part.order) - done))
        index = next(numbers, None)
        while index is not None:
            name = self.shard_name(part, number)
            with written_beside(self.folder / name) as beside:
                kind: Callable[..., Writer] = TarShard if self.form == "tar" else ParquetShard
                writer = kind(beside, part.images.class_names)
                while index is not None:
                    content, ending, label = content_of(part.images, index)
                    writer.add(f"{done:09d}", ending, content, label, part.names[index])
                    done += 1
                    index = next(numbers, None)
                    if writer.size >= self.size:
                        break
                shard = writer.close(name, part.split)
            write_json(self.note_of(name), {**shard_to_json(shard), "job": self.identity})
            number += 1
            yield shard


def check_shard(path: Path, shard: Shard) -> None:
    """Compare a shard with its description: its SHA-256, and the content at the place of each image.

    Raises:
        SenetError: it differs.
    """
    try:
        problem = "" if digest_of(path) == shard.sha256 else "its SHA-256 is another one"
        with path.open("rb") as file:
            for place, size, digest in zip(shard.offsets, shard.sizes, shard.digests or (), strict=False):
                file.seek(int(place))
                if short_digest(file.read(int(size))) != digest:
                    problem = problem or f"another image lies at byte {place:,}"
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
    if problem:
        raise SenetError(f"{path} is not what was written ({problem}); remove it and the index, then write it again")


# ---- contents --------------------------------------------------------------------------------------------------------


def content_of(images: ImageSplit, index: int) -> tuple[bytes, str, int]:
    """Return the content of an image's file, how its name ends, and its label.

    Raises:
        SenetError: it cannot be read.
    """
    ((content, label),) = contents_of(images.read_image, range(index, index + 1))
    if content:
        return content, ending_of(content, images, index), label
    picture, label = images[index]  # says what is wrong with a file
    if isinstance(picture, Image.Image):
        encoded = io.BytesIO()
        picture.save(encoded, "PNG")
        return encoded.getvalue(), "png", label
    array: Any = picture.numpy() if isinstance(picture, Tensor) else picture
    encoded = io.BytesIO()
    np.save(encoded, array)
    return encoded.getvalue(), "npy", label


def ending_of(content: bytes, images: ImageSplit, index: int) -> str:
    """Return how the name of an image's file ends: as it does now, else what its content says."""
    name = images.files[index][0] if images.files is not None else images.name(index).partition(" in ")[0]
    ending = Path(name).suffix.lower()
    if ending in NEEDS:
        return ending.removeprefix(".")
    if content.startswith(b"\x93NUMPY"):
        return "npy"
    try:
        with Image.open(io.BytesIO(content), formats=formats()) as image:
            return FORMATS.get(image.format or "", "png")
    except Exception as error:  # what decoders raise on damaged files has no common parent
        raise SenetError(f"{images.name(index)} is not an image in a known format; replace or remove it") from error
