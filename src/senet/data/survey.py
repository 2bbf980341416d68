"""A look at a data set before training: classes, sizes, kinds of pictures, copies, leaks, damaged files."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from senet.data.balance import ratio
from senet.data.channels import Picture
from senet.data.config import DataConfig
from senet.data.datasets import open_unread
from senet.data.folders import class_folders, listed, skipped_below
from senet.data.images import ImageSplit
from senet.data.inspection import Inspected, inspect
from senet.data.loading import check_classes
from senet.data.readers import Files, contents_of
from senet.data.splitting import same_contents, size_of
from senet.data.tables import csv_files, tables_of
from senet.errors import SenetError, counted
from senet.terminal import Table, text_of, tracked

HEADERS = 20_000
"""Most images that are looked at in a data set: some seconds."""
DECODED_BYTES = 50_000_000
"""Most bytes of image files that are decoded: some seconds too. Of other files header and end are read."""
DECODED_ROWS = 2_000
"""Most images of a table that are decoded."""
NAMED = 20
"""Most unreadable images that are named."""
FEW = 5
"""With fewer evaluation images of a class, its accuracy is little more than a guess."""
SHOWN_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a data set consists of; `print` shows it.

    Args:
        source: its name.
        class_names: of the labels 0, 1, ...
        train_counts: training images of each class, (C,).
        eval_counts: evaluation images of each class, (C,).
        held_out: whether the evaluation images are held out of the training images.
        sizes: smallest, median and largest (width, height) of the pictures that were looked at, by area.
        kinds: number of pictures of each kind, such as "color" or "gray, 16 bits".
        formats: number of files of each format.
        skipped: files that are not read as images, by reason; empty if there are none.
        tables: CSV files in the folder, which are not read.
        unused: folders of images that are neither trained nor evaluated on, such as test/ beside val/.
        num_looked_at: images whose header was read.
        num_decoded: of these, images that were decoded.
        unusable: sentences on images that cannot be read, or that the network cannot take.
        copies: groups of names of training images that are the same picture.
        eval_copies: groups of names of evaluation images that are the same picture, and no training image.
        leaks: pairs of names, evaluation and training image, that are the same picture.
        contradictions: groups of names of the same picture in several classes.
        all_equal: whether all training images that were looked at are the same picture.
    """

    source: str
    class_names: tuple[str, ...]
    train_counts: np.ndarray
    eval_counts: np.ndarray
    held_out: bool
    sizes: tuple[tuple[int, int], ...]
    kinds: Counter[str]
    formats: Counter[str]
    skipped: str
    tables: tuple[str, ...]
    unused: tuple[str, ...]
    num_looked_at: int
    num_decoded: int
    unusable: tuple[str, ...]
    copies: tuple[tuple[str, ...], ...]
    eval_copies: tuple[tuple[str, ...], ...]
    leaks: tuple[tuple[str, str], ...]
    contradictions: tuple[tuple[str, ...], ...]
    all_equal: bool

    @property
    def num_images(self) -> int:
        """Number of training and evaluation images."""
        return int(self.train_counts.sum() + self.eval_counts.sum())

    @property
    def imbalance(self) -> float:
        """How many times as large as the smallest class the largest is, in the training images."""
        return ratio(self.train_counts)

    def check(self) -> None:
        """Raise a SenetError if nothing can be learned from these images, or some cannot be read."""
        if self.unusable:
            more = len(self.unusable) - NAMED
            rest = f"; and {more:,} more" if more > 0 else ""
            number = counted(len(self.unusable), "image")
            raise SenetError(f"{number} cannot be used: {'; '.join(self.unusable[:NAMED])}{rest}")
        if self.all_equal:
            raise SenetError(
                f"all {int(self.train_counts.sum()):,} training images of {self.source} are the same picture; "
                "check how they were copied"
            )

    def warnings(self) -> list[str]:
        """Return what works, but makes results worse or doubtful, in sentences."""
        found = []
        if self.leaks:
            number, (first, second) = counted(len(self.leaks), "evaluation image"), self.leaks[0]
            found.append(
                f"{number} also among the training images, such as {first}, which is {second}: the accuracy will be "
                "too high; remove them from one side"
            )
        if self.contradictions:
            found.append(
                f"{counted(len(self.contradictions), 'picture')} in several classes, such as "
                f"{' = '.join(self.contradictions[0][:3])}: the network cannot learn both; keep one of each"
            )
        for what, groups in (("training image", self.copies), ("evaluation image", self.eval_copies)):
            if groups:
                number = counted(sum(len(group) - 1 for group in groups), what)
                such_as = " = ".join(groups[0][:3])
                found.append(f"{number} the same as others, such as {such_as}: such pictures count several times")
        if self.tables:
            found.append(
                f"{listed(self.tables)}: not read, for folders are the classes; if a table says the classes of the "
                f"pictures, name it in place of the folder, such as {Path(self.source) / self.tables[0]}"
            )
        few = [name for name, count in zip(self.class_names, self.eval_counts, strict=True) if 0 < count < FEW]
        if few:
            found.append(
                f"fewer than {FEW} evaluation images of {listed(few)}: the accuracy of these classes is hardly measured"
            )
        single = [name for name, count in zip(self.class_names, self.train_counts, strict=True) if count == 1]
        if single:
            found.append(f"a single training image of {listed(single)}: little can be learned from it; add some")
        return found

    def __str__(self) -> str:
        train, evaluation = int(self.train_counts.sum()), int(self.eval_counts.sum())
        held = " (held out)" if self.held_out else ""
        lines = [
            f"{self.source}: {len(self.class_names):,} classes, {train:,} training images, "
            f"{evaluation:,} evaluation images{held}",
            text_of(self.table()).rstrip("\n"),
        ]
        if self.imbalance > 1:
            lines.append(f"largest class: {self.imbalance:.3g} times the smallest")
        if self.sizes:
            small, median, large = (f"{width}x{height}" for width, height in self.sizes)
            lines.append(f"sizes: {small}" if small == large else f"sizes: {small} to {large}, median {median}")
        for name, counts in (("pictures", self.kinds), ("formats", self.formats)):
            if counts:
                lines.append(f"{name}: {'; '.join(f'{number:,} {what}' for what, number in counts.most_common())}")
        if self.skipped:
            lines.append(f"skipped: {self.skipped}")
        if self.unused:
            lines.append(f"not used: {listed([f'{name}/' for name in self.unused])}")
        if self.num_decoded < self.num_images:
            lines.append(
                f"looked at: header and end of {self.num_looked_at:,} of {self.num_images:,} images, of which "
                f"{self.num_decoded:,} were decoded"
            )
        return "\n".join([*lines, *(f"note: {warning}" for warning in self.warnings())])

    def table(self) -> Table:
        """Return the classes with their numbers of images; of many classes the largest and the smallest."""
        table = Table("class")
        for heading in ("training", "evaluation"):
            table.add_column(heading, justify="right")
        order: Sequence[int] = range(len(self.class_names))
        half = SHOWN_CLASSES // 2
        if len(order) > SHOWN_CLASSES:
            by_size = np.argsort(-self.train_counts, kind="stable").tolist()
            order = [*by_size[:half], -1, *by_size[-half:]]
        for label in order:
            if label < 0:
                table.add_row(f"... {len(self.class_names) - 2 * half:,} more ...", "", "")
            else:
                counts = (f"{self.train_counts[label]:,}", f"{self.eval_counts[label]:,}")
                table.add_row(self.class_names[label], *counts)
        return table


def survey(config: DataConfig) -> Survey:
    """Look at the training and evaluation images of a data set.

    Every class is counted. At most 20,000 images are looked at, evenly spread over the classes, and of these so many
    decoded as takes a few seconds; the survey says how many. Files that are byte for byte the same are found among all.

    Args:
        config: of the data; its preprocessing says how many channels the network takes.

    Raises:
        SenetError: there are no such data, or they are not of the expected form, as `open_split`. What is wrong with
            single images is in the survey; its `check` raises it.
    """
    splits = open_unread(config, "train"), open_unread(config, "eval")
    check_classes(*splits)
    return survey_of(config, splits)


def survey_of(config: DataConfig, splits: tuple[ImageSplit, ImageSplit]) -> Survey:
    """Look at the training and evaluation images of a data set that are opened already, see `survey`."""
    names = splits[0].class_names
    share = min(1.0, HEADERS / sum(map(len, splits)))
    looks = [look_at(split, share, config.preprocessing.in_channels) for split in splits]
    seen = [look for found in looks for look in found.values() if not look.problem]
    by_area = sorted(((look.width, look.height) for look in seen), key=lambda size: (size[0] * size[1], size))
    is_folder = splits[0].files is not None and not tables_of(config.dataset)
    described = Survey(
        source=config.dataset,
        class_names=names,
        train_counts=splits[0].counts,
        eval_counts=splits[1].counts,
        held_out=splits[1].held_out is not None,
        sizes=(by_area[0], by_area[len(by_area) // 2], by_area[-1]) if seen else (),
        kinds=Counter(look.kind for look in seen),
        formats=Counter(look.format for look in seen if look.format),
        skipped=str(skipped_below(Path(config.dataset))) if is_folder else "",
        tables=tuple(file.name for file in csv_files(Path(config.dataset))) if is_folder else (),
        unused=unused_folders(Path(config.dataset), splits) if is_folder else (),
        num_looked_at=sum(map(len, looks)),
        num_decoded=sum(look.pixels is not None for look in seen),
        unusable=tuple(look.problem for found in looks for look in found.values() if look.problem),
        copies=(),
        eval_copies=(),
        leaks=(),
        contradictions=(),
        all_equal=False,
    )
    return with_copies(described, splits, looks)


def unused_folders(root: Path, splits: Sequence[ImageSplit]) -> tuple[str, ...]:
    """Return the folders of images in the folder of a data set that belong to none of its splits."""
    used = {Path(split.source.removesuffix(" (held out)")) for split in splits}
    return () if root in used else tuple(entry.name for entry in class_folders(root) if entry not in used)


def look_at(split: ImageSplit, share: float, channels: int) -> dict[int, Inspected]:
    """Return what is known of a share of the images of a split, by index."""
    number = max(1, round(share * len(split)))
    chosen = spread(range(len(split)), number)
    decode = to_decode(split, chosen, share)
    return {
        index: inspect(split.name(index), source_of(split, index), channels, decode=index in decode)
        for index in tracked(chosen, f"Looking at {split.source}", len(chosen))
    }


def spread(indices: Sequence[int], number: int) -> list[int]:
    """Return a number of the indices, evenly spread."""
    places = np.linspace(0, len(indices) - 1, min(number, len(indices))).round().astype(int)
    return [indices[place] for place in places]


def to_decode(split: ImageSplit, indices: Sequence[int], share: float) -> set[int]:
    """Return as many of the images, evenly spread, as decoding takes a few seconds for."""
    if split.files is None:
        return set(spread(indices, DECODED_ROWS))
    total = sum(size_of(split.files[index][0]) or 0 for index in indices)
    return set(spread(indices, len(indices) if total <= DECODED_BYTES else int(len(indices) * DECODED_BYTES / total)))


def source_of(split: ImageSplit, index: int) -> str | bytes | Picture:
    """Return where an image comes from: its path, its content, or a picture in memory."""
    if isinstance(split.read_image, Files):
        return split.read_image.files[index][0]
    ((content, _),) = contents_of(split.read_image, range(index, index + 1))
    return content if content is not None else split[index][0]


def with_copies(described: Survey, splits: Sequence[ImageSplit], looks: Sequence[Mapping[int, Inspected]]) -> Survey:
    """Add to a survey which of the training and evaluation images are the same pictures."""
    first_of = first_copies(splits, looks)
    num_train = len(splits[0])
    labels = np.concatenate([split.labels for split in splits if split.labels is not None])
    groups: dict[int, list[int]] = defaultdict(list)
    for place, first in enumerate(first_of):
        groups[first].append(place)

    def name(place: int) -> str:
        return splits[0].name(place) if place < num_train else splits[1].name(place - num_train)

    copies, eval_copies, leaks, contradictions = [], [], [], []
    for group in groups.values():
        train, evaluation = ([place for place in group if (place < num_train) == side] for side in (True, False))
        if len(train) > 1:
            copies.append(tuple(map(name, train)))
        if train:
            leaks += [(name(place), name(train[0])) for place in evaluation]
        elif len(evaluation) > 1:
            eval_copies.append(tuple(map(name, evaluation)))
        if len(set(labels[group].tolist())) > 1:
            contradictions.append(tuple(map(name, group)))
    looked_at = {first_of[index] for index in looks[0]}
    return replace(
        described,
        copies=tuple(copies),
        eval_copies=tuple(eval_copies),
        leaks=tuple(leaks),
        contradictions=tuple(contradictions),
        all_equal=len(looks[0]) > 1 and len(looked_at) == 1,
    )


def first_copies(splits: Sequence[ImageSplit], looks: Sequence[Mapping[int, Inspected]]) -> list[int]:
    """Return for each image of the splits, one after the other, the number of the first that is the same picture.

    The contents of all files are compared, and of those that were decoded the pixels too; where the images are no
    files, those that were looked at.
    """
    files = [file for split in splits for file, _ in split.files or ()]
    first_of: list[int] = (same_contents(files) if files else np.arange(sum(map(len, splits)))).tolist()

    def first(place: int) -> int:
        while first_of[place] != place:
            place = first_of[place]
        return place

    by_digest: dict[bytes, int] = {}
    for offset, found in zip((0, len(splits[0])), looks, strict=True):
        for index, look in found.items():
            for digest in filter(None, (look.content, look.pixels)):
                a, b = first(by_digest.setdefault(digest, offset + index)), first(offset + index)
                first_of[max(a, b)] = min(a, b)
    return [first(place) for place in range(len(first_of))]
