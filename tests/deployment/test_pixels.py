"""Preprocessing within the network computes what the library's own does, with Pillow's filters as they are defined."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet.data.preprocessing import CIFAR, STANDARDIZED, create_transform
from senet.deployment.pixels import FromPixels

PREPROCESSING = replace(STANDARDIZED, image_size=48, resize=55)
SIZES = [(60, 80), (80, 60), (55, 55), (55, 97), (40, 30), (333, 500), (500, 333), (56, 55), (480, 641)]


def photo(height, width):
    """Return a picture with smooth areas, edges and some noise, as it comes back from a JPEG file."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 100 * np.sin(rows / a + columns / b) for a, b in ((9, 17), (23, 5), (11, 31))]
    picture = np.stack(waves, axis=2) + np.random.default_rng(0).normal(0, 12, (height, width, 3))
    picture[height // 3 : height // 2, width // 4 : width // 2] = (240, 30, 60)
    return picture.clip(0, 255).astype(np.uint8)


def pixels_of(preprocessing, picture):
    """Return what a network would see, as pixels from 0 to 255."""
    module = FromPixels(preprocessing, resize=True)
    normalized = module(torch.from_numpy(picture)[None])[0]
    return normalized * module.std + module.mean


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_scaled_pictures_are_those_of_the_library(size, interpolation, tmp_path):
    Image.fromarray(photo(*size)).save(tmp_path / "photo.jpg", quality=92)
    image = Image.open(tmp_path / "photo.jpg")
    preprocessing = replace(PREPROCESSING, interpolation=interpolation)
    found = pixels_of(preprocessing, np.array(image))
    wanted = preprocessing.build()(image) * 255 * torch.tensor(preprocessing.std)[:, None, None]
    wanted += 255 * torch.tensor(preprocessing.mean)[:, None, None]
    apart = (found - wanted).abs()
    assert apart.max() < 1.01  # Pillow's weights are whole numbers, so that some halves are rounded the other way
    assert (apart > 0.01).float().mean() < 0.03


def along(values, length, scaled, filter_width, weigh):
    """Scale the last axis as Pillow does, in double precision, without rounding."""
    scale = length / scaled
    stretch = max(scale, 1.0)
    columns = []
    for i in range(scaled):
        center, reach = (i + 0.5) * scale, filter_width * stretch
        first, last = max(0, int(center - reach + 0.5)), min(length, int(center + reach + 0.5))
        weights = np.array([weigh((j - center + 0.5) / stretch) for j in range(first, last)])
        columns.append(values[..., first:last] @ (weights / weights.sum()))
    return np.stack(columns, axis=-1)


def triangle(x):
    return max(0.0, 1 - abs(x))


def bicubic(x):
    x = abs(x)
    return (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


@pytest.mark.parametrize(
    ("name", "filter_width", "weigh"), [("bilinear", 1, lambda x: max(0.0, 1 - abs(x))), ("bicubic", 2, bicubic)]
)
def test_the_weights_are_those_of_the_definition(name, filter_width, weigh):
    preprocessing = replace(PREPROCESSING, interpolation=name)
    module = FromPixels(preprocessing, resize=True)
    for length, shorter, scaled, start in ((640, 480, 73, 12), (480, 480, 55, 4), (40, 30, 73, 12), (97, 55, 97, 24)):
        found = module.weights(torch.arange(length), torch.tensor([shorter]))
        wanted = along(np.eye(length), length, scaled, filter_width, weigh).T[start : start + 48]
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-6)


def test_pixels_are_normalized_as_in_double_precision():
    picture = photo(32, 32)
    found = FromPixels(CIFAR, resize=False)(torch.from_numpy(picture)[None])[0]
    wanted = (picture / 255 - np.array(CIFAR.mean)) / np.array(CIFAR.std)
    np.testing.assert_allclose(found.numpy(), wanted.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("to", "suffix"), [("onnx", "onnx"), ("openvino", "xml"), ("torch_export", "pt2")])
def test_every_runtime_scales_pictures_alike(to, suffix, tmp_path):
    network = senet.from_pretrained("cifar_se_resnet20")
    network.preprocessing = replace(PREPROCESSING, interpolation="bicubic")
    path = tmp_path / f"a.{suffix}"
    exported = senet.export(network, path, to=to, preprocess=True, resize=True)
    assert exported.parity.difference.relative_largest < 1e-5  # crops, which a margin leaves as they are
    opened = senet.load_exported(path)
    for size in SIZES[:4]:
        picture = photo(*size)
        wanted = network(create_transform(network)(Image.fromarray(picture))[None])
        (found,) = opened.run_file(torch.from_numpy(picture)[None])
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 0.01
