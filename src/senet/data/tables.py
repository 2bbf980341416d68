"""CSV files with a row for each picture, its file and its class, as competitions and spreadsheets have them."""

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from senet.data.config import DataConfig
from senet.data.folders import (
    EVAL_SPLITS,
    TRAIN_SPLITS,
    Skipped,
    class_folders,
    folder_called,
    images_below,
    is_number,
    listed,
    path_below,
    visible,
)
from senet.data.grouping import SEPARATORS, decoded, normal
from senet.data.images import ImageSplit, Split
from senet.data.readers import Files
from senet.data.reading import missing_for
from senet.data.splitting import held_out, key_of, same_contents
from senet.errors import MissingFileError, SenetError, counted, first_line, warn

EXTENSIONS = (".csv", ".tsv")
SPLIT_COLUMN = "split"
VALID_COLUMN = "is_valid"
VALID = {"true": "valid", "1": "valid", "false": TRAIN_SPLITS[0], "0": TRAIN_SPLITS[0]}
"""The column of fastai's tables that says whether a picture is to evaluate on."""
SEPARATOR = re.compile(r"sep=(.)\r?\n")
"""A first line that tells Excel what is between the words."""
SHOWN = 60
"""Letters of a row in a message."""
DECIMAL = re.compile(r"-?\d+[.,]\d+")
"""A number that was measured."""
FEW = 10
"""So many different numbers may be classes, whatever they look like."""
DEFAULTS = DataConfig()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A picture of a table.

    Args:
        name: as the table has it.
        label: the name of its class.
        split: in lower case; empty if the table does not say.
    """

    name: str
    label: str
    split: str


class Pictures:
    """The pictures in a folder and the folders below it, by what a table may call them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """The files by every end of their path: "train/cats/1.jpg" also by "cats/1.jpg" and, without extension, "1"."""
        found = defaultdict(list)
        for file in images_below(self.folder, Skipped()):
            parts = normal(path_below(self.folder, file)).split("/")
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                found[end].append(file)
                found[end.rpartition(".")[0]].append(file)
        return found

    def find(self, name: str) -> list[str]:
        """Return the file that a name stands for: its path below the folder or the end of it; several if unclear."""
        file = os.path.join(self.folder, name)  # noqa: PTH118  # for a million files much faster than Path
        if os.path.isfile(file):  # noqa: PTH113
            return [file]
        return self.by_name.get(normal(name).replace("\\", "/").removeprefix("./"), [])


def csv_files(folder: Path) -> list[Path]:
    """Return the CSV files directly in a folder, first those that are called after training."""
    found = [entry for entry in visible(folder) if entry.suffix.lower() in EXTENSIONS and entry.is_file()]
    return sorted(found, key=lambda file: "train" not in file.name.lower())


def tables_of(dataset: str) -> dict[str, Path]:
    """Return the CSV files of a data set by split: one for all, or train.csv and val.csv in a folder.

    A folder with train/CLASS needs none. A test.csv beside train.csv is left alone: in competitions it has no classes.
    """
    path = Path(dataset)
    if path.is_file():
        return {"": path} if path.suffix.lower() in EXTENSIONS else {}
    named = {split: path / f"{split}.csv" for split in ("train", *EVAL_SPLITS) if split != "test"}
    found = {split: file for split, file in named.items() if file.is_file()}
    train = folder_called(path, TRAIN_SPLITS) if path.is_dir() else None
    has_classes = train is not None and bool(class_folders(train))
    return found if "train" in found and len(found) > 1 and not has_classes else {}


def names_split(config: DataConfig) -> bool:
    """Return whether tables say which pictures to evaluate on."""
    return any(row.split in EVAL_SPLITS for row in read_rows(config))


def open_table(config: DataConfig, split: Split) -> ImageSplit:
    """Open CSV files that name pictures and their classes.

    A column `split` says which pictures are to train on (train), and which to evaluate on (val, valid, validation or
    test). Without it all are to evaluate on, or divided by `val_fraction`.

    Raises:
        SenetError: they are no such tables, or pictures are missing.
    """
    rows, source = read_rows(config), config.dataset
    named = {row.split for row in rows}
    own = next((name for name in EVAL_SPLITS if name in named), None)
    divided = config.val_fraction is not None
    if divided and own is not None:
        raise SenetError(f"data.val_fraction has no effect on {source}, which has the split {own}; leave it out")
    if not divided and own is None and (split == "train" or "train" in named):
        raise SenetError(
            f"{source} does not say which pictures to evaluate on; set data.val_fraction, such as 0.2, to hold out a "
            f"share, or add a column {SPLIT_COLUMN!r} with train and val"
        )
    if named == {""}:
        training = chosen = rows
    else:
        wanted = "train" if split == "train" or divided else own
        training, chosen = ([row for row in rows if row.split == part] for part in ("train", wanted))
        source = f"{source} ({wanted})"
        check_other_splits(config.dataset, rows, quiet=split == "train")
    names = classes_of(training or chosen)
    own_names = {row.label for row in chosen}
    others = sorted(own_names - set(names))
    if others:
        raise SenetError(f"{source} has pictures of {listed(others)}, of which {config.dataset} trains on none")
    missing = [name for name in names if name not in own_names]
    if missing:
        warn(f"{source} has no pictures of {listed(missing)}; they are not measured")
    images = split_of_rows(source, chosen, names, Pictures(folder_of(config.dataset)))
    if split == "eval" and not divided:
        warn_of_repeats(images)
    return images if config.val_fraction is None else divided_by(config, images, chosen, split)


def check_other_splits(source: str, rows: Sequence[Row], *, quiet: bool) -> None:
    """Warn of pictures that are neither trained nor evaluated on, for their split has another name.

    Args:
        source: of the rows.
        rows: some of which have a split.
        quiet: whether to check only, for the warning comes when the other split is opened.

    Raises:
        SenetError: all pictures are such.
    """
    others = sorted({row.split for row in rows} - {TRAIN_SPLITS[0], *EVAL_SPLITS})
    number = sum(row.split in others for row in rows)
    said = (
        f"{source}: {counted(number, 'picture')} not used, for in the column {SPLIT_COLUMN!r} they have "
        f"{listed([repr(other) for other in others])}; expected train, and val, valid, validation or test"
    )
    if number == len(rows):
        raise SenetError(said)
    if number and not quiet:
        warn(said)


def warn_of_repeats(images: ImageSplit) -> None:
    """Warn of pictures that stand in several rows, perhaps as several classes, of which one at most is right."""
    classes = defaultdict(list)
    for file, label in images.files or ():
        classes[file].append(images.class_names[label])
    several = sorted((file for file in classes if len(classes[file]) > 1), key=lambda file: -len({*classes[file]}))
    if several:
        first = several[0]
        warn(
            f"{images.source} has {counted(len(several), 'picture')} in several rows, such as {first} "
            f"({listed(classes[first])}); each row counts"
        )


def divided_by(config: DataConfig, images: ImageSplit, rows: Sequence[Row], split: Split) -> ImageSplit:
    """Return the pictures that are held out by their names in the table, or the others."""
    files = images.files or ()
    paths, labels = [file for file, _ in files], np.array([label for _, label in files])
    keys = [key_of(row.name.encode(), config.split_seed) for row in rows]
    take = held_out(keys, same_contents(paths), labels, config.val_fraction or 0, paths.__getitem__)
    chosen = np.flatnonzero(take == (split == "eval")).tolist()
    kept = [files[index] for index in chosen]
    part = replace(images, size=len(kept), files=kept, read_image=Files(kept))
    if split == "train":
        return part
    names = tuple(rows[index].name for index in chosen)
    return replace(part, source=f"{images.source} (held out)", held_out=names)


def folder_of(dataset: str) -> Path:
    """Return the folder below which the pictures of a table are."""
    return Path(dataset).parent if Path(dataset).is_file() else Path(dataset)


def classes_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the names of the classes in the order of folders: numbers by value, else by name."""
    names = sorted({row.label for row in rows})
    return tuple(sorted(names, key=int) if all(map(is_number, names)) else names)


def split_of_rows(source: str, rows: Sequence[Row], names: tuple[str, ...], pictures: Pictures) -> ImageSplit:
    """Describe the pictures of rows.

    Raises:
        SenetError: there is no picture of a name, or more than one.
    """
    place_of = {name: place for place, name in enumerate(names)}
    found = [pictures.find(row.name) for row in rows]
    missing = [row.name for row, files in zip(rows, found, strict=True) if not files]
    if missing:
        raise MissingFileError(
            f"{source} names {counted(len(missing), 'picture')} not to be found in {pictures.folder} and its folders: "
            f"{listed(missing)}; put the table where they are, or say by data.image_column which column names them"
        )
    for row, files in zip(rows, found, strict=True):
        if len(files) > 1:
            raise SenetError(f"{source} names {row.name}, which may be {listed(files)}; write its folder before it")
    labeled = [(files[0], place_of[row.label]) for row, files in zip(rows, found, strict=True)]
    return ImageSplit(
        source=source,
        size=len(labeled),
        class_names=names,
        read_image=Files(labeled),
        files=labeled,
        names_of_folders=True,
    )


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_rows(config: DataConfig) -> list[Row]:
    """Return the rows of the tables of a data set.

    Raises:
        SenetError: a file cannot be read, has no such columns, or rows without a class.
    """
    tables = tables_of(config.dataset)
    return [row for split, path in tables.items() for row in rows_of(path, split, config)]


def words_of(path: Path) -> tuple[list[list[str]], str]:
    """Return the rows of a CSV file, each in words, and what is between these.

    Raises:
        SenetError: it cannot be read.
    """
    try:
        text = decoded(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise SenetError(f"{path} cannot be read as CSV in UTF-8 ({first_line(error)}); save it so") from error
    said = SEPARATOR.match(text)
    separator = said[1] if said else max(SEPARATORS, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text[said.end() if said else 0 :], newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = [[]] if said else []
    try:
        rows += ([word.strip() for word in row] for row in reader)
    except csv.Error as error:
        number = len(rows) + 1
        raise SenetError(
            f'{path} cannot be read as CSV from row {number} on ({error}); close its quotes (")'
        ) from error
    return rows, separator


def rows_of(path: Path, split: str, config: DataConfig) -> list[Row]:
    """Return the rows of a CSV file, see `read_rows`; `split` is that of all rows, or empty."""
    read, separator = words_of(path)
    lines = [(number, row) for number, row in enumerate(read, 1) if any(row)]
    if not lines:
        raise SenetError(f"{path} is empty; expected a row for each picture, with its file and its class")
    heading = lines[0][1]
    if missing_for(Path(heading[0]).suffix) is None:
        lines = lines[1:]
    else:  # the first row is a picture already
        heading = [config.image_column, config.label_column][: len(heading)]
    image, label = column_of_images(path, heading, config), column_of_labels(path, heading, config)
    of_split = None if split else column_called(SPLIT_COLUMN, heading)
    of_valid = None if split or of_split is not None else column_called(VALID_COLUMN, heading)
    rows = []
    for number, row in lines:
        words = [*row, *[""] * (len(heading) - len(row))]
        if not words[image] or not words[label]:
            lacking = "picture" if not words[image] else "class"
            line = separator.join(row)
            raise SenetError(f"{path} has no {lacking} in row {number} ({line:.{SHOWN}}); fill it in or remove the row")
        named = split if of_split is None else split_named(words[of_split].lower())
        if of_valid is not None:
            if words[of_valid].lower() not in VALID:
                said = f"{words[of_valid]!r} as {VALID_COLUMN} in row {number}"
                raise SenetError(f"{path} has {said}; expected True or False")
            named = VALID[words[of_valid].lower()]
        rows.append(Row(name=words[image], label=words[label], split=named))
    if not rows:
        raise SenetError(f"{path} has no pictures, only a heading ({', '.join(heading)})")
    values = {row.label for row in rows}
    if len(values) > max(FEW, len(rows) / 2) and all(map(DECIMAL.fullmatch, values)):
        raise SenetError(
            f"{path} has {len(values)} different numbers in {len(rows):,} rows of the column {heading[label]!r}, which "
            "are no classes; write in which range each is, or name another column by data.label_column"
        )
    return rows


def column_called(name: str, heading: Sequence[str]) -> int | None:
    """Return the number of the column of a name, in these letters or, of one alone, in capitals; None if none is."""
    if name in heading:
        return heading.index(name)
    folded = [word.lower() for word in heading]
    return folded.index(name.lower()) if folded.count(name.lower()) == 1 else None


def split_named(word: str) -> str:
    """Return the name of a split, of those to train on always the same."""
    return TRAIN_SPLITS[0] if word in TRAIN_SPLITS else word


def column_of_images(path: Path, heading: Sequence[str], config: DataConfig) -> int:
    """Return the number of the column that names the pictures: the one of that name, else the first."""
    if (place := column_called(config.image_column, heading)) is not None:
        return place
    if config.image_column == DEFAULTS.image_column:
        return 0
    raise SenetError(f"{path} has the columns {', '.join(heading)}; data.image_column is {config.image_column!r}")


def column_of_labels(path: Path, heading: Sequence[str], config: DataConfig) -> int:
    """Return the number of the column with the classes: the one of that name, else the other one of two."""
    if (place := column_called(config.label_column, heading)) is not None:
        return place
    if config.label_column == DEFAULTS.label_column and len(heading) == 2:
        return 1 - column_of_images(path, heading, config)
    if len(heading) == 1:
        raise SenetError(f"{path} has only the column {heading[0]}; expected one with the classes too")
    raise SenetError(
        f"{path} has the columns {', '.join(heading)}; set data.label_column, which is {config.label_column!r}, to the "
        "one with the classes"
    )
