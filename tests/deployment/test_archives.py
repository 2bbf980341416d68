"""A .pt2 file can run code when torch.export opens it; such a file is refused before."""

import io
import json
import os
import zipfile

import pytest
import torch

import senet
from senet.deployment.archives import GUARD
from senet.errors import SenetError


class Evil:
    """A pickle that makes a file.

    Args:
        canary: the file.
    """

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "network.pt2"
    senet.export("cifar_se_resnet20", path, to="torch_export", dynamic=("batch", "height", "width"))
    return path


def changed(archive, path, ending, change):
    """Copy an archive with the file whose name has this ending changed."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith(ending) else content)
    return path


def with_program(archive, path, change):
    def edit(content):
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return changed(archive, path, "models/model.json", edit)


def test_a_pickle_that_runs_code_is_refused(archive, tmp_path):
    evil = io.BytesIO()
    torch.save(Evil(tmp_path / "canary"), evil)
    path = changed(archive, tmp_path / "evil.pt2", "sample_inputs/model.pt", lambda _: evil.getvalue())
    with pytest.raises(SenetError, match=r"evil.pt2 could run code when it is opened, for data/sample_inputs/model.pt"):
        senet.load_exported(path)
    assert not (tmp_path / "canary").exists()


def test_conditions_sizes_and_operations_that_are_code_are_refused(archive, tmp_path):
    code = f"__import__('os').mkdir({str(tmp_path / 'canary')!r})"

    def guard(program):
        program["guards_code"] = [code]

    def operation(program):
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.load"

    def size(program):
        program["range_constraints"]["more"] = {"expr_str": code}

    for number, change in enumerate((guard, operation, size)):
        with pytest.raises(SenetError, match="could run code when it is opened"):
            senet.load_exported(with_program(archive, tmp_path / f"{number}.pt2", change))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "condition",
    [
        "((1 + L['x'].size()[2]) // 2) != 1",
        "(max(1, (-2) + L['x'].size()[3])*max(1, (-2) + L['x'].size()[2])) != 1",  # PyTorch 2.11
        "Max(1, L['x'].size()[2] - 2) != 1 and torch.sym_max(1, L['x'].size()[3]) >= 2",
    ],
)
def test_conditions_as_versions_of_pytorch_write_them_are_known(condition):
    assert GUARD.fullmatch(condition)


def test_an_archive_that_was_not_changed_opens(archive, tmp_path):
    network = senet.load_exported(with_program(archive, tmp_path / "same.pt2", lambda program: None))
    assert network(torch.zeros(2, 3, 36, 28)).shape == (2, 10)


@pytest.mark.parametrize("length", [0, 100, 50_000])
def test_what_is_left_of_an_archive_is_refused_in_one_sentence(archive, tmp_path, length, caplog):
    (tmp_path / "part.pt2").write_bytes(archive.read_bytes()[:length])
    with pytest.raises(SenetError, match=r"cannot be opened by torch\.export"):
        senet.load_exported(tmp_path / "part.pt2")
    assert not caplog.records
