"""The benchmark of exports: its pictures, its networks, its results, and what docs/deploy.md says of them."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import write_png

import deploy
from deploy_contestants import CONTESTANTS, material
from pages import exports as page
from senet.deployment import timing
from senet.deployment.calibration import normalized

SMALL = deploy.Options(num_pictures=20, depth=18, side=32, threads=(1,), batch_sizes=(1, 2), rounds=2, commands=1)
TIMM = CONTESTANTS[0]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    calibration, _ = deploy.pictures(SMALL)
    return material(18, calibration, tmp_path_factory.mktemp("material"))


def test_differences_are_those_computed_by_hand():
    exact = np.array([[3.0, 0.0], [0.0, 4.0]])
    found = deploy.compare(np.array([[3.0, 0.0], [4.0, 3.0]]), exact)
    rms, half = pytest.approx(17**0.5 / 5, rel=0.01), pytest.approx(17**0.5 / 4 / 2, rel=0.01)
    assert found == {"largest": 1.0, "error": rms, "median": half, "same_class": 50.0}


def test_one_half_of_each_folder_gives_ranges_and_the_other_judges(tmp_path):
    for name, number in (("few", 4), ("many", 30)):
        (tmp_path / name).mkdir()
        for i in range(number):
            color = 40 * (name == "few") + i
            write_png(torch.full((3, 40, 40), color, dtype=torch.uint8), str(tmp_path / name / f"{i}.png"))
    folders = (str(tmp_path / "few"), str(tmp_path / "many"))
    ranges, judging = deploy.pictures(replace(SMALL, pictures=folders))
    first, other = (sorted(pixels[:, 0, 0, 0].tolist()) for pixels in (ranges.pixels, judging))
    assert len(first) == len(other) == 10
    assert len({*first, *other}) == 20
    assert sorted(color for color in first + other if color >= 40) == [40, 41, 42, 43]
    assert ranges.source == "few, many"


def test_both_networks_compute_the_same_and_pictures_differ_in_their_class(given):
    images = normalized(given.calibration.pixels, given.calibration.preprocessing)
    with torch.no_grad():
        peer, own = given.peer(images), given.own(images)
    torch.testing.assert_close(own, peer, rtol=1e-5, atol=1e-5)
    assert peer.mean(0).abs().max() < 1e-4
    assert len(peer.argmax(1).unique()) > 5


def test_results_are_written_and_what_is_there_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "CONTESTANTS", (TIMM,))
    options = replace(SMALL, parts=("exports", "latency"), files=tmp_path / "files", output=tmp_path / "results.json")
    deploy.main(options)
    found = json.loads(options.output.read_text())
    (row,) = found["exports"]
    assert row["error"] < 1e-4
    assert row["same_class"] == 100
    assert 44 < row["megabytes"] < 50  # 11.8 million weights of 4 bytes
    assert row["phases"] == {}
    assert [(one["threads"], one["batch"]) for one in found["latency"]] == [(1, 1), (1, 2)]
    assert all(list(one["milliseconds"]) == ["PyTorch", TIMM.key] for one in found["latency"])
    assert all(len(times) == 2 for one in found["latency"] for times in one["milliseconds"].values())

    monkeypatch.setattr(deploy, "exported", None)  # nothing is exported again
    deploy.main(replace(options, parts=("exports",)))
    again = json.loads(options.output.read_text())
    assert (again["exports"], again["latency"]) == (found["exports"], found["latency"])


def test_the_page_has_files_times_beside_the_first_and_commands(monkeypatch):
    about = {
        "runtime": "OpenVINO",
        "precision": "fp32",
        "megabytes": 112.3,
        "largest": 3e-6,
        "median": 1e-6,
        "same_class": 99.5,
    }
    keys = ("OpenVINO, fp32: openvino.convert_model", "OpenVINO, fp32: senet.export")
    times = dict(zip(("PyTorch", *keys), ([80.0, 80.0], [50.0, 40.0], [40.0, 20.0]), strict=True))
    result = {
        "date": "2026-11-27",
        "machine": {"accelerator": None, "processor": "a processor", "threads": 2},
        "versions": {"torch": "2.14"},
        "network": "SE-ResNet-50",
        "pictures": {"source": "photos", "ranges": 300, "judging": 200},
        "processor": {"name": "a processor", "instructions": ["AVX-512 VNNI"], "threads": 2},
        "exports": [
            {**about, "name": "openvino.convert_model", "seconds": 3.0, "phases": {}, "error": 2e-6},
            {**about, "name": "senet.export", "seconds": 12.5, "phases": {"proof": 8.0}, "error": 0.0928},
        ],
        "latency": [{"threads": 1, "batch": 16, "milliseconds": times}],
        "command": [{"data": None, "pictures": 16, "seconds": [21.0, 20.0, 24.0]}],
    }
    monkeypatch.setattr(page, "read", lambda name: result)
    text = page.deploy_tables()
    assert "| OpenVINO, fp32: senet.export | 12.5 (4.50) | 112 | 9.3 % | 1e-06 | 3e-06 | 99.5 % |" in text
    assert "|  | 16 images, 1 thread | times |" in text
    assert "| PyTorch, fp32 | 80.0 |  |" in text
    assert "| OpenVINO: openvino.convert_model | 45.0 |  |" in text
    assert "| OpenVINO: senet.export | 30.0 | 0.65 |" in text
    assert "| without pictures | 16 | 21.0 (20.0 to 24.0) |" in text
    assert "On a processor with AVX-512 VNNI, and on 2 threads" in text
    monkeypatch.setattr(page, "read", lambda name: None)
    assert "Not measured yet" in page.deploy_tables()


@pytest.mark.slow
@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda each: each.key)
def test_each_contestant_makes_a_file_for_any_batch(contestant, given, tmp_path, monkeypatch):
    if (contestant.runtime, contestant.precision) == deploy.NEEDS_NNCF and not find_spec("nncf"):
        pytest.skip("needs nncf")
    monkeypatch.setattr(deploy, "LONG", 0.0)  # so that it is made once
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    path = deploy.path_of(contestant, tmp_path)
    made = deploy.exported(contestant, given, path)
    assert ("proof" in made["phases"]) == contestant.name.startswith("senet")
    assert ("costs of layers" in made["phases"]) == ("senet" in contestant.name and contestant.precision == "int8")
    images = normalized(given.calibration.pixels, given.calibration.preprocessing)
    exact = deploy.logits_of(deploy.in_pytorch(given.peer), images)
    found = deploy.compare(np.concatenate([contestant.open(path)(part.numpy()) for part in images.split(7)]), exact)
    assert found["error"] < (1e-4 if contestant.precision == "fp32" else 0.5)
    assert (made["megabytes"] > 40) == (contestant.precision == "fp32")


def test_the_command_is_timed(given, monkeypatch):
    def export(run, **options):
        assert run[1:4] == ("-m", "senet", "export")
        folder = Path(run[5]).parent
        (folder / "network.onnx.parity.json").write_text(json.dumps({"num_images": 16 if len(run) == 6 else 500}))

    monkeypatch.setattr(deploy.subprocess, "run", export)
    rows = list(deploy.command(given, replace(SMALL, pictures=("data/photos",), commands=2)))
    assert [(row["data"], row["pictures"], len(row["seconds"])) for row in rows] == [(None, 16, 2), ("photos", 500, 2)]
    assert (given.folder / "model" / "model.safetensors").exists()
