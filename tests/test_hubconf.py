"""torch.hub finds our networks at the root of the repository."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest
import torch

import senet
from senet.errors import SenetError

ROOT = str(Path(__file__).parent.parent)
NAME = "cifar_se_resnet20"


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[str]:
    """What torch.hub has of a repository on GitHub once it has downloaded it: a folder of this name."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    (tmp_path / "OWNER_senet_main").symlink_to(ROOT, target_is_directory=True)
    yield "OWNER/senet:main"
    torch.hub.set_dir(before)


def load(name: str, **options: object) -> torch.nn.Module:
    return torch.hub.load(ROOT, name, source="local", **options)


def test_list_has_every_network(repository: str) -> None:
    assert set(senet.list_models()) <= set(torch.hub.list(repository, trust_repo=True))


def test_list_has_nothing_else(repository: str) -> None:
    """torch.hub lists every callable of the file whose name does not begin with an underscore."""
    assert set(torch.hub.list(repository, trust_repo=True)) == set(senet.list_models())


@pytest.mark.parametrize("name", ["se_resnet50", NAME])
def test_help_names_the_network_and_where_its_arguments_are(repository: str, name: str) -> None:
    said = torch.hub.help(repository, name, trust_repo=True)
    assert name in said
    assert "senet.create_model" in said


def test_load_is_create_model() -> None:
    options = {"num_classes": 7, "in_channels": 1, "se": senet.SEOptions(reduction=4), "dropout": 0.2}
    torch.manual_seed(0)
    loaded = load(NAME, **options)
    torch.manual_seed(0)
    created = senet.create_model(NAME, **options)
    assert type(loaded) is type(created)
    assert loaded.config == created.config
    assert loaded.training
    theirs = created.state_dict()
    assert loaded.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in loaded.state_dict().items())


def test_load_takes_weights() -> None:
    loaded, created = load(NAME, weights="cifar10"), senet.create_model(NAME, weights="cifar10")
    x = torch.randn(2, 3, 32, 32)
    assert loaded.training
    assert torch.equal(loaded.eval()(x), created.eval()(x))


def test_a_bad_argument_is_one_sentence() -> None:
    with pytest.raises(SenetError, match="weights is 'imagenet'") as caught:
        load(NAME, weights="imagenet")
    assert "\n" not in str(caught.value)


def test_arguments_are_positional_as_in_create_model() -> None:
    assert list(signature(senet.create_model).parameters)[:3] == ["name", "num_classes", "in_channels"]
    assert torch.hub.load(ROOT, NAME, 5, 1, source="local").fc.weight.shape == (5, 64)


def test_load_from_a_repository(repository: str) -> None:
    loaded = torch.hub.load(repository, NAME, num_classes=3, trust_repo=True)
    assert loaded.config == senet.create_model(NAME, num_classes=3).config


LOADING = f"""
import sys, torch
torch.hub.load({ROOT!r}, {NAME!r}, source="local", weights="cifar10")
for name in [name for name, module in sys.modules.items() if name.split(".")[0] == "senet"]:
    print(sys.modules[name].__file__)
print(*sys.modules)
"""


def test_dependencies_are_what_loading_weights_imports() -> None:
    """torch.hub checks them before it runs anything; others would be a traceback in the middle."""
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, check=True)
    *files, loaded = done.stdout.splitlines()
    imported = set()
    for node in (node for file in files for node in ast.walk(ast.parse(Path(file).read_text()))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    imported &= set(loaded.split())  # what a function imports only if it is called is not needed
    others = {name for name in imported if name.split(".")[0] not in {*sys.stdlib_module_names, "senet"}}
    hubconf = ast.parse((Path(ROOT) / "hubconf.py").read_text())
    (stated,) = (n.value for n in hubconf.body if isinstance(n, ast.Assign) and n.targets[0].id == "dependencies")  # type: ignore[attr-defined]
    dependencies = set(ast.literal_eval(stated))
    assert "safetensors" in {name.split(".")[0] for name in others}
    assert not {name for name in others if not any(f"{name}.".startswith(f"{known}.") for known in dependencies)}
