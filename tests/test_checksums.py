"""A flipped bit anywhere in weights or state is found, the file is named, and what is whole is offered."""

import os
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import senet
from senet import checksums
from senet.checksums import checksum_of, copy_with_checksum, is_whole, written_with_checksum
from senet.errors import SenetError
from senet.files import written_beside
from senet.recipes.digits import digits
from senet.training.run import RunFolder
from senet.training.sections import ComputeConfig

STATE = "training_state.pt"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    senet.save_pretrained(senet.create_model("cifar_se_resnet20"), folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two epochs, of three steps each."""
    from senet.data import loading

    real, sizes = loading.open_split, {"train": 96, "eval": 60}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "open_split", lambda data, split: replace(real(data, split), size=sizes[split]))
        config = replace(digits(), epochs=2, compute=ComputeConfig(cpu=True))
        yield senet.train(config, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def flip(path, place=None, seed=0):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(8 * len(content)) if place is None else place
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def test_sha256sum_reads_them(model):
    if shutil.which("sha256sum") is None:
        pytest.skip("no coreutils")
    said = subprocess.run(
        ["sha256sum", "-c", "model.safetensors.sha256"], cwd=model, capture_output=True, text=True, check=True
    )
    assert said.stdout == "model.safetensors: OK\n"


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_of_weights_is_found(model, tmp_path, seed):
    folder = shutil.copytree(model, tmp_path / "model")
    flip(folder / "model.safetensors", seed=seed)
    for source in (folder, folder / "model.safetensors"):
        with pytest.raises(
            SenetError, match=r"model.safetensors is damaged, .*; get it again, or remove .*\.sha256 if"
        ):
            senet.create_model("cifar_se_resnet20", weights=source)


def test_a_file_that_was_changed_on_purpose_is_accepted_as_the_message_says(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    flip(folder / "model.safetensors", place=8 * ((folder / "model.safetensors").stat().st_size - 100))
    with pytest.raises(SenetError) as caught:
        senet.from_pretrained(folder)
    (named,) = re.findall(r"remove (\S+) if", str(caught.value))
    assert named == str(checksum_of(folder / "model.safetensors"))
    checksum_of(folder / "model.safetensors").unlink()
    senet.from_pretrained(folder)


def test_a_damaged_checksum_is_no_whole_one(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    for content in ("", "00", "\x00" * 64, "é" * 70):
        checksum_of(folder / "model.safetensors").write_text(content)
        with pytest.raises(SenetError, match="is damaged"):
            senet.from_pretrained(folder)


def test_a_copied_file_alone_and_folders_of_others_load_as_before(model, tmp_path):
    shutil.copy(model / "model.safetensors", tmp_path / "alone.safetensors")
    senet.create_model("cifar_se_resnet20", weights=tmp_path / "alone.safetensors")


def test_a_file_that_is_replaced_while_it_is_read_is_not_called_damaged(tmp_path, monkeypatch):
    path, real = tmp_path / "file", checksums.digest_of

    def write(text):
        with written_with_checksum(path) as beside:
            beside.write_text(text)

    write("old")
    texts = ["new", "newer"]

    def replaced(file):
        if file == path and texts:  # after the checksum was read
            write(texts.pop(0))
        return real(file)

    monkeypatch.setattr(checksums, "digest_of", replaced)
    assert is_whole(path)
    assert path.read_text() == "newer"


def test_a_copy_of_a_damaged_file_is_not_whole(tmp_path):
    with written_with_checksum(tmp_path / "a") as beside:
        beside.write_text("content")
    (tmp_path / "b").mkdir()
    copy_with_checksum(tmp_path / "a", tmp_path / "b" / "a")
    assert is_whole(tmp_path / "b" / "a")
    flip(tmp_path / "a")
    copy_with_checksum(tmp_path / "a", tmp_path / "b" / "a")
    assert not is_whole(tmp_path / "b" / "a")


@pytest.mark.parametrize("before", ["old", None])
@pytest.mark.parametrize("write", ["write", "copy"])
def test_whenever_a_write_is_killed_a_flipped_bit_of_what_is_there_is_found(tmp_path, monkeypatch, write, before):
    """Before and after each rename, which is all that changes the file and its checksum but for one appended line."""
    with written_with_checksum(tmp_path / "source") as beside:
        beside.write_text("new")

    def begin():
        with written_with_checksum(path) as beside:
            beside.write_text("new")

    def copy():
        copy_with_checksum(tmp_path / "source", path)

    real, left = Path.replace, 0

    def replace(self, target):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        real(self, target)
        if left == 0:
            raise KeyboardInterrupt

    found = []
    for moment in range(3):
        path = tmp_path / f"killed{moment}"
        if before is not None:
            with written_with_checksum(path) as beside:
                beside.write_text(before)
        left = moment
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                (begin if write == "write" else copy)()
        if path.exists():
            assert is_whole(path)
            found.append(path.read_text())
            flip(path)
            assert not is_whole(path)
    assert found == ["old", "new", "new"][before is None :]


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_damaged_weights_of_a_run_offer_the_others(run):
    flip(run / "best" / "model.safetensors")
    with pytest.raises(
        SenetError, match=rf"{run}/best/model.safetensors is damaged, .*; take {run}/last, which is whole"
    ):
        senet.from_pretrained(run)
    senet.from_pretrained(run / "last")
    flip(run / "last" / "model.safetensors")
    with pytest.raises(SenetError, match=r"best/model.safetensors is damaged, .*; get it again"):
        senet.from_pretrained(run)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_state_is_said_and_the_one_before_gone_on_from(run, trained, caplog, seed):
    flip(run / "last" / STATE, seed=seed)
    senet.resume(run)
    (said,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert said.startswith(f"{run}/last/{STATE} is damaged, for its SHA-256 is not the one in {STATE}.sha256; the run ")
    assert said.endswith(f"goes on from the save before it, {run}/previous/{STATE}: epoch 2, after 0 batches")
    assert (run / "last" / "model.safetensors").read_bytes() == (trained / "last" / "model.safetensors").read_bytes()
    steps = [torch.load(run / kind / STATE, weights_only=True)["position"]["step"] for kind in ("previous", "last")]
    assert steps == [3, 6]  # the damaged one was not kept
    assert is_whole(run / "previous" / STATE)
    assert is_whole(run / "last" / STATE)


def test_a_state_that_is_missing_is_no_new_beginning(run, caplog):
    (run / "last" / STATE).unlink()
    assert RunFolder(run).load_state(frozenset())["position"]["step"] == 3
    assert f"{run}/last/{STATE} is missing; the run goes on from the save before it" in caplog.text


def test_without_a_whole_state_the_weights_are_offered(run, tmp_path):
    flip(run / "last" / STATE)
    flip(run / "previous" / STATE)
    with pytest.raises(SenetError, match=rf"and the one before it, .*previous/{STATE}, .*--weights {run} for"):
        senet.resume(run)
    (run / "previous" / STATE).unlink()
    with pytest.raises(SenetError, match=rf"last/{STATE} is damaged, .*; start again elsewhere"):
        senet.resume(run)


def test_a_run_of_a_former_version_goes_on(run):
    for file in run.rglob("*.sha256"):
        file.unlink()
    shutil.rmtree(run / "previous")
    senet.resume(run, epochs=3)
    assert {str(file.relative_to(run)) for file in run.rglob("*.sha256")} >= {f"last/{STATE}.sha256"}
    assert (run / "previous" / STATE).exists()


def test_what_a_killed_process_was_writing_is_removed(run):
    parts = [run / "last" / f".{STATE}.4711.part", run / ".config.json.4711.part"]
    for part in parts:
        part.write_bytes(b"half")
    with RunFolder(run).claimed():
        assert not any(part.exists() for part in parts)


def test_what_a_process_of_the_same_number_has_left_is_not_written_into(run):
    """In containers numbers come again; a kill may leave a second name of the state that is whole."""
    left = run / "previous" / f".{STATE}.{os.getpid()}.part"
    os.link(run / "last" / STATE, left)
    before = (run / "last" / STATE).read_bytes()
    with written_beside(run / "previous" / STATE) as beside:
        beside.write_text("new")
    assert (run / "last" / STATE).read_bytes() == before
    assert not left.exists()


def test_other_weights_are_compared_too(tmp_path):
    """Of any file that has a checksum beside it, as people publish them."""
    torch.save(senet.create_model("cifar_se_resnet20").state_dict(), tmp_path / "weights.pth")
    (tmp_path / "weights.pth.sha256").write_text(f"{'0' * 64} *weights.pth\n")
    with pytest.raises(SenetError, match=r"weights.pth is damaged"):
        senet.create_model("cifar_se_resnet20", weights=tmp_path / "weights.pth")
    digest = checksums.digest_of(tmp_path / "weights.pth")
    (tmp_path / "weights.pth.sha256").write_text(f"SHA256 (weights.pth) = {digest.upper()}\n")
    senet.create_model("cifar_se_resnet20", weights=tmp_path / "weights.pth")
