"""The ablations as a command: every variant is what its row says, and nothing is trained twice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import senet
from senet import SenetError
from senet.cli import main
from senet.models.catalog import model_card
from senet.paper.ablation import TABLES, reproduce_ablations, variant
from senet.paper.figures import ABLATIONS
from senet.recipes import get_recipe

pytestmark = pytest.mark.usefixtures("few_digits")
SHORT = replace(get_recipe("digits"), epochs=1)


def test_variants_are_the_papers_on_the_recipes_network():
    found = {(row.table, row.label): variant(row, SHORT).model for row in ABLATIONS}
    assert len(found) == 25
    assert found[10, "original"].name == "cifar_resnet20"
    assert found[13, "SE Stage 3"].se.stages == (3,)
    assert found[14, "SE-Identity"].se.placement == "identity"
    assert found[16, "NoSqueeze"].se.squeeze == "none"
    assert {model.name for model in found.values()} == {"cifar_resnet20", "cifar_se_resnet20"}
    assert not any(model.se.bias for model in found.values() if model.name == "cifar_se_resnet20")
    for model in found.values():
        senet.create_model(model.name, in_channels=1, se=model.se if model_card(model.name).has_se else None)


def test_runs_are_shared_kept_and_reported(tmp_path, capsys):
    rows = reproduce_ablations([11, 15], SHORT, tmp_path / "out", seeds=2)
    assert [(row.table, row.label) for row in rows] == [(11, "Max"), (11, "Avg"), (15, "SE"), (15, "SE 3x3")]
    assert rows[1].top1_errors == rows[2].top1_errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["3x3", "ablation.json", "max", "se"]
    for row in rows:
        run = tmp_path / "out" / row.run
        metrics = [json.loads((run / f"seed{s}" / "metrics.jsonl").read_text().splitlines()[-1]) for s in (0, 1)]
        assert row.top1_errors == tuple(pytest.approx(100 - m["top1"]) for m in metrics)
        assert row.mean == pytest.approx(sum(row.top1_errors) / 2)
        assert row.deviation == pytest.approx(abs(row.top1_errors[0] - row.top1_errors[1]) / 2**0.5)
        assert row.parameters == senet.cost(senet.from_pretrained(run / "seed0" / "last")).parameters
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert reproduce_ablations([11, 15], SHORT, tmp_path / "out", seeds=2) == rows
    assert {path: path.stat().st_mtime_ns for path in written} == written
    command = ["ablate", "digits", "--tables", "11", "15", "--epochs", "1", "--seeds", "1", "--output"]
    assert main([*command, str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "Table 15: after the 3x3 convolution" in shown.out
    assert f"2 of 3: {tmp_path / 'out' / 'se' / 'seed0'}" in shown.err
    reproduce_ablations([15], SHORT, tmp_path / "out", seeds=2)
    kept = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    assert [(row["table"], len(row["top1_errors"])) for row in kept] == [(11, 1), (11, 1), (15, 2), (15, 2)]


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    import senet.paper.ablation as ablation

    calls = []

    def stopped_once(config, output):
        calls.append(Path(output).parent.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(config, output)

    train = ablation.train
    monkeypatch.setattr(ablation, "train", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        reproduce_ablations([11], SHORT, tmp_path, seeds=1)
    assert len(reproduce_ablations([11], SHORT, tmp_path, seeds=1)) == 2
    assert calls == ["max", "se", "se"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--tables", "9", "--output", "x"], "table is 9; expected one of 10, 11, 12, 13, 14, 15, 16"),
        (["digits", "--tables", "--output", "x"], "tables is empty; name at least one of 10, 11, 12, 13, 14, 15, 16"),
        (["digits", "--seeds", "0", "--output", "x"], "seeds is 0; expected at least 1"),
        (["numbers", "--output", "x"], "no recipe is called 'numbers'"),
        (
            ["digits", "--tables", "10", "--model.name", "cifar_resnet20", "--output", "x"],
            "cifar_resnet20 has no plain twin",
        ),
        ([], "the recipe is missing"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["ablate", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_runs_with_other_settings_are_not_mixed(tmp_path):
    reproduce_ablations([11], SHORT, tmp_path, seeds=1)
    with pytest.raises(SenetError, match="was started with another batch_size"):
        reproduce_ablations([11], replace(SHORT, batch_size=64), tmp_path, seeds=1)
    assert TABLES == (10, 11, 12, 13, 14, 15, 16)
