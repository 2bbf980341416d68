"""onnxruntime-web, the runtime of pages: its two files from npm's registry, by npm, or from a folder."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from senet.errors import MissingFileError, SenetError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package as the registry has it, in the form of its `dist.integrity`."""
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""The files of its folder `dist` that run networks on the processor: a module, and what it is compiled to."""
GIVEN = f"give a folder that has it: onnxruntime_web=node_modules/{PACKAGE}"
TIMEOUT = 600
"""Seconds that npm has; the package has 33 MB."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The files of onnxruntime-web that a page needs, and their version."""

    version: str
    script: bytes
    wasm: bytes


def find_runtime(folder: str | Path | None = None) -> Runtime:
    """Return the runtime from a folder, or from npm's registry or cache.

    Args:
        folder: of the package, of its `dist`, or one with `node_modules`; None asks npm.

    Raises:
        MissingFileError: the folder does not exist or lacks a file.
        SenetError: npm is not installed or cannot fetch the package, or the package is not the expected one.
    """
    return runtime_of_npm() if folder is None else runtime_of_folder(Path(folder))


def check_runtime(folder: str | Path | None) -> None:
    """Raise what `find_runtime` would, as far as it is known without asking npm for the package."""
    if folder is None:
        npm_program()
    else:
        runtime_of_folder(Path(folder))


def npm_program() -> str:
    """Return the path of npm.

    Raises:
        SenetError: it is not installed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SenetError(f"a page needs {PACKAGE}, which npm fetches, and npm is not installed; install it, or {GIVEN}")
    return npm


def runtime_of_folder(folder: Path) -> Runtime:
    """Return the runtime from a folder, see `find_runtime`."""
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder {folder}; {GIVEN}")
    places = (folder, folder / "dist", folder / PACKAGE / "dist", folder / "node_modules" / PACKAGE / "dist")
    found = [place for place in places if (place / SCRIPT).is_file() and (place / WASM).is_file()]
    if not found:
        raise MissingFileError(
            f"{folder} has no {SCRIPT} and {WASM}, neither itself nor in dist or node_modules/{PACKAGE}/dist; {GIVEN}"
        )
    return runtime_of(lambda name: (found[0] / name).read_bytes(), str(folder))


def runtime_of_npm() -> Runtime:
    """Return the runtime that npm fetches from its registry, or has in its cache."""
    npm = npm_program()
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--json", "--prefer-offline", "--ignore-scripts"]
        command += ["--pack-destination", temporary]
        try:
            done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, timeout=TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SenetError(f"npm cannot fetch {PACKAGE} {VERSION} ({type(error).__name__}); {GIVEN}") from error
        archives = list(Path(temporary).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise SenetError(f"npm cannot fetch {PACKAGE} {VERSION} ({complaint(done)}); check the network, or {GIVEN}")
        return runtime_of_archive(archives[0])


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return why npm failed: the summary of its error, or its last line."""
    try:
        return str(json.loads(done.stdout)["error"]["summary"]).strip().splitlines()[0]
    except (ValueError, KeyError, IndexError, TypeError):
        lines = [line for line in done.stderr.splitlines() if line.strip() and "complete log" not in line]
        return lines[-1] if lines else f"status {done.returncode}"


def runtime_of_archive(archive: Path) -> Runtime:
    """Return the runtime from the package's archive, whose content must be exactly the expected one."""
    content = archive.read_bytes()
    found = f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"
    if found != INTEGRITY:
        raise SenetError(
            f"npm's registry gave another {PACKAGE} {VERSION} than was tested ({found[:20]}…, expected "
            f"{INTEGRITY[:20]}…); check what npm is configured to ask, or {GIVEN}"
        )
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            member = tar.extractfile(f"package/dist/{name}")
            assert member is not None
            return member.read()

        return runtime_of(read, str(archive))


def runtime_of(read: Callable[[str], bytes], source: str) -> Runtime:
    """Return the runtime of two files, with the version that the script states.

    Args:
        read: a name to the content.
        source: where they are, for messages.

    Raises:
        SenetError: they are other files.
    """
    script, wasm = read(SCRIPT), read(WASM)
    stated = re.search(rb"ONNX Runtime Web v(\d+\.\d+\.\d+\S*)", script[:1000])
    if stated is None or not wasm.startswith(b"\0asm"):
        raise SenetError(f"{SCRIPT} and {WASM} of {source} are not those of {PACKAGE}; {GIVEN}")
    return Runtime(version=stated[1].decode(), script=script, wasm=wasm)
