"""Preprocessing: the arithmetic by hand on small images, the sizes and the errors."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from senet.data.preprocessing import CIFAR, IMAGENET, STANDARDIZED, Preprocessing, create_transform
from senet.errors import SenetError
from senet.factory import create_model


def test_mean_and_std_by_hand():
    preprocessing = Preprocessing(image_size=2, resize=2, mean=(0.5, 0.2, 0.0), std=(0.5, 0.25, 2.0))
    pixels = [[[0, 51, 255], [255, 0, 0]], [[51, 102, 204], [102, 255, 51]]]
    picture = Image.fromarray(np.array(pixels, dtype=np.uint8))
    expected = torch.tensor(
        [
            # red 0, 1, 0.2, 0.4: (v - 0.5) / 0.5
            [[-1.0, 1.0], [-0.6, -0.2]],
            # green 0.2, 0, 0.4, 1: (v - 0.2) / 0.25
            [[0.0, -0.8], [0.8, 3.2]],
            # blue 1, 0, 0.8, 0.2: v / 2
            [[0.5, 0.0], [0.4, 0.1]],
        ]
    )
    result = preprocessing.build()(picture)
    assert result.dtype == torch.float32
    torch.testing.assert_close(torch.Tensor(result), expected, rtol=1e-6, atol=1e-6)


def test_imagenet_subtracts_the_mean_rgb_value():
    result = IMAGENET.build()(Image.new("RGB", (300, 300), (200, 117, 4)))
    assert result.shape == (3, 224, 224)
    expected = torch.tensor([200.0 - 123, 117 - 117, 4 - 104]).view(3, 1, 1).expand(3, 224, 224)
    torch.testing.assert_close(torch.Tensor(result), expected, rtol=1e-5, atol=1e-3)


def test_cifar_keeps_the_size():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    result = CIFAR.build()(Image.fromarray(pixels))
    mean, std = np.array((0.4914, 0.4822, 0.4465)), np.array((0.2470, 0.2435, 0.2616))
    expected = torch.from_numpy((pixels / 255 - mean) / std).permute(2, 0, 1).float()
    torch.testing.assert_close(torch.Tensor(result), expected, rtol=1e-5, atol=1e-5)


def test_grayscale_network_sees_one_channel():
    preprocessing = Preprocessing(image_size=1, resize=1, mean=(0.5,), std=(0.25,))
    assert preprocessing.in_channels == 1
    # 0.299 * 255 = 76.245 -> 76
    red = preprocessing.build()(Image.new("RGB", (1, 1), (255, 0, 0)))
    assert red.shape == (1, 1, 1)
    assert red.item() == pytest.approx((76 / 255 - 0.5) / 0.25, abs=1e-6)
    gray = preprocessing.build()(Image.new("L", (1, 1), 51))
    assert gray.item() == pytest.approx((0.2 - 0.5) / 0.25, abs=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_color_network_takes_any_image(mode):
    preprocessing = Preprocessing(image_size=4, resize=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    result = preprocessing.build()(Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode))
    assert torch.equal(torch.Tensor(result), torch.ones(3, 4, 4))


@pytest.mark.parametrize("size", [(50, 80), (80, 50), (20, 20), (200, 41)])
def test_shape(size):
    preprocessing = Preprocessing(image_size=24, resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert preprocessing.build()(Image.new("RGB", size)).shape == (3, 24, 24)


def test_shorter_side_is_scaled_and_the_center_cropped():
    preprocessing = Preprocessing(image_size=2, resize=4, mean=(0.0,), std=(1.0,))
    # 4 x 8, no scaling needed: the crop is rows 1-2 and columns 3-4
    values = np.arange(32, dtype=np.uint8).reshape(4, 8)
    result = preprocessing.build()(Image.fromarray(values))
    expected = torch.tensor([[[11.0, 12.0], [19.0, 20.0]]]) / 255
    torch.testing.assert_close(torch.Tensor(result), expected)
    # 8 x 16, halved: left half black, right half white; the center column pair straddles the edge
    halves = np.zeros((8, 16), dtype=np.uint8)
    halves[:, 8:] = 255
    left, right = preprocessing.build()(Image.fromarray(halves))[0].mean(0)
    assert left < 0.2
    assert right > 0.8


def test_with_channels():
    preprocessing = Preprocessing(image_size=8, resize=9, mean=(0.1, 0.2, 0.6), std=(0.2, 0.3, 0.4))
    assert preprocessing.with_channels(3) is preprocessing
    gray = preprocessing.with_channels(1)
    assert (gray.image_size, gray.resize) == (8, 9)
    assert gray.mean == pytest.approx((0.3,))
    assert gray.std == pytest.approx((0.3,))
    assert preprocessing.with_channels(5).mean == pytest.approx((0.3,) * 5)


def test_lists_become_tuples():
    preprocessing = Preprocessing(image_size=8, resize=8, mean=[0.1], std=[0.2])
    assert (preprocessing.mean, preprocessing.std) == ((0.1,), (0.2,))
    assert hash(preprocessing) == hash(Preprocessing(image_size=8, resize=8, mean=(0.1,), std=(0.2,)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size is 0 and resize 32"),
        ({"image_size": 33}, "image_size is 33 and resize 32; expected 1 <= image_size <= resize"),
        ({"mean": (0.5,)}, r"mean is \(0.5,\) and std \(0.5, 0.5, 0.5\); expected equal lengths"),
        ({"std": (0.5, 0.0, 0.5)}, "positive std"),
        ({"std": (0.5, -1.0, 0.5)}, "positive std"),
        ({"mean": (), "std": ()}, r"mean is \(\)"),
    ],
)
def test_bad_arguments(change, message):
    good = {"image_size": 32, "resize": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    with pytest.raises(SenetError, match=message):
        Preprocessing(**{**good, **change})


def test_transform_of_a_model():
    model = create_model("cifar_resnet20", in_channels=1)
    assert create_transform(model)(Image.new("RGB", (40, 50))).shape == (1, 32, 32)
    any_module = nn.Identity()
    any_module.preprocessing = Preprocessing(image_size=5, resize=6, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert create_transform(any_module)(Image.new("L", (40, 50), 255)).tolist() == torch.ones(3, 5, 5).tolist()


@pytest.mark.parametrize("preprocessing", [None, {"image_size": 32}])
def test_transform_of_a_model_that_says_nothing(preprocessing):
    model = nn.Identity()
    model.preprocessing = preprocessing
    with pytest.raises(SenetError, match=r"Identity has no preprocessing; set model\.preprocessing"):
        create_transform(model)
    with pytest.raises(SenetError, match="Linear has no preprocessing"):
        create_transform(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("preprocessing", "said"),
    [
        (STANDARDIZED, "images of 224 pixels cut from 256, mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225"),
        (CIFAR.with_channels(1), "images of 32 pixels, mean 0.4734, std 0.2507"),
        (CIFAR.with_channels(16), "images of 32 pixels with 16 channels"),
    ],
)
def test_it_is_said_in_few_words(preprocessing, said):
    assert preprocessing.in_words() == said
