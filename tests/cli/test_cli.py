import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from senet import __version__
from senet.cli import COMMANDS, main
from senet.cli.evaluation import EvaluateCommand
from senet.cli.options import as_typed, by_flag, check_options, options
from senet.cli.parsing import keyword_argument
from senet.data.datasets import open_split
from senet.errors import SenetError
from senet.factory import from_pretrained
from senet.models.catalog import model_card
from senet.recipes import RECIPES
from senet.recipes.digits import digits
from senet.training.config import TrainConfig
from senet.weights.folder import PACKAGED

FAST = ("--epochs", "1", "--batch-size", "256")


def assert_refused(capsys: pytest.CaptureFixture[str], argv: list[str], *said: str) -> None:
    """The command exits with 2 and one sentence on standard error, after warnings, that holds `said`."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.strip().splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("senet: ")
    for part in said:
        assert part in lines[0]


def assert_not_read(capsys: pytest.CaptureFixture[str], argv: list[str], *said: str) -> None:
    """The command exits with 2, and tyro's words on standard error hold `said`, wherever they are broken into lines."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    text = re.sub(r"[\s│]", "", captured.err)
    assert captured.out == ""
    assert re.search(f"Forfullhelptext,(run:?|see)senet{argv[0]}", text)
    for part in said:
        assert "".join(part.split()) in text, captured.err


def test_help_lists_commands_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}  " in printed and command.summary in printed for name, command in COMMANDS.items())
    for command in ("train", "ablate"):
        assert main([command, "--help"]) == 0
        printed = capsys.readouterr().out
        assert all(f"  {name}  " in printed for name in RECIPES)
        assert ("senet train --resume RUN --help" in printed) == (command == "train")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["train", "digits"],
            [
                "--optimizer.lr",
                "--model.se.placement",
                "--regularization.mixup",
                "--model-kwargs",
                "KEY=VALUE",
            ],
        ),
        (["train", "--resume", "x"], ["--resume RUN", "--data DATASET", "--data.root", "--epochs"]),
        (["ablate", "digits"], ["--tables", "--seeds", "--data DATASET"]),
        (
            ["evaluate"],
            ["RUN_OR_MODEL", "--crop-size", "--ten-crop", "--resize-sizes", "--data DATASET", "--precision"],
        ),
        (["predict"], ["IMAGE [IMAGE ...]", "--model RUN_OR_MODEL", "--top", "--threshold", "--list FILE"]),
        (["runs"], ["FOLDER [FOLDER ...]", "--by", "--group", "--curves FILE", "--json"]),
        (["models"], ["PATTERN", "--json", "--paper"]),
        (["demo"], ["--output FOLDER", "minute"]),
        (["convert"], ["NAME", "SOURCE", "--output FOLDER", "--model-kwargs", "KEY=VALUE", "--se.gate"]),
        (["insert"], ["SOURCE", "--output FOLDER", "--existing {skip,", "--reduction", "--placement"]),
        (["record"], ["RUN_OR_MODEL", "--output FILE", "--data DATASET", "--precision"]),
        (["explain"], ["RUN_OR_MODEL", "--output FILE", "--no-knockout", "--data.val-fraction"]),
        (["prune"], ["RUN_OR_MODEL", "--output FOLDER", "--blocks", "--data DATASET"]),
    ],
    ids=lambda value: "",
)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], argv: list[str], said: list[str]) -> None:
    assert main([*argv, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith(f"usage: senet {' '.join(word for word in argv[:2] if word != '--resume')}")
    for part in said:
        assert part in captured.out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"senet {__version__}\n"


def test_help_and_version_import_no_more_than_they_print() -> None:
    heavy = ("torch", "tyro", "numpy", "timm")
    code = f"from senet.cli import main; main(['--help']); import sys; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    new = ["--output", str(tmp_path / "new")]
    assert_refused(capsys, [], "the command is missing", "train")
    assert_refused(capsys, ["evalate"], "no command is called 'evalate'; the nearest are evaluate,")
    assert_refused(capsys, ["train"], "the recipe is missing", "`senet train --help` lists them")
    assert_refused(capsys, ["train", *new], "the recipe is missing")
    assert_refused(capsys, ["train", "nope", *new], "no recipe is called 'nope'", "digits")
    assert_refused(capsys, ["train", "digits", *new, "--model.name", "cifar_se_resnet21"], "the nearest are")
    assert_refused(capsys, ["train", "digits", *new, "--model-kwargs", "stride_on=3x3"], "no option 'stride_on'")
    assert_refused(capsys, ["train", "digits", *new, "--data", "nowhere"], "--data is 'nowhere'")
    assert_refused(capsys, ["train", "--resume", str(tmp_path / "new")], "holds no run to resume")
    assert_refused(capsys, ["train", "digits", "--resume", "x"], "digits has no effect with --resume")
    assert_refused(capsys, ["evaluate", "nope"], "no network is called 'nope'")
    assert_refused(capsys, ["evaluate", "cifar_se_resnet20"], "--data is missing: say what to look at, such as --data")
    assert_refused(capsys, ["evaluate", "cifar_se_resnet20"], "cifar_se_resnet20 is no run here, whose data would be")
    assert_refused(capsys, ["predict"], "no image is given")
    assert_refused(capsys, ["predict", str(tmp_path / "absent.png")], "absent.png")
    assert_refused(capsys, ["predict", str(tmp_path)], f"{tmp_path} has no images; check the path")
    assert_refused(capsys, ["models", "nothing*"], "no network matches")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "digits"], ["Missing from senet train digits", "--output FOLDER"]),
        (["train", "digits", "--output", "x", "--epochs", "x"], ["Error parsing --epochs", "'x'"]),
        (
            ["train", "digits", "--output", "x", "--model.se.placement", "up"],
            ["--model.se.placement", "up", "identity"],
        ),
        (["train", "digits", "--output", "x", "--data.augmentation.crop-scale", "1"], ["crop-scale", "FLOAT FLOAT"]),
        (["evaluate"], ["RUN_OR_MODEL"]),
        (["evaluate", "cifar_se_resnet20", "--data", "d", "--resize-sizes", "1", "x"], ["--resize-sizes", "'x'"]),
        (["predict", "a.png", "--top", "1.5"], ["Error parsing --top", "'1.5'"]),
        (["prune", "RUN"], ["--output FOLDER"]),
        (["train", "--resume", "x", "--epochs", "x"], ["Error parsing --epochs", "'x'"]),
    ],
    ids=lambda value: "",
)
def test_arguments_that_cannot_be_read_are_told_with_the_option(
    argv: list[str],
    said: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_not_read(capsys, argv, *said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epoch", "3"], "no option is called --epoch; the nearest are --epochs"),
        (["--lr", "0.1"], "no option is called --lr; the nearest are --optimizer.lr"),
        (["--sched", "cosine"], "no option is called --sched; here that is --schedule.name"),
        (["--data-dir", "photos"], "no option is called --data-dir; here that is --data"),
        (["--model", "resnet18"], "no option is called --model; here that is --model.name"),
        (
            ["-b", "8"],
            "no option is called -b; options are written in full, such as --batch-size or --compute.bucket-mb",
        ),
        (["-j4"], "no option is called -j4; the nearest are"),
        (["--num-classes", "4"], "no option is called --num-classes; here that is nothing: the classes are those of"),
        (["--optimizer", "adamw"], "no option is called --optimizer; here that is --optimizer.name"),
        (
            ["--batch", "8", "--imgsz=32"],
            "no option is called --batch; here that is --batch-size; no option is called --imgsz; here that is",
        ),
        (["-epochs", "3"], "no option is called -epochs; here that is --epochs"),
        (["-imgsz=32"], "no option is called -imgsz; here that is --data.preprocessing.image-size"),
        (["--epochs", "3", "batch=8"], "no option is written 'batch=8'; here that is --batch-size"),
    ],
)
def test_options_of_other_programs_and_of_other_forms(words, said, capsys) -> None:
    assert_refused(capsys, ["train", "digits", "--output", "x", *words], said)


def test_negative_numbers_files_and_keyword_arguments_are_no_such_options(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-b").touch()
    words = ["--seed", "-1", "--model-kwargs", "dropout=0.2", "epochs=3", "--data", "-b"]
    check_options(by_flag(TrainConfig), words, {"--dropout": "--model-kwargs dropout=0.2"})


def test_train_evaluate_predict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--seed", "3", "--optimizer.lr", "0.05", "--model.se.reduction", "8", "--model.se.no-bias"]
    assert main(["train", "digits", "--output", str(run), *FAST, *options]) == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["seed"], config["epochs"], config["optimizer"]["lr"]) == (3, 1, 0.05)
    assert config["model"]["se"]["reduction"] == 8
    assert "layer1.0.se.fc1.bias" not in load_file(run / "last" / "model.safetensors")
    capsys.readouterr()

    assert main(["evaluate", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    row = json.loads((run / "metrics.jsonl").read_text())
    assert result["top1"] == pytest.approx(row["top1"])
    assert main(["evaluate", str(run), "--ten-crop", "--resize-sizes", "8", "10"]) == 0
    assert "360 images of digits" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--optimize", "auto", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(result["loss"], rel=1e-4)

    picture = tmp_path / "digit.png"
    open_split(digits().data, "eval")[0][0].save(picture)
    assert main(["predict", str(picture), "--model", str(run), "--top", "3", "--json"]) == 0
    (predicted,) = json.loads(capsys.readouterr().out)
    assert predicted["image"] == str(picture)
    assert len(predicted["classes"]) == 3
    assert main(["predict", "--model", str(run), str(picture)]) == 0
    assert predicted["classes"][0]["class_name"] in capsys.readouterr().out

    assert_refused(capsys, ["train", "digits", "--output", str(run), *FAST, *options], "holds a run already")
    kept = "--optimizer.lr has no effect with --resume, for a run keeps its own"
    assert_refused(capsys, ["train", "--resume", str(run), "--optimizer.lr", "0.1"], kept)
    assert main(["train", "--resume", str(run)]) == 0
    assert "is finished: epoch 1 of 1 is trained" in capsys.readouterr().err


def test_models_as_json_and_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "se_resnet50", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["parameters"] == 28_088_024
    assert row["paper_parameters"] == 28_100_000
    assert row["paper_top1_error"] == 23.29
    assert main(["models", "se_resnet50"]) == 0
    printed = capsys.readouterr().out
    assert "28,088,024" in printed
    assert "23.29" in printed


def senet(*argv: str) -> list[str]:
    return [sys.executable, "-m", "senet", *argv]


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """SIGTERM in the middle of a run: exit status 143, the command to go on with, and in the end the same weights."""
    options = ["--epochs", "3", "--batch-size", "64"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    subprocess.run(senet("train", "digits", "--output", str(whole), *options), check=True, capture_output=True)
    command = senet("train", "digits", "--output", str(stopped), *options)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while not (stopped / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "stopped in epoch" in said
    assert f"\n  senet train --resume {stopped}\n" in said
    subprocess.run(senet("train", "--resume", str(stopped)), check=True, capture_output=True)
    ours, theirs = (load_file(run / "last" / "model.safetensors") for run in (stopped, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    epochs = [json.loads(line)["epoch"] for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]


TRAIN = ["train", "digits", "--output", "x"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([*TRAIN, "--epochs", "0"], "senet: --epochs is 0; expected"),
        (["predict", "a.png", "--top", "9" * 30], f"senet: --top is {'9' * 30}; expected an integer of less"),
        ([*TRAIN, "--optimizer.lr", "nan"], "senet: --optimizer.lr is nan; expected"),
        ([*TRAIN, "--data.val-fraction", "2"], "senet: --data.val-fraction is 2.0; expected between 0 and 1"),
        ([*TRAIN, "--model-kwargs", "a"], "senet: 'a' is no keyword argument; expected KEY=VALUE"),
        ([*TRAIN, "--schedule.name", "step"], "senet: --schedule.milestones is () with --schedule.name 'step'"),
        ([*TRAIN, "--weights-key", "ema"], "senet: --weights-key has no effect without weights"),
        ([*TRAIN, "--data.augmentation.rotation", "9"], "set --data.augmentation.rotation 0 or --data.no-in-memory"),
        ([*TRAIN, "--compute.precision", "fp16", "--compute.cpu"], "fp16"),
        (["evaluate", "cifar_se_resnet20", "--data", "digits", "--crop-size", "9" * 30], "senet: --crop-size is 999"),
        (["evaluate", "cifar_se_resnet20", "--data", "digits", "--crop-size", "0"], "senet: --crop-size is 0 and"),
        (["evaluate", "cifar_se_resnet20", "--data", "digits", "--batch-size", "0"], "senet: --batch-size is 0"),
        (["predict", "a.png", "--top", "0"], "senet: --top is 0; expected at least 1"),
        (
            ["insert", "timm/resnet18", "--no-pretrained", "--output", "x", "--placement", "identity"],
            "senet: --placement is 'identity'",
        ),
    ],
    ids=lambda value: "",
)
def test_options_are_named_as_they_are_typed(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, argv, sentence)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sentence", "typed"),
    [
        ("data.val_fraction is 2", "--data.val-fraction is 2"),
        ("data is missing", "--data is missing"),
        ("the data is missing", "the data is missing"),
        ("/a/data.val_fraction is missing", "/a/data.val_fraction is missing"),
        ("'val_fraction' or val_fraction.png is no option", "'val_fraction' or val_fraction.png is no option"),
        ("pass val_fraction=0.2; or in_memory=False, or json=True.", None),
        ("set json=True", "set --json"),
        ("set json=True, in Python: `evaluate(json=True)`", "set --json, in Python: `evaluate(json=True)`"),
        ("pass data.dataset='some folder'", "pass data.dataset='some folder'"),
    ],
)
def test_a_message_of_the_library_in_the_words_of_the_command_line(sentence: str, typed: str | None) -> None:
    if typed is None:
        typed = "pass --data.val-fraction 0.2; or --data.no-in-memory, or --json."
    assert as_typed(sentence, EvaluateCommand) == typed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_a_message_may_name_is_in_the_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ["digits"] if name in ("train", "ablate") else []
    assert main([name, *recipe, "--help"]) == 0
    listed = set(re.findall(r"(--[a-z][\w.-]+)", capsys.readouterr().out))
    for _, option in options(COMMANDS[name].load()):
        assert option.flag in listed
        if option.is_switch:
            assert option.with_value("False") in listed


def test_keyword_arguments_are_read_as_python_writes_them() -> None:
    words = ["a=1", "b=0.5", "c=True", "d=3x3", "e='4'", "f=x=y", "g=", "h=[1]", "i=None", "j=(0.9,0.95)", "k=(a,)"]
    expected = {"a": 1, "b": 0.5, "c": True, "d": "3x3", "e": "4", "f": "x=y", "g": "", "h": "[1]", "i": "None"}
    expected |= {"j": (0.9, 0.95), "k": "(a,)"}
    assert dict(map(keyword_argument, words)) == expected


def test_a_number_of_channels_is_checked_wherever_it_is_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    network = ["cifar_se_resnet20", str(PACKAGED / "cifar_se_resnet20" / "cifar10"), "--output", str(tmp_path / "new")]
    for channels in ("-1", "0"):
        assert_refused(capsys, ["convert", *network, "--in-channels", channels], f"--in-channels is {channels}")


def test_memory_that_runs_out_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    network = ["cifar_se_resnet20", str(PACKAGED / "cifar_se_resnet20" / "cifar10"), "--output", str(tmp_path / "new")]
    assert_refused(capsys, ["convert", *network, "--num-classes", str(10**12)], "out of memory", "take a smaller")


def test_a_defect_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("senet.cli.models.ModelsCommand.run", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["models"])


def test_convert_makes_a_model_folder_of_anybodys_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    folder = tmp_path / "models" / "resnet18"
    assert main(["convert", "resnet18", str(tmp_path / "resnet18.pth"), "--output", str(folder)]) == 0
    said = (
        f"{folder} holds resnet18 with 1000 classes (layout torchvision); they have no names: --class-names gives them"
    )
    assert said in capsys.readouterr().out
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(folder)(x), theirs(x))

    fresh = tmp_path / "fresh"
    argv = ["convert", "se_resnet18", str(folder), "--output", str(fresh), "--num-classes", "7", "--in-channels", "1"]
    assert_refused(
        capsys, [*argv, "--class-names", *"abb"], "--class-names has 2 different names, but the network has 7"
    )
    assert main([*argv, "--class-names", *"abcdefg"]) == 0
    assert "names" not in capsys.readouterr().out
    model = from_pretrained(fresh)
    assert model.class_names == tuple("abcdefg")
    assert (model.num_classes, model.config.in_channels, model.config.name) == (7, 1, "se_resnet18")

    own = ["--output", str(tmp_path / "s"), "--layout", "senet"]
    assert main(["convert", "resnet18", str(tmp_path / "resnet18.pth"), *own]) == 0
    assert not torch.allclose(from_pretrained(tmp_path / "s")(x), theirs(x))


def test_convert_refuses_in_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, folder = tmp_path / "weights.pth", tmp_path / "out"
    out = ["--output", str(folder)]
    file.write_text("<html>not found</html>")
    assert_refused(capsys, ["convert", "resnet18", str(file), *out], str(file), "refused")
    assert_refused(capsys, ["convert", "resnet19", str(file), *out], "no network is called 'resnet19'")
    assert_refused(capsys, ["convert", "resnet18", str(tmp_path / "no.pth"), *out], "no.pth")
    torch.save(torchvision.models.resnet18().state_dict(), file)
    assert_refused(capsys, ["convert", "resnet34", str(file), *out], "of another architecture", "missing")
    assert_refused(capsys, ["convert", "resnet18", str(file), *out, "--layout", "keras"], "--layout is 'keras'")
    assert not folder.exists()
    assert_refused(capsys, ["convert", "resnet18", str(file), "--output", str(tmp_path)], "exists already", "--output")


@pytest.mark.slow
def test_models_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "se_resnet50", "--paper"]) == 0
    printed = capsys.readouterr().out
    assert "28,088,024" in printed
    assert "Table 16" in printed
    assert "resnext" not in printed
    assert main(["models", "se_resnet50", "--paper", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["printed"]["network"] for row in rows} == {"se_resnet50"}
    assert_refused(capsys, ["models", "cifar_*", "--paper"], "gives no costs of networks that match 'cifar_*'")


def test_models_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--weights", "--json", "*se_resnet[25]0"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["se_resnet50", "cifar_se_resnet20"]
    assert all(tuple(row["weights"]) == model_card(row["name"]).weights for row in rows)
    assert main(["models", "--weights", "se_resnet50"]) == 0
    assert ", ".join(rows[0]["weights"]) in capsys.readouterr().out
    assert_refused(capsys, ["models", "--weights", "mobile*_v9"], "'mobile*_v9' has public weights")
    assert_refused(capsys, ["models", "--weights", "--paper"], "choose one of --paper and --weights")


def test_evaluate_reads_its_options_before_it_downloads_a_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senet.evaluation.batches.load_model", lambda source: pytest.fail("downloaded"))
    argv = ["evaluate", "timm/seresnet50.ra2_in1k", "--data", "digits"]
    assert_refused(capsys, [*argv, "--crop-sise", "320"], "no option is called --crop-sise; the nearest", "--crop-size")
    assert_not_read(capsys, [*argv, "--crop-size", "x"], "--crop-size")


def test_the_data_of_a_run_are_the_defaults_wherever_its_name_stands(digits_run: Path) -> None:
    for argv in ([str(digits_run), "--batch-size", "3"], ["--batch-size", "3", str(digits_run)]):
        command = EvaluateCommand.read(argv, "senet evaluate")
        assert (command.data, command.batch_size) == (digits().data, 3)
    command = EvaluateCommand.read(
        [str(digits_run), "--data.num-workers", "0", "--data", "elsewhere"], "senet evaluate"
    )
    assert command.data == replace(digits().data, num_workers=0, dataset="elsewhere")
    with pytest.raises(SenetError, match=r"data.augmentation has no effect here.*leave it out"):
        EvaluateCommand.read([str(digits_run), "--data.augmentation.flip"], "senet evaluate")


@pytest.mark.slow
def test_a_module_is_imported_before_the_command(tmp_path: Path) -> None:
    (tmp_path / "my_networks.py").write_text("print('imported')")
    argv = senet("--import", "my_networks", "--import", "my_networks", "models", "resnet18", "--json")
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("imported\n[")


def test_a_module_that_cannot_be_imported_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(capsys, ["--import", "no_such_module", "models"], "--import no_such_module", "no_such_module")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ablate", "digits", "--seeds", "\\", "--output", "new"), "--seeds: expected an integer, not"),
        (
            ("train", "digits", "--optimizer.lr", "fast", "--output", "new"),
            "--optimizer.lr: expected a number, not 'fast'",
        ),
        (("finetune", "a", "--model", "b", "--output", "c", "--epochs", "x"), "--epochs: expected an integer, not 'x'"),
        (("predict", "a.png", "--threshold", "high"), "--threshold: expected a number, not 'high'"),
    ],
)
def test_a_word_that_is_no_number_is_refused_in_plain_words(words, said: str, capsys) -> None:
    assert_not_read(capsys, list(words), said)
