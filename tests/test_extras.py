"""What everybody uses works without any extra, and what needs one says which, in one sentence."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from senet.errors import EXTRAS

PROJECT = Path(__file__).parent.parent

WITHOUT_EXTRAS = f"""
import sys

class WithoutExtras:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        blocked = name.partition(".")[0] in {sorted(EXTRAS)}
        return None if blocked else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(WithoutExtras, sys.meta_path)
import torch
import senet
"""

CORE = """
from PIL import Image
from pathlib import Path
from torch import nn
from safetensors.torch import save_file

folder = Path(sys.argv[1])
assert senet.SEBlock(16)(torch.ones(1, 16, 4, 4)).shape == (1, 16, 4, 4)
model = senet.create_model("cifar_se_resnet20")
save_file(model.state_dict(), folder / "weights.safetensors")
senet.load_weights(model, folder / "weights.safetensors")
senet.save_pretrained(model, folder / "model")
loaded = senet.from_pretrained(folder / "model")
assert senet.cost(loaded).parameters == senet.cost(model).parameters
batches = [(torch.rand(4, 3, 32, 32), torch.arange(4))]
assert senet.evaluate(loaded, batches).num_images == 4
for name in ("cat", "dog"):
    (folder / "images" / name).mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(folder / "images" / name / "0.png")
two = senet.create_model("cifar_resnet20", num_classes=2)
two.class_names = ("cat", "dog")
assert senet.evaluate(two, folder / "images").num_images == 2
(predicted,) = senet.predict(two, [folder / "images" / "cat" / "0.png"])
assert len(predicted) == 2
plain = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
assert senet.insert_se(plain)
senet.record_excitations(loaded, batches).save(folder / "gates.safetensors")
senet.fuse(senet.create_model("resnet18"))
senet.optimize_for_inference(senet.create_model("cifar_se_resnet20").eval())
senet.TrainConfig, senet.DataConfig
from senet.recipes import get_recipe
get_recipe("digits")
"""

NEEDING = {
    "senet.train": ("senet.train", "senet.train needs accelerate", "train"),
    "senet.resume": ("senet.resume", "senet.train needs accelerate", "train"),
    "explain": ("senet.explain", "a figure needs plotly", "report"),
    "demo": (
        "from senet.cli.demo import demo; from pathlib import Path; demo(Path(sys.argv[1]) / 'demo')",
        "senet demo needs accelerate, tensorboard, scikit-learn, timm, plotly, jinja2, which are",
        "report,timm,train",
    ),
    "compare": ("senet.compare(['cifar_resnet20'], 'digits')", "an evaluation in detail needs scipy", "report"),
    "timm's network": ("senet.create_model('timm/resnet18')", "timm/resnet18 needs timm", "timm"),
    "timm's registry": ("import senet.integrations.timm", "senet.integrations.timm needs timm", "timm"),
    "digits": (
        "senet.evaluate(senet.create_model('cifar_resnet20', in_channels=1), 'digits')",
        "the data set 'digits' needs scikit-learn",
        "train",
    ),
    "hub": (
        "senet.evaluate(senet.create_model('cifar_resnet20'), 'hf:a/b')",
        "the data set 'hf:a/b' needs datasets",
        "train",
    ),
    "caffemodel": (
        "senet.load_weights(senet.create_model('senet154'), open(sys.argv[1] + '/x.caffemodel', 'w').name)",
        "reading a .caffemodel needs protobuf",
        "caffe",
    ),
    "ExecuTorch": (
        "senet.export('cifar_resnet20', sys.argv[1] + '/a.pte', to='executorch')",
        "export to executorch needs executorch",
        "executorch",
    ),
    "Core ML": (
        "senet.export('cifar_resnet20', sys.argv[1] + '/a.mlpackage', to='coreml')",
        "export to coreml needs coremltools",
        "coreml",
    ),
    "OpenVINO": (
        "senet.optimize_for_inference(senet.create_model('cifar_resnet20').eval(), backend='openvino')",
        "backend 'openvino' needs openvino",
        "openvino",
    ),
}


def without_extras(code, folder):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + code, str(folder)], capture_output=True, text=True, timeout=300
    )


COMMANDS = """
folder = Path(sys.argv[1])
images, model, gates = (str(folder / name) for name in ("images", "two", "gates.safetensors"))
two = senet.create_model("cifar_se_resnet20", num_classes=2)
two.class_names = ("cat", "dog")
two.save_pretrained(model)
from senet.cli import main
assert main(["models", "cifar_se_resnet20"]) == 0
assert main(["predict", f"{images}/cat/0.png", "--model", model]) == 0
assert main(["evaluate", model, "--data", images]) == 0
assert main(["record", model, "--data", images, "--output", gates]) == 0
pruned = ["--recording", gates, "--blocks", "SE_2_1", "--output", str(folder / "pruned")]
assert main(["prune", model, "--data", images, *pruned]) == 0
"""


def test_what_everybody_uses_works_without_extras(tmp_path):
    done = without_extras(CORE + COMMANDS, tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_needs_an_extra_says_which(tmp_path):
    codes = [code for code, _, _ in NEEDING.values()]
    done = without_extras(
        f"for code in {codes!r}:\n"
        "    try:\n        exec(code)\n"
        "    except ImportError as error:\n        print(isinstance(error, senet.SenetError), error)\n"
        "    else:\n        print('nothing is missing')\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(NEEDING)
    for line, (code, said, extra) in zip(lines, NEEDING.values(), strict=True):
        assert line.startswith(f"True {said}"), (code, line)
        assert re.search(r", which (is|are) not installed; ", line), (code, line)
        assert line.endswith(f" not installed; run: pip install 'senet[{extra}]'"), (code, line)


# trackers; nncf, which holds NumPy and networkx below their newest; and what writes files for phones
ALONE = ("wandb", "mlflow", "comet", "int8", "executorch", "coreml")


@pytest.mark.quick_every(4)
@pytest.mark.parametrize("module", EXTRAS)
def test_the_extra_that_is_named_brings_the_package(module):
    package, extra = EXTRAS[module]
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert package in [re.split(r"[>\[]", requirement)[0] for requirement in extras[extra]]
    if extra in ALONE:  # not in `all`, so that they are installed only where somebody wants them
        assert extra not in re.split(r"[\[\],]", extras["all"][0])
        return
    assert package in [name.lower().replace("_", "-") for name in packages_distributions()[module]]
    assert extra in extras["all"][0]
