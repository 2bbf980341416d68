"""Ensembles, subsets and mappings of classes, against the same computed by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import senet
from senet import DataConfig, Preprocessing, SenetError
from senet.errors import NotFiniteError
from senet.evaluation.scores import average_scores, score_images

SMALL = Preprocessing(image_size=6, resize=7, mean=(0.5,) * 3, std=(0.25,) * 3)


class Linear(nn.Module):
    """A linear network of the pixels."""

    def __init__(self, class_names, preprocessing=SMALL, seed=0, strength=0.5):
        super().__init__()
        self.preprocessing, self.class_names, self.num_classes = preprocessing, class_names, len(class_names or "abcd")
        numbers = 3 * preprocessing.image_size**2
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(strength * torch.randn(self.num_classes, numbers, generator=generator))

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, self.preprocessing.image_size).flatten(1) @ self.weight.T


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> DataConfig:
    """Noise in four imbalanced classes."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, count in (("ash", 7), ("elm", 2), ("fir", 1), ("oak", 2)):
        (root / name).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (9 + i, 11, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return DataConfig(dataset=str(root), num_workers=0)


def files(photos: DataConfig) -> list[Path]:
    return sorted(Path(photos.dataset).glob("*/*.png"))


@torch.no_grad()
def by_hand(model, photos: DataConfig, classes="ash elm fir oak") -> torch.Tensor:
    """Probabilities of the classes in this order, by `create_transform` alone."""
    transform = senet.create_transform(model)
    p = model(torch.stack([transform(Image.open(file)) for file in files(photos)])).softmax(1)
    return p[:, [model.class_names.index(name) for name in classes.split()]]


def labels_of(photos: DataConfig) -> torch.Tensor:
    return torch.tensor([["ash", "elm", "fir", "oak"].index(file.parent.name) for file in files(photos)])


NETWORKS = {
    "first": Linear(("ash", "elm", "fir", "oak")),
    "order": Linear(("oak", "ash", "fir", "elm"), seed=1),
    "size": Linear(
        ("ash", "elm", "fir", "oak"),
        replace(SMALL, image_size=8, resize=8, mean=(0.1,) * 3, interpolation="bicubic"),
        2,
    ),
}


def test_scores_are_the_network_s_probabilities(photos):
    found = score_images(NETWORKS["order"], photos)
    assert found.class_names == ("oak", "ash", "fir", "elm")
    p = found.log_probabilities.exp()[:, [1, 3, 2, 0]]
    torch.testing.assert_close(p, by_hand(NETWORKS["order"], photos))
    assert found.name == "Linear"
    assert [found.images.name(i) for i in range(len(found))] == [str(file) for file in files(photos)]
    assert found.evaluation == senet.evaluate(NETWORKS["order"], photos)


@pytest.mark.parametrize("weights", [None, (1, 2, 0.5)])
def test_an_ensemble_is_the_mean_of_probabilities(photos, weights):
    models = list(NETWORKS.values())
    shares = torch.tensor(weights or (1.0, 1.0, 1.0))
    mean = sum(s * by_hand(model, photos) for s, model in zip(shares, models, strict=True)) / shares.sum()
    scores = [score_images(model, photos) for model in models]
    whole = average_scores(scores, weights)
    torch.testing.assert_close(whole.log_probabilities.exp(), mean)
    result = senet.evaluate(models, photos, weights=weights)
    assert result.loss == pytest.approx(nn.functional.nll_loss(mean.log(), labels_of(photos)).item(), rel=1e-5)
    assert result.top1 == pytest.approx(100 * (mean.argmax(1) == labels_of(photos)).float().mean().item())
    assert scores[0].evaluation == senet.evaluate(models[0], photos)  # as it was
    assert average_scores(iter(scores), weights).evaluation == whole.evaluation


def test_several_crops_of_one_network_are_an_ensemble_too(photos):
    model = NETWORKS["first"]
    views = [score_images(model, photos, resize_sizes=(size,), ten_crop=True) for size in (7, 9)]
    at_once = senet.evaluate(model, photos, resize_sizes=(7, 9), ten_crop=True)
    assert average_scores(views).evaluation.loss == pytest.approx(at_once.loss, rel=1e-6)


def test_networks_of_other_libraries(photos):
    import timm
    import torchvision

    names = ("ash", "elm", "fir", "oak")
    other = timm.create_model("test_resnet", num_classes=4)
    third = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    third.preprocessing = replace(SMALL, image_size=32, resize=40)
    other.class_names, third.class_names = names, names[::-1]
    models = [NETWORKS["order"], other.eval(), third.eval()]
    mean = sum(by_hand(model, photos) for model in models) / 3
    result = senet.evaluate(models, photos)
    assert result.loss == pytest.approx(nn.functional.nll_loss(mean.log(), labels_of(photos)).item(), rel=1e-4)


def test_functions_that_classify(photos):
    """What an exported network could be, with its classes in an array."""
    model = NETWORKS["order"]

    def exported(images):
        return model(images).detach()

    exported.preprocessing, exported.class_names = model.preprocessing, np.array(model.class_names)
    assert senet.evaluate(exported, photos) == senet.evaluate(model, photos)
    both = senet.compare([exported, NETWORKS["size"]], photos, ensemble=True)
    assert [report.name for report in both.reports] == ["exported", "Linear"]
    assert both.ensemble.evaluation == senet.evaluate([model, NETWORKS["size"]], photos)
    with pytest.raises(SenetError, match="device is meta, but exported computes on cpu; leave device out"):
        senet.evaluate(exported, photos, device="meta")
    with pytest.raises(SenetError, match="a generator is no network"):
        senet.evaluate((each for each in [exported]), photos)


# ---- classes


WIDE = Linear(("birch", "oak", "elm", "ash", "fir", "yew"), seed=3)


def test_classes_of_the_data_alone(photos):
    p = by_hand(WIDE, photos)
    restricted = p / p.sum(1, keepdim=True)
    result = senet.evaluate(WIDE, photos, classes_of_data=True)
    assert result.loss == pytest.approx(nn.functional.nll_loss(restricted.log(), labels_of(photos)).item(), rel=1e-5)
    found = score_images(WIDE, photos, classes_of_data=True)
    assert found.class_names == ("ash", "elm", "fir", "oak")
    torch.testing.assert_close(found.log_probabilities.exp(), restricted)
    whole = senet.evaluate([WIDE, NETWORKS["size"]], photos, classes_of_data=True)
    mean = (restricted + by_hand(NETWORKS["size"], photos)) / 2
    assert whole.loss == pytest.approx(nn.functional.nll_loss(mean.log(), labels_of(photos)).item(), rel=1e-5)


def test_a_mapping_adds_up_probabilities(photos, tmp_path):
    model = Linear(("red oak", "ash", "white oak", "fir", "elm", "yew"), seed=4)
    mapping = {"red oak": "oak", "white oak": "oak"}
    with torch.no_grad():
        transform = senet.create_transform(model)
        p = model(torch.stack([transform(Image.open(file)) for file in files(photos)])).softmax(1)
    p = torch.stack([p[:, 1], p[:, 4], p[:, 3], p[:, 0] + p[:, 2]], 1)
    result = senet.evaluate(model, photos, mapping=mapping)
    assert result.loss == pytest.approx(nn.functional.nll_loss(p.log(), labels_of(photos)).item(), rel=1e-5)
    file = tmp_path / "oaks.csv"
    file.write_text("red oak,oak\nwhite oak,oak\n")
    assert senet.evaluate(model, photos, mapping=file) == result
    p = p / p.sum(1, keepdim=True)
    both = senet.evaluate(model, photos, mapping=mapping, classes_of_data=True)
    assert both.loss == pytest.approx(nn.functional.nll_loss(p.log(), labels_of(photos)).item(), rel=1e-5)


def test_batches_in_a_list(photos):
    batches = [(torch.rand(3, 3, 6, 6), torch.arange(3)), (torch.rand(2, 3, 6, 6), torch.tensor([0, 3]))]
    models = [NETWORKS["first"], NETWORKS["first"]]
    single = senet.evaluate(models[0], batches)
    assert senet.evaluate(models, batches).loss == pytest.approx(single.loss, rel=1e-6)
    with pytest.raises(SenetError, match="data is an iterator, which only the first of several networks would get"):
        senet.evaluate(models, iter(batches))
    with pytest.raises(SenetError, match="classes_of_data needs a data set, whose classes have names"):
        senet.evaluate(models[0], batches, classes_of_data=True)


# ---- bad input


def test_networks_that_are_no_ensemble(photos):
    first, order, _ = NETWORKS.values()
    other = Linear(("ash", "elm", "fir", "oak", "yew"))
    with pytest.raises(
        SenetError, match=r"Linear( \(2\))? has no class 'yew', one of 1 that differ .* or classes_of_data"
    ):
        senet.evaluate([first, other], photos)
    assert senet.evaluate([first, other], photos, classes_of_data=True).num_images == 12
    with pytest.raises(SenetError, match=r"^Linear \(2\): the network has no class 'oak'"):
        senet.evaluate([first, Linear(("ash", "elm", "fir"))], photos)
    with pytest.raises(SenetError, match="no network is given"):
        senet.evaluate([], photos)
    with pytest.raises(SenetError, match="data is missing"):
        senet.evaluate([first, order])
    for weights in ((1.0,), (1.0, 0.0), (1.0, float("nan")), (1.0, -2.0)):
        with pytest.raises(SenetError, match="expected a positive number for each of the 2 networks"):
            senet.evaluate([first, order], photos, weights=weights)
    with pytest.raises(SenetError, match="weights has no effect on one network"):
        senet.evaluate(first, photos, weights=(1.0,))
    scores = score_images(first, photos)
    with pytest.raises(SenetError, match="was run on other images than"):
        average_scores([scores, replace(scores, labels=scores.labels.flip(0))])


def test_data_that_do_not_fit(photos, tmp_path):
    few = Linear(("ash", "elm", "fir"))
    for options in ({}, {"classes_of_data": True}, {"mapping": {"ash": "elm"}}):
        with pytest.raises(SenetError, match=r"the network has no class '(oak|ash)', (one of|which only)"):
            senet.evaluate(few, photos, **options)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for options in ({}, {"classes_of_data": True}):
        with pytest.raises(SenetError, match="has no labels; accuracy needs a folder of images for each class"):
            senet.evaluate(few, tmp_path, **options)
    (tmp_path / "one" / "elm").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "elm" / "a.png")
    with pytest.raises(SenetError, match=r"has only one class \(elm\); .* leave out classes_of_data"):
        senet.evaluate(few, tmp_path / "one", classes_of_data=True)
    assert senet.evaluate(few, tmp_path / "one").num_images == 1


def test_networks_without_class_names(photos):
    with pytest.raises(SenetError, match="the network has no class names, by which classes are chosen or mapped"):
        senet.evaluate(Linear(None), photos, mapping={"a": "b"})
    assert senet.evaluate(Linear(None), photos, classes_of_data=True) == senet.evaluate(NETWORKS["first"], photos)


def test_probabilities_that_are_not_numbers(photos):
    broken = Linear(("ash", "elm", "fir", "oak"))
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(NotFiniteError, match="predicts probabilities that are not numbers on"):
        senet.evaluate(broken, photos)
    with pytest.raises(
        NotFiniteError, match=r"^Linear \(2\) predicts .* not numbers for .*ash/0\.png; check its weights"
    ):
        senet.evaluate([NETWORKS["first"], broken], photos)
