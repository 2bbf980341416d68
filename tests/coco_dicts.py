"""Ground truths and detections in COCO's form, drawn at random, and COCO's own program to compare with."""

import contextlib
import copy
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CATEGORY_IDS = (3, 7, 1, 90, 12)  # not sorted, not dense; the last has neither objects nor detections


def random_ground_truth(seed, num_images=12, objects=9):
    draw = np.random.default_rng(seed)
    images = [{"id": int(i), "width": 400, "height": 300} for i in draw.permutation(1000)[:num_images]]
    annotations = []
    for image in images[2:]:  # two images have no boxes
        for _ in range(draw.integers(0, objects + 1)):
            side = float(draw.choice([12, 32, 60, 96, 150]))  # 32 and 96 are the limits of the sizes
            x, y = draw.uniform(0, 250, 2).tolist()
            crowd = int(draw.random() < 0.15)
            annotations.append(
                {
                    "id": len(annotations),  # COCO's program takes the number 0 for no match
                    "image_id": image["id"],
                    "category_id": int(draw.choice(CATEGORY_IDS[:4])),
                    "bbox": [x, y, side, side],
                    "area": side * side * (1 if draw.random() < 0.5 else 0.7),  # as of a mask
                    "iscrowd": crowd,
                }
            )
    categories = [{"id": i, "name": f"class {i}"} for i in CATEGORY_IDS]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_detections(ground_truth, seed, share=0.8, wrong=3, crowded=True):
    """Moved copies of the objects and boxes at random; scores are rounded so that many are tied."""
    draw = np.random.default_rng(seed)
    found = []
    for each in ground_truth["annotations"]:
        for _ in range(draw.integers(0, 3) if draw.random() < share else 0):
            moved = np.asarray(each["bbox"]) * draw.normal(1, 0.04, 4)
            category = each["category_id"] if draw.random() < 0.9 else int(draw.choice(CATEGORY_IDS[:4]))
            found.append(detection(each["image_id"], category, moved.tolist(), round(draw.random(), 1)))
    for image in ground_truth["images"]:
        for _ in range(draw.integers(0, wrong + 1)):
            box = [*draw.uniform(0, 300, 2), *draw.uniform(1, 200, 2)]
            category = int(draw.choice(CATEGORY_IDS[:4]))
            found.append(detection(image["id"], category, list(map(float, box)), round(draw.random(), 1)))
    if crowded:  # more than a hundred detections of a class in one image
        image = ground_truth["images"][-1]["id"]
        for _ in range(130):
            box = [*draw.uniform(0, 300, 2), *draw.uniform(1, 200, 2)]
            found.append(detection(image, CATEGORY_IDS[0], list(map(float, box)), round(draw.random(), 2)))
    return [found[i] for i in draw.permutation(len(found))]


def detection(image_id, category_id, bbox, score):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def pycocotools_run(ground_truth, detections):
    """Evaluate by COCO's own program, with annotations numbered from 1."""
    truth = COCO()
    truth.dataset = copy.deepcopy(ground_truth)
    for i, annotation in enumerate(truth.dataset["annotations"]):
        annotation["id"] = i + 1
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(detections)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run
