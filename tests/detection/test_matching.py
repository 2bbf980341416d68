"""Matches of detections with objects: as COCO's own program has them; thresholds against counting by hand."""

import numpy as np
import pytest

from coco_dicts import CATEGORY_IDS, detection, pycocotools_run, random_detections, random_ground_truth
from senet.detection.matching import at_threshold, best_threshold, match_detections


@pytest.mark.parametrize("iou", [0.5, 0.75])
@pytest.mark.parametrize("seed", range(4))
def test_matches_are_those_of_pycocotools(seed, iou):
    truth = random_ground_truth(seed)
    found = random_detections(truth, seed)
    matches = match_detections(truth, found, iou=iou)
    run = pycocotools_run(truth, found)
    t = list(run.params.iouThrs.round(2)).index(iou)
    seen = 0
    for each in run.evalImgs:
        if each is None or each["aRng"] != [0, 1e10]:
            continue
        for number, match, is_ignored in zip(each["dtIds"], each["dtMatches"][t], each["dtIgnore"][t], strict=True):
            expected = "ignored" if is_ignored else "right" if match else "wrong"
            assert matches.outcomes[number - 1] == expected
            if expected == "right":  # both are numbered from 1 there
                assert matches.objects[number - 1] == match - 1
                assert matches.found[int(match) - 1] == number - 1
            seen += 1
    assert seen > 100
    assert {"right", "wrong", "ignored"} == set(matches.outcomes)


def test_only_a_hundred_of_an_image_and_class_are_matched():
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    found = [detection(1, 1, [50, 50, 9, 9], 0.9)] * 100 + [detection(1, 1, [0, 0, 9, 9], 0.1)]
    assert match_detections(truth, found).outcomes[100] == "wrong"
    assert match_detections(truth, found[1:]).outcomes[99] == "right"


def test_the_threshold_has_the_highest_f1():
    truth = random_ground_truth(5)
    found = random_detections(truth, 5)
    matches = match_detections(truth, found)
    chosen = best_threshold(truth, found, matches)

    def f1(threshold):
        at = at_threshold(truth, found, matches, threshold)
        return 2 * at.right / (2 * at.right + at.wrong + at.missed)

    values = {score: f1(score) for score in {each["score"] for each in found}}
    assert values[chosen] == max(values.values())
    at = at_threshold(truth, found, matches, chosen)
    classes = [at_threshold(truth, found, matches, chosen, category) for category in CATEGORY_IDS]
    for name in ("right", "wrong", "missed"):
        assert sum(getattr(each, name) for each in classes) == getattr(at, name)
    assert at.recall == pytest.approx(100 * at.right / sum(not each["iscrowd"] for each in truth["annotations"]))
    assert classes[-1].precision is None
    assert classes[-1].recall is None


def test_precision_and_recall_of_each_threshold_are_on_the_curve_of_pycocotools():
    truth = random_ground_truth(6)
    found = random_detections(truth, 6)
    matches = match_detections(truth, found)
    run = pycocotools_run(truth, found)
    for k, category in enumerate(sorted(CATEGORY_IDS)):
        if category == CATEGORY_IDS[-1]:
            continue
        at = at_threshold(truth, found, matches, 0.0, category)
        assert at.recall / 100 == pytest.approx(run.eval["recall"][0, k, 0, -1])
        for score in np.unique([each["score"] for each in found]):
            at = at_threshold(truth, found, matches, score, category)
            if at.right:
                r = int(np.floor(at.recall))
                assert run.eval["precision"][0, r, k, 0, -1] >= at.precision / 100 - 1e-9  # the curve is their envelope


def test_nothing_right_needs_no_threshold():
    truth = random_ground_truth(1)
    assert best_threshold(truth, [], match_detections(truth, [])) == 1
    wrong = [detection(truth["images"][0]["id"], 3, [0, 0, 9, 9], 0.7)]
    matches = match_detections(truth, wrong)
    assert best_threshold(truth, wrong, matches) == 1
    at = at_threshold(truth, wrong, matches, 0.5)
    assert (at.precision, at.recall, at.wrong) == (0, 0, 1)
