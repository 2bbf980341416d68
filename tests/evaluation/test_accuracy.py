import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import v2

import senet
from senet import DataConfig, Preprocessing, SenetError
from senet.analysis.report import examples_of
from senet.cli import main
from senet.configs import to_dict
from senet.data.crops import Crops
from senet.data.datasets import open_split
from senet.data.loading import build_loader
from senet.data.preprocessing import Interpolation
from senet.evaluation.batches import data_for, model_and_data, open_batches, run_data
from senet.nn.modes import borrowed
from senet.recipes.digits import digits

GRAY = Preprocessing(image_size=4, resize=4, mean=(0.0,), std=(1.0,))


def write_folder(root: Path, brightness: dict[str, list[int]], size: tuple[int, int] = (4, 4)) -> Path:
    """Write an image folder, val/ only: uniform gray images of the given brightness per class."""
    for name, values in brightness.items():
        (root / "val" / name).mkdir(parents=True)
        for i, value in enumerate(values):
            Image.new("L", size, value).save(root / "val" / name / f"{i}.png")
    return root


class Brightness(nn.Module):
    """Two classes, dark and light: logits (-x, x) of the mean pixel less one half, times ten."""

    preprocessing = GRAY
    num_classes = 2

    def forward(self, x: Tensor) -> Tensor:
        x = 10 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-x, x], 1)


def test_accuracy_and_loss_by_hand(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"dark": [0, 51, 204], "light": [255]})
    result = senet.evaluate(Brightness(), DataConfig(dataset=str(folder), num_workers=0))
    assert result.num_images == 4
    assert result.top1 == pytest.approx(75.0)
    assert result.top5 == pytest.approx(100.0)
    x = 10 * (torch.tensor([0, 51, 204, 255], dtype=torch.float64) / 255 - 0.5)
    right = torch.tensor([-1, -1, -1, 1]) * x
    assert result.loss == pytest.approx(nn.functional.softplus(-2 * right).mean().item(), rel=1e-5)


def test_the_run_is_evaluated_on_its_own_data_as_the_training_loop_did(digits_run: Path) -> None:
    rows = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: row["top1"])
    result = senet.evaluate(digits_run)
    assert result.num_images == 360
    assert result.top1 == pytest.approx(best["top1"], abs=1e-9)
    assert result.loss == pytest.approx(best["loss"], rel=1e-4)
    assert senet.evaluate(digits_run / "best").top1 == result.top1
    assert senet.evaluate(str(digits_run), "digits", batch_size=17).top1 == result.top1


def test_data_of_a_run_that_are_not_found_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder was named from another one."""
    write_folder(tmp_path / "images", {"dark": [0], "light": [255]})
    (tmp_path / "run").mkdir()
    values = json.dumps({"data": to_dict(DataConfig(dataset="images"))})
    (tmp_path / "run" / "config.json").write_text(values)
    monkeypatch.chdir(tmp_path)
    assert data_for("run", None).dataset == "images"
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(SenetError, match=r"^\.\./run was trained on images, which is not found from here; say by data"):
        data_for("../run", None)


def test_ten_crops_are_the_corners_and_center_and_their_mirrors_at_each_size() -> None:
    pixels = torch.arange(64, dtype=torch.uint8).view(8, 8)
    image = Image.fromarray(pixels.numpy())
    crops = Crops(GRAY, 4, (8,), ten_crop=True)(image)
    assert crops.shape == (10, 1, 4, 4)
    corners = [pixels[:4, :4], pixels[:4, 4:], pixels[4:, :4], pixels[4:, 4:], pixels[2:6, 2:6]]
    found = {tuple(crop.flatten().tolist()) for crop in crops}
    assert found == {tuple(c.flatten().tolist()) for corner in corners for c in (corner, corner.flip(1))}
    assert Crops(GRAY, 4, (4, 8))(image).shape == (2, 1, 4, 4)
    assert Crops(GRAY, 4, (4, 6, 8), ten_crop=True)(image).shape == (30, 1, 4, 4)


def test_ten_crops_average_probabilities(tmp_path: Path) -> None:
    half = Image.new("L", (8, 4), 0)
    half.paste(255, (4, 0, 8, 4))
    (tmp_path / "val" / "dark").mkdir(parents=True)
    half.save(tmp_path / "val" / "dark" / "0.png")
    Image.new("L", (4, 4), 0).save(tmp_path / "val" / "dark" / "1.png")
    (tmp_path / "val" / "light").mkdir()
    Image.new("L", (4, 4), 255).save(tmp_path / "val" / "light" / "0.png")
    result = senet.evaluate(Brightness(), DataConfig(dataset=str(tmp_path), num_workers=0), ten_crop=True)
    # Of the half-dark image's ten crops four are dark (p = s(10)), four light (s(-10)), two half and half (1/2).
    half_loss = torch.log(torch.tensor(2.0)).item()
    sure_loss = nn.functional.softplus(torch.tensor(-10.0)).item()
    assert result.loss == pytest.approx((half_loss + 2 * sure_loss) / 3, rel=1e-4)


def test_another_crop_size_keeps_the_ratio_of_resize_to_crop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"dark": [0], "light": [255]}, size=(64, 48))
    seen: list[tuple[int, tuple[int, ...]]] = []
    whole = Crops.__init__

    def noted(self: Crops, *args: Any) -> None:
        whole(self, *args)
        seen.append((self.crop_size, tuple(resize.size[0] for resize in self.resizes)))

    monkeypatch.setattr(Crops, "__init__", noted)
    model = Brightness()
    model.preprocessing = replace(GRAY, image_size=28, resize=32)
    data = DataConfig(dataset=str(folder), num_workers=0)
    senet.evaluate(model, data)
    senet.evaluate(model, data, crop_size=35)
    assert seen == [(28, (32,)), (35, (40,))]


def test_bf16_is_close(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fp32, bf16 = senet.evaluate(digits_run), senet.evaluate(digits_run, precision="bf16")
    assert bf16.top1 == pytest.approx(fp32.top1, abs=1.0)
    assert bf16.loss != fp32.loss
    for fast, expected in ((True, bf16), (False, fp32)):
        monkeypatch.setattr("senet.nn.precision.has_bf16", lambda device, fast=fast: fast)
        assert senet.evaluate(digits_run, precision="auto") == expected


def test_run_data_reads_back_the_whole_configuration(digits_run: Path, tmp_path: Path) -> None:
    assert run_data(digits_run) == digits().data
    assert run_data(digits_run / "last") == digits().data
    assert run_data(tmp_path) is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SenetError, match="not the configuration"):
        run_data(tmp_path)


def test_bad_input_is_named(digits_run: Path, tmp_path: Path) -> None:
    model = senet.from_pretrained(digits_run)
    with pytest.raises(SenetError, match="data is missing"):
        senet.evaluate(model)
    with pytest.raises(SenetError, match="crop_size is 9"):
        senet.evaluate(model, "digits", crop_size=9, resize_sizes=(8,))
    with pytest.raises(SenetError, match="crop_size is 0"):
        senet.evaluate(model, "digits", crop_size=0)
    with pytest.raises(SenetError, match="precision is 'fp8'; expected one of auto, fp32, tf32, bf16, fp16"):
        senet.evaluate(model, "digits", precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(SenetError, match="precision is 'fp16', which needs a GPU"):
        senet.evaluate(model, "digits", precision="fp16", device="cpu")  # type: ignore[arg-type]
    with pytest.raises(SenetError, match="batch_size is 0"):
        senet.evaluate(model, "digits", batch_size=0)
    folder = write_folder(tmp_path / "two", {"a": [0], "b": [0]})
    with pytest.raises(SenetError, match=r"no class 'a', one of 2 that only .*two/val has"):
        senet.evaluate(model, str(folder))
    letters = write_folder(tmp_path / "ten", {chr(97 + i): [0] for i in range(10)})
    with pytest.raises(SenetError, match=r"no class 'a', one of 10 that only .*ten/val has"):
        senet.evaluate(model, str(letters))


def test_the_network_s_own_preprocessing_counts(digits_run: Path) -> None:
    other = replace(digits().data, preprocessing=Preprocessing(image_size=8, resize=8, mean=(0.9,), std=(0.1,)))
    assert senet.evaluate(digits_run, other) == senet.evaluate(digits_run)
    assert open_split(other, "eval").class_names == tuple("0123456789")


def test_networks_that_do_not_say_how_they_want_images(tmp_path: Path) -> None:
    import timm

    folder = write_folder(tmp_path, {"dark": [0], "light": [255]}, size=(300, 300))
    seen = []
    model = timm.create_model("test_resnet", num_classes=2)
    model.register_forward_pre_hook(lambda _module, images: seen.append(images[0].shape[-1]))
    senet.evaluate(model, folder)
    assert set(seen) == {model.pretrained_cfg["input_size"][-1]}
    layers = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(SenetError, match="Sequential has no preprocessing"):
        senet.evaluate(layers, folder)
    with pytest.raises(SenetError, match=r"the network has 5 classes, but .* has 2"):  # as it runs; it does not say
        senet.evaluate(layers, DataConfig(dataset=str(folder), num_workers=0))


# ---- one preparation


class Linear(nn.Module):
    """A linear network of the pixels, so that another pixel is another logit."""

    def __init__(self, preprocessing: Preprocessing, size: int, num_classes: int = 6) -> None:
        super().__init__()
        self.preprocessing, self.num_classes = preprocessing, num_classes
        numbers = preprocessing.in_channels * size**2
        weight = torch.randn(num_classes, numbers, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight / numbers**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


PHOTOS = {"a": ("0.png", (41, 30)), "b": ("0.jpg", (33, 57)), "c": ("0.webp", (24, 24)), "d": ("turned.jpg", (50, 29))}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of odd pictures in four classes, one of them on its side by its EXIF data."""
    root = tmp_path_factory.mktemp("photos")
    exif = Image.Exif()
    exif[0x0112] = 6
    for i, (name, (file, size)) in enumerate(PHOTOS.items()):
        (root / name).mkdir()
        noise = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / name / file, **({"exif": exif} if "turned" in file else {}))
    return root


def by_hand(model: nn.Module, root: Path, crop: int, scales: tuple[int, ...], ten: bool) -> tuple[list[float], float]:
    """Return the probability of the right class of each image and the mean loss, by `senet.create_transform` alone."""
    own, right = model.preprocessing, []
    for label, (name, (file, _)) in enumerate(PHOTOS.items()):
        image, views = ImageOps.exif_transpose(Image.open(root / name / file)), []
        for scale in scales:
            model.preprocessing = replace(own, image_size=crop, resize=scale)
            if not ten:
                views.append(senet.create_transform(model)(image))
                continue
            normalize = model.preprocessing.normalize()
            resized = v2.Resize(scale, v2.InterpolationMode(own.interpolation))(image.convert("RGB"))
            w, h = resized.size
            middle = (round((w - crop) / 2), round((h - crop) / 2))
            for side in (resized, resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
                for x, y in ((0, 0), (w - crop, 0), (0, h - crop), (w - crop, h - crop), middle):
                    views.append(v2.Compose(normalize)(side.crop((x, y, x + crop, y + crop))))
        model.preprocessing = own
        right.append(model(torch.stack(views)).softmax(1).mean(0)[label].item())
    return right, -float(np.log(right).mean())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "resize", "options"),
    [
        (16, 16, {}),
        (16, 18, {}),
        (21, 24, {}),
        (16, 20, {"crop_size": 12}),
        (16, 20, {"resize_sizes": (16, 23, 30)}),
        (16, 20, {"ten_crop": True}),
        (16, 20, {"crop_size": 14, "resize_sizes": (16, 21), "ten_crop": True}),
    ],
)
def test_evaluation_sees_what_transform_makes(
    photos: Path, interpolation: Interpolation, size: int, resize: int, options: dict[str, Any]
) -> None:
    preprocessing = Preprocessing(
        image_size=size, resize=resize, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), interpolation=interpolation
    )
    crop = options.get("crop_size", size)
    model = Linear(preprocessing, crop)
    model.class_names = (*PHOTOS, "e", "f")
    with torch.no_grad():
        scales = options.get("resize_sizes") or (round(crop * resize / size),)
        _, loss = by_hand(model, photos, crop, scales, options.get("ten_crop", False))
    result = senet.evaluate(model, DataConfig(dataset=str(photos), num_workers=0), **options)
    assert result.loss == pytest.approx(loss, rel=2e-5)


def test_the_interpolation_makes_a_difference(photos: Path) -> None:
    losses = set()
    for interpolation in ("bilinear", "bicubic"):
        preprocessing = Preprocessing(
            image_size=8, resize=9, mean=(0.5,) * 3, std=(0.2,) * 3, interpolation=interpolation
        )
        model = Linear(preprocessing, 8, num_classes=4)
        losses.add(round(senet.evaluate(model, DataConfig(dataset=str(photos), num_workers=0)).loss, 3))
    assert len(losses) == 2


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_networks_of_other_channels_are_evaluated_and_predict_alike(tmp_path: Path, channels: int) -> None:
    stacks = np.random.default_rng(0).integers(0, 256, (4, 9, 11, channels), dtype=np.uint8)
    for i, stack in enumerate(stacks):
        (tmp_path / f"class {i}").mkdir()
        if channels == 4:
            Image.fromarray(stack).save(tmp_path / f"class {i}" / "rgba.png")
        else:
            np.save(tmp_path / f"class {i}" / "stack.npy", stack)
    values = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    model = Linear(Preprocessing(image_size=8, resize=8, **values), 8, num_classes=4)
    with torch.no_grad():
        logits = model(torch.stack([senet.create_transform(model)(stack) for stack in stacks]))
    result = senet.evaluate(model, DataConfig(dataset=str(tmp_path), num_workers=0))
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits, torch.arange(4)).item(), rel=1e-5)
    predicted = senet.predict(model, sorted(tmp_path.glob("*/*")), top=1)
    assert [int(row[0].class_name) for row in predicted] == logits.argmax(1).tolist()


def test_all_that_look_at_images_see_the_same(photos: Path, tmp_path: Path) -> None:
    preprocessing = Preprocessing(
        image_size=16, resize=19, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3), interpolation="bicubic"
    )
    model = senet.create_model("cifar_se_resnet20", num_classes=4).eval()
    model.preprocessing, model.class_names = preprocessing, tuple(PHOTOS)
    files = [photos / name / file for name, (file, _) in PHOTOS.items()]
    expected = [senet.create_transform(model)(ImageOps.exif_transpose(Image.open(file))) for file in files]
    seen: list[Tensor] = []
    data = DataConfig(dataset=str(photos), num_workers=0, preprocessing=preprocessing)

    def assert_seen(found: Sequence[Tensor], times: int = 1) -> None:
        images = [image for batch in found for image in batch]
        assert len(images) == 4 * times
        for image in images:
            assert min((image - other).abs().max() for other in expected) < 1e-5
        for other in expected:
            assert sum(bool((image - other).abs().max() < 1e-5) for image in images) == times

    for look in (
        partial(senet.evaluate, model, data),
        partial(senet.predict, model, files),
        partial(senet.record_excitations, model, data),
        partial(examples_of, model, open_batches(model, data), senet.record_excitations(model, data), tuple(PHOTOS)),
    ):
        with model.register_forward_pre_hook(lambda _model, images: seen.append(images[0])):
            look()
        if look.func is senet.record_excitations:
            seen.pop(0)  # the first image, to find the blocks
        assert_seen(seen)
        seen.clear()
    for in_memory in (True, False):
        loader = build_loader(
            replace(data, in_memory=in_memory),
            open_split(data, "eval"),
            "eval",
            batch_size=3,
            device=torch.device("cpu"),
        )
        assert_seen([images for images, _ in loader.batches(0)])


# ---- classes by name


class Levels(nn.Module):
    """Classes of uniform gray images: `levels[k]` is the brightness of class k."""

    preprocessing = GRAY

    def __init__(self, levels: list[int], class_names: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels) / 255)
        self.class_names, self.num_classes = class_names, len(levels)

    def forward(self, x: Tensor) -> Tensor:
        return -100 * (x.mean((1, 2, 3))[:, None] - self.levels).abs()


def test_classes_are_matched_by_name_whatever_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    level = {str(i): 20 * i for i in range(12)}
    folder = write_folder(tmp_path, {name: [value] for name, value in level.items()})
    data = DataConfig(dataset=str(folder), num_workers=0)
    orders = [sorted(level), sorted(level, key=int), sorted(level, reverse=True)]
    orders += [[f"{int(name):02}" for name in order] for order in orders]
    for names in orders:
        model = Levels([level[str(int(name))] for name in names], tuple(names))
        assert senet.evaluate(model, data).top1 == 100, names
    assert not caplog.records
    assert senet.evaluate(Levels(list(level.values())), data).top1 == 100
    assert "in the order of their numbers (torchvision's ImageFolder has 10 before 2)" in caplog.text


def test_folders_that_are_numbers_for_a_network_with_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Levels([0, 100, 200], ("cat", "dog", "emu"))
    folder = write_folder(tmp_path / "a", {"0": [0], "1": [100], "2": [200]})
    assert senet.evaluate(model, DataConfig(dataset=str(folder), num_workers=0)).top1 == 100
    assert "are numbers, taken for the network's outputs: 0 is 'cat'" in caplog.text
    from_one = write_folder(tmp_path / "b", {"1": [0], "2": [100], "3": [200]})
    with pytest.raises(SenetError, match=r"have names \(cat, dog, emu\), but those of .* are numbers \(1, 2, 3\)"):
        senet.evaluate(model, from_one)
    named = DataConfig(dataset=str(from_one), num_workers=0, class_names=("cat", "dog", "emu"))  # the remedy
    assert senet.evaluate(model, named).top1 == 100


def test_some_of_the_network_s_classes_are_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Levels([0, 100, 200, 210], ("cat", "dog", "emu", "fox"))
    folder = write_folder(tmp_path, {"emu": [200, 206, 202], "cat": [1]})
    data = DataConfig(dataset=str(folder), num_workers=0)
    assert senet.evaluate(model, data).top1 == 75  # 206 is a fox
    assert "has 2 of the network's 4 classes (cat, emu)" in caplog.text


def test_classes_that_the_network_lacks_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"cat": [0], "dgo": [100]})
    with pytest.raises(SenetError, match=r"no class 'dgo', which only .* has; the nearest are dog"):
        senet.evaluate(Levels([0, 100, 200], ("cat", "dog", "emu")), folder)
    with pytest.raises(SenetError, match=r"the network has 3 classes, but .* has 2; .* set model\.class_names"):
        senet.evaluate(Levels([0, 100, 200]), folder)
    with pytest.raises(SenetError, match=r"'cat' of .* fits several classes"):
        senet.evaluate(Levels([0, 100, 200], ("cat", "dgo", "cat")), folder)


def test_classes_without_names_are_taken_in_order_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path, {"cat": [0], "dog": [100]})
    for _ in range(2):
        assert senet.evaluate(Levels([0, 100]), DataConfig(dataset=str(folder), num_workers=0)).top1 == 100
    assert len(caplog.records) == 1
    assert "the network has no class names" in caplog.text
    assert "in the order of their names, cat, dog" in caplog.text


def test_a_run_is_evaluated_on_its_held_out_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, low in (("dark", 0), ("light", 160)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (8, 8), low + 5 * i).save(tmp_path / "images" / name / f"{i}.png")
    recipe = digits()
    data = replace(recipe.data, dataset=str(tmp_path / "images"), val_fraction=0.3)
    run = senet.train(replace(recipe, data=data, epochs=1, batch_size=7), tmp_path / "run")
    row = json.loads((run / "metrics.jsonl").read_text())
    result = senet.evaluate(run)
    assert result.num_images == 6
    assert (result.top1, result.loss) == (pytest.approx(row["top1"]), pytest.approx(row["loss"], rel=1e-4))
    assert senet.resume(run) == run
    write_folder(tmp_path / "other", {"light": [255], "dark": [0]})
    assert main(["evaluate", str(run), "--data", str(tmp_path / "other"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 2  # the share sticks to the run's own data


# ---- the caller's model


class Trunk(nn.Sequential):
    """A network in parts: a frozen BatchNorm in a network that is training, in double precision."""

    preprocessing = GRAY
    class_names = ("dark", "light")

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        self.double().train()
        self[1].eval()


@pytest.mark.parametrize("use", ["evaluate", "predict", "interrupted"])
def test_the_caller_s_model_stays_as_it_was(tmp_path: Path, use: str) -> None:
    folder = write_folder(tmp_path, {"dark": [0, 10], "light": [255]})
    model = Trunk()

    def state() -> list[tuple[Any, ...]]:
        tensors = [*model.parameters(), *model.buffers()]
        kept = [(id(t), t.data_ptr(), t.stride(), t.dtype, t.device, t.sum().item()) for t in tensors]
        return [*kept, *(module.training for module in model.modules())]

    before = state()
    if use == "evaluate":
        senet.evaluate(model, DataConfig(dataset=str(folder), num_workers=0))
    elif use == "predict":
        senet.predict(model, sorted(folder.rglob("*.png")))
    else:
        model[4].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            senet.evaluate(model, DataConfig(dataset=str(folder), num_workers=0))
    assert state() == before


def test_a_model_is_used_where_it_is_and_one_loaded_by_name_on_a_gpu(
    digits_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = senet.from_pretrained(digits_run)
    expected = senet.evaluate(model, "digits")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert senet.evaluate(model, "digits") == expected
    assert senet.record_excitations(model, "digits").num_images == 360
    monkeypatch.setattr("senet.evaluation.batches.default_device", lambda: torch.device("meta"))
    loaded, _ = model_and_data(digits_run, None)
    assert next(loaded.parameters()).is_meta


def test_a_model_on_another_device_is_given_back_to_its_own() -> None:
    model = Trunk()
    pointers = [t.data_ptr() for t in (*model.parameters(), *model.buffers())]
    with borrowed(model, torch.device("meta"), torch.channels_last):
        assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
        assert not model.training
    assert [t.data_ptr() for t in (*model.parameters(), *model.buffers())] == pointers
    assert [module.training for module in model] == [True, False, True, True, True]
