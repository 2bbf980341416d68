"""COCO's figures: equal to COCO's own program, also where it is subtle."""

import copy
import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_convert

from coco_dicts import CATEGORY_IDS, detection, pycocotools_run, random_detections, random_ground_truth
from senet.detection.evaluation import (
    BoxFigures,
    coco_results,
    curves_of,
    detections_of,
    evaluate_detector,
    score_detections,
)
from senet.errors import NotFiniteError, SenetError
from senet.processes import Team

STATS = [field.name for field in fields(BoxFigures)]  # in the order of pycocotools' `stats`


def assert_equal_to_pycocotools(found, run):
    for name, stat in zip(STATS, run.stats, strict=True):
        value = getattr(found, name)
        assert (-1 if value is None else value / 100) == pytest.approx(stat, abs=1e-12, rel=0), name


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_pycocotools(seed):
    truth = random_ground_truth(seed)
    found = random_detections(truth, seed)
    assert any(each["iscrowd"] for each in truth["annotations"])
    before = copy.deepcopy((truth, found))
    evaluation = score_detections(truth, found)
    assert (truth, found) == before
    run = pycocotools_run(truth, found)
    assert_equal_to_pycocotools(evaluation, run)
    assert evaluation.num_objects == sum(not each["iscrowd"] for each in truth["annotations"])
    assert 0 < evaluation.ap < evaluation.ap50 < 100


@pytest.mark.parametrize("seed", range(3))
def test_classes_are_those_of_pycocotools(seed):
    truth = random_ground_truth(seed)
    found = random_detections(truth, seed)
    evaluation = score_detections(truth, found)
    precision = pycocotools_run(truth, found).eval["precision"]
    assert [each.category_id for each in evaluation.classes] == sorted(CATEGORY_IDS)
    for k, each in enumerate(evaluation.classes):
        if each.category_id == CATEGORY_IDS[-1]:
            assert (each.figures, each.num_objects, each.num_detections) == (None, 0, 0)
            continue
        assert each.figures.ap / 100 == pytest.approx(precision[:, :, k, 0, -1].mean(), abs=1e-12)
        assert each.figures.ap50 / 100 == pytest.approx(precision[0, :, k, 0, -1].mean(), abs=1e-12)
        assert each.figures.ap75 / 100 == pytest.approx(precision[5, :, k, 0, -1].mean(), abs=1e-12)
        assert each.num_detections == sum(one["category_id"] == each.category_id for one in found)
    of_classes = [each.figures.ap for each in evaluation.classes if each.figures]
    assert evaluation.ap == pytest.approx(np.mean(of_classes))


def test_curves_are_those_of_pycocotools():
    truth = random_ground_truth(9)
    found = random_detections(truth, 9)
    curves, run = curves_of(truth, found), pycocotools_run(truth, found)
    for name, mine in (("precision", curves.precision_TRKAM), ("recall", curves.recall_TKAM)):
        assert np.abs(mine - run.eval[name]).max() < 1e-12
    assert (curves.recalls == run.params.recThrs).all()


def test_an_iou_of_exactly_one_half_counts():
    """Thresholds rounded to float32 would miss it: the nearest float32 of 0.55, 0.6, ... may be larger."""
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 100, 100]}],  # neither area nor iscrowd
    }
    for width, thresholds in ((50, 1), (60, 3), (95, 10)):
        found = score_detections(truth, [detection(1, 1, [0, 0, width, 100], 1.0)])
        assert found.ap == pytest.approx(10 * thresholds)
    assert (found.ap_small, found.ap_large) == (None, pytest.approx(100))


def test_no_detections_are_zero():
    truth = random_ground_truth(1)
    found = score_detections(truth, [])
    assert {found.ap, found.ap50, found.ar1, found.ar100} == {0.0}
    assert found.num_detections == 0
    assert found.classes[0].figures.ap == 0


def test_nothing_to_find_is_said():
    truth = random_ground_truth(1)
    crowds = [{**each, "iscrowd": 1} for each in truth["annotations"]]
    for annotations in ([], crowds):
        with pytest.raises(SenetError, match=r"ground truth of 12 images has no objects of its 5 categories; "):
            score_detections({**truth, "annotations": annotations}, [])
    with pytest.raises(SenetError, match=r"ground_truth has no list 'annotations'"):
        score_detections({"images": [], "categories": []}, [])


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"image_id": -5}, SenetError, r"detection number 1 is of image -5, which the ground truth lacks"),
        ({"category_id": 2}, SenetError, r"detection number 1 is of category 2, which"),
        ({"score": float("nan")}, NotFiniteError, r"detection number 1 of image \d+ has .*score nan; expected finite"),
        ({"bbox": [1, 2, float("inf"), 3]}, NotFiniteError, r"the box \[1, 2, inf, 3\]"),
        ({"bbox": [1, 2]}, NotFiniteError, r"the box \[1, 2\]"),
    ],
)
def test_a_bad_detection_is_named(changed, kind, message):
    truth = random_ground_truth(1)
    found = random_detections(truth, 1)[:3]
    found[1] = {**found[1], **changed}
    with pytest.raises(kind, match=message):
        score_detections(truth, found)
    with pytest.raises(SenetError, match=r"detection number 0 has no score; expected image_id, "):
        score_detections(truth, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}])


# ---- detectors -------------------------------------------------------------------------------------------------------


class Split:
    """A split of random objects whose images say which image they are, and what a detector finds in them."""

    def __init__(self, seed):
        self.category_ids = CATEGORY_IDS
        self.truth = random_ground_truth(seed)
        self.found = random_detections(self.truth, seed, crowded=False)
        self.image_ids = [image["id"] for image in self.truth["images"]]

    def ground_truth(self):
        return self.truth

    def batches(self, numbers, batch_size=5):
        for start in range(0, len(numbers), batch_size):
            ids = [self.image_ids[i] for i in numbers[start : start + batch_size]]
            yield [torch.full((3, 4, 4), i / 1000) for i in ids], [{"image_id": torch.tensor([i])} for i in ids]


class Oracle(nn.Module):
    """Finds what a split says is found."""

    def __init__(self, split):
        super().__init__()
        self.split = split

    def forward(self, images):
        assert not self.training
        return [self.output(round(1000 * float(image[0, 0, 0]))) for image in images]

    def output(self, image_id):
        mine = [each for each in self.split.found if each["image_id"] == image_id]
        boxes = torch.tensor([each["bbox"] for each in mine], dtype=torch.float32).reshape(-1, 4)
        labels = [CATEGORY_IDS.index(each["category_id"]) + 1 for each in mine]
        scores = torch.tensor([each["score"] for each in mine], dtype=torch.float32)
        return {
            "boxes": box_convert(boxes, "xywh", "xyxy"),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": scores,
        }


def test_a_detector_is_evaluated_as_its_detections_are():
    split = Split(3)
    model = Oracle(split).train()
    evaluation = evaluate_detector(model, split.batches(range(12)), split)
    assert model.training
    found = detections_of(model, split.batches(range(12)), split.category_ids)
    assert evaluation == score_detections(split.truth, found)
    assert_equal_to_pycocotools(evaluation, pycocotools_run(split.truth, found))
    assert evaluation.num_detections == len(split.found)
    assert [each["image_id"] for each in found] == sorted(each["image_id"] for each in split.found)
    assert score_detections(split.truth, json.loads(json.dumps(found))) == evaluation  # digits are kept in a file


def test_the_last_batch_of_a_process_may_be_empty():
    split = Split(3)
    batches = [*split.batches(range(12)), ([], [])]
    assert evaluate_detector(Oracle(split), batches, split) == evaluate_detector(
        Oracle(split), split.batches(range(12)), split
    )


def test_a_label_beyond_the_classes_is_said():
    output = {"boxes": torch.ones(1, 4), "labels": torch.tensor([3]), "scores": torch.ones(1)}
    with pytest.raises(SenetError, match=r"finds label 3 in image 8, but the data have 2 classes"):
        coco_results(8, output, (1, 2))


def evaluate_share(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    split = Split(3)
    numbers = [*range(rank, 12, 2), 0]  # both have image 0, as where batches are filled up
    found = evaluate_detector(Oracle(split), split.batches(numbers), split, team=Team(2))
    (folder / f"{rank}.txt").write_text(repr(found))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_evaluate_their_shares_together(tmp_path):
    split = Split(3)
    torch.multiprocessing.spawn(evaluate_share, (tmp_path,), nprocs=2)
    alone = evaluate_detector(Oracle(split), split.batches(range(12)), split)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == [repr(alone)] * 2
