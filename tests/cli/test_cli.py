import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from senet.cli import COMMANDS, main
from senet.cli.parsing import one_sentence, parse
from senet.cli.training import EvaluateCommand
from senet.data.config import DataConfig
from senet.data.datasets import open_split
from senet.factory import from_pretrained
from senet.recipes import RECIPES
from senet.recipes.digits import digits
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


def test_help_lists_commands_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)
    assert main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in RECIPES)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["train", "digits", "--help"],
            ["--optimizer.lr", "--model.se.placement", "--regularization.mixup"],
        ),
        (["evaluate", "--help"], ["--crops", "--scales", "--data.dataset"]),
        (["predict", "--help"], ["--top", "IMAGE"]),
        (["models", "--help"], ["--json"]),
        (["demo", "--help"], ["--output", "minute"]),
    ],
)
def test_help_of_commands(capsys: pytest.CaptureFixture[str], argv: list[str], said: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for part in said:
        assert part in printed


def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    new = ["--output", str(tmp_path / "new")]
    assert_refused(capsys, [], "the command is missing", "train")
    assert_refused(capsys, ["fly"], "'fly' is no command")
    assert_refused(capsys, ["train", "nope", *new], "no recipe is called 'nope'", "digits")
    assert_refused(capsys, ["train", "digits"], "missing", "--output")
    assert_refused(capsys, ["train", "digits", *new, "--epoch", "3"], "--epoch", "perhaps you meant --epochs")
    assert_refused(capsys, ["train", "digits", *new, "--epochs", "x"], "--epochs", "'x'")
    assert_refused(capsys, ["train", "digits", *new, "--epochs", "0"], "epochs is 0")
    assert_refused(capsys, ["train", "digits", *new, "--model.name", "cifar_se_resnet21"], "the nearest are")
    assert_refused(capsys, ["train", "digits", *new, "--model.se.gate", "step"], "'step'", "sigmoid")
    assert_refused(capsys, ["train", "digits", *new, "--model.options", "stride_on", "3x3"], "no option 'stride_on'")
    assert_refused(capsys, ["train", "digits", *new, "--data.dataset", "nowhere"], "nowhere")
    assert_refused(capsys, ["train", "--resume", str(tmp_path / "new")], "holds no run to resume")
    assert_refused(capsys, ["train", "digits", "--resume", "x"], "digits has no effect with --resume")
    assert_refused(capsys, ["train", "digits", *new, "--compute.precision", "fp16", "--compute.cpu"], "fp16")
    assert_refused(capsys, ["evaluate"], "RUN_OR_MODEL is missing")
    assert_refused(capsys, ["evaluate", "nope"], "no network is called 'nope'")
    assert_refused(capsys, ["predict"], "")
    assert_refused(capsys, ["predict", str(tmp_path / "absent.png")], "absent.png")
    assert_refused(capsys, ["models", "nothing*"], "no network matches")
    assert not (tmp_path / "new").exists()


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
    assert main(["evaluate", str(run), "--crops", "ten", "--scales", "8", "10"]) == 0
    assert "360 images of digits" in capsys.readouterr().out

    picture = tmp_path / "digit.png"
    open_split(digits().data, "eval")[0][0].save(picture)
    assert main(["predict", str(run), str(picture), "--top", "3", "--json"]) == 0
    (predicted,) = json.loads(capsys.readouterr().out)
    assert predicted["image"] == str(picture)
    assert len(predicted["classes"]) == 3
    assert main(["predict", str(run), str(picture)]) == 0
    assert predicted["classes"][0]["class_name"] in capsys.readouterr().out

    assert_refused(capsys, ["train", "digits", "--output", str(run), *FAST, *options], "holds a run already")
    assert_refused(capsys, ["train", "--resume", str(run), "--optimizer.lr", "0.1"], "optimizer.lr")
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


BOX = """\
╭─ Unrecognized options ─────────────────────────────╮
│ Unrecognized options: --epoch,                     │
│ --steps                                            │
│ ────────────────────────────────────────────────── │
│ Perhaps you meant:                                 │
│     --epochs INT                                   │
│         passes over the training images            │
╰────────────────────────────────────────────────────╯
"""
ASCII_BOX = """\
 Required options
 ---------------------------------------------------
  Missing from senet train digits:
      --output PATH
          the run folder
  --------------------------------------------------
  For full helptext, run:
"""


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        (BOX, "unrecognized options: --epoch, --steps; perhaps you meant --epochs"),
        (ASCII_BOX, "missing from senet train digits: --output PATH"),
    ],
)
def test_one_sentence_of_a_box(box: str, sentence: str) -> None:
    assert one_sentence(box) == sentence


LONG = "x" * 90 + "/[red] │ ── " + "y" * 90  # Python itself cuts what int() refuses after 200 letters


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["predict", "a.png", "--top", LONG], f"error parsing --top: expected an integer, not '{LONG}'"),
        (["predict", "a.png", "--top", "1.5"], "error parsing --top: expected an integer, not '1.5'"),
        (["convert", "a", "b", "c", "--num-classes", LONG], f"--num-classes: expected None or INT, not '{LONG}'"),
        (["train", "digits", "--output", "x", "--optimizer.lr", "x"], "--optimizer.lr: expected a number, not 'x'"),
        (["train", "digits", "--output", "x", "--data.augmentation.crop-scale", "1"], "None or FLOAT FLOAT, not '1'"),
        (["train", "digits", "--output", "x", "--model.se.stages", "a"], "expected None or [INT [INT ...]], not 'a'"),
        (["train", "digits", "--output", "x", "--model.options", "a"], "expected pairs of a key and a value"),
        (["train", "digits", "--output", "x", "--optimizer.lr", "nan"], "senet: optimizer.lr is nan; expected"),
        (["train", "digits", "--output", "x", "--batch-size", "9" * 30], f"batch_size is {'9' * 30}"),
        (
            ["evaluate", "cifar_se_resnet20", "--data.dataset", "d", "--scales", "1", "x"],
            "among '1', 'x' is of an",
        ),
        (["evaluate", "cifar_se_resnet20", "--data.dataset", "d", "--crop", "9" * 30], f"crop is {'9' * 30}"),
    ],
)
def test_what_is_wrong_with_a_value_is_said_in_words(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, argv, sentence)
    assert not list(tmp_path.iterdir())


def test_a_number_of_channels_is_checked_wherever_it_is_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    network = ["cifar_se_resnet20", str(PACKAGED / "cifar_se_resnet20" / "cifar10"), str(tmp_path / "new")]
    for channels in ("-1", "0"):
        assert_refused(capsys, ["convert", *network, "--in-channels", channels], f"in_channels is {channels}")


def test_memory_that_runs_out_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    network = ["cifar_se_resnet20", str(PACKAGED / "cifar_se_resnet20" / "cifar10"), str(tmp_path / "new")]
    assert_refused(capsys, ["convert", *network, "--num-classes", str(10**12)], "out of memory", "take a smaller")


def test_a_defect_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("senet.cli.COMMANDS", {"models": broken})
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["models"])


def test_convert_makes_a_model_folder_of_anybodys_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    folder = tmp_path / "models" / "resnet18"
    assert main(["convert", "resnet18", str(tmp_path / "resnet18.pth"), str(folder)]) == 0
    assert f"{folder} holds resnet18 with 1000 classes (layout torchvision)" in capsys.readouterr().out
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(folder)(x), theirs(x))

    fresh = tmp_path / "fresh"
    argv = ["convert", "se_resnet18", str(folder), str(fresh), "--num-classes", "7", "--in-channels", "1"]
    assert main(argv) == 0
    model = from_pretrained(fresh)
    assert (model.num_classes, model.config.in_channels, model.config.name) == (7, 1, "se_resnet18")

    assert main(["convert", "resnet18", str(tmp_path / "resnet18.pth"), str(tmp_path / "s"), "--layout", "senet"]) == 0
    assert not torch.allclose(from_pretrained(tmp_path / "s")(x), theirs(x))


def test_convert_refuses_in_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, out = tmp_path / "weights.pth", tmp_path / "out"
    file.write_text("<html>not found</html>")
    assert_refused(capsys, ["convert", "resnet18", str(file), str(out)], str(file), "refused")
    assert_refused(capsys, ["convert", "resnet19", str(file), str(out)], "no network is called 'resnet19'")
    assert_refused(capsys, ["convert", "resnet18", str(tmp_path / "no.pth"), str(out)], "no.pth")
    torch.save(torchvision.models.resnet18().state_dict(), file)
    assert_refused(capsys, ["convert", "resnet34", str(file), str(out)], "of another architecture", "missing")
    assert_refused(capsys, ["convert", "resnet18", str(file), str(out), "--layout", "keras"], "layout is 'keras'")
    assert not out.exists()
    assert_refused(capsys, ["convert", "resnet18", str(file), str(tmp_path)], "exists already")


def test_models_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "se_resnet50", "--paper"]) == 0
    printed = capsys.readouterr().out
    assert "28,088,024" in printed
    assert "Table 16" in printed
    assert "resnext" not in printed
    assert main(["models", "se_resnet50", "--paper", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["printed"]["name"] for row in rows} == {"se_resnet50"}
    assert_refused(capsys, ["models", "cifar_*", "--paper"], "gives no costs of networks that match 'cifar_*'")


def test_evaluate_reads_its_options_before_it_downloads_a_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("senet.cli.training.load_model", lambda source: pytest.fail("downloaded"))
    argv = ["evaluate", "timm/seresnet50.ra2_in1k", "--data.dataset", "digits"]
    assert_refused(capsys, [*argv, "--crop-size", "320"], "unrecognized options: --crop-size")
    assert_refused(capsys, [*argv, "--crop", "x"], "--crop")


@pytest.mark.parametrize(
    ("argv", "in_memory"),
    [
        (["--data.in-memory", "False"], False),
        (["--data.in_memory=False"], False),
        (["--data.no-in-memory"], False),
        (["--data.in-memory", "True"], True),
        (["--data.in-memory"], True),
    ],
)
def test_a_switch_takes_a_value_as_messages_write_it(argv: list[str], in_memory: bool) -> None:
    default = EvaluateCommand(data=DataConfig(dataset="digits"))
    command = parse(EvaluateCommand, [*argv, "--json", "True", "--batch-size", "3"], "senet evaluate", default)
    assert (command.data.in_memory, command.json, command.batch_size) == (in_memory, True, 3)
