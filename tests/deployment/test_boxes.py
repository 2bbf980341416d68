"""Ties of scores are no differences between two detectors, and whatever is wrong with an exported one is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.deployment.boxes import compare_boxes, matches, overlaps
from senet.deployment.photos import generated
from senet.deployment.unselected import limits_of, unselected

SMALL = {"num_classes": 2, "weights": "cifar10", "frozen_stages": 0, "norm": "train", "min_size": 64, "max_size": 96}
Finder = Callable[[Tensor], dict[str, Tensor]]
FLAT = torch.ones(3, 40, 120)
FLAT[:, 10:30, 20:60] = torch.tensor([1.0, 0.0, 0.2])[:, None, None]
"""Of flat areas, in which all scores are equal."""


def detector(kind: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    more = {"box_features": 32} if kind == "faster_rcnn" else {"score_thresh": 0.0}
    return getattr(senet, kind)("cifar_se_resnet20", **SMALL, **more, pyramid_channels=16, **options).eval()


@pytest.fixture(scope="module", params=["faster_rcnn", "retinanet"])
def untrained(request: pytest.FixtureRequest) -> nn.Module:
    """A detector as it starts: RetinaNet's scores are all 0.01."""
    return detector(request.param)


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    photos = generated()
    return [*(photos.read(i) for i in range(len(photos))), FLAT]


def found(model: nn.Module, picture: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return model([picture])[0]


def lone(model: nn.Module, other: Finder, pictures: list[Tensor]) -> tuple[int, int, int]:
    """How many boxes only one finds, how many ties explain, and how many pairs are too far apart."""
    alone = tied = far = 0
    for picture in pictures:
        with torch.no_grad():
            of = compare_boxes(found(model, picture), other(picture), model, picture)
        alone += sum(map(len, of.lone))
        tied += sum(map(len, of.tied))
        far += int(((of.pixels > 0.1) | (of.scores > 1e-3)).sum())
    return alone, tied, far


def test_what_rounding_decides_is_no_difference(untrained: nn.Module, pictures: list[Tensor]) -> None:
    """The same network in double precision: many boxes of RetinaNet are others."""
    double = detector("retinanet" if type(untrained).__name__ == "RetinaNet" else "faster_rcnn").double()

    def other(picture: Tensor) -> dict[str, Tensor]:
        values = found(double, picture.double())
        return {name: value.float() if name != "labels" else value for name, value in values.items()}

    alone, tied, far = lone(untrained, other, pictures)
    assert (alone, far) == (0, 0)
    assert tied > 20 or hasattr(untrained, "roi_heads")


def swapped(model: nn.Module) -> nn.Module:
    """The same detector with the logits of its two classes exchanged, in a copy."""
    other = detector("retinanet" if type(model).__name__ == "RetinaNet" else "faster_rcnn")
    other.load_state_dict(model.state_dict())
    if hasattr(other, "roi_heads"):
        last = other.roi_heads.box_predictor.cls_score
        rows = torch.tensor([0, 2, 1])
    else:
        last = other.head.classification_head.cls_logits
        rows = torch.arange(last.out_channels).reshape(-1, 3)[:, [0, 2, 1]].flatten()
    with torch.no_grad():
        last.weight.copy_(last.weight[rows])
        last.bias.copy_(last.bias[rows])
    return other


@pytest.fixture(scope="module", params=["faster_rcnn", "retinanet"])
def telling(request: pytest.FixtureRequest) -> nn.Module:
    """A detector whose scores differ, as those of a trained one."""
    model = detector(request.param)
    if request.param == "faster_rcnn":
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=1.0)
    else:
        nn.init.normal_(model.head.classification_head.cls_logits.weight, std=3000.0)
    return model


def test_two_classes_exchanged(telling: nn.Module, pictures: list[Tensor]) -> None:
    other = swapped(telling)
    assert lone(telling, lambda picture: found(telling, picture), pictures[:2]) == (0, 0, 0)
    alone, _, far = lone(telling, lambda picture: found(other, picture), pictures[:2])
    assert alone + far > 20


def changed(model: nn.Module, change: Callable[[dict[str, Tensor], Tensor], None]) -> Finder:
    def other(picture: Tensor) -> dict[str, Tensor]:
        result = {name: value.clone() for name, value in found(model, picture).items()}
        change(result, picture)
        return result

    return other


def one_box_shifted(result: dict[str, Tensor], picture: Tensor) -> None:
    result["boxes"][len(result["boxes"]) // 2] += 3


def scale_missing(result: dict[str, Tensor], picture: Tensor) -> None:
    result["boxes"] *= 64 / min(picture.shape[1:])


def first_missing(result: dict[str, Tensor], picture: Tensor) -> None:
    result.update({name: value[1:] for name, value in result.items()})


def scores_off(result: dict[str, Tensor], picture: Tensor) -> None:
    result["scores"] += 0.002


def suppression_missing(result: dict[str, Tensor], picture: Tensor) -> None:
    """A box that the best one suppresses, a little beside it."""
    more = {"boxes": result["boxes"][:1] + torch.tensor([0.5, 0.5, 0.5, 0.5]), "labels": result["labels"][:1]}
    more["scores"] = result["scores"][:1] * 0.9
    result.update({name: torch.cat([value, more[name]]) for name, value in result.items()})


@pytest.mark.parametrize("change", [one_box_shifted, scale_missing, first_missing, scores_off, suppression_missing])
def test_damage(telling: nn.Module, pictures: list[Tensor], change: Callable[..., None]) -> None:
    alone, _, far = lone(telling, changed(telling, change), pictures[2:3])
    assert alone + far > 0


@pytest.mark.parametrize("change", [one_box_shifted, scale_missing, scores_off])
def test_damage_where_all_scores_are_equal(
    untrained: nn.Module, pictures: list[Tensor], change: Callable[..., None]
) -> None:
    """A box that the original does not weigh is explained by no tie."""
    alone, _, far = lone(untrained, changed(untrained, change), pictures[2:3])
    assert alone + far > 0


def test_what_is_weighed_holds_all_that_is_found(telling: nn.Module, pictures: list[Tensor]) -> None:
    for picture in pictures[1:3]:
        boxes = found(telling, picture)
        with torch.no_grad():
            all_boxes = unselected(telling, picture, boxes["boxes"])
        for box, label, score in zip(boxes["boxes"], boxes["labels"].tolist(), boxes["scores"].tolist(), strict=True):
            corners, apart, _ = all_boxes.nearest(box, label, score)
            assert corners < 1e-3
            assert apart < 1e-5


def test_limits() -> None:
    limits = limits_of(detector("faster_rcnn", box_nms_thresh=0.4, box_detections_per_img=7))
    assert (limits.score, limits.overlap, limits.number, limits.of_level) == (0.05, 0.4, 7, None)
    assert limits_of(detector("retinanet", topk_candidates=9)).of_level == 9
    assert limits_of(nn.Linear(1, 1)) is None


def test_pairs() -> None:
    one = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    assert matches(one, one).tolist() == [[0, 0]]
    assert len(matches(one, {**one, "labels": torch.tensor([2])})) == 0
    assert len(matches(one, {**one, "boxes": one["boxes"] + 5})) == 0
    line = {**one, "boxes": torch.tensor([[0.0, 3, 10, 3]])}  # of no area, at the border of a picture
    assert matches(line, line).tolist() == [[0, 0]]
    assert overlaps(line["boxes"], one["boxes"]).tolist() == [[0.0]]
    assert overlaps(one["boxes"], one["boxes"] + torch.tensor([5.0, 0, 5, 0])).item() == pytest.approx(1 / 3)


def test_of_many_proposals_those_are_weighed_that_the_boxes_may_come_from(
    pictures: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = detector("faster_rcnn")
    monkeypatch.setattr("senet.deployment.unselected.MOST", 300)
    for picture in pictures:
        boxes = found(model, picture)
        with torch.no_grad():
            weighed = unselected(model, picture, boxes["boxes"])
        assert len(boxes["boxes"]) <= len(weighed.scores) <= 300 + len(boxes["boxes"])
        for box, label, score in zip(*(boxes[name] for name in ("boxes", "labels", "scores")), strict=True):
            corners, apart, _ = weighed.nearest(box, int(label), float(score))
            assert max(corners, apart) < 1e-3
