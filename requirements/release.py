"""Build dist/: sdist and wheel, each twice, which must be equal bit for bit; the list of their parts; checksums.

Command: make release
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BOM = "senet.cdx.json"


def built(folder: Path, epoch: str) -> dict[str, bytes]:
    """Build both archives in a folder; return their contents by name.

    Args:
        folder: which is made.
        epoch: the time in seconds that all files in them have.
    """
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "SOURCE_DATE_EPOCH": epoch})
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def parts_list() -> bytes:
    """Return the packages of requirements/runtime.txt with their hashes in CycloneDX's form, checked by its schema."""
    words = [sys.executable, "-m", "cyclonedx_py", "requirements", "--pyproject", "pyproject.toml", "--validate"]
    words += ["--output-reproducible", "--spec-version", "1.6", "requirements/runtime.txt"]
    return subprocess.run(words, check=True, capture_output=True, cwd=ROOT).stdout


def main() -> int:
    """Build, compare and write."""
    words = ["git", "log", "-1", "--format=%ct"]
    epoch = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        first, second = (built(Path(folder) / name, epoch) for name in ("first", "second"))
    if first != second:
        print(
            f"two builds differ: {', '.join(name for name in first if first[name] != second.get(name))}",
            file=sys.stderr,
        )
        return 1
    files = {**first, BOM: parts_list()}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    for name, content in {**files, "SHA256SUMS": sums.encode()}.items():
        (dist / name).write_bytes(content)
    print(f"{dist} has {', '.join(files)} and SHA256SUMS; both archives, built twice, are equal bit for bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
