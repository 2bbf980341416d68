"""Data sets of Hugging Face: of the hub, folders of parquet files, and what `save_to_disk` has written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from senet.data.config import DataConfig
from senet.data.folders import EVAL_SPLITS, class_folders, listed
from senet.data.images import ImageSplit, Split
from senet.data.readers import Rows
from senet.data.splitting import held_out, key_of
from senet.errors import HubError, MissingFileError, SenetError, first_line, needed_for, warn
from senet.terminal import tracked

HUB, PARQUET = "hf:", ".parquet"
WHOLE = "all"
"""What a data set without splits counts as: all to evaluate on, or to divide."""
SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` writes beside the splits, or beside a single one."""
METADATA = ("metadata.csv", "metadata.jsonl")
"""What names the pictures of a folder and their classes, for `load_dataset("imagefolder")`."""


def is_huggingface(dataset: str) -> bool:
    """Return whether a data set is one that the library `datasets` reads."""
    folder = Path(dataset)
    if dataset.startswith(HUB) or not folder.is_dir():
        return dataset.startswith(HUB) or (folder.suffix == PARQUET and folder.is_file())
    if any((folder / name).is_file() for name in SAVED):
        return True
    if any(folder.glob(f"[!.]*{PARQUET}")) or any(folder.glob(f"[!.]*/[!.]*{PARQUET}")):
        return True
    parts = [part for part in (folder, *(folder / name for name in ("train", *EVAL_SPLITS))) if part.is_dir()]
    described = [part for part in parts if any((part / name).is_file() for name in METADATA)]
    return bool(described) and len(class_folders(described[0])) < 2


def kind_of(error: BaseException | None) -> type[SenetError]:
    """Return the class of errors for a failure to open a data set: missing file, unreachable server, or another."""
    if isinstance(error, FileNotFoundError):
        return MissingFileError
    return HubError if isinstance(error, ConnectionError | URLError | TimeoutError) else SenetError


def load_splits(dataset: str) -> Mapping[str, Any]:
    """Load a data set, and return its splits by name; of a single one that was saved, or a file, `WHOLE`.

    Raises:
        SenetError: it cannot be loaded.
    """
    with needed_for(f"the data set {dataset!r}"):
        import datasets

    folder = Path(dataset)
    try:
        if any((folder / name).is_file() for name in SAVED):
            saved: Any = datasets.load_from_disk(dataset)
            return {WHOLE: saved} if isinstance(saved, datasets.Dataset) else saved
        if folder.suffix == PARQUET and folder.is_file():
            classes_in([dataset])
            return {WHOLE: datasets.load_dataset("parquet", data_files=dataset, split="train")}
        if folder.is_dir():
            files = datasets.load_dataset_builder(dataset).config.data_files or {}
            parquet = all(file.endswith(PARQUET) for of_split in files.values() for file in of_split)
            if parquet and len({str(classes_in(of_split)) for of_split in files.values()}) > 1:
                # loaded together, the labels of all splits would get the names that the first file has for them
                return {
                    str(split): datasets.load_dataset("parquet", data_files=list(of_split), split="train")
                    for split, of_split in files.items()
                }
        loaded: Mapping[str, Any] = datasets.load_dataset(dataset.removeprefix(HUB))
        return loaded
    except SenetError:
        raise
    except Exception as error:  # the hub, pyarrow and fsspec raise kinds without a common parent
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        remedy = "check the id and the connection"
        if not dataset.startswith(HUB):
            damaged = damaged_below(folder)
            remedy = f"restore {damaged}, which is damaged" if damaged else "check what is in it"
        raise kind_of(error)(f"{dataset} could not be loaded ({reason}); {remedy}") from error


def classes_in(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of the classes in the parquet files of one split, by column; none of columns without names.

    Raises:
        SenetError: a file is damaged, or names its classes otherwise than the first.
    """
    import datasets
    import pyarrow.parquet

    found: list[dict[str, list[str]]] = []
    for file in files:
        try:
            features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
        except (OSError, ValueError) as error:
            raise SenetError(f"{file} cannot be read as parquet ({first_line(error)}); restore it") from error
        found.append({name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)})
        for column, names in found[-1].items():
            if found[0].get(column) != names:
                raise SenetError(
                    f"{file} numbers the classes of its column {column!r} otherwise ({listed(names)}) than {files[0]}; "
                    "cast all to one ClassLabel, and write them again"
                )
    return found[0]


def damaged_below(folder: Path) -> Path | None:
    """Return the first file of Arrow's in a folder and the folders below it that cannot be read; None if all can."""
    import pyarrow

    for file in sorted(folder.rglob("*.arrow")):
        try:
            with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
                for _ in stream:
                    pass
        except (OSError, ValueError):
            return file
    return None


def has_evaluation_split(dataset: str) -> bool:
    """Return whether a data set has images to evaluate on."""
    return any(split in EVAL_SPLITS for split in load_splits(dataset))


def open_huggingface(config: DataConfig, split: Split) -> ImageSplit:
    """Open a data set of the Hugging Face hub ("hf:OWNER/NAME"), or a local one that the library `datasets` reads."""
    name, splits = config.dataset.removeprefix(HUB), load_splits(config.dataset)
    import datasets

    divided, own = config.val_fraction is not None, next((s for s in EVAL_SPLITS if s in splits), None)
    if divided and own is not None:
        raise SenetError(f"data.val_fraction has no effect on {name}, which has the split {own}; leave it out")
    wanted: tuple[str, ...] = ("train",) if split == "train" or divided else EVAL_SPLITS
    found = next((s for s in wanted if s in splits), None)
    if found is None and WHOLE in splits and (divided or split == "eval"):
        found = WHOLE
    if found is None:
        whole = next((s for s in ("train", WHOLE) if s in splits), None)
        remedy = f"; set data.val_fraction, such as 0.2, to hold out a share of {whole}" if whole else ""
        raise SenetError(f"{name} has the splits {', '.join(splits)}; expected one of {', '.join(wanted)}{remedy}")
    source = f"{name} ({found})"
    dataset = splits[found]
    if len(dataset) == 0:  # before its columns are cast, which fails on no rows
        raise SenetError(f"{source} has no images")
    for option, column in (("image_column", config.image_column), ("label_column", config.label_column)):
        if column not in dataset.column_names:
            raise SenetError(
                f"{source} has the columns {', '.join(dataset.column_names)}; set data.{option}, which is {column!r}"
            )
    labels, names = read_labels(dataset, splits.get("train", dataset), config.label_column, source)
    check_labels(labels, names, source, every_class=split == "train")
    try:
        dataset = dataset.cast_column(config.image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # the last two: pyarrow's
        raise SenetError(f"column {config.image_column!r} of {source} does not hold images") from error
    rows = Rows(dataset.select_columns([config.image_column]), labels)
    images = ImageSplit(source=source, size=len(dataset), class_names=names, read_image=rows)
    if config.val_fraction is None:
        return images
    take = held_out_rows(images, rows, config.val_fraction, config.split_seed)
    chosen = np.flatnonzero(take == (split == "eval"))
    kept = Rows(rows.images.select(chosen), labels[chosen])
    part = replace(images, size=len(chosen), read_image=kept, rows=chosen.tolist())
    if split == "train":
        return part
    return replace(part, source=f"{source}, held out", held_out=tuple(map(str, chosen.tolist())))


def held_out_rows(images: ImageSplit, rows: Rows, fraction: float, seed: int) -> np.ndarray:
    """Return which rows of a table are held out, (N,) bool, by the contents of their images, see `held_out`."""
    keys, step = [], 1000
    for first in tracked(range(0, len(images), step), f"Dividing {images.source}", -(-len(images) // step)):
        chunk = range(first, min(first + step, len(images)))
        contents = (content for content, _ in rows.contents(chunk))
        keys += [key_of(content or b"row %d" % row, seed) for row, content in zip(chunk, contents, strict=True)]
    groups = np.unique(np.array(keys), return_inverse=True)[1]
    return held_out(keys, groups, rows.labels, fraction, images.name)


def read_labels(dataset: Any, train: Any, column: str, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels (N,) of a split and the names of the classes, counted in the training images.

    Texts are names of classes, in alphabetical order; numbers have names where the data set gives them.

    Raises:
        SenetError: the labels are neither class numbers nor texts.
    """
    if getattr(dataset.features[column], "dtype", "") in ("string", "large_string"):
        return read_names(dataset[column][:], train[column][:], column, source)
    values, in_training = (part.with_format("numpy")[column][:] for part in (dataset, train))
    for labels in (values, in_training):
        if len(labels) and not np.issubdtype(labels.dtype, np.integer):
            raise SenetError(
                f"column {column!r} of {source} holds {labels.dtype}; expected class numbers from 0, or names"
            )
    names = getattr(dataset.features[column], "names", None)
    if names is None:  # counted in the training images: others need not have images of the last classes
        names = [str(i) for i in range(int(in_training.max(initial=-1)) + 1)]
    return values.astype(np.int64), tuple(names)


def read_names(
    texts: Sequence[str | None], in_training: Sequence[str | None], column: str, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels (N,) of images whose classes are named by texts, and the names in alphabetical order.

    Raises:
        SenetError: an image has no class, or one that is not among the training images.
    """
    known = sorted({text for text in in_training if text is not None})
    place_of = {name: place for place, name in enumerate(known)}
    without = [row for row, text in enumerate(texts) if text is None]
    if without:
        rows = (
            f"row {without[0]:,}" if len(without) == 1 else f"{len(without):,} rows, the first of them {without[0]:,}"
        )
        raise SenetError(f"column {column!r} of {source} is empty in {rows} (from 0); fill in their classes")
    lacking = sorted({text for text in texts if text is not None} - set(known))
    if lacking:
        raise SenetError(f"{source} has images of {listed(lacking)}, of which the training images have none")
    return np.array([place_of[text] for text in texts if text is not None], dtype=np.int64), tuple(known)


def check_labels(labels: np.ndarray, names: tuple[str, ...], source: str, every_class: bool) -> None:
    """Raise a SenetError for a label out of range or, with `every_class`, a class without images; else warn."""
    num_classes = len(names)
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise SenetError(f"{source} has labels from {labels.min()} to {labels.max()}; expected 0 to {num_classes - 1}")
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if every_class and len(missing):
        raise SenetError(f"{source} has no image of class {missing[0]}; add some or renumber the labels")
    if len(missing):
        warn(f"{source} has no images of {listed([names[k] for k in missing])}; they are not measured")
