"""Images with boxes: what is known of each before its pixels are read, and the splits of a data set."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from senet.data.grouping import decoded
from senet.errors import SenetError, counted

SMALLEST = 0.01
"""Sides, in pixels, below which a box has no area: scaled, its ends could be one number in float32."""
ROUNDING = 1.5
"""Pixels by which a box may stick out of its image without being counted: annotators' tools round."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """An image and its boxes.

    Args:
        image_id: a number, as in the data's own files where these have numbers.
        file: path of the image.
        width: of the image in pixels, to which the boxes refer.
        height: likewise.
        boxes: (n, 4) float64, x1 y1 x2 y2 in pixels; inside the image and not empty.
        labels: (n,) int64, from 1.
        iscrowd: (n,) bool: several objects in one box, or objects that need not be found; not trained on, and in the
            evaluation neither missed nor wrong.
        area: (n,) float64, of the objects in square pixels, by which COCO tells small from large.
        given: the same with all boxes as they are in the data, if some were cut or left out, and the evaluation takes
            them as they are; else None.
    """

    image_id: int
    file: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    iscrowd: np.ndarray
    area: np.ndarray
    given: "Record | None" = None

    def without(self, left_out: np.ndarray) -> "Record":
        """Return the same image without some boxes, (n,) bool."""
        kept = ~left_out
        return replace(
            self,
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            iscrowd=self.iscrowd[kept],
            area=self.area[kept],
            given=None,
        )

    def relabeled(self, label_of: np.ndarray) -> "Record":
        """Return the same image with the label `label_of[k]` for each label k."""
        given = None if self.given is None else self.given.relabeled(label_of)
        return replace(self, labels=label_of[self.labels], given=given)


@dataclass(frozen=True, kw_only=True)
class DetectionSplit:
    """The training or evaluation images of a data set.

    Args:
        source: its name in messages.
        records: its images.
        class_names: of the labels 1, 2, ...
        category_ids: the data's own numbers of these classes.
        notes: what was left out or changed, and how often.
        held_out: names of the image files, if they were held out of the training images.
        kinds: numbers of categories without boxes that were left out as the kind of the others, by their names.
    """

    source: str
    records: Sequence[Record]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()
    held_out: tuple[str, ...] | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def counts(self) -> np.ndarray:
        """Number of boxes of each class, without crowds, (C,)."""
        labels = [record.labels[~record.iscrowd] for record in self.records]
        return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(self.class_names) + 1)[1:]

    @property
    def digest(self) -> str:
        """Return what differs where images, their order, boxes or labels do: twelve hexadecimal digits."""
        found = hashlib.sha256()
        for each in self.records:
            found.update(f"{each.image_id} {Path(each.file).name} {each.width} {each.height}\n".encode())
            for values in (each.boxes, each.labels, each.iscrowd):
                found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()[:12]

    def ground_truth(self) -> dict[str, Any]:
        """Return the boxes in the form of COCO's json, with the data's own ids of images and categories."""
        annotations: list[dict[str, Any]] = []
        for record in (each.given or each for each in self.records):
            columns = (record.boxes.tolist(), record.labels.tolist(), record.iscrowd.tolist(), record.area.tolist())
            for (x1, y1, x2, y2), label, iscrowd, area in zip(*columns, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": record.image_id,
                        "category_id": self.category_ids[label - 1],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": area,
                        "iscrowd": int(iscrowd),
                    }
                )
        images = [
            {"id": record.image_id, "file_name": record.file, "width": record.width, "height": record.height}
            for record in self.records
        ]
        names = zip(self.category_ids, self.class_names, strict=True)
        return {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in names],
        }

    def for_training(self) -> "DetectionSplit":
        """Return the split as it is trained on: without crowds, then without images that have no boxes, as in COCO.

        Source: pycocotools' users since Detectron, detectron/datasets/roidb.py, `filter_for_training`.

        Raises:
            SenetError: no image has a box.
        """
        crowds = sum(int(record.iscrowd.sum()) for record in self.records)
        single = [record.without(record.iscrowd) for record in self.records]
        kept = [record for record in single if len(record.labels)]
        if not kept:
            raise SenetError(f"{self.source} has no boxes to train on; name another split by data.train")
        notes = list(self.notes)
        if crowds:
            notes.append(f"{self.source}: {boxes_in_words(crowds)} of crowds not trained on")
        if len(kept) < len(single):
            left_out = counted(len(single) - len(kept), "image")
            notes.append(f"{self.source}: {left_out} without boxes left out of the training")
        return replace(self, records=kept, notes=tuple(notes))


@dataclass
class Cleaning:
    """Checks boxes as they are read, and counts what is left out or changed.

    Args:
        source: the name of the data in messages.
        keep_given: keep boxes as they are for the evaluation, as COCO's own program takes them.
    """

    source: str
    keep_given: bool = False
    found: Counter[str] = field(default_factory=Counter)

    def record(
        self,
        image_id: int,
        file: str,
        size: tuple[int, int],
        boxes: Iterable[Sequence[float]],
        labels: Iterable[int],
        names: Sequence[str],
        iscrowd: Iterable[bool] | None = None,
        area: Iterable[float | None] | None = None,
    ) -> Record:
        """Return the record of an image, without boxes of no area and with boxes cut at the image's border.

        Args:
            image_id: see `Record`.
            file: of the image.
            size: width and height in pixels.
            boxes: x1 y1 x2 y2 of each.
            labels: of each, from 1.
            names: of each box, for messages.
            iscrowd: of each; None for none.
            area: of each; None, or a None, for that of the box.

        Raises:
            SenetError: a box is not of numbers, has a negative side or lies outside the image.
        """
        width, height = size
        given = np.array(list(boxes), dtype=np.float64).reshape(-1, 4)
        for box, name in zip(given, names, strict=True):
            self.check(box, f"{name} of {file}", width, height)
        cut = given.clip(0, [width, height, width, height])
        self.found["cut"] += int((np.abs(cut - given) > ROUNDING).any(1).sum())
        sides = cut[:, 2:] - cut[:, :2]
        empty = (sides < SMALLEST).any(1)
        self.found["empty"] += int(empty.sum())
        areas = [None] * len(cut) if area is None else list(area)
        of_boxes = (given[:, 2:] - given[:, :2] if self.keep_given else sides).prod(1)
        record = Record(
            image_id=image_id,
            file=file,
            width=width,
            height=height,
            boxes=cut,
            labels=np.array(list(labels), dtype=np.int64),
            iscrowd=np.array([False] * len(cut) if iscrowd is None else list(iscrowd), dtype=bool),
            area=np.array([b if a is None else a for a, b in zip(areas, of_boxes, strict=True)], dtype=np.float64),
        )
        differs = self.keep_given and (empty.any() or not np.array_equal(cut, given))
        return replace(record.without(empty), given=replace(record, boxes=given) if differs else None)

    def check(self, box: np.ndarray, name: str, width: int, height: int) -> None:
        """Raise a SenetError for a box that cannot be meant."""
        x1, y1, x2, y2 = box.tolist()
        shown = ", ".join(f"{value:g}" for value in (x1, y1, x2, y2))
        if not np.isfinite(box).all():
            raise SenetError(f"{self.source}: {name} has the corners {shown}; expected numbers")
        if x2 < x1 or y2 < y1:
            raise SenetError(
                f"{self.source}: {name} has a negative side (corners {shown}); expected x1 <= x2, y1 <= y2"
            )
        if x1 >= width + ROUNDING or y1 >= height + ROUNDING or x2 <= -ROUNDING or y2 <= -ROUNDING:
            raise SenetError(
                f"{self.source}: {name} lies outside of its {width} x {height} pixels (corners {shown}); correct "
                "the box or the image's size"
            )

    def notes(self) -> tuple[str, ...]:
        """Return what was left out or changed, in sentences."""
        found = []
        if number := self.found["empty"]:
            counted_so = ", though not by the evaluation, as in COCO's own program" if self.keep_given else ""
            found.append(f"{self.source}: {boxes_in_words(number)} without area left out{counted_so}")
        if number := self.found["cut"]:
            cut_so = ", though not for the evaluation, as in COCO's own program" if self.keep_given else ""
            found.append(f"{self.source}: {boxes_in_words(number)} cut at the border of the image{cut_so}")
        return tuple(found)


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file, in UTF-8 with a byte order mark or without.

    Raises:
        SenetError: it cannot be read.
    """
    try:
        return decoded(file.read_bytes()).splitlines()
    except (OSError, UnicodeError) as error:
        raise SenetError(f"{file} cannot be read as text ({error}); replace it") from error


def boxes_in_words(number: int) -> str:
    """Return a number of boxes in words."""
    return f"{number:,} {'box' if number == 1 else 'boxes'}"
