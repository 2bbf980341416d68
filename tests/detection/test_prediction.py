"""Objects in single images: the same as the detector's own, upright, whatever images come beside."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet.detection.evaluation import outputs_of
from senet.detection.opening import detects, is_detector, kinds_of, open_detector
from senet.detection.prediction import Detection, detect, detect_each
from senet.errors import SenetError
from tiny_detectors import tiny_detector


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def direct(model, image):
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    with torch.no_grad():
        return model.eval()([pixels])[0]


def assert_same_objects(objects, output, threshold=0.0):
    kept = output["scores"] >= threshold
    np.testing.assert_allclose([each.score for each in objects], output["scores"][kept], atol=1e-6)
    np.testing.assert_allclose([each.box for each in objects], output["boxes"][kept], atol=1e-3)
    assert [each.label for each in objects] == output["labels"][kept].tolist()


def test_objects_are_the_detectors_own(detector):
    images = [picture(90, 60, 1), picture(60, 90, 2), picture(90, 60, 3)]
    detector.train()
    found = detect(detector, images, threshold=0)
    assert detector.training
    for image, objects in zip(images, found, strict=True):
        assert len(objects) > 3
        assert_same_objects(objects, direct(detector, image))
        assert {each.class_name for each in objects} <= {"cat", "dog"}
    middle = (found[0][1].score + found[0][2].score) / 2
    few = detect(detector, images[:1], threshold=middle)[0]
    assert [each.label for each in few] == [each.label for each in found[0][:2]]
    np.testing.assert_allclose([each.score for each in few], [each.score for each in found[0][:2]], atol=1e-6)


def test_other_images_of_a_batch_change_nothing(detector):
    """Padding to the largest image of a batch would change the averages of the SE block."""
    images = [torch.rand(3, 60, 90), torch.rand(3, 90, 60), torch.rand(3, 60, 90)]
    detector.eval()
    with torch.no_grad():
        alone = [detector([image])[0] for image in images]
        together = outputs_of(detector, images)
        padded = detector(images)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one["scores"], other["scores"], atol=1e-6, rtol=0)
    assert any((one["scores"] - other["scores"]).abs().max() > 1e-4 for one, other in zip(alone, padded, strict=True))


def test_a_turned_photo_has_boxes_of_the_upright_picture(detector, tmp_path):
    upright = picture(90, 60, 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    turned, other = detect_each(detector, tmp_path, threshold=0)
    assert (turned.width, turned.height) == (90, 60)
    assert turned.objects == other.objects
    assert turned.drawn().size == (90, 60)


def test_each_file_is_told_and_a_damaged_one_too(detector, tmp_path):
    picture(50, 40).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    picture(50, 40).convert("L").save(tmp_path / "c.png")
    a, b, c, d = detect_each(detector, [tmp_path, tmp_path / "none.jpg"], on_error="keep", threshold=0, batch_size=2)
    assert [each.error is None for each in (a, b, c, d)] == [True, False, True, False]
    assert "b.png cannot be read" in str(b.error)
    assert (b.objects, b.width) == ((), 0)
    with pytest.raises(SenetError, match="cannot be read"):
        b.drawn()
    with pytest.raises(SenetError, match="cannot be read"):
        detect(detector, tmp_path)
    assert isinstance(a, Detection)
    assert np.abs(np.asarray(a.drawn()).astype(int) - np.asarray(a.picture)).max() > 100


def test_a_picture_too_thin_to_be_scaled_is_named_and_the_others_are_searched(detector, tmp_path):
    picture(1, 300).save(tmp_path / "a.png")
    picture(50, 40).save(tmp_path / "b.png")
    thin, other = detect_each(detector, tmp_path, on_error="keep", threshold=0)
    assert "a.png is 1 x 300 pixels, and scaled to at most 96 it is less than a pixel thin" in str(thin.error)
    assert other.objects
    with pytest.raises(SenetError, match=r"an image is 200 x 2 pixels"):
        detect(detector, [picture(200, 2)])
    assert len(detect(detector, [picture(96, 1), picture(1, 1)])) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2}, r"threshold is 2; expected 0 to 1"),
        ({"batch_size": 0}, r"batch_size is 0; expected at least 1"),
        ({"precision": "fp16"}, r"precision is 'fp16', which needs a GPU"),
        ({"num_workers": -1}, r"num_workers is -1; expected at least 0"),
    ],
)
def test_bad_options_are_said(detector, options, message):
    with pytest.raises(SenetError, match=message):
        detect(detector, [picture(8, 8)], **options)


def test_what_classifies_is_told_from_what_detects(detector, tmp_path):
    classifier = senet.create_model("cifar_se_resnet20")
    assert is_detector(detector)
    assert not is_detector(classifier)
    with pytest.raises(SenetError, match=r"CifarResNet|ResNet.* classifies images and finds no boxes"):
        open_detector(classifier)
    assert detects(detector)
    assert not detects(classifier)
    assert not detects("cifar_se_resnet20")
    assert not detects(tmp_path)
    (tmp_path / "config.json").write_text('{"task": "classification"}')
    assert not detects(tmp_path)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.json").write_text('{"task": "detection"}')
    assert detects(tmp_path)
    assert detects(str(tmp_path / "best"))


def test_a_detector_without_names_numbers_its_classes():
    model = tiny_detector()
    del model.class_names
    assert {each.class_name for each in detect(model, [picture(40, 40)], threshold=0)[0]} <= {"class 1", "class 2"}


def test_names_that_are_not_one_for_each_kind_of_object_are_refused():
    model = tiny_detector()
    assert kinds_of(model) == 2
    small = {"num_classes": 3, "frozen_stages": 0, "norm": "train", "min_size": (64,), "pyramid_channels": 16}
    assert kinds_of(senet.retinanet("cifar_resnet20", **small)) == 3
    for names, said in (
        (("__background__", "cat", "dog"), "has 3 names, but .* finds 2 kinds of objects; leave out '__background__'"),
        (("a", "b", "c"), "has 3 names, .*; give a name for each, for label k is "),
        (("a",), "has 1 name, .*; give a name for each"),
    ):
        model.class_names = names
        with pytest.raises(SenetError, match=said):
            detect(model, [picture(40, 40)])
    model.class_names = {0: "cat", 1: "dog"}
    assert {each.class_name for each in detect(model, [picture(40, 40)], threshold=0)[0]} <= {"cat", "dog"}


def test_predict_detects_with_a_detector(detector):
    images = [picture(40, 40)]
    assert senet.predict(detector, images, batch_size=2) == senet.detect(detector, images)
    assert senet.predict([detector], images) == detect(detector, images)
    for given, options, message in (
        (detector, {"top": 3}, r"top has no effect on FasterRCNN, which detects objects; leave it out"),
        (detector, {"ten_crop": True}, r"ten_crop has no effect"),
        ([detector, detector], {}, r"run_or_model has 2 networks, of which one detects objects"),
    ):
        with pytest.raises(SenetError, match=message):
            senet.predict(given, images, **options)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "image number 0 is of class NoneType; expected a file, PIL image, array or tensor"),
        (b"pixels", "is of class bytes"),
        (io.BytesIO(b"pixels"), "is of class BytesIO"),
        (torch.rand(3, 40, 50) * 255, "holds float32 values, whose range is not known; convert it to uint8"),
        (np.zeros((40, 50, 3)), "holds float64 values"),
    ],
    ids=["None", "bytes", "file", "tensor", "array"],
)
def test_what_is_no_picture_is_one_sentence(detector, images, said):
    with pytest.raises(SenetError, match=re.escape(said)):
        detect(detector, images)


def test_a_wrapped_detector_is_a_detector(detector):
    expected = detect(detector, [picture(90, 60)], threshold=0)
    for wrapped in (torch.optim.swa_utils.AveragedModel(detector), torch.nn.DataParallel(detector)):
        assert detects(wrapped)
        assert detect(wrapped, [picture(90, 60)], threshold=0) == expected
