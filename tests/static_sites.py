"""Static hosts for tests: a folder served on localhost, and what pages need of npm.

`PYTHONPATH=tests python -m static_sites` fetches that into npm's cache, from which tests take it without the network.
"""

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from senet.deployment.onnxruntime_web import PACKAGE, VERSION

VARIABLE = "SENET_ONNXRUNTIME_WEB"
AXE_CORE = ("axe-core", "4.14.1")


class Handler(SimpleHTTPRequestHandler):
    """Serves files with more headers, or answers 404 for some, and remembers what was asked for."""

    def __init__(self, *args: object, headers: dict[str, str], missing: set[str], asked: list[str], **options: object):
        self.more, self.missing, self.asked = headers, missing, asked
        super().__init__(*args, **options)

    def end_headers(self) -> None:
        for name, value in self.more.items():
            self.send_header(name, value)
        super().end_headers()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path in self.missing:
            self.send_error(404)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(
    folder: Path, headers: dict[str, str] | None = None, missing: set[str] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; yield its address, and the list of the paths that are asked for."""
    asked: list[str] = []
    handler = partial(Handler, directory=str(folder), headers=headers or {}, missing=missing or set(), asked=asked)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_port}/", asked
        server.shutdown()
        thread.join()


def onnxruntime_web(folder: Path) -> Path:
    """Return a folder with onnxruntime-web: an environment variable's, or one of npm's cache; or skip."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else unpacked(folder, PACKAGE, VERSION, f"set {VARIABLE} to its folder")


def axe_core(folder: Path) -> str:
    """Return the script of axe-core, which checks pages against WCAG, from npm's cache; or skip."""
    return (unpacked(folder, *AXE_CORE, "it checks pages") / "axe.min.js").read_text()


def unpacked(folder: Path, package: str, version: str, remedy: str) -> Path:
    """Return a package of npm's cache, unpacked; or skip."""
    pack = ["npm", "pack", f"{package}@{version}", "--offline", "--pack-destination", str(folder)]
    try:
        subprocess.run(pack, check=True, capture_output=True, cwd=folder, timeout=120)
    except (OSError, subprocess.SubprocessError):
        pytest.skip(f"{package} is not in npm's cache ({remedy}); run `PYTHONPATH=tests python -m static_sites` once")
    (archive,) = folder.glob("*.tgz")
    subprocess.run(["tar", "xzf", archive, "-C", folder], check=True)
    return folder / "package"


def fetch() -> None:
    """Fetch onnxruntime-web and axe-core, 34 MB, into npm's cache."""
    pack = ["npm", "pack", "--silent", "--prefer-offline", "--fetch-retries=1"]
    pack += [f"{name}@{version}" for name, version in ((PACKAGE, VERSION), AXE_CORE)]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(pack, check=True, cwd=folder, timeout=600)


if __name__ == "__main__":
    fetch()
