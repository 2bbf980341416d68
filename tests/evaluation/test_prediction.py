import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet import SenetError
from senet.cli import main
from senet.data import reading
from senet.data.datasets import open_split
from senet.evaluation.prediction import predict_each
from senet.recipes.digits import digits


def test_probabilities_are_the_softmax_of_the_logits_likeliest_first(digits_run: Path) -> None:
    model = senet.from_pretrained(digits_run)
    image, _ = open_split(digits().data, "eval")[0]
    with torch.no_grad():
        expected = model(senet.create_transform(model)(image)[None]).softmax(1)[0]
    (predicted,) = senet.predict(model, [image], top=10)
    values = [p.probability for p in predicted]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1.0, abs=1e-5)
    for p in predicted:
        assert p.probability == pytest.approx(expected[int(p.class_name)].item(), abs=1e-6)


def test_a_trained_run_recognizes_digits_from_files_whatever_the_batch(digits_run: Path, tmp_path: Path) -> None:
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


def test_exif_orientation_is_honored(tmp_path: Path) -> None:
    from senet.evaluation.prediction import open_image

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
    for one in (tmp_path / "whole.png", str(tmp_path / "whole.png")):  # whose characters are no files
        with pytest.raises(SenetError, match=r"images is '.*whole\.png', one file; pass a list of files"):
            senet.predict(digits_run, one)


def test_bad_models_are_named(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    with pytest.raises(SenetError, match="neither a model folder"):
        senet.predict(tmp_path, [picture])
    with pytest.raises(SenetError, match="the nearest are"):
        senet.predict("cifar_se_resnet21", [picture])
    with pytest.raises(SenetError, match="no public weights"):
        senet.predict("cifar_resnet110", [picture])
    with pytest.raises(SenetError, match="preprocessing"):
        senet.predict(torch.nn.Linear(1, 1), [picture])
    with pytest.raises(SenetError, match="top is 0"):
        senet.predict(torch.nn.Linear(1, 1), [picture], top=0)


# ---- many pictures


def test_channels_and_orientation_are_as_in_training(digits_run: Path, tmp_path: Path) -> None:
    pixels = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)
    Image.fromarray(pixels).save(tmp_path / "eight.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "sixteen.tif")
    np.save(tmp_path / "array.npy", pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    model = senet.from_pretrained(digits_run)
    first, *others = senet.predict(model, [pixels, *tmp_path.iterdir()])
    assert len(others) == 5
    for other in others:
        assert [p.class_name for p in other] == [p.class_name for p in first]
        assert [p.probability for p in other] == pytest.approx([p.probability for p in first], abs=1e-6)


def test_predictions_come_a_batch_at_a_time(digits_run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(picture)
    taken: list[int] = []

    def pictures() -> Iterator[Path]:
        for i in range(100):
            taken.append(i)
            yield picture

    found = predict_each(digits_run, pictures(), batch_size=4)
    for i in range(9):
        prediction = next(found)
        assert (prediction.image, prediction.error, len(prediction.classes)) == (picture, None, 5)
        assert len(taken) == 4 * (i // 4 + 1)


def test_memory_does_not_grow_with_the_pictures(digits_run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "large.png"
    Image.new("RGB", (1500, 1000)).save(picture)  # 4.5 MB each when decoded
    alive: list[weakref.ref[Image.Image]] = []
    most = 0
    whole = reading.upright

    def watched(image: Image.Image) -> Image.Image:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(image))
        return whole(image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "upright", watched)
        senet.predict(digits_run, [picture] * 12)
    assert len(alive) == 12
    assert most <= 1


def test_bad_pictures_do_not_lose_the_others(digits_run: Path, tmp_path: Path) -> None:
    good = [tmp_path / f"{i}.png" for i in range(5)]
    for path in good:
        Image.new("L", (8, 8)).save(path)
    bad = tmp_path / "bad.png"
    bad.write_text("no")
    given = [*good[:3], bad, *good[3:], tmp_path / "absent.png"]
    found = list(predict_each(digits_run, given, batch_size=2, on_error="keep"))
    assert [p.image for p in found] == given
    assert [p.image for p in found if p.error] == [bad, given[-1]]
    assert str(bad) in str(found[3].error)
    assert all(bool(p.classes) != bool(p.error) for p in found)
    with pytest.raises(SenetError, match="bad"):
        list(predict_each(digits_run, given))
    with pytest.raises(SenetError, match="on_error is 'skip'"):
        predict_each(digits_run, given, on_error="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_lists_bad_pictures_at_the_end(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    good = [tmp_path / name for name in ("[red]x.png", "x [b].png", "[/nothing].png", "ünï.png")]
    bad = tmp_path / "[/bad].png"
    for path in good:
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(path)
    bad.write_text("no")
    options = ["--json"] if as_json else []
    options += ["--model", str(digits_run)]
    assert main(["predict", str(good[0]), str(bad), *map(str, good[1:]), *options]) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0] == "senet: 1 of 5 images are left out:"
    assert printed.err.splitlines()[1].strip().startswith(f"{bad} cannot be read")
    if as_json:
        assert [row["image"] for row in json.loads(printed.out)] == list(map(str, good))
    assert all(str(path) in printed.out.replace("\\u00fc", "ü").replace("\\u00ef", "ï") for path in good)
    assert main(["predict", str(bad), *options]) == 2
    assert main(["predict", *map(str, good), *options]) == 0


def test_class_names_are_not_markup(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = senet.from_pretrained(digits_run)
    model.class_names = tuple(f"[bold]{i}[/x]" for i in range(10))
    senet.save_pretrained(model, tmp_path / "model")
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    assert main(["predict", str(tmp_path / "x.png"), "--model", str(tmp_path / "model"), "--top", "10"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in model.class_names)


def test_names_that_no_encoding_has_are_printed(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = os.fsencode(tmp_path) + b"/na\xefve.png"  # Latin-1
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(os.fsdecode(picture))
    for options in ([], ["--json"]):
        assert main(["predict", os.fsdecode(picture), "--model", str(digits_run), *options]) == 0
        assert "na\\udcefve.png" in capsys.readouterr().out


def test_a_network_in_half_precision_predicts(digits_run: Path) -> None:
    model = senet.from_pretrained(digits_run)
    picture = Image.effect_noise((8, 8), 50)
    expected = senet.predict(model, [picture], top=1)[0][0]
    found = senet.predict(model.bfloat16(), [picture], top=1)[0][0]
    assert found.probability == pytest.approx(expected.probability, abs=0.05)
