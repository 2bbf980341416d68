import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import senet
from senet.cli.demo import free_folder
from senet.cli.demo_digits import compare_twins
from senet.cli.demo_leaves import PICTURES, finetune_to_leaves
from senet.errors import SenetError
from senet.recipes import get_recipe


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_demo_leaves_runs_that_evaluate_and_predict_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    plain, se = compare_twins(replace(get_recipe("digits"), epochs=2), folder)
    assert (plain.name, se.name) == ("cifar_resnet20", "cifar_se_resnet20")
    assert plain.parameters == senet.cost(senet.create_model(plain.name, in_channels=1)).parameters
    # The blocks add C * (C // 16) * 2 weights and C + C // 16 biases in each of three units per stage.
    assert se.parameters - plain.parameters == sum(3 * (2 * c * (c // 16) + c + c // 16) for c in (16, 32, 64))
    assert se.multiply_adds - plain.multiply_adds == sum(3 * 2 * c * (c // 16) for c in (16, 32, 64))
    assert min(plain.step_time_ms, se.step_time_ms) > 0
    for kind, result in (("plain", plain), ("se", se)):
        rows = [json.loads(line) for line in (folder / kind / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [1, 2]
        assert result.top1 == rows[-1]["top1"]
        assert senet.evaluate(folder / kind).top1 == pytest.approx(max(row["top1"] for row in rows))
    samples = sorted((folder / "samples").glob("*.png"))
    assert len(senet.predict(folder / "se", samples)) == len(samples) == 5
    page = (folder / "curves.html").read_text()
    assert all(text in page for text in (plain.name, se.name, "Training loss"))
    assert "What each gate contributes" in (folder / "report.html").read_text()
    printed = capsys.readouterr().out
    for number in (f"{plain.parameters:,}", f"{se.parameters:,}", f"{se.multiply_adds:,}", f"{se.step_time_ms:.1f}"):
        assert number in printed


def test_a_taken_folder_is_left_alone(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert free_folder(tmp_path / "demo") == tmp_path / "demo-3"


def few_leaves(folder: Path) -> Path:
    for split, number in (("train", 6), ("val", 3)):
        for kind in (PICTURES / split).iterdir():
            (folder / split / kind.name).mkdir(parents=True)
            for picture in sorted(kind.iterdir())[: 2 * number if kind.name == "oak" else number]:
                shutil.copy(picture, folder / split / kind.name)
    return folder


def test_the_second_half_leaves_pictures_a_run_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    settings = {"epochs": 1, "data.num_workers": 0}
    run = finetune_to_leaves(folder, pictures=few_leaves(tmp_path / "few"), settings=settings)
    evaluation = senet.evaluate(run)  # on the copied pictures, with the classes of their folders
    assert evaluation.num_images == 18
    assert senet.from_pretrained(run / "best").class_names == ("birch", "ginkgo", "maple", "oak", "willow")
    assert len(list((folder / "leaves").rglob("*.jpg"))) == 54
    page = (folder / "mistakes.html").read_text()
    assert all(kind in page for kind in ("birch", "ginkgo", "maple", "oak", "willow"))
    assert f"top-1 {evaluation.top1:.2f} %" in capsys.readouterr().out


def test_a_demo_of_unwritable_pictures_says_so(tmp_path: Path) -> None:
    with pytest.raises(SenetError, match=r"leaves cannot be written .*; choose another --output$"):
        finetune_to_leaves(tmp_path, pictures=tmp_path / "missing")
