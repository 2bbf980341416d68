"""Images from disk: the values of the loader in memory, randomness by epoch, and errors out of workers."""

import math
import multiprocessing
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data._utils import signal_handling
from torchvision.transforms import v2

from senet.data import streaming as streaming_module
from senet.data.config import Augmentation, DataConfig
from senet.data.datasets import open_split
from senet.data.decoding import decode
from senet.data.images import ImageSplit
from senet.data.memory import MemoryLoader
from senet.data.order import BatchOrder
from senet.data.preprocessing import CIFAR, Preprocessing
from senet.data.readers import Arrays
from senet.data.streaming import StreamingLoader
from senet.data.transforms import PixelShift, eval_transform, train_transform
from senet.errors import SenetError

CPU = torch.device("cpu")
RGB = Preprocessing(image_size=8, resize=10, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.5))
GRAY = Preprocessing(image_size=8, resize=10, mean=(0.4,), std=(0.3,))
EVERYTHING = Augmentation(flip=True, crop_scale=(0.3, 1.0), rotation=20.0, pixel_shift=10)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(num_images=14):
    """Noise, 14 x 12, with the index as label."""
    pixels = np.random.default_rng(0).integers(0, 256, (num_images, 12, 14, 3), dtype=np.uint8)
    names = tuple(str(i) for i in range(num_images))
    read = Arrays(pixels, np.arange(num_images))
    return ImageSplit(source="pictures", size=num_images, class_names=names, read_image=read)


def streaming(augmentation=None, num_workers=0, preprocessing=RGB, split=None, **options):
    split = split or pictures()
    options = {"batch_size": 4, "shuffle": augmentation is not None} | options
    to_pixels = eval_transform(preprocessing) if augmentation is None else train_transform(preprocessing, augmentation)
    order = BatchOrder(num_images=len(split), **options)
    return StreamingLoader(split, to_pixels, order, preprocessing, CPU, num_workers)


def copies(batches):
    return [(x.clone(), y.clone()) for x, y in batches]


def assert_same_batches(result, expected):
    result, expected = list(result), list(expected)
    assert len(result) == len(expected)
    for (x, y), (expected_x, expected_y) in zip(result, expected, strict=True):
        assert torch.equal(x, expected_x)
        assert torch.equal(y, expected_y)


@pytest.mark.parametrize("preprocessing", [RGB, GRAY], ids=["rgb", "gray"])
def test_evaluation_has_the_values_of_images_in_memory(preprocessing):
    split = pictures()
    order = BatchOrder(num_images=len(split), batch_size=4, shuffle=False)
    in_memory = MemoryLoader(*decode(split, preprocessing), order, preprocessing, None, CPU)
    from_disk = streaming(preprocessing=preprocessing, split=split)
    assert len(from_disk) == len(in_memory) == 4
    for (x, y), (expected, labels) in zip(from_disk.batches(0), in_memory.batches(0), strict=True):
        assert x.dtype == torch.float32
        assert torch.equal(y, labels)
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=2e-6)


def test_evaluation_is_the_transform_of_the_model():
    split = pictures()
    transform = RGB.build()
    expected = torch.stack([transform(split[i][0]) for i in range(4)])
    x, _ = next(iter(streaming(split=split).batches(0)))
    torch.testing.assert_close(x, torch.Tensor(expected), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_starting_later_gives_the_same_batches(num_workers):
    whole = {epoch: copies(streaming(EVERYTHING).batches(epoch)) for epoch in (0, 1)}
    assert [len(batches) for batches in whole.values()] == [4, 4]
    loader = streaming(EVERYTHING, num_workers)
    assert_same_batches(loader.batches(0, start=1), whole[0][1:])
    assert_same_batches(loader.batches(1), whole[1])  # the workers live on
    unfinished = loader.batches(0)
    next(unfinished)
    unfinished.close()
    assert_same_batches(loader.batches(1, start=2), whole[1][2:])
    assert list(loader.batches(1, start=4)) == []


def test_augmentation_changes_with_epoch_seed_and_image():
    def by_image(epoch, **options):
        loader = streaming(Augmentation(crop_scale=(0.3, 1.0)), shuffle=False, batch_size=14, **options)
        ((x, _),) = loader.batches(epoch)
        return x

    first = by_image(0)
    assert torch.equal(first, by_image(0))
    for other in (by_image(1), by_image(0, seed=1)):
        assert (first != other).flatten(1).any(1).all()
    pixels = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 12, 14, 3), dtype=np.uint8), 14, axis=0)
    same = ImageSplit(source="one", size=14, class_names=("a",), read_image=Arrays(pixels, np.zeros(14, int)))
    ((x, _),) = streaming(EVERYTHING, split=same, batch_size=14).batches(0)
    assert len({image.numpy().tobytes() for image in x}) == 14


def test_augmentation_does_not_depend_on_batch_size_or_rank():
    def by_label(**options):
        batches = streaming(EVERYTHING, num_workers=0, **options).batches(3)
        return {int(label): image.clone() for x, y in batches for image, label in zip(x, y, strict=True)}

    alone = by_label(batch_size=14)
    shared = {**by_label(batch_size=7, num_processes=2), **by_label(batch_size=7, num_processes=2, rank=1)}
    assert sorted(alone) == sorted(shared) == list(range(14))
    assert all(torch.equal(alone[i], shared[i]) for i in alone)


def test_reading_leaves_the_global_generators_alone():
    before, python_before = torch.get_rng_state(), random.getstate()
    list(streaming(EVERYTHING).batches(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python_before


@pytest.mark.parametrize("fit", [True, False])
def test_small_data_sets_are_decoded_once(monkeypatch, fit):
    """Of large ones nothing is kept, not even a part; the batches are the same."""
    monkeypatch.setattr(streaming_module, "KEPT_BYTES", 14 * 12 * 14 * 3 + 1 - (not fit) * 10)
    split, decoded = pictures(), []

    def read(index):
        decoded.append(index)
        return split.read_image(index)

    loader = streaming(EVERYTHING, split=replace(split, read_image=read))
    for epoch in (0, 1, 0):
        assert_same_batches(loader.batches(epoch), copies(streaming(EVERYTHING).batches(epoch)))
    assert len(decoded) == (14 if fit else 3 * 14)


def test_a_worker_s_death_is_no_error_in_the_middle_of_something_else(monkeypatch):
    """A DataLoader would raise it wherever the main process is; here the next batch that is owed raises it."""
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    before, others = signal.getsignal(signal.SIGCHLD), set(multiprocessing.active_children())
    loader = streaming(num_workers=1, batch_size=1)
    batches = loader.batches(0)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before
    (worker,) = set(multiprocessing.active_children()) - others
    worker.kill()
    worker.join()
    with pytest.raises(SenetError, match=r"a process that reads images failed .*; lower data\.num_workers") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def broken(index):
    raise MemoryError


def test_whatever_fails_in_a_worker_is_one_sentence():
    split = ImageSplit(source="broken", size=4, class_names=("a",), read_image=broken)
    with pytest.raises(SenetError, match=r"a process that reads images failed \(MemoryError\), perhaps") as caught:
        list(streaming(num_workers=1, split=split).batches(0))
    assert "\n" not in str(caught.value)


def test_process_that_the_last_images_do_not_reach():
    loader = streaming(split=pictures(9), num_processes=4, rank=3, batch_size=2)
    (_, full), (x, y) = loader.batches(0)
    assert full.tolist() == [7, 8]
    assert (x.shape, x.dtype) == ((0, 3, 8, 8), torch.float32)
    assert (y.shape, y.dtype) == ((0,), torch.int64)


# ---- the single changes


def test_pixel_shift():
    shift = PixelShift(5)
    random.seed(0)
    pixels = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    drawn = [shift(pixels) for _ in range(500)]
    assert {out.dtype for out in drawn} == {torch.uint8}
    assert all(len(out.unique()) == 1 for out in drawn), "not one shift for the whole image"
    assert {int(out[0, 0, 0]) for out in drawn} == set(range(95, 106))
    for value, allowed in ((253, range(248, 256)), (2, range(0, 8))):
        clipped = {int(shift(torch.full((1, 1, 1), value, dtype=torch.uint8))) for _ in range(500)}
        assert clipped == set(allowed)


def ramps(size=121):
    """Red is twice the column, green twice the row."""
    rows, columns = np.mgrid[:size, :size]
    return Image.fromarray(np.stack([2 * columns, 2 * rows, 0 * rows], axis=2).astype(np.uint8))


def slopes(pixels, reach):
    """Return the change per pixel of (columns, rows of the source) along x and along y, around the center."""
    center, p = pixels.shape[-1] // 2, pixels[:2].float() / 2
    along_x = (p[:, center, center + reach] - p[:, center, center - reach]) / (2 * reach)
    along_y = (p[:, center + reach, center] - p[:, center - reach, center]) / (2 * reach)
    return along_x.tolist(), along_y.tolist()


def test_crop_honors_scale_and_ratio():
    preprocessing = Preprocessing(image_size=33, resize=33, mean=CIFAR.mean, std=CIFAR.std)
    transform = train_transform(preprocessing, Augmentation(crop_scale=(0.2, 0.5), crop_ratio=(0.8, 1.6)))
    random.seed(0)
    shares, ratios = [], []
    for _ in range(300):
        pixels = transform(ramps())
        assert (pixels.shape, pixels.dtype) == ((3, 33, 33), torch.uint8)
        (width, _), (_, height) = slopes(pixels, 13)
        shares.append(width * height * 33**2 / 121**2)
        ratios.append(width / height)
    assert 0.18 < min(shares) < 0.23
    assert 0.46 < max(shares) < 0.53
    assert 0.76 < min(ratios) < 0.85
    assert 1.5 < max(ratios) < 1.68


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_shifts_reach_every_place_and_show_the_mean_color_outside(channels):
    preprocessing = Preprocessing(image_size=6, resize=6, mean=(0.2,) * channels, std=(1.0,) * channels)
    pixels = np.arange(36 * channels, dtype=np.uint8).reshape(6, 6, channels) + 60
    transform = train_transform(preprocessing, Augmentation(padding=2))
    padded = np.full((10, 10, channels), 51, np.uint8)
    padded[2:8, 2:8] = pixels
    windows = {padded[i : i + 6, j : j + 6].tobytes(): (i, j) for i in range(5) for j in range(5)}
    random.seed(0)
    given = pixels[..., 0] if channels == 1 else pixels
    seen = [windows[transform(given).permute(1, 2, 0).contiguous().numpy().tobytes()] for _ in range(200)]
    assert set(seen) == set(windows.values())


def test_rotation():
    preprocessing = Preprocessing(image_size=121, resize=121, mean=CIFAR.mean, std=CIFAR.std)
    transform = train_transform(preprocessing, Augmentation(rotation=30.0))
    random.seed(0)
    angles = []
    for _ in range(100):
        (along_x, _), (along_y, _) = slopes(transform(ramps()), 30)
        assert math.hypot(along_x, along_y) == pytest.approx(1, abs=0.05)
        angles.append(math.degrees(math.atan2(along_y, along_x)))
    assert -31 < min(angles) < -24
    assert 24 < max(angles) < 31


def test_flip():
    preprocessing = Preprocessing(image_size=121, resize=121, mean=CIFAR.mean, std=CIFAR.std)
    random.seed(0)
    straight = eval_transform(preprocessing)(ramps())
    transform = train_transform(preprocessing, Augmentation(flip=True))
    mirrored = 0
    for _ in range(100):
        pixels = transform(ramps())
        mirrored += torch.equal(pixels, straight.flip(-1))
        assert torch.equal(pixels, straight) or torch.equal(pixels, straight.flip(-1))
    assert 30 < mirrored < 70


@pytest.mark.parametrize("mean", [(0.2,), (0.2, 0.4, 0.6), (0.2, 0.4, 0.6, 0.5)])
def test_padding_shifts_and_fills_with_the_mean_color(mean):
    preprocessing = Preprocessing(image_size=3, resize=3, mean=mean, std=(1.0,) * len(mean))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, len(mean)), dtype=np.uint8)
    image = Image.fromarray(pixels.squeeze())
    transform = train_transform(preprocessing, Augmentation(padding=1))
    color = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8).view(-1, 1, 1)
    padded = color.repeat(1, 5, 5)
    padded[:, 1:4, 1:4] = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = {padded[:, top : top + 3, left : left + 3].numpy().tobytes() for top in range(3) for left in range(3)}
    assert {transform(image).numpy().tobytes() for _ in range(200)} == expected


def test_without_options_training_sees_the_evaluation_crop():
    split = pictures()
    result, expected = train_transform(RGB, Augmentation())(split[0][0]), eval_transform(RGB)(split[0][0])
    assert expected.shape == (3, 8, 8)
    assert torch.equal(result, expected)


# ---- errors


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_image(tmp_path, num_workers):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (12, 12)).save(tmp_path / "train" / name / f"{i}.png")
    damaged = tmp_path / "train" / "dog" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    split = open_split(DataConfig(dataset=str(tmp_path)), "train")
    loader = streaming(split=split, num_workers=num_workers)
    with pytest.raises(SenetError) as caught:
        list(loader.batches(0))
    message = str(caught.value)
    assert message.startswith(f"{damaged} cannot be read")
    assert message.endswith("replace or remove it")
    assert "\n" not in message


# ---- the interpolation


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_training_and_memory_resize_as_the_network_says(interpolation):
    preprocessing = replace(RGB, image_size=8, resize=9, interpolation=interpolation)
    split = pictures()
    picture = split[0][0]
    own = v2.InterpolationMode(interpolation)
    expected = v2.functional.pil_to_tensor(v2.functional.center_crop(v2.functional.resize(picture, 9, own), 8))
    assert torch.equal(decode(split, preprocessing)[0][0], expected)
    assert torch.equal(eval_transform(preprocessing)(picture), expected)
    whole = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    square = v2.functional.center_crop(picture, min(picture.size))
    expected = v2.functional.pil_to_tensor(v2.functional.resize(square, [8, 8], own))
    assert torch.equal(train_transform(preprocessing, whole)(square), expected)
