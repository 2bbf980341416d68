"""The public names, what importing them costs, and the one direction in which modules import each other."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

import senet

PACKAGE = Path(senet.__file__).parent

# A file imports from its own part and from those before it here.
PARTS = [
    *("deprecated", "errors", "launch", "lost", "restarts", "processes", "files", "checksums", "locks"),
    *("configs", "plugins", "registry", "terminal", "quiet"),
    *("shards", "ops", "nn", "data", "models"),
    *("weights", "factory", "costs", "surgery", "optimization", "evaluation", "training"),
    *("finetuning", "detection", "analysis", "deployment", "recipes", "integrations", "paper", "cli", "__main__"),
]
FILES = {
    ".".join(("senet", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(source):
    """Return the package's files that a text imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(FILES)


def part_of(name):
    """Return the folder or module of the package that a file belongs to; the package itself is for users' code."""
    return name.split(".")[1] if "." in name else "cli"


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_import_is_seen():
    source = (
        "import senet.cli\ndef f():\n    from senet.data.order import seed_of\nfrom senet import costs\nimport torch"
    )
    assert imported(source) == {"senet", "senet.cli", "senet.data.order", "senet.costs"}


def test_files_import_each_other_in_no_circle():
    graph = {name: imported(path.read_text()) for name, path in FILES.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(order) == set(FILES)


@pytest.mark.parametrize("name", [name for name in FILES if name != "senet"])
def test_parts_import_one_way(name):
    before = PARTS[: PARTS.index(part_of(name)) + 1]
    assert {part_of(other) for other in imported(FILES[name].read_text())} <= set(before)


def test_no_part_is_larger_than_a_sixth():
    lines = Counter()
    for name, path in FILES.items():
        if name != "senet":
            lines[part_of(name)] += len(path.read_text().splitlines())
    assert max(lines.values()) <= sum(lines.values()) / 6, lines


def test_every_public_name_resolves():
    for name in senet.__all__:
        assert getattr(senet, name).__name__ == name
    assert set(senet.__all__) <= set(dir(senet))
    with pytest.raises(AttributeError, match=r"module 'senet' has no attribute 'sebastian'; the nearest are \w+, "):
        _ = senet.sebastian
    with pytest.raises(AttributeError, match=r"'__sebastian__'$"):  # one of Python's own, which many packages look for
        _ = senet.__sebastian__


def test_importing_the_block_does_not_import_what_only_training_needs():
    heavy = ("timm", "accelerate", "datasets", "sklearn", "plotly", "torchvision", "tensorboard", "tyro")
    assert all(find_spec(name) for name in heavy)
    assert python("import sys, senet; senet.__version__; print('torch' in sys.modules)") == ["False"]
    code = f"import sys, senet; senet.SEBlock(16); print(*(name for name in {heavy} if name in sys.modules))"
    assert python(code) == []
