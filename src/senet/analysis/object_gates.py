"""What the gates of a detector do on objects of different classes and sizes.

A gate of a detector is computed from the whole image. To see what it does on one kind of object, each object is cut out
of its picture and shown to the trunk alone: the smallest square around its box, as far as it is inside the picture,
resized to one size for all. What is recorded is therefore what the gates would be if the object filled the image.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.analysis.gates import GateBlock, find_blocks, gate_hooks
from senet.analysis.recording import BINS, BlockRecord, Recording, Tally
from senet.detection.evaluation import AREAS, objects_of
from senet.errors import SenetError
from senet.nn.modes import borrowed, device_of, dtype_of

SIZES = tuple(size for size in AREAS if size != "all")
PER_CLASS = 50
"""Objects of a class that are looked at, at equal distances among all of it."""
SIDE = 224
"""Pixels of the crops of a trunk that does not state a size of its own."""
AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class ObjectGates:
    """The gates of a detector's trunk on objects that were cut out.

    Args:
        by_class: with the classes of the objects.
        by_size: with "small", "medium" and "large", by COCO's areas in the picture as it was given.
        side: of the crops in pixels.
    """

    by_class: Recording
    by_size: Recording
    side: int


@torch.no_grad()
def record_object_gates(
    model: nn.Module,
    ground_truth: Mapping[str, Any],
    picture_of: Callable[[int], Image.Image],
    *,
    per_class: int = PER_CLASS,
    side: int | None = None,
) -> ObjectGates:
    """Record the gates of a detector's trunk on objects that are cut out of their pictures, see the module.

    Cost: one pass of the trunk over at most `per_class` crops of each class.

    Args:
        model: a detector with SE blocks in its `backbone`; it is left as it was.
        ground_truth: objects, as COCO's json.
        picture_of: reads the RGB picture of an image, by its number.
        per_class: see `PER_CLASS`.
        side: of the crops in pixels; None for what the trunk was trained on, or 224.

    Raises:
        SenetError: the trunk has no SE blocks, or there are no objects.
    """
    trunk = model.get_submodule("backbone")
    if side is None:
        side = int(getattr(getattr(model, "preprocessing", None), "image_size", SIDE))
    device, dtype = device_of(model), dtype_of(model)
    blocks = find_blocks(trunk, torch.zeros(1, 3, side, side, device=device, dtype=dtype))
    chosen = some_objects(ground_truth, per_class)
    if not chosen:
        raise SenetError("the ground truth has no objects to look at the gates of")
    categories = sorted(ground_truth["categories"], key=lambda each: each["id"])
    places = {category["id"]: k for k, category in enumerate(categories)}
    labels = {
        "class": torch.tensor([places[each["category_id"]] for each in chosen], device=device),
        "size": torch.tensor([size_of(each) for each in chosen], device=device),
    }
    names = {"class": tuple(str(category["name"]) for category in categories), "size": SIZES}
    tallies = {by: {b.name: Tally(b, len(names[by]), BINS, device) for b in blocks} for by in names}
    done = 0

    def on_gates(block: GateBlock, gates: Tensor) -> None:
        for by, of_blocks in tallies.items():
            of_blocks[block.name].add(gates, labels[by][done : done + len(gates)])

    with borrowed(model), gate_hooks(trunk, blocks, on_gates):
        crops_left = crops_of(chosen, picture_of, side)
        while crops := list(islice(crops_left, AT_ONCE)):
            trunk(normalized(torch.stack(crops).to(device, dtype), model))
            done += len(crops)
    counts = {by: torch.bincount(labels[by], minlength=len(names[by])) for by in names}
    records = {by: tuple(tally.record(counts[by]) for tally in tallies[by].values()) for by in names}
    of_class, of_size = (recording(records[by], names[by]) for by in ("class", "size"))
    return ObjectGates(by_class=of_class, by_size=of_size, side=side)


def recording(records: tuple[BlockRecord, ...], names: tuple[str, ...]) -> Recording:
    """Return records with the names of what they distinguish."""
    return Recording(blocks=records, class_names=names, provenance={"images": "objects cut out of their pictures"})


def some_objects(ground_truth: Mapping[str, Any], per_class: int) -> list[Mapping[str, Any]]:
    """Return some objects of each class, at equal distances, those of one picture after each other."""
    by_class = defaultdict(list)
    for each in objects_of(ground_truth):
        by_class[each["category_id"]].append(each)
    chosen = [
        each for objects in by_class.values() for each in objects[:: -(-len(objects) // per_class)] if has_area(each)
    ]
    return sorted(chosen, key=lambda each: each["image_id"])


def has_area(annotation: Mapping[str, Any]) -> bool:
    """Return whether a box has an area."""
    _, _, width, height = annotation["bbox"]
    return bool(width > 0 and height > 0)


def size_of(annotation: Mapping[str, Any]) -> int:
    """Return the place in `SIZES` of an object."""
    _, _, width, height = annotation["bbox"]
    area = annotation.get("area", width * height)
    return next((i for i, size in enumerate(SIZES) if area <= AREAS[size][1]), len(SIZES) - 1)


def crops_of(
    objects: Sequence[Mapping[str, Any]], picture_of: Callable[[int], Image.Image], side: int
) -> Iterator[Tensor]:
    """Yield the crop of each object, (3, side, side) in [0, 1]; each picture is read once."""
    shown, picture = None, None
    for each in objects:
        if picture is None or each["image_id"] != shown:
            shown, picture = each["image_id"], picture_of(each["image_id"])
        crop = picture.crop(square_around(each["bbox"], picture.size))
        pixels: Tensor = v2.functional.pil_to_tensor(crop.resize((side, side), Image.Resampling.BILINEAR))
        yield pixels / 255


def square_around(bbox: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the smallest square around a box (x, y, width, height), as far as it is inside a picture.

    Args:
        bbox: with an area.
        size: width and height of the picture.
    """
    x, y, width, height = bbox
    half = max(width, height) / 2
    middle = (x + width / 2, y + height / 2)
    starts = [min(max(0, round(m - half)), limit - 1) for m, limit in zip(middle, size, strict=True)]
    ends = [min(limit, max(start + 1, round(m + half))) for m, start, limit in zip(middle, starts, size, strict=True)]
    return starts[0], starts[1], ends[0], ends[1]


def normalized(images: Tensor, model: nn.Module) -> Tensor:
    """Normalize images (N, 3, H, W) in [0, 1] as the detector does."""
    transform: Any = model.get_submodule("transform")
    mean, std = (
        torch.as_tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        for values in (transform.image_mean, transform.image_std)
    )
    return (images - mean) / std
