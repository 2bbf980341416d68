"""The programs of docs/deploy.md, where only the packages that they name are installed."""

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import senet

PAGE = Path(__file__).parents[2] / "docs/deploy.md"
PHOTO = next((Path(senet.__file__).parent / "pictures/val/oak").glob("*.jpg"))


def program(package):
    """Return the program of the page that imports a package."""
    (section,) = re.findall(r"^## Without PyTorch\n(.*?)^## ", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if f"import {package}" in code]
    return found


def needed(packages):
    """Return the names of packages and of all that they require."""
    found, waiting = set(), list(packages)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            requirements = map(Requirement, distribution(name).requires or ())
            waiting += [
                each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def install(packages, folder):
    """Fill a folder with links to what some packages have in the environment of the tests."""
    folder.mkdir()
    for name in needed(packages):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(installed.locate_file(top))


def said(code, packages, folder, *arguments):
    """Run a program with some packages and nothing else, and return what it prints."""
    install(packages, folder / "packages")
    absent = "".join(
        f"try:\n    import {name}\nexcept ImportError:\n    pass\nelse:\n    raise SystemExit('{name} is there')\n"
        for name in ("torch", "torchvision", "senet")
    )
    (folder / "program.py").write_text(code)
    start = (
        f"import sys\nsys.path[:0] = [{str(folder / 'packages')!r}]\n{absent}import runpy\nsys.argv = sys.argv[1:]\n"
    )
    start += "runpy.run_path(sys.argv[0], run_name='__main__')"
    # -S leaves out the environment's packages, -I the variables that would bring them back
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start, folder / "program.py", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("package", "file", "options"),
    [
        ("onnxruntime", "a.onnx", {}),
        ("openvino", "a.xml", {"to": "openvino", "preprocess": True, "resize": True}),
    ],
)
def test_the_programs_say_what_predict_says(tmp_path, package, file, options):
    code = program(package)
    assert len([line for line in code.splitlines() if line]) <= 20
    senet.export("cifar_se_resnet20", tmp_path / file, **options)
    lines = said(code, [package, "pillow"], tmp_path, tmp_path / file, PHOTO).splitlines()
    (wanted,) = senet.predict("cifar_se_resnet20", [PHOTO], top=3)
    assert len(lines) == 3
    for line, prediction in zip(lines, wanted, strict=True):
        probability, name = line.split(maxsplit=1)
        assert name == prediction.class_name
        assert abs(float(probability) - prediction.probability) < 2e-4
