"""Calibration images: which ones, how they are prepared, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from senet import DataConfig
from senet.cli import main
from senet.data.preprocessing import CIFAR
from senet.deployment.calibration import calibration_images
from senet.errors import SenetError

SMALL = CIFAR


def photos(folder, number, size=(40, 36), offset=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        pixels = np.random.default_rng(offset + i).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def test_images_of_a_folder_are_prepared_as_for_evaluation(tmp_path):
    folder = photos(tmp_path / "photos", 12)
    images = calibration_images(folder, SMALL)
    assert images.pixels.shape == (12, 3, 32, 32)
    expected = torch.stack([SMALL.build()(Image.open(file)) for file in sorted(folder.iterdir())])
    (first, *rest) = images.inputs()
    assert len(rest) == 11
    assert first.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(np.concatenate([first, *rest]), expected.numpy(), atol=1e-6)
    assert images.labels is None


def test_a_seed_chooses_the_same_images_again(tmp_path):
    folder = photos(tmp_path / "photos", 40)
    first, again, other = (calibration_images(folder, SMALL, number=10, seed=seed).pixels for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pictures_for_a_graph_with_preprocessing(tmp_path):
    images = calibration_images(photos(tmp_path / "photos", 10), SMALL)
    pictures = images.inputs(pixels=True, batch_size=4)
    assert [picture.shape for picture in pictures] == [(4, 32, 32, 3)] * 2
    assert pictures[0].dtype == np.uint8
    np.testing.assert_array_equal(pictures[0][1].transpose(2, 0, 1), images.pixels[1].numpy())


def test_a_size_that_is_no_square(tmp_path):
    assert calibration_images(photos(tmp_path / "photos", 10), SMALL, size=(24, 48)).pixels.shape == (10, 3, 24, 48)


def test_training_images_of_data_with_labels(tmp_path):
    for split, offset in (("train", 0), ("val", 100)):
        for label, name in enumerate(("cat", "dog")):
            photos(tmp_path / split / name, 8, (32, 32), offset + 10 * label)
    images = calibration_images(tmp_path, SMALL, class_names=("cat", "dog"))
    assert images.labels is not None
    assert images.labels.tolist() == [0] * 8 + [1] * 8
    trained_on = torch.from_numpy(np.stack([np.asarray(Image.open(f)) for f in sorted(tmp_path.glob("train/*/*"))]))
    assert torch.equal(images.pixels, trained_on.permute(0, 3, 1, 2))
    assert calibration_images(tmp_path, SMALL, class_names=("dog", "cat")).labels is None
    config = DataConfig(dataset=str(tmp_path))
    assert torch.equal(calibration_images(config, SMALL).pixels, images.pixels)


def test_images_given():
    pixels = torch.randint(0, 256, (11, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(calibration_images(pixels, SMALL).pixels, pixels)
    assert torch.equal(calibration_images(list(pixels), SMALL).pixels, pixels)


def test_too_few_images(tmp_path):
    with pytest.raises(SenetError, match=r"photos has 3 images; int8 needs at least 10 for its ranges, better 300"):
        calibration_images(photos(tmp_path / "photos", 3), SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SenetError, match="empty has no images"):
        calibration_images(tmp_path / "empty", SMALL)
    with pytest.raises(SenetError, match="calibration has no images"):
        calibration_images([], SMALL)
    with pytest.raises(SenetError, match=r"number of calibration images is 4; expected at least 10"):
        calibration_images(tmp_path / "photos", SMALL, number=4)


def test_evaluation_images_alone(tmp_path):
    photos(tmp_path / "val" / "cat", 10)
    with pytest.raises(SenetError, match="has images for evaluation alone, in val/"):
        calibration_images(tmp_path, SMALL)


def test_nothing_of_that_name(tmp_path):
    with pytest.raises(SenetError, match="nowhere"):
        calibration_images(tmp_path / "nowhere", SMALL)


def test_wrong_channels():
    with pytest.raises(SenetError, match="images of 1 channel, but the network takes 3"):
        calibration_images(torch.zeros(10, 1, 32, 32, dtype=torch.uint8), SMALL)
    with pytest.raises(SenetError, match=r"calibration is float32 \(10, 3, 32, 32\); expected uint8"):
        calibration_images(torch.zeros(10, 3, 32, 32), SMALL)
    with pytest.raises(SenetError, match="differ in their sizes"):
        calibration_images([torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 9, 8, dtype=torch.uint8)], SMALL)


def test_a_batch_larger_than_all_images():
    images = calibration_images(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), SMALL)
    with pytest.raises(SenetError, match="calibration has 10 images, but the network takes 16 at once"):
        images.inputs(batch_size=16)


def test_files_and_arrays_as_other_tools_take_them(tmp_path):
    folder = photos(tmp_path / "photos", 12)
    whole = calibration_images(folder, SMALL)
    files = sorted(str(file) for file in folder.iterdir())
    assert torch.equal(calibration_images(files, SMALL).pixels, whole.pixels)
    assert torch.equal(calibration_images([folder], SMALL).pixels, whole.pixels)
    assert torch.equal(calibration_images(whole.pixels.numpy(), SMALL).pixels, whole.pixels)
    assert torch.equal(calibration_images(list(whole.pixels.numpy()), SMALL).pixels, whole.pixels)
    loader = torch.utils.data.DataLoader(list(whole.pixels))
    for given, kind in ((loader, "DataLoader"), ([(whole.pixels, 0)], "tuple")):
        with pytest.raises(
            SenetError, match=rf"calibration has a {kind}; expected a folder, a data set, a list of fil"
        ):
            calibration_images(given, SMALL)


def test_data_that_are_not_there_are_named_by_their_option(tmp_path, capsys):
    command = ["export", "cifar_se_resnet20", str(tmp_path / "a.onnx"), "--int8", "--calibrate", "nowhere"]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("senet: --calibrate is 'nowhere'; expected digits,")
