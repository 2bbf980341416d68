"""Networks side by side, and what `senet evaluate` prints of them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import senet
from senet import DataConfig, Preprocessing, SenetError
from senet.cli import main
from senet.evaluation.comparison import compare
from senet.evaluation.scores import unique_names


class Brightness(nn.Module):
    """Three classes by the mean pixel."""

    preprocessing = Preprocessing(image_size=4, resize=4, mean=(0.0,), std=(1.0,))
    class_names = ("dark", "gray", "light")
    num_classes = 3

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3))[:, None] + self.shift
        return -40 * (level - torch.tensor([0.0, 0.5, 1.0])) ** 2


@pytest.fixture
def grays(tmp_path: Path) -> Path:
    """Nine dark images, two gray and one light."""
    for name, levels in (("dark", range(0, 90, 10)), ("gray", (110, 160)), ("light", (230,))):
        (tmp_path / "grays" / name).mkdir(parents=True)
        for level in levels:
            Image.new("L", (4, 4), level).save(tmp_path / "grays" / name / f"{level}.png")
    return tmp_path / "grays"


def read(folder: Path) -> DataConfig:
    """The images of a folder, read without processes of their own."""
    return DataConfig(dataset=str(folder), num_workers=0)


def test_each_is_compared_with_the_first(grays: Path) -> None:
    networks = [Brightness(), Brightness(0.3), Brightness(-0.2)]
    found = compare(networks, read(grays), ensemble=True, weights=(1, 1, 2))
    assert [report.name for report in found.all_reports] == [
        "Brightness",
        "Brightness (2)",
        "Brightness (3)",
        "ensemble",
    ]
    for network, report in zip(networks, found.reports, strict=True):
        assert report.evaluation == senet.evaluate(network, read(grays))
    assert found.ensemble is not None
    assert found.ensemble.evaluation == senet.evaluate(networks, read(grays), weights=(1, 1, 2))
    assert [(test.first, test.second) for test in found.tests] == [
        ("Brightness", name) for name in ("Brightness (2)", "Brightness (3)", "ensemble")
    ]
    # At first 7 dark images (those below 64), both gray ones and the light one are right; then one gray and the light.
    brighter = found.tests[0]
    assert (brighter.only_first_right, brighter.only_second_right) == (8, 0)
    assert brighter.p_value == pytest.approx(2 * 0.5**8)
    assert brighter.top1_difference == pytest.approx(-100 * 8 / 12)


def test_orders_and_subsets_of_classes_are_compared_by_name(grays: Path) -> None:
    class Reordered(Brightness):
        class_names = ("light", "dark", "another", "gray")
        num_classes = 4

        def forward(self, x: Tensor) -> Tensor:
            dark, gray, light = super().forward(x).unbind(1)
            return torch.stack([light, dark, torch.full_like(dark, -9.0), gray], 1)

    found = compare([Brightness(), Reordered()], read(grays))
    assert (found.tests[0].only_first_right, found.tests[0].only_second_right) == (0, 0)
    with pytest.raises(SenetError, match="has no class 'another', one of 1 that differ"):
        compare([Brightness(), Reordered()], read(grays), ensemble=True)
    whole = compare([Brightness(), Reordered()], read(grays), ensemble=True, classes_of_data=True)
    assert whole.ensemble is not None
    assert whole.ensemble.evaluation.loss == pytest.approx(whole.reports[0].evaluation.loss, rel=1e-5)


def test_everything_in_json(grays: Path) -> None:
    found = compare([Brightness(0.1)], read(grays))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["tests"] == []
    assert plain["ensemble"] is None
    (only,) = plain["models"]
    assert only["top1"] == found.reports[0].evaluation.top1
    assert only["classes"][0] | {"precision": 0, "f1": 0} == {
        "class_name": "dark",
        "support": 9,
        "predicted": sum(row[0] for row in only["confusion"]),
        "precision": 0,
        "recall": pytest.approx(100 * only["confusion"][0][0] / 9),
        "f1": 0,
    }
    assert only["mistakes"][0]["image"].endswith(".png")
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for key in {*plain, *only, *only["classes"][0], *only["mistakes"][0], *only["calibration"][0]}:
        assert f"`{key}`" in text, f"docs/evaluation.md does not describe {key}"


def test_an_infinite_loss_is_null_in_json(grays: Path) -> None:
    class Blind(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.tensor([0.0, 0.0, -torch.inf])

    found = compare([Blind()], read(grays))
    assert found.reports[0].evaluation.loss == torch.inf
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))["models"][0]
    assert plain["loss"] is None
    assert plain["intervals"]["loss"][1] is None


def test_names() -> None:
    assert unique_names(["a", "a", Path("b"), "a"]) == ("a", "a (2)", "b", "a (3)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": True}, "ensemble needs several networks"),
        ({"weights": (1.0,)}, "weights has no effect without an ensemble; set ensemble=True too"),
        ({"names": ("a", "b")}, "expected a different name for each of the 1 networks"),
    ],
)
def test_options_that_do_not_fit(grays: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SenetError, match=message):
        compare([Brightness()], read(grays), **options)  # type: ignore[arg-type]


# ---- command line


@pytest.fixture(scope="module")
def other_run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the digits with other weights: those of its last epoch, and noise."""
    copy = tmp_path_factory.mktemp("other") / "run"
    shutil.copytree(digits_run, copy)
    model = senet.from_pretrained(copy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    shutil.rmtree(copy / "best")
    senet.save_pretrained(model, copy / "best")
    return copy


def test_several_networks_in_a_table(
    digits_run: Path, other_run: Path, few_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", str(digits_run), str(other_run), "--ensemble", "--weights", "2", "1"]
    assert main(argv) == 0
    heading, first, second, whole, last = capsys.readouterr().out.splitlines()
    assert " ".join(heading.split()).startswith("network top-1, % balanced, % F1, % loss ECE, points ms/image top-1 ag")
    assert first.split()[0] == str(digits_run)
    assert second.split()[0] == str(other_run)
    assert whole.split()[0] == "ensemble"
    assert last == "60 images of digits"
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ensemble"]["top1"] == senet.evaluate([digits_run, other_run], weights=(2, 1)).top1
    assert f"{found['models'][1]['loss']:.4f}" in second


def test_one_network_is_one_object(digits_run: Path, few_digits: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(digits_run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == senet.evaluate(digits_run).top1


def test_a_top1_accuracy_that_misleads_is_said_to(grays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = senet.create_model("cifar_resnet20", num_classes=3, in_channels=1)
    model.class_names = ("dark", "gray", "light")
    nn.init.zeros_(model.fc.weight)
    nn.init.constant_(model.fc.bias, 0.0)
    model.fc.bias.data[0] = 1.0
    senet.save_pretrained(model, grays.parent / "model")
    assert main(["evaluate", str(grays.parent / "model"), "--data", str(grays)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("top-1 75.00 %, top-5 100.00 %, balanced accuracy 33.33 %, loss ")
    assert said.endswith("; always predicting the largest class has top-1 75.00 % and balanced accuracy 33.33 %\n")
    mapping = grays.parent / "map.json"
    mapping.write_text('{"gray": "light"}')
    shutil.move(grays / "gray" / "110.png", grays / "light" / "110.png")
    shutil.rmtree(grays / "gray")
    argv = ["evaluate", str(grays.parent / "model"), "--data", str(grays), "--mapping", str(mapping), "--json"]
    assert main(argv) == 0
    assert [each["class_name"] for each in json.loads(capsys.readouterr().out)["classes"]] == ["dark", "light"]
    assert main([*argv[:-2], str(grays / "light" / "230.png"), "--json"]) == 2
    assert "is not a mapping of classes: expected JSON with one object" in capsys.readouterr().err


def test_runs_on_other_data_are_told(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(digits_run, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"data": config["data"] | {"dataset": "cifar10"}}))
    assert main(["evaluate", str(digits_run), str(other)]) == 2
    said = capsys.readouterr().err
    assert f"senet: {other} was trained on cifar10, and {digits_run} on digits; name the data" in said


def test_runs_that_held_out_other_images_are_told(
    digits_run: Path, grays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = []
    for seed in (0, 5):
        names.append(str(tmp_path / f"run{seed}"))
        shutil.copytree(digits_run, names[-1])
        config = json.loads(Path(names[-1], "config.json").read_text())
        data = config["data"] | {"dataset": str(grays), "val_fraction": 0.5, "split_seed": seed}
        Path(names[-1], "config.json").write_text(json.dumps(config | {"data": data}))
    assert main(["evaluate", *names]) == 2  # the classes differ, which is told later
    said = capsys.readouterr().err
    assert f"warning: {names[1]} was trained on some of the images that it is evaluated on" in said
    assert "(--data.val-fraction, --data.split-seed)" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ensemble"], "senet: ensemble needs several networks; name more than one"),
        (["--weights", "1"], "senet: --weights has no effect without an ensemble; set --ensemble too"),
        (["RUN", "--ensemble", "--weights", "1"], "expected a positive number for each of the 2 networks"),
        (["nope"], "no network is called 'nope'"),
        (["--report", "RUN"], "cannot be written (it is a folder)"),
        (["--report", "RUN/config.json/x.html"], "is not a folder); name another output"),
        (["--mapping", "nowhere.csv"], "nowhere.csv does not exist; expected a mapping of classes"),
    ],
)
def test_bad_input_is_one_sentence_before_the_work(
    digits_run: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*_args: object, **_options: object) -> None:
        raise AssertionError("worked in vain")

    monkeypatch.setattr("senet.evaluation.scores.log_probabilities", work)
    monkeypatch.setattr("senet.evaluation.accuracy.log_probabilities", work)
    assert main(["evaluate", str(digits_run), *(word.replace("RUN", str(digits_run)) for word in words)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
