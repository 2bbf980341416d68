"""What SECURITY.md promises: whatever senet reads, no code in it is run. Each file would make a folder if it were."""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from senet.data.huggingface import load_splits
from senet.data.reading import read_named, read_picture
from senet.detection.yolo import read_yaml
from senet.errors import SenetError
from senet.training.run import RunFolder
from senet.training.state import STATE_KEYS
from senet.weights.reading import read


class Trap:
    """Makes a folder when it is unpickled without restriction."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def bare(trap: Trap) -> bytes:
    return pickle.dumps({"state_dict": trap})


def zipped(trap: Trap) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": trap}, file)
    return file.getvalue()


def legacy(trap: Trap) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": trap}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def tarred(trap: Trap) -> bytes:
    """PyTorch's first format."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(trap)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def numpy_arrays(trap: Trap) -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.array([trap], dtype=object))
    return file.getvalue()


WAYS = {way.__name__: way for way in (bare, zipped, legacy, tarred, numpy_arrays)}
SUFFIXES = ("pth", "pt", "bin", "pkl", "tar", "npz", "ckpt", "caffemodel", "safetensors")


def test_the_traps_work(canary: Path) -> None:
    pickle.loads(bare(Trap(canary)))
    assert canary.is_dir()
    canary.rmdir()
    with zipfile.ZipFile(io.BytesIO(numpy_arrays(Trap(canary)))) as archive:
        np.load(io.BytesIO(archive.read("weight.npy")), allow_pickle=True)
    assert canary.is_dir()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("way", WAYS)
def test_no_file_of_weights_runs_code(way: str, suffix: str, tmp_path: Path, canary: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(WAYS[way](Trap(canary)))
    with pytest.raises(SenetError, match=r"weights\."):
        read(path)
    assert not canary.exists()


@pytest.mark.parametrize("way", ["bare", "zipped", "legacy"])
def test_no_training_state_runs_code(way: str, tmp_path: Path, canary: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "training_state.pt").write_bytes(WAYS[way](Trap(canary)))
    with pytest.raises(SenetError, match="cannot be read"):
        RunFolder(tmp_path).load_state(STATE_KEYS)
    assert not canary.exists()


def test_no_image_runs_code(tmp_path: Path, canary: Path) -> None:
    np.save(tmp_path / "image.npy", np.array([Trap(canary)], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_picture(str(tmp_path / "image.npy"))
    assert not canary.exists()


def test_no_yaml_runs_code(tmp_path: Path, canary: Path) -> None:
    (tmp_path / "data.yaml").write_text(f"names: !!python/object/apply:os.mkdir ['{canary}']\n")
    with pytest.raises(SenetError, match=r"data\.yaml cannot be read as yaml"):
        read_yaml(tmp_path / "data.yaml")
    assert not canary.exists()


def test_no_script_of_a_data_set_runs(tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "pictures.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    with pytest.raises(SenetError, match="could not be loaded"):
        load_splits(str(folder))
    assert not canary.exists()


def test_a_configuration_imports_nothing_by_itself(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that it requires is named, for the user to import it."""
    (tmp_path / "trapping.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "config.json").write_text('{"requires": ["trapping"], "model": {"name": "resnet18"}, "data": {}}')
    with pytest.raises(SenetError, match="trapping"):
        RunFolder(tmp_path).read_config()
    assert not canary.exists()


def test_no_postscript_is_handed_to_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL opens it by its content, whatever it is called, and runs Ghostscript."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *words, **_: started.append(words))
    with pytest.raises(SenetError, match=r"picture\.png cannot be read \(it is not an image in a known format\)"):
        read_named(str(path), lambda: read_picture(path))
    assert started == []
