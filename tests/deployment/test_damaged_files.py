"""Exported files that are cut, empty or given nothing, and how files are called while they are written."""

import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import senet
from senet.cli import main
from senet.data.preprocessing import CIFAR
from senet.deployment import exporting, to_torch_export
from senet.deployment.digests import DEPTH, parity_path
from senet.deployment.loading import load_exported
from senet.detection.opening import detects
from senet.errors import SenetError

FILES = {"onnx": "a.onnx", "openvino": "a.xml", "torch_export": "a.pt2"}


class Net(nn.Module):
    """A small network whose 3 x 3 convolution needs images of 3 pixels."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 64, 3), nn.Linear(64, 10)
        self.preprocessing, self.class_names = CIFAR, None

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for to, name in FILES.items():
        senet.export(Net().eval(), folder / name, to=to, dynamic=("batch", "height", "width"))
    return folder


@pytest.mark.parametrize("name", [*FILES.values(), "a.bin"])
def test_a_flipped_bit_is_noticed(name, files, tmp_path):
    """A runtime computes something else without a word."""
    shutil.copytree(files, tmp_path / "files")
    file = tmp_path / "files" / name
    network = file.with_suffix(".xml") if file.suffix == ".bin" else file
    load_exported(network)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        SenetError, match=rf"{name} is damaged, for its SHA-256 is not the one in {network.name}\.parity"
    ) as said:
        load_exported(network)
    assert in_one_sentence(said)
    parity_path(network).unlink()
    with suppress(SenetError):  # of the runtime, which may notice too
        load_exported(network)


def test_a_file_near_the_root_of_the_file_system_opens(files):
    """As in containers, which have their models in /models."""
    with tempfile.TemporaryDirectory() as folder:
        if len(Path(folder).parents) > DEPTH:
            pytest.skip("temporary folders are deeper here")
        shutil.copy(files / "a.onnx", folder)
        shutil.copy(files / "a.onnx.parity.json", folder)
        load_exported(Path(folder, "a.onnx"))
        Path(folder, "a.onnx").write_bytes((files / "a.onnx").read_bytes() + b"\0")
        with pytest.raises(SenetError, match=r"a\.onnx is damaged"):
            load_exported(Path(folder, "a.onnx"))


def test_a_damaged_network_in_a_folder_of_a_server_is_noticed(tmp_path):
    exported = senet.export(Net().eval(), tmp_path / "models", layout="triton")
    content = bytearray(exported.model.read_bytes())
    content[len(content) // 2] ^= 1
    exported.model.write_bytes(content)
    with pytest.raises(SenetError, match=r"model\.onnx is damaged, .* not the one in models\.parity\.json"):
        load_exported(tmp_path / "models")


def in_one_sentence(error):
    text = str(error.value)
    return "\n" not in text and "Exception from" not in text and "miniz" not in text and "ONNXRuntimeError" not in text


@pytest.mark.parametrize("name", FILES.values())
@pytest.mark.parametrize("share", [0, 0.3, 0.95])
def test_files_that_are_cut(name, share, files, tmp_path):
    content = (files / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    (tmp_path / "a.bin").write_bytes((files / "a.bin").read_bytes())
    with pytest.raises(
        SenetError, match=rf"{name} cannot be opened by .*it is damaged or no such file: copy it"
    ) as said:
        load_exported(tmp_path / name)
    assert in_one_sentence(said)


def test_metadata_of_openvino_that_are_no_text(files, tmp_path):
    content = (files / "a.xml").read_bytes()
    place = content.index(b"senet-export")
    (tmp_path / "a.xml").write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    (tmp_path / "a.bin").write_bytes((files / "a.bin").read_bytes())
    with pytest.raises(SenetError, match=r"a\.xml cannot be opened by OpenVINO .*it is damaged") as said:
        load_exported(tmp_path / "a.xml")
    assert in_one_sentence(said)


@pytest.mark.parametrize("size", [0, 1000, -4])
def test_weights_that_are_cut(size, files, tmp_path):
    content = (files / "a.bin").read_bytes()
    (tmp_path / "a.xml").write_bytes((files / "a.xml").read_bytes())
    (tmp_path / "a.bin").write_bytes(content[:size])
    found = len(content[:size])
    with pytest.raises(
        SenetError, match=rf"a\.bin has {found:,} bytes, but .*a\.xml needs .*; it is cut, so copy both"
    ):
        load_exported(tmp_path / "a.xml")


@pytest.mark.parametrize("name", FILES.values())
def test_folders_are_no_files(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / "a.bin").touch()
    with pytest.raises(SenetError, match=rf"{name} is a folder; expected a file"):
        load_exported(tmp_path / name)


@pytest.mark.parametrize("name", FILES.values())
def test_images_that_cannot_be_computed(name, files, capfd):
    network = load_exported(files / name)
    for height, width in ((0, 32), (32, 0)):
        with pytest.raises(SenetError, match=rf"{name} is given images of {height} x {width} pixels, which show"):
            network(torch.zeros(1, 3, height, width))
    assert network(torch.zeros(0, 3, 32, 32)).shape == (0, 10)
    if name != "a.xml":  # OpenVINO returns no logits for what is too small
        with pytest.raises(
            SenetError, match=rf"{name} cannot be computed for an input of shape \(1, 3, 1, 1\)"
        ) as said:
            network(torch.zeros(1, 3, 1, 1))
        assert in_one_sentence(said)
    assert capfd.readouterr().err == ""


def test_a_file_is_opened_once(files, tmp_path, monkeypatch, capsys):
    count = []
    open_file = to_torch_export.open_file
    monkeypatch.setattr(to_torch_export, "open_file", lambda path: count.append(path) or open_file(path))
    for i in range(10):
        (tmp_path / "ten" / str(i)).mkdir(parents=True)
        Image.new("RGB", (32, 32), (25 * i, 0, 0)).save(tmp_path / "ten" / str(i) / "a.png")
    assert main(["evaluate", str(files / "a.pt2"), "--data", str(tmp_path / "ten"), "--data.num-workers", "0"]) == 0
    assert len(count) == 1, capsys.readouterr()
    assert main(["predict", str(tmp_path / "ten" / "3" / "a.png"), "--model", str(files / "a.pt2")]) == 0
    assert len(count) == 2
    assert not detects(files / "a.pt2")
    assert len(load_exported(files / "a.pt2")(torch.zeros(2, 3, 32, 32))) == 2
    assert len(count) == 3
    assert load_exported(files / "a.pt2") is not load_exported(files / "a.pt2")
    assert len(count) == 5


def test_a_file_that_was_written_anew_is_opened_anew(files, tmp_path):
    path = tmp_path / "a.pt2"
    path.write_bytes((files / "a.pt2").read_bytes())
    assert not detects(path)
    path.write_bytes(b"damaged")
    with pytest.raises(SenetError, match=r"a\.pt2 cannot be opened"):
        load_exported(path)


@pytest.mark.parametrize("name", ["a.pt2", "folder/a.pt2"])
def test_messages_name_the_output_as_it_was_typed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refuse(model, run_or_model, path, *_):
        raise SenetError(f"{path} is no good")

    monkeypatch.setattr(exporting, "prove", refuse)
    with pytest.raises(SenetError) as said:
        senet.export(Net().eval(), name, to="torch_export")
    assert str(said.value) == f"{name} is no good"


def test_data_that_cannot_be_used_are_named_beside_the_output_as_it_was_typed(tmp_path, monkeypatch, caplog):
    def refuse(model, path, data=None, **options):
        if data is not None:
            raise SenetError(f"{path} takes images of 32 rows")
        return "a report"

    monkeypatch.setattr("senet.deployment.proving.compare_exported", refuse)
    monkeypatch.setattr("senet.deployment.proving.run_data", lambda run: "data")
    monkeypatch.setattr(exporting, "write_parity", lambda *args: None)
    senet.export("cifar_se_resnet20", tmp_path / "a.pt2", to="torch_export")
    (warning,) = (each.getMessage() for each in caplog.records if each.levelno == logging.WARNING)
    assert f"cannot be used: {tmp_path / 'a.pt2'} takes images of 32 rows" in warning
    assert ".part" not in warning


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from senet.cli import main
sys.exit(main(["export", "cifar_se_resnet20", sys.argv[1], "--to", sys.argv[2]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("to", FILES)
def test_a_file_that_is_too_large_to_be_written(to, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / FILES[to]), to], capture_output=True, text=True, timeout=300
    )
    assert (ended.returncode, list(tmp_path.iterdir())) == (2, [])
    first, last = ended.stderr.splitlines()
    assert first == f"writing {tmp_path / FILES[to]}"
    assert last.startswith(f"senet: {tmp_path / FILES[to]} cannot be written (")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["writing ", "comparing "])
def test_an_export_that_is_stopped_leaves_nothing(number, status, moment, tmp_path):
    words = [
        sys.executable,
        "-m",
        "senet",
        "export",
        "cifar_se_resnet20",
        str(tmp_path / "a.onnx"),
        "--num-images",
        "1",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if line.startswith(moment):
                break
        while not list(tmp_path.iterdir()):  # the log comes before the folder
            time.sleep(0.01)
        process.send_signal(number)
        said = process.stdout.read()
    assert (process.returncode, list(tmp_path.iterdir())) == (status, [])
    assert "Traceback" not in said


def test_the_home_folder_in_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = senet.export(Net().eval(), "~/networks/a.pt2", to="torch_export")
    assert made.path == tmp_path / "home" / "networks" / "a.pt2"
    assert len(load_exported("~/networks/a.pt2")(torch.zeros(1, 3, 32, 32))) == 1
    assert not (tmp_path / "~").exists()


def test_calibration_without_int8_is_named_as_it_is_typed(tmp_path, capsys):
    words = ["export", "cifar_se_resnet20", str(tmp_path / "a.onnx"), "--calibrate", str(tmp_path)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "senet: --calibrate has no effect with --precision fp32; leave it out, or add --precision int8"
    )


def test_where_an_exported_file_computes_is_answered(files, capsys):
    words = ["evaluate", str(files / "a.pt2"), "--data", "digits", "--device", "cuda"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("senet: no option is called --device; here that is nothing: a GPU computes if there is one")
