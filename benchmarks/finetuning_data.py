"""The pictures of `finetuning.py`: folders of classes, from CIFAR-10's parquet files and from the boxes of COCO photos.

Every folder has train/ and val/, which the contestants see, and test/, which only the judge reads. val/ holds a fifth
of a class's pictures, at least one, chosen by the seed; it is the same for all contestants.
"""

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PRETRAINED = range(5)
"""The classes of CIFAR-10 that the networks are pretrained on; they are fine-tuned to the others."""
SIDE = 48
"""Of the boxes of photos: the least width and height, in pixels."""
ENOUGH = 3
"""Crops of a class that the photos for training and those for testing each have at least."""
Picture = tuple[str, str, bytes]
"""Class, name of the file, and its bytes."""


def pretraining_data(cifar: Path, folder: Path) -> Path:
    """Write the parquet files of the classes that the networks are pretrained on; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = pq.read_table(cifar / f"{split}.parquet")
        kept = rows.filter(pa.array(np.isin(rows["label"], PRETRAINED)))
        pq.write_table(kept, folder / f"{split}.parquet")
    return folder


def cifar_folder(cifar: Path, folder: Path, images: int, seed: int) -> Path:
    """Write a folder of the other five classes.

    Args:
        cifar: folder of CIFAR-10's parquet files, whose images are JPEG files already.
        folder: to write to; kept where it is complete.
        images: of a class, for training and validation together.
        seed: chooses them.
    """
    classes = [label for label in range(len(NAMES)) if label not in PRETRAINED]
    random = np.random.default_rng([seed, images])
    chosen: list[int] = []
    train, test = (pq.read_table(cifar / f"{split}.parquet") for split in ("train", "test"))
    for label in classes:
        chosen += random.permutation(np.flatnonzero(train["label"].to_numpy() == label))[:images].tolist()
    tested = np.flatnonzero(np.isin(test["label"].to_numpy(), classes)).tolist()
    return write_folder(folder, pictures_of(train, chosen), pictures_of(test, tested), seed)


def pictures_of(table: pa.Table, rows: Iterable[int]) -> list[Picture]:
    """Return these rows of a table of CIFAR-10 as pictures."""
    images, labels = table["image"].combine_chunks().field("bytes"), table["label"].to_numpy()
    return [(NAMES[labels[row]], f"{row:05}.jpg", images[row].as_py()) for row in rows]


def crops(photos: Path) -> dict[str, list[Picture]]:
    """Cut the boxes of at least `SIDE` pixels each way out of the photos, of classes that have `ENOUGH` of both kinds.

    Args:
        photos: folder with train.json, val.json and images/.

    Returns:
        The crops of "train" and "val".
    """
    found = {}
    for split in ("train", "val"):
        told = json.loads((photos / f"{split}.json").read_text())
        names = {kind["id"]: kind["name"] for kind in told["categories"]}
        files = {image["id"]: image["file_name"] for image in told["images"]}
        large = [box for box in told["annotations"] if min(box["bbox"][2:]) >= SIDE and not box["iscrowd"]]
        found[split] = [(names[box["category_id"]], files[box["image_id"]], box) for box in large]
    counts = {split: Counter(name for name, *_ in boxes) for split, boxes in found.items()}
    kept = {name for name in counts["train"] if min(count[name] for count in counts.values()) >= ENOUGH}
    paths = {path.name: path for path in (photos / "images").rglob("*.jpg")}
    return {
        split: [(name, f"{box['id']}.png", cut(paths[file], box["bbox"])) for name, file, box in boxes if name in kept]
        for split, boxes in found.items()
    }


def cut(photo: Path, box: Sequence[float]) -> bytes:
    """Return the box (left, top, width, height) of a photo as a PNG file."""
    left, top, width, height = box
    with Image.open(photo) as image:
        crop = image.convert("RGB").crop((round(left), round(top), round(left + width), round(top + height)))
    file = io.BytesIO()
    crop.save(file, "png")
    return file.getvalue()


def crops_folder(photos: Path, folder: Path, seed: int) -> Path:
    """Write a folder of crops: those of train.json's photos to train on, those of val.json's to test on.

    Args:
        photos: see `crops`.
        folder: to write to; kept where it is complete.
        seed: chooses those for validation.
    """
    if (folder / "test").is_dir():
        return folder
    found = crops(photos)
    return write_folder(folder, found["train"], found["val"], seed)


def write_folder(folder: Path, train: Sequence[Picture], test: Sequence[Picture], seed: int) -> Path:
    """Write train/, val/ and test/ under a folder, the last one last; return the folder."""
    if (folder / "test").is_dir():
        return folder
    if folder.exists():  # it was cut short
        shutil.rmtree(folder)
    random = np.random.default_rng(seed)
    held_out: set[str] = set()
    for name in sorted({name for name, *_ in train}):
        files = sorted(file for own, file, _ in train if own == name)
        held_out |= {f"{name}/{file}" for file in random.permutation(files)[: max(1, round(len(files) / 5))]}
    for own, file, data in train:
        write(folder / ("val" if f"{own}/{file}" in held_out else "train") / own / file, data)
    for own, file, data in test:
        write(folder / "test.part" / own / file, data)
    (folder / "test.part").rename(folder / "test")
    return folder


def write(path: Path, data: bytes) -> None:
    """Write a file, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
