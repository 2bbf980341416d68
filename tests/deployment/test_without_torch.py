"""The programs of docs/deploy.md, where only the packages that they name are installed."""

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

import senet

PAGE = Path(__file__).parents[2] / "docs/deploy.md"
PHOTO = next((Path(senet.__file__).parent / "pictures/val/oak").glob("*.jpg"))


def program(package, heading="Without PyTorch"):
    """Return the program of a section of the page that imports a package."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)^## ", PAGE.read_text(), re.DOTALL | re.MULTILINE)
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
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("package", "file", "options"),
    [
        ("onnxruntime", "a.onnx", {}),
        pytest.param(
            *("openvino", "a.xml", {"to": "openvino", "preprocess": True, "resize": True}), marks=pytest.mark.slow
        ),
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "file", "options"),
    [
        ("onnxruntime", "a.onnx", {}),
        ("openvino", "a.xml", {"to": "openvino", "preprocess": True}),
    ],
)
def test_the_programs_find_what_a_detector_finds(tmp_path, package, file, options):
    code = program(package, "Detectors")
    assert len([line for line in code.splitlines() if line]) <= 20
    torch.manual_seed(0)
    small = {"num_classes": 2, "norm": "train", "frozen_stages": 0, "pyramid_channels": 16, "box_features": 32}
    model = senet.faster_rcnn("cifar_se_resnet20", **small, min_size=64, max_size=96).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=3.0)
    model.class_names = ("a leaf", "a tree")
    senet.export(model, tmp_path / file, **options)
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.jpg", exif=turned)
    lines = said(code, [package, "pillow"], tmp_path, tmp_path / file, tmp_path / "turned.jpg").splitlines()
    (wanted,) = senet.detect(model, tmp_path / "turned.jpg", threshold=0.5)
    assert len(lines) == len(wanted) > 3
    for line, found in zip(lines, wanted, strict=True):
        score, *box, name = line.split(maxsplit=5)
        assert name == found.class_name
        assert abs(float(score) - found.score) < 2e-4
        assert [float(side) for side in box] == pytest.approx(found.box, abs=0.06)
    if package == "onnxruntime":
        assert Image.open(tmp_path / "found.png").size == (50, 70)
