"""What other packages register is found, keeps its own names, and is named where it is missing."""

import json
import os
import subprocess
import sys
from types import ModuleType

import pytest

from senet import plugins
from senet.errors import MissingExtraError, SenetError
from senet.plugins import check_imported, load
from senet.registry import Registry, calling_module


def write_package(folder, name, code, entry_point=None):
    """Write a module, and the metadata of an installed package that names it."""
    (folder / f"{name}.py").write_text(code)
    if entry_point:
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[senet.plugins]\n{name} = {entry_point}\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the path, of whose modules none stays imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.load_installed.cache_clear()
    yield tmp_path
    plugins.load_installed.cache_clear()
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def fruit(monkeypatch):
    """A registry, where modules under test find it."""
    module = ModuleType("senet_fruit")  # not of the library, for its code must count as somebody else's
    module.FRUIT = Registry("fruit", {"apple": 1})
    monkeypatch.setitem(sys.modules, "senet_fruit", module)
    return module.FRUIT


def test_a_name_of_an_installed_package_is_found_when_it_is_looked_up(folder, fruit):
    write_package(folder, "pears", "from senet_fruit import FRUIT\nFRUIT.register('pear', 2, __name__)\n", "pears")
    assert fruit["apple"] == 1
    assert "pears" not in sys.modules  # a known name costs nothing
    assert fruit["pear"] == 2
    assert (fruit.module_of("pear"), fruit.module_of("apple")) == ("pears", None)
    assert (list(fruit), len(fruit)) == (["apple", "pear"], 2)


def test_a_module_that_is_named_is_imported(folder, fruit):
    write_package(folder, "plums", "from senet_fruit import FRUIT\nFRUIT.register('plum', 3, __name__)\n")
    load(["plums"])
    assert fruit["plum"] == 3
    assert "plum" in fruit
    assert "pear" not in fruit


def test_a_name_that_is_taken_is_refused(fruit):
    with pytest.raises(SenetError, match=r"the fruit 'apple' is registered already, by senet; choose another name"):
        fruit.register("apple", 2, calling_module())
    fruit.register("fig", 2, calling_module())
    with pytest.raises(SenetError, match=rf"the fruit 'fig' is registered already, by {__name__}; choose"):
        fruit.register("fig", 3, calling_module())
    assert (fruit["apple"], fruit["fig"]) == (1, 2)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_package", r"--import bad: No module named 'no_such_package'; install its package"),
        ("1 / 0", r"--import bad cannot be imported: ZeroDivisionError: division by zero"),
        (
            "from senet_fruit import FRUIT\nFRUIT.register('apple', 2, __name__)",
            r"--import bad: the fruit 'apple' is registered",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_in_one_sentence(folder, fruit, code, said):
    write_package(folder, "bad", code)
    with pytest.raises(SenetError, match=said) as caught:
        load(["bad"])
    assert "\n" not in str(caught.value)


def test_an_installed_package_that_is_broken_is_named(folder, fruit):
    write_package(folder, "bad", "import no_such_package", "bad")
    with pytest.raises(SenetError, match=r"the entry point bad = 'bad' of group senet.plugins: No module named"):
        fruit["pear"]


def test_what_a_file_needs_is_named_and_never_imported_for_it(folder):
    write_package(folder, "installed_only", "")
    write_package(folder, "with_entry_point", "", "with_entry_point")
    check_imported(["sys", "with_entry_point"], "runs/x")
    with pytest.raises(MissingExtraError, match=r"runs/x needs the module installed_only, which is not imported; imp"):
        check_imported(["sys", "installed_only"], "runs/x")
    assert "installed_only" not in sys.modules
    with pytest.raises(MissingExtraError, match=r"module nowhere\.nets, which is not installed; install nowhere first"):
        check_imported(["nowhere.nets"], "runs/x")


ACME = """
from dataclasses import replace
from functools import partial

import torch
import senet
from senet.models.catalog import model_card
from senet.models.config import ModelConfig
from senet.models.resnet import cifar_resnet
from senet.recipes import get_recipe


def soft(logits):
    return 0.5 * torch.sigmoid(logits)


senet.register_gate(senet.Gate(name="acme_soft", function=soft, low=0, high=0.5))

twin = replace(model_card("cifar_se_resnet20"), name="acme_resnet8", build=partial(cifar_resnet, 8), twin=None)
senet.register_model(replace(twin, options=(), weights=()))


@senet.register_recipe
def acme_digits():
    \"""Train a small network with a gate of another package.\"""
    model = ModelConfig(name="acme_resnet8", in_channels=1, se=senet.SEOptions(gate="acme_soft"))
    return replace(get_recipe("digits"), model=model, epochs=1)
"""


def fresh(folder, *arguments):
    """Run Python in a process of its own, with a folder of packages on its path, or without."""
    paths = [os.environ.get("PYTHONPATH", ""), *([str(folder)] if folder else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_what_a_package_registers_is_trained_saved_and_read_by_processes_of_their_own(tmp_path):
    packages, run = tmp_path / "packages", tmp_path / "run"
    packages.mkdir()
    write_package(packages, "acme_se", ACME, "acme_se")
    done = fresh(packages, "-m", "senet", "train", "acme_digits", "--output", run, "--compute.cpu")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "last" / "config.json").read_text())["requires"] == ["acme_se"]

    reading = "import senet, sys; c = senet.from_pretrained(sys.argv[1]).config; print(c.name, c.se.gate)"
    done = fresh(packages, "-c", reading, run)
    assert done.stdout == "acme_resnet8 acme_soft\n", done.stderr
    (packages / "acme_se-1.0.dist-info" / "entry_points.txt").unlink()
    done = fresh(packages, "-m", "senet", "--import", "acme_se", "models", "acme*")
    assert "acme_resnet8" in done.stdout, done.stderr
    done = fresh(None, "-c", reading, run)
    said = f"senet.errors.MissingExtraError: {run / 'best' / 'config.json'} needs the module acme_se, which is not inst"
    assert done.stderr.splitlines()[-1].startswith(said)
