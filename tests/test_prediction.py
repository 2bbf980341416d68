from pathlib import Path

import pytest
import torch
from PIL import Image

import senet
from senet import SenetError
from senet.data.datasets import open_split
from senet.recipes.digits import digits


def test_probabilities_are_the_softmax_of_the_logits_likeliest_first(digits_run: Path) -> None:
    model = senet.from_pretrained(digits_run)
    image, _ = open_split(digits().data, "eval")[0]
    with torch.no_grad():
        expected = model(senet.transform(model)(image)[None]).softmax(1)[0]
    (predicted,) = senet.predict(model, [image], top=10)
    values = [p.probability for p in predicted]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1.0, abs=1e-5)
    for p in predicted:
        assert p.probability == pytest.approx(expected[int(p.class_name)].item(), abs=1e-6)


def test_a_trained_run_recognises_digits_from_files_whatever_the_batch(digits_run: Path, tmp_path: Path) -> None:
    split = open_split(digits().data, "eval")
    labels, paths = [], []
    for i in range(40):
        image, label = split[i]
        paths.append(tmp_path / f"{i}.png")
        image.convert("RGB").save(paths[-1])
        labels.append(str(label))
    found = [classes[0].class_name for classes in senet.predict(digits_run, paths, top=1)]
    assert sum(a == b for a, b in zip(found, labels, strict=True)) >= 34
    by_sevens = senet.predict(digits_run, paths, top=1, batch_size=7)
    assert [classes[0].class_name for classes in by_sevens] == found


def test_the_model_keeps_its_mode(digits_run: Path) -> None:
    model = senet.from_pretrained(digits_run).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    senet.predict(model, [Image.new("L", (30, 20))])
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    from senet.prediction import open_image

    image = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (2, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode(digits_run: Path, mode: str) -> None:
    assert len(senet.predict(digits_run, [Image.new(mode, (9, 12))])[0]) == 5


def test_bad_images_are_named(digits_run: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "whole.png").read_bytes()[:1500])
    for path, said in ((tmp_path / "absent.png", "no image"), (text, "not an image"), (cut, "cannot be read")):
        with pytest.raises(SenetError, match=said) as caught:
            senet.predict(digits_run, [path])
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(SenetError, match="folder"):
        senet.predict(digits_run, [tmp_path])


def test_bad_models_are_named(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    with pytest.raises(SenetError, match="neither a model folder"):
        senet.predict(tmp_path, [picture])
    with pytest.raises(SenetError, match="the nearest are"):
        senet.predict("cifar_se_resnet21", [picture])
    with pytest.raises(SenetError, match="no weights"):
        senet.predict("cifar_resnet110", [picture])
    with pytest.raises(SenetError, match="preprocessing"):
        senet.predict(torch.nn.Linear(1, 1), [picture])
    with pytest.raises(SenetError, match="top is 0"):
        senet.predict(torch.nn.Linear(1, 1), [picture], top=0)
