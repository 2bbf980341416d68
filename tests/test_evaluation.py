import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import senet
from senet import DataConfig, Preprocessing, SenetError
from senet.data.datasets import open_split
from senet.data.views import Views
from senet.evaluation import run_data
from senet.recipes.digits import digits

GREY = Preprocessing(image_size=4, resize=4, mean=(0.0,), std=(1.0,))


def write_folder(root: Path, brightness: dict[str, list[int]], size: tuple[int, int] = (4, 4)) -> Path:
    """Write an image folder, val/ only: uniform grey images of the given brightness per class."""
    for name, values in brightness.items():
        (root / "val" / name).mkdir(parents=True)
        for i, value in enumerate(values):
            Image.new("L", size, value).save(root / "val" / name / f"{i}.png")
    return root


class Brightness(nn.Module):
    """Two classes, dark and light: logits (-x, x) of the mean pixel less one half, times ten."""

    preprocessing = GREY
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


def test_views_are_the_corners_and_centre_and_their_mirrors_at_each_scale() -> None:
    pixels = torch.arange(64, dtype=torch.uint8).view(8, 8)
    image = Image.fromarray(pixels.numpy())
    views = Views(GREY, 4, (8,), "ten")(image)
    assert views.shape == (10, 1, 4, 4)
    corners = [pixels[:4, :4], pixels[:4, 4:], pixels[4:, :4], pixels[4:, 4:], pixels[2:6, 2:6]]
    found = {tuple(view.flatten().tolist()) for view in views}
    assert found == {tuple(c.flatten().tolist()) for corner in corners for c in (corner, corner.flip(1))}
    assert Views(GREY, 4, (4, 8), "center")(image).shape == (2, 1, 4, 4)
    assert Views(GREY, 4, (4, 6, 8), "ten")(image).shape == (30, 1, 4, 4)


def test_many_views_average_probabilities(tmp_path: Path) -> None:
    half = Image.new("L", (8, 4), 0)
    half.paste(255, (4, 0, 8, 4))
    (tmp_path / "val" / "dark").mkdir(parents=True)
    half.save(tmp_path / "val" / "dark" / "0.png")
    Image.new("L", (4, 4), 0).save(tmp_path / "val" / "dark" / "1.png")
    (tmp_path / "val" / "light").mkdir()
    Image.new("L", (4, 4), 255).save(tmp_path / "val" / "light" / "0.png")
    result = senet.evaluate(Brightness(), DataConfig(dataset=str(tmp_path), num_workers=0), crops="ten")
    # Of the half-dark image's ten crops four are dark (p = s(10)), four light (s(-10)), two half and half (1/2).
    half_loss = torch.log(torch.tensor(2.0)).item()
    sure_loss = nn.functional.softplus(torch.tensor(-10.0)).item()
    assert result.loss == pytest.approx((half_loss + 2 * sure_loss) / 3, rel=1e-4)


def test_crop_keeps_the_ratio_of_scale_to_crop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"dark": [0], "light": [255]}, size=(64, 48))
    seen: list[tuple[int, tuple[int, ...]]] = []
    whole = Views.__init__

    def watched(self: Views, preprocessing: Preprocessing, size: int, scales: tuple[int, ...], crops: str) -> None:
        seen.append((size, scales))
        whole(self, preprocessing, size, scales, crops)

    monkeypatch.setattr(Views, "__init__", watched)
    model = Brightness()
    model.preprocessing = replace(GREY, image_size=28, resize=32)
    data = DataConfig(dataset=str(folder), num_workers=0)
    senet.evaluate(model, data)
    senet.evaluate(model, data, crop=35)
    assert seen == [(28, (32,)), (35, (40,))]


def test_bf16_is_close(digits_run: Path) -> None:
    assert senet.evaluate(digits_run, bf16=True).top1 == pytest.approx(senet.evaluate(digits_run).top1, abs=1.0)


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
    with pytest.raises(SenetError, match="crop is 9"):
        senet.evaluate(model, "digits", crop=9, scales=(8,))
    with pytest.raises(SenetError, match="crops is 'five'"):
        senet.evaluate(model, "digits", crops="five")  # type: ignore[arg-type]
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
