import json
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet import Preprocessing, SenetError
from senet.cli import main
from senet.data import reading
from senet.data.datasets import open_split
from senet.evaluation.prediction import Given, predict_each
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


def test_threads_may_share_a_model_in_training_mode(digits_run: Path) -> None:
    """Each puts it into evaluation mode; the first that is done may not put it back under the others."""
    model = senet.from_pretrained(digits_run).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split = open_split(digits().data, "eval")
    pictures = [split[i][0] for i in range(24)]
    expected = senet.predict(model, pictures, batch_size=1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: senet.predict(model, pictures[:n], batch_size=1), [1, 24, 2, 16, 3, 24, 1, 8]))
    for predictions in found:
        assert predictions == expected[: len(predictions)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


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
    (tmp_path / "empty").mkdir()
    with pytest.raises(SenetError, match="empty has no images; check the path"):
        senet.predict(digits_run, [tmp_path / "empty"])


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


# ---- several networks, crops, thresholds


class Fixed:
    """What any exported network could be: a function with two attributes, whose logits are always the same."""

    preprocessing = Preprocessing(image_size=4, resize=4, mean=(0.0,), std=(1.0,))

    def __init__(self, names: tuple[str, ...] | None, *probabilities: float) -> None:
        self.class_names, self.logits = names, torch.tensor(probabilities).log()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (1, 4, 4)
        return self.logits.repeat(len(images), 1)


GRAY = np.zeros((5, 5), dtype=np.uint8)


def test_any_function_with_preprocessing_and_class_names_predicts() -> None:
    (found,) = senet.predict(Fixed(("cat", "dog"), 0.25, 0.75), [GRAY])
    assert [(p.class_name, round(p.probability, 6)) for p in found] == [("dog", 0.75), ("cat", 0.25)]
    (found,) = senet.predict(Fixed(None, 0.25, 0.75), [GRAY], top=1)
    assert found[0].class_name == "1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top": "2"}, "top is '2'; expected a whole number"),
        ({"batch_size": 1.5}, "batch_size is 1.5; expected a whole number"),
        ({"device": "gpu"}, "device is 'gpu'; expected one of PyTorch's, such as 'cpu' or 'cuda'"),
    ],
)
def test_values_of_the_wrong_kind_are_named(options: Any, said: str) -> None:
    with pytest.raises(SenetError, match=said):
        senet.predict(Fixed(("cat", "dog"), 0.25, 0.75), [GRAY], **options)


def test_of_equal_probabilities_the_first_class_comes_first() -> None:
    """As in `evaluate`, and as argmax has it."""
    (found,) = senet.predict(Fixed(None, *[0.04] * 5, *[0.08] * 10), [GRAY], top=12)
    assert [p.class_name for p in found] == [*map(str, range(5, 15)), "0", "1"]


@pytest.mark.parametrize(
    "picture", [GRAY, torch.from_numpy(GRAY)[None], Image.fromarray(GRAY)], ids=["array", "tensor", "PIL"]
)
def test_a_picture_by_itself_is_one(picture: Given) -> None:
    network = Fixed(("cat", "dog"), 0.25, 0.75)
    assert senet.predict(network, picture) == senet.predict(network, [picture])
    assert len(senet.predict(network, np.stack([GRAY, GRAY, GRAY])[..., None])) == 3


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (b"bytes of a file", "is of class bytes; expected a file, PIL image"),
        ({"image": GRAY}, "is of class dict"),
        ((Image.fromarray(GRAY), 0), "is of class tuple"),  # of an ImageFolder
        (torch.rand(1, 5, 5), "holds float32 values, whose range is not known"),
    ],
    ids=["bytes", "dict", "pair", "floats"],
)
def test_what_is_no_picture_is_refused(picture: Any, said: str) -> None:
    with pytest.raises(SenetError, match=f"^image number 0 {said}"):
        senet.predict(Fixed(("cat", "dog"), 0.25, 0.75), [picture])


def test_the_probabilities_of_several_networks_are_averaged_by_the_names_of_classes() -> None:
    first, second = Fixed(("a", "b", "c"), 0.5, 0.3, 0.2), Fixed(("c", "a", "b"), 0.9, 0.06, 0.04)
    (found,) = senet.predict([first, second], [GRAY])
    by_name = {p.class_name: p.probability for p in found}
    assert by_name == {"a": pytest.approx(0.28), "b": pytest.approx(0.17), "c": pytest.approx(0.55)}  # by hand
    assert [p.class_name for p in found] == ["c", "a", "b"]
    (found,) = senet.predict([Fixed(None, 0.2, 0.8), Fixed(None, 0.6, 0.4)], [GRAY])
    assert found[0].probability == pytest.approx(0.6)


def test_some_of_the_classes_or_several_as_one() -> None:
    first, second = Fixed(("pug", "tabby", "car"), 0.5, 0.3, 0.2), Fixed(("car", "pug", "tabby"), 0.6, 0.3, 0.1)
    (found,) = senet.predict([first, second], [GRAY], mapping={"pug": "pet", "tabby": "pet"})
    assert {p.class_name: p.probability for p in found} == {"pet": pytest.approx(0.6), "car": pytest.approx(0.4)}
    (found,) = senet.predict([first, second], [GRAY], classes=["pug", "car"])
    by_hand = ((0.5 / 0.7 + 0.3 / 0.9) / 2, (0.2 / 0.7 + 0.6 / 0.9) / 2)
    assert {p.class_name: p.probability for p in found} == {
        "pug": pytest.approx(by_hand[0]),
        "car": pytest.approx(by_hand[1]),
    }
    with pytest.raises(SenetError, match="Fixed: the network has no class 'dog'; the nearest are"):
        senet.predict(first, [GRAY], classes=["dog", "car"])
    with pytest.raises(SenetError, match="classes is only 'car', which every image would be; name at least two"):
        senet.predict(first, [GRAY], classes=["car"])
    with pytest.raises(SenetError, match=r"classes is the text 'dog'; expected a list, such as \['dog'\]"):
        senet.predict(first, [GRAY], classes="dog")


def test_functions_that_are_no_networks() -> None:
    with pytest.raises(SenetError, match="device is meta, but Fixed computes on cpu; leave device out"):
        senet.predict(Fixed(None, 0.5, 0.5), [GRAY], device="meta")
    with pytest.raises(SenetError, match="len has no preprocessing; set its attribute preprocessing"):
        senet.predict(len, [GRAY])
    with pytest.raises(SenetError, match="a int is no network"):
        senet.predict(5, [GRAY])  # type: ignore[arg-type]

    def flat(images: torch.Tensor) -> torch.Tensor:
        return images.flatten()

    flat.preprocessing = Fixed.preprocessing  # type: ignore[attr-defined]
    with pytest.raises(
        SenetError, match=r"flat returns a tensor \(16,\) for 1 images; expected logits, \(1, classes\)"
    ):
        senet.predict(flat, [GRAY])


def test_what_stands_for_no_image_is_kept_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    names = [str(tmp_path / name) for name in ("none", "*.gif", "absent.png")]
    found = list(predict_each(Fixed(None, 0.2, 0.8), [GRAY, *names, GRAY], on_error="keep"))
    assert [prediction.error is None for prediction in found] == [True, False, False, False, True]
    assert [str(prediction.image) for prediction in found[1:4]] == names


def test_an_ensemble_of_networks_with_preprocessings_of_their_own(digits_run: Path) -> None:
    model = senet.from_pretrained(digits_run)
    large = senet.from_pretrained(digits_run)
    large.preprocessing = Preprocessing(image_size=12, resize=14, mean=(0.3,), std=(0.2,))
    pictures = [Image.effect_noise((20, 16), 60 + 10 * i) for i in range(3)]
    both = senet.predict([model, large], pictures, top=10)
    alone = [senet.predict(one, pictures, top=10) for one in (model, large)]
    for found, *others in zip(both, *alone, strict=True):
        means = [{p.class_name: p.probability for p in other} for other in others]
        for p in found:
            assert p.probability == pytest.approx(sum(mean[p.class_name] for mean in means) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (Fixed(("a", "c"), 0.5, 0.5), "Fixed does not have the class b"),
        (Fixed(("a", "b", "c"), 0.5, 0.3, 0.2), "Fixed does not have the class c"),
        (Fixed(None, 0.5, 0.5), "Fixed has no class names; set its class_names"),
    ],
)
def test_networks_that_do_not_go_together_are_refused(second: Fixed, said: str) -> None:
    with pytest.raises(SenetError, match=f"Fixed and Fixed cannot predict together: {said}"):
        predict_each([Fixed(("a", "b"), 0.5, 0.5), second], [GRAY])
    with pytest.raises(SenetError, match="they have 2 and 3 outputs"):
        senet.predict([Fixed(None, 0.5, 0.5), Fixed(None, 0.5, 0.3, 0.2)], [GRAY])
    with pytest.raises(SenetError, match="run_or_model is empty"):
        predict_each([], [GRAY])


def test_below_the_threshold_a_prediction_is_uncertain() -> None:
    model = Fixed(("cat", "dog"), 0.25, 0.75)
    for threshold, certain in ((None, True), (0.7, True), (0.8, False)):
        (found,) = predict_each(model, [GRAY], threshold=threshold)
        assert found.certain is certain
        assert found.classes[0].class_name == "dog"
    with pytest.raises(SenetError, match=r"threshold is 80; expected 0 to 1"):
        predict_each(model, [GRAY], threshold=80)


def test_crops_are_those_of_evaluate(digits_run: Path, tmp_path: Path) -> None:
    split = open_split(digits().data, "eval")
    for i in range(30):
        image, label = split[i]
        (tmp_path / str(label)).mkdir(exist_ok=True)
        image.convert("L").save(tmp_path / str(label) / f"{i}.png")
    crops = {"ten_crop": True, "resize_sizes": (8, 10), "batch_size": 40}
    evaluated = senet.evaluate(digits_run, tmp_path, **crops)  # type: ignore[arg-type]
    files = sorted(tmp_path.rglob("*.png"))
    found = senet.predict(digits_run, files, top=10, **crops)  # type: ignore[arg-type]
    probabilities = [
        next(p.probability for p in classes if p.class_name == file.parent.name)
        for file, classes in zip(files, found, strict=True)
    ]
    assert -np.log(probabilities).mean() == pytest.approx(evaluated.loss, abs=1e-5)
    with pytest.raises(SenetError, match="crop_size is 20 and the shorter side is resized to 8"):
        senet.predict(digits_run, files, crop_size=20, resize_sizes=(8,))


def test_arithmetic_in_other_precisions(digits_run: Path) -> None:
    picture = Image.effect_noise((8, 8), 50)
    expected = senet.predict(digits_run, [picture], top=1)[0][0]
    found = senet.predict(digits_run, [picture], top=1, precision="bf16")[0][0]
    assert found.probability == pytest.approx(expected.probability, abs=0.05)
    assert found.probability != expected.probability
    with pytest.raises(SenetError, match="precision is 'fp16', which needs a GPU"):
        predict_each(digits_run, [picture], precision="fp16")


# ---- many pictures


def test_folders_and_patterns_are_their_images(digits_run: Path, tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.png", "a/deep/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    expected = [str(tmp_path / name) for name in ("a/1.png", "a/deep/0.png", "b/2.png")]
    for given in (tmp_path, [tmp_path], [f"{tmp_path}/a", tmp_path / "b" / "2.png"], f"{tmp_path}/**/*.png"):
        found = list(predict_each(digits_run, given))
        assert sorted(str(p.image) for p in found) == expected
    (only,) = senet.predict(digits_run, tmp_path / "b" / "2.png")
    assert len(only) == 5


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_predictions_come_a_batch_at_a_time(digits_run: Path, tmp_path: Path, num_workers: int) -> None:
    picture = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(picture)
    taken: list[int] = []

    def pictures() -> Iterator[Path]:
        for i in range(100):
            taken.append(i)
            yield picture

    found = predict_each(digits_run, pictures(), batch_size=4, num_workers=num_workers)
    for i in range(9):
        prediction = next(found)
        assert (prediction.image, prediction.error, len(prediction.classes)) == (picture, None, 5)
        assert len(taken) == 4 * (i // 4 + 1) + (8 if num_workers else 0)  # two batches are read ahead


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_does_not_grow_with_the_pictures(digits_run: Path, tmp_path: Path, num_workers: int) -> None:
    picture = tmp_path / "large.png"
    Image.new("RGB", (1500, 1000)).save(picture)  # 4.5 MB each when decoded
    alive: list[weakref.ref[Image.Image]] = []
    most = 0
    whole = reading.upright

    def watched(image: Image.Image) -> Image.Image:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in list(alive)))
        alive.append(weakref.ref(image))
        return whole(image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "upright", watched)
        senet.predict(digits_run, [picture] * 12, num_workers=num_workers)
    assert len(alive) == 12
    assert most <= max(1, num_workers)  # besides the one that is being read


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
