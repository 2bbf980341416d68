"""Augmented boxes stay around their objects: the brightest pixels are where the boxes say."""

import numpy as np
import pytest
import torch

from senet.data.randomness import seeded
from senet.detection.augmentation import Augment
from senet.detection.data_config import BoxAugmentation
from senet.errors import SenetError

CHANGES = {
    "flip": BoxAugmentation(),
    "scale_jitter": BoxAugmentation(flip=False, scale_jitter=(0.5, 1.5)),
    "crop": BoxAugmentation(flip=False, crop=True),
    "zoom_out": BoxAugmentation(flip=False, zoom_out=1.0),
    "photometric": BoxAugmentation(flip=False, photometric=True),
    "all": BoxAugmentation(scale_jitter=(0.8, 1.2), crop=True, zoom_out=0.5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_boxes_stay_around_their_objects(name):
    image = torch.full((3, 60, 90), 20, dtype=torch.uint8)
    image[:, 10:30, 20:50] = 220
    boxes, labels = torch.tensor([[20.0, 10.0, 50.0, 30.0]]), torch.tensor([7])
    seen = set()
    for seed in range(30):
        with seeded(seed):
            changed, found, kept = Augment(CHANGES[name])(image, boxes, labels)
        assert changed.dtype == torch.uint8
        assert kept.tolist() == [7] * len(found)
        gray = changed.float().mean(0)
        bright = (gray > gray.max() - 60).numpy()
        if len(found) and gray.max() > 150:
            rows, columns = np.nonzero(bright)
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(found[0].numpy(), corners, atol=2.5)
            seen.add(tuple(found[0].round().tolist()))
    assert len(seen) > 1 or name == "photometric"


def test_a_mirrored_box_by_hand():
    image, boxes = torch.zeros(3, 40, 100, dtype=torch.uint8), torch.tensor([[10.0, 5.0, 30.0, 25.0]])
    found = set()
    for seed in range(10):
        with seeded(seed):
            found.add(tuple(Augment(BoxAugmentation())(image, boxes, torch.tensor([1]))[1][0].tolist()))
    assert found == {(10.0, 5.0, 30.0, 25.0), (70.0, 5.0, 90.0, 25.0)}


def test_an_image_without_boxes_is_changed_too():
    with seeded(0):
        image, boxes, labels = Augment(CHANGES["all"])(
            torch.zeros(3, 40, 50, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        )
    assert image.shape[0] == 3
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


def test_bad_ranges_are_refused():
    with pytest.raises(SenetError, match=r"augmentation.scale_jitter is \(2.0, 1.0\); expected 0 < low <= high"):
        BoxAugmentation(scale_jitter=(2.0, 1.0))
    with pytest.raises(SenetError, match=r"augmentation.zoom_out is 2"):
        BoxAugmentation(zoom_out=2)
