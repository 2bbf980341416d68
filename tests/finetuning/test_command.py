"""`senet finetune`: a short help, and every field of the configuration beside it."""

import json

import pytest
import torch
from torch.nn.functional import one_hot

from senet.cli import main
from senet.cli.finetuning import FinetuneCommand, class_table, divided, read_settings
from senet.cli.names import FINETUNING, TRAINING
from senet.cli.options import by_flag
from senet.errors import SenetError
from senet.evaluation.accuracy import sums_of
from senet.training.config import TrainConfig
from small_pictures import QUICK


def test_the_help_fits_a_screen_and_names_the_other_one(capsys):
    assert main(["finetune", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 60
    assert any("--help-all" in line for line in lines)
    assert not any("--optimizer.lr " in line for line in lines if "│" in line)
    assert main(["finetune", "--help-all"]) == 0
    everything = capsys.readouterr().out
    assert all(flag in everything for flag in ("--optimizer.lr", "--data.augmentation.auto-augment", "--model.se.gate"))


def test_words_are_divided_between_the_command_and_the_configuration():
    words = [
        "pictures",
        "--model",
        "m",
        "--optimizer.lr",
        "0.1",
        "--output",
        "o",
        "--data.augmentation.no-flip",
        "--epochs",
        "3",
    ]
    own, others = divided(FinetuneCommand, [*words, "--optimizer.kwargs", "eps=1e-6", "betas=x", "--seed=4"])
    assert own == ["pictures", "--model", "m", "--output", "o", "--epochs", "3", "--seed=4"]
    settings = read_settings(others, "senet finetune")
    assert settings == {
        "optimizer.lr": 0.1,
        "data.augmentation.flip": False,
        "optimizer.options.eps": 1e-6,
        "optimizer.options.betas": "x",
    }
    assert read_settings(["--data.augmentation.crop_scale", "0.5", "1"], "senet finetune") == {
        "data.augmentation.crop_scale": (0.5, 1.0)
    }


def test_the_ending_counts_each_class():
    """Of 4 cats 3 are found, of 2 dogs none; a fox is predicted, but no image is one."""
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 0, 2])
    sums = sums_of(one_hot(predicted, 3).float(), labels)
    table = class_table(("cat", "dog", "fox"), sums)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    assert columns == [["dog", "cat"], ["2", "4"], ["0.0", "75.0"], ["0.0", "75.0"]]


def test_a_run_by_the_command_line(pictures, tmp_path, capsys):
    words = ["finetune", str(pictures), "--model", "cifar_se_resnet20", "--output", str(tmp_path / "run")]
    quick = ["--data.num-workers", "0", "--compute.cpu", "--compute.fused", "off", "--epochs", "1"]
    assert main([*words, *quick, "--optimizer.lr", "0.125", "--freeze", "none"]) == 0
    said = capsys.readouterr()
    assert "always predicting cat" in said.err
    assert f"senet evaluate {tmp_path / 'run'}" in said.out
    assert "recall, %" in said.out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["optimizer"]["lr"], config["freeze"], config["epochs"]) == (0.125, "none", 1)
    assert main(["finetune", "--resume", str(tmp_path / "run")]) == 0
    again = capsys.readouterr()
    assert "is finished" in again.err
    result = said.err.splitlines()[-1]
    assert result.startswith("run: the last of 1 epoch is 1, with a balanced accuracy of ")
    assert again.out == f"{result}\n{said.out}"
    assert main(["finetune", str(pictures), "--resume", str(tmp_path / "run")]) == 2
    assert "has no effect with --resume" in capsys.readouterr().err
    assert main([*words, *quick]) == 2
    assert "holds a run already; go on with it by `senet train --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "m", "pictures"], "the folder of pictures is missing; it comes before all options"),
        (["pictures", "--model", "cifar_se_resnet20", "--output", "o", "--optimizer.lr", "-1"], "--optimizer.lr is -1"),
        (["pictures", "--model", "cifar_resnet20", "--output", "o"], "from scratch with --no-pretrained"),
        (["pictures", "--model", "cifar_se_resnet20", "--output", "o", "--time", "5"], "--time is '5'"),
    ],
)
def test_what_makes_no_sense_is_refused_as_it_is_typed(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", *words]) == 2
    assert said in capsys.readouterr().err


def test_quick_settings_are_fields():
    words = [f"--{name.replace('_', '-')}" for name in QUICK]
    assert divided(FinetuneCommand, words) == ([], words)


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("--lr", "the nearest are --optimizer.lr$"),
        ("--optimizer.learning-rate", "--optimizer.lr"),
        ("--imgsz", "here that is --image-size$"),
        ("--learning_rate", "here that is --optimizer.lr$"),
        ("--no-flip", "the nearest are --data.augmentation.no-flip$"),
        ("--data", "here that is the folder, which comes first$"),
    ],
)
def test_an_unknown_option_names_the_nearest(option, nearest):
    with pytest.raises(SenetError, match=rf"no option is called {option}; .*{nearest}"):
        FinetuneCommand.read(["pictures", "--model", "m", "--output", "r", option, "0.1"], "senet finetune")


def test_what_other_programs_call_options_exists_here():
    known = by_flag(FinetuneCommand, TrainConfig)
    own = {name for name in FINETUNING if name in known}
    assert own == {"--data"}  # a field that is set by the folder
    for here in (*FINETUNING.values(), *TRAINING.values()):
        assert here.startswith(("the folder", "nothing: ")) or here.replace(",", "").split()[0] in known
    assert not {name for name in TRAINING if name in by_flag(TrainConfig)} - own
