"""Policies: those of timm and torchvision, draw for draw; any number of channels; random erasing; bad names."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing as TimmErasing
from torchvision.transforms import v2

from senet.data.config import Augmentation, DataConfig
from senet.data.images import ImageSplit
from senet.data.order import BatchOrder
from senet.data.policies import AutoAugment, RandomErasing
from senet.data.preprocessing import STANDARDIZED, Preprocessing
from senet.data.randomness import seeded
from senet.data.readers import Arrays
from senet.data.streaming import StreamingLoader
from senet.data.transforms import train_transform
from senet.errors import SenetError

CPU = torch.device("cpu")
TIMM = (
    *("rand-m9-mstd0.5", "rand-m7-mstd0.5-inc1", "rand-m6-n4-p1-tweights", "rand-mmax20-mstd101-t3aw"),
    *("augmix-m5-w4-d2", "augmix-b1-a0.5", "original", "originalr-mstd0.5", "v0", "v0r", "3a"),
)
RGB = Preprocessing(image_size=24, resize=24, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.5), interpolation="bicubic")


def of_channels(channels):
    return Preprocessing(image_size=24, resize=24, mean=(0.4,) * channels, std=(0.2,) * channels)


def picture(channels=3, size=24):
    pixels = np.random.default_rng(0).integers(0, 256, (size // 4, size // 4, channels), dtype=np.uint8)
    pixels = pixels.repeat(4, 0).repeat(4, 1)
    return Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels) if channels in (1, 3) else pixels


def changed(transform, given, times=12):
    out = []
    for seed in range(times):
        with seeded(seed):
            out.append(torch.as_tensor(np.array(transform(given))))
    return out


@pytest.mark.parametrize("name", TIMM)
def test_timm_s_policies_are_timm_s(name):
    """With its `create_transform`: the same fill, translation, interpolation and draws."""
    separate = create_transform(
        24,
        is_training=True,
        auto_augment=name,
        color_jitter=None,
        interpolation="bicubic",
        mean=RGB.mean,
        separate=True,
    )
    expected = changed(separate[1], picture())
    assert all(map(torch.equal, changed(AutoAugment(name, RGB), picture()), expected))
    assert any(not torch.equal(out, torch.as_tensor(np.array(picture()))) for out in expected)


def test_trivial_is_torchvision_s():
    fill = [round(255 * mean) for mean in RGB.mean]
    own = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BICUBIC, fill=fill)
    assert all(map(torch.equal, changed(AutoAugment("trivial", RGB), picture()), changed(own, picture())))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["trivial", *TIMM])
def test_every_policy_takes_any_number_of_channels(name, channels):
    transform = train_transform(of_channels(channels), Augmentation(auto_augment=name, random_erasing=0.5))
    given = picture(4)[..., [0, 3]] if channels == 2 else picture(channels)
    out = changed(transform, given, times=8)
    assert {(x.shape, x.dtype) for x in out} == {((channels, 24, 24), torch.uint8)}
    assert len({x.numpy().tobytes() for x in out}) > 1


def test_channels_are_changed_alike():
    given = np.repeat(np.asarray(picture(1))[..., None], 5, axis=2)
    for x in changed(train_transform(of_channels(5), Augmentation(auto_augment="rand-m9-n4-p1")), given):
        assert torch.equal(x, x[:1].expand_as(x))


def test_sixteen_bits_are_scaled_before():
    deep = Image.fromarray(np.asarray(picture(1)) * np.uint16(257))
    transform = train_transform(of_channels(1), Augmentation(auto_augment="rand-m9-n2-p1"))
    assert all(map(torch.equal, changed(transform, deep), changed(transform, picture(1))))


@pytest.mark.parametrize("preprocessing", [RGB, of_channels(1), of_channels(5)], ids=["rgb", "gray", "5"])
def test_random_erasing_is_timm_s(preprocessing):
    """Of normalized images, but for rounding and clipping."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    pixels = torch.randint(0, 256, (len(mean), 24, 24), dtype=torch.uint8)
    own, reference = RandomErasing(0.5, preprocessing), TimmErasing(1.0, mode="pixel", device="cpu")
    erased = 0
    for seed in range(40):
        with seeded(seed):
            out = own(pixels)
        with seeded(seed):
            normalized = (pixels / 255 - mean) / std
            normalized = reference(normalized) if random.random() < 0.5 else normalized
        expected = (normalized * std + mean) * 255
        assert out.dtype == torch.uint8
        torch.testing.assert_close(out.float(), expected.clamp(0, 255), atol=0.51, rtol=0)
        erased += not torch.equal(out, pixels)
    assert 10 < erased < 30


# ---- randomness


def loader(num_workers, augmentation, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 24, 24, 3), dtype=np.uint8)
    split = ImageSplit(source="noise", size=10, class_names=("a",), read_image=Arrays(pixels, np.zeros(10, int)))
    order = BatchOrder(num_images=10, shuffle=True, batch_size=5, **options)
    return StreamingLoader(split, train_transform(RGB, augmentation), order, RGB, CPU, num_workers)


@pytest.mark.parametrize("name", ["trivial", "rand-m9-mstd0.5", "augmix", "v0", "3a"])
def test_what_is_drawn_depends_on_seed_epoch_and_image_alone(name):
    augmentation = Augmentation(auto_augment=name, random_erasing=0.5)
    whole = [x.clone() for x, _ in loader(0, augmentation).batches(3)]
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    assert torch.equal(next(loader(0, augmentation).batches(3, start=1))[0], whole[1])
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    list(loader(0, augmentation).batches(3))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert not torch.equal(next(loader(0, augmentation).batches(4))[0], whole[0])
    assert not torch.equal(next(loader(0, augmentation, seed=1).batches(3))[0], whole[0])


def test_workers_draw_what_one_process_draws():
    augmentation = Augmentation(auto_augment="augmix-m5", random_erasing=0.5, repeats=3)
    for (x, _), (expected, _) in zip(
        loader(2, augmentation).batches(1), loader(0, augmentation).batches(1), strict=True
    ):
        assert torch.equal(x, expected)


def test_repeated_images_are_changed_each_in_another_way():
    order = BatchOrder(num_images=1000, batch_size=100, shuffle=True, repeats=3)
    images = np.concatenate(list(order.batches(0)))
    assert np.array_equal(images[:999:3], images[1:999:3])
    assert np.array_equal(images[:999:3], images[2:999:3])
    assert len(np.unique(images)) == 334
    assert order.summary() == "each epoch has 334 of 1,000 images, each 3 times"
    x, _ = next(loader(0, Augmentation(auto_augment="rand-m9-n4-p1"), repeats=5).batches(0))
    assert len({image.numpy().tobytes() for image in x}) > 3, "five copies of one image"
    parts = [
        BatchOrder(num_images=12, batch_size=2, shuffle=True, repeats=3, num_processes=3, rank=r) for r in range(3)
    ]
    for shares in zip(*(part.batches(0) for part in parts), strict=True):
        assert all(np.array_equal(share, shares[0]) for share in shares), "each process has another copy"


# ---- bad settings


@pytest.mark.parametrize(
    "name",
    [
        "random",
        "rand-m",
        "rand-m9-foo",
        "rand-m9-x3",
        "rand-n0",
        "rand-tall",
        "augmix-n3",
        "original-m3",
        "v1",
        "",
        "rand9",
    ],
)
def test_unknown_policies_are_refused(name):
    with pytest.raises(SenetError) as caught:
        Augmentation(auto_augment=name)
    assert str(caught.value).startswith(
        f"data.augmentation.auto_augment is {name!r}; expected 'trivial' or one of timm"
    )
    assert "rand-m7-mstd0.5-inc1" in str(caught.value)


def test_options_without_effect_are_refused():
    with pytest.raises(SenetError, match=r"augmentation\.repeats is 3, but nothing changes the images"):
        Augmentation(repeats=3)
    for option in ({"auto_augment": "trivial"}, {"random_erasing": 0.25}):
        with pytest.raises(SenetError, match=r"has no effect on data in memory; set data\.augmentation"):
            DataConfig(augmentation=Augmentation(**option), preprocessing=STANDARDIZED)
