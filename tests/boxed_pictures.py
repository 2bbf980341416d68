"""Small data sets of pictures with boxes, drawn by code, in the forms of COCO, Pascal VOC and YOLO."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("disk", "square")
COLORS = ((230, 40, 40), (40, 60, 230))


def draw(rng, width, height, number):
    """Return a picture of disks and squares on noise, with their boxes x1 y1 x2 y2 and their classes from 0."""
    pixels = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    boxes, classes = [], []
    for place in range(number):
        side = int(rng.integers(14, 24))
        x = int(rng.integers(0, width // number - side)) + place * (width // number)
        y = int(rng.integers(0, height - side))
        kind = int(rng.integers(len(NAMES)))
        inside = (columns >= x) & (columns < x + side) & (rows >= y) & (rows < y + side)
        if kind == 0:
            center = (side - 1) / 2
            inside &= (columns - x - center) ** 2 + (rows - y - center) ** 2 <= (side / 2) ** 2
        pixels[inside] = COLORS[kind]
        boxes.append((x, y, x + side, y + side))
        classes.append(kind)
    return Image.fromarray(pixels), boxes, classes


def pictures(seed, count, wide=96, high=64):
    """Yield pictures, every third of them upright."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        width, height = (high, wide) if number % 3 == 2 else (wide, high)
        yield draw(rng, width, height, 1 + number % 2)


def write_coco(root: Path, train=8, val=4, ids=(3, 7)):
    """Write train.json, val.json and images/, with categories of these ids; return the folder."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        images, annotations = [], []
        for number, (picture, boxes, classes) in enumerate(pictures(seed, count), 1):
            name = f"{split}_{number}.png"
            picture.save(root / "images" / name)
            width, height = picture.size
            images.append({"id": 100 * seed + number, "file_name": name, "width": width, "height": height})
            for (x1, y1, x2, y2), kind in zip(boxes, classes, strict=True):
                box = [x1, y1, x2 - x1, y2 - y1]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 100 * seed + number,
                        "category_id": ids[kind],
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": number, "name": name} for number, name in zip(ids, NAMES, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def write_voc(root: Path, train=4, val=2):
    """Write Annotations/, JPEGImages/ and ImageSets/Main/; corners are from 1 and inclusive. Return the folder."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        stems = []
        for number, (picture, boxes, classes) in enumerate(pictures(seed, count), 1):
            stem = f"{split}_{number}"
            stems.append(stem)
            picture.save(root / "JPEGImages" / f"{stem}.png")
            objects = "".join(
                f"<object><name>{NAMES[kind]}</name><difficult>{place}</difficult><bndbox><xmin>{x1 + 1}</xmin>"
                f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for place, ((x1, y1, x2, y2), kind) in enumerate(zip(boxes, classes, strict=True))
            )
            width, height = picture.size
            (root / "Annotations" / f"{stem}.xml").write_text(
                f"<annotation><filename>{stem}.png</filename><size><width>{width}</width><height>{height}</height>"
                f"<depth>3</depth></size>{objects}</annotation>"
            )
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return root


def write_yolo(root: Path, train=4, val=2):
    """Write data.yaml, images/train, labels/train and the same for val; return the folder."""
    names = "".join(f"\n  {number}: {name}" for number, name in enumerate(NAMES))
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:{names}\n")
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        for name in ("images", "labels"):
            (root / name / split).mkdir(parents=True)
        for number, (picture, boxes, classes) in enumerate(pictures(seed, count), 1):
            picture.save(root / "images" / split / f"{number}.png")
            width, height = picture.size
            lines = [
                f"{kind} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}"
                for (x1, y1, x2, y2), kind in zip(boxes, classes, strict=True)
            ]
            (root / "labels" / split / f"{number}.txt").write_text("\n".join(lines))
    return root
