"""Where the runtime of pages comes from: a folder, or npm; neither npm nor the network is needed here."""

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from senet.cli import main
from senet.deployment import onnxruntime_web
from senet.deployment.onnxruntime_web import SCRIPT, WASM, find_runtime
from senet.errors import MissingFileError, SenetError

CONTENT = {SCRIPT: b"/*!\n * ONNX Runtime Web v9.8.7\n */export{};", WASM: b"\0asm\1\0\0\0"}


def filled(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("place", [".", "dist", "onnxruntime-web/dist", "node_modules/onnxruntime-web/dist"])
def test_a_folder_may_be_the_package_or_have_it(tmp_path, place):
    filled(tmp_path / "given" / place)
    found = find_runtime(tmp_path / "given")
    assert found.version == "9.8.7"
    assert (found.script, found.wasm) == (CONTENT[SCRIPT], CONTENT[WASM])


def test_folders_without_it(tmp_path):
    with pytest.raises(
        MissingFileError, match=r"there is no folder .*absent; give a folder that has it: onnxruntime_web=node_mod"
    ):
        find_runtime(tmp_path / "absent")
    folder = filled(tmp_path / "given")
    (folder / WASM).write_bytes(b"<!doctype html>")
    with pytest.raises(SenetError, match="are not those of onnxruntime-web"):
        find_runtime(folder)
    (folder / WASM).unlink()
    with pytest.raises(MissingFileError, match=f"given has no {SCRIPT} and {WASM}"):
        find_runtime(folder)


def test_the_runtime_of_a_page_is_looked_for_before_anything_is_written(tmp_path, capsys, monkeypatch):
    words = ["export", "cifar_se_resnet20", str(tmp_path / "site"), "--to", "web"]
    assert main([*words, "--onnxruntime-web", "/nowhere"]) == 2
    assert capsys.readouterr().err == (
        "senet: there is no folder /nowhere; give a folder that has it: "
        "--onnxruntime-web node_modules/onnxruntime-web\n"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("senet: a page needs onnxruntime-web, which npm fetches, and npm is not")


def test_without_npm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SenetError, match="npm is not installed; install it, or give a folder"):
        find_runtime()


def npm(folder: Path, monkeypatch, script: str) -> None:
    """Make `npm` this shell script."""
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_npm_that_fails_is_quoted(tmp_path, monkeypatch):
    (tmp_path / "said").write_text(json.dumps({"error": {"code": "ENOTFOUND", "summary": "no such host\n\nmore"}}))
    npm(tmp_path, monkeypatch, f"cat {tmp_path}/said; exit 1")
    with pytest.raises(SenetError, match=r"cannot fetch onnxruntime-web [\d.]+ \(no such host\); check the network"):
        find_runtime()
    npm(tmp_path, monkeypatch, "echo 'npm error old npm' >&2; exit 3")
    with pytest.raises(SenetError, match=r"\(npm error old npm\)"):
        find_runtime()
    npm(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(SenetError, match=r"\(status 0\)"):
        find_runtime()


def test_the_archive_that_npm_fetches_is_the_tested_one_or_refused(tmp_path, monkeypatch):
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in CONTENT.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    destination = f'for last; do :; done; cp {archive} "$last/onnxruntime-web.tgz"'  # the last argument
    npm(tmp_path, monkeypatch, f'{destination}; echo "$@" > {tmp_path}/arguments')
    with pytest.raises(SenetError, match="gave another onnxruntime-web"):
        find_runtime()
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:2] == ["pack", f"onnxruntime-web@{onnxruntime_web.VERSION}"]
    digest = hashlib.sha512(archive.read_bytes())
    monkeypatch.setattr(onnxruntime_web, "INTEGRITY", f"sha512-{base64.b64encode(digest.digest()).decode()}")
    assert find_runtime().wasm == CONTENT[WASM]
