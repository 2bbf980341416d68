"""The public names, what importing them costs, and the one direction in which modules import each other."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import senet

PACKAGE = Path(senet.__file__).parent

# A module imports from its own layer and from those above it in this table.
LAYERS = (
    {"errors", "files", "terminal", "tracing"},
    {"ops"},
    {"block"},
    {"attachment"},
    {"channels", "fused", "preprocessing"},
    {"models", "borrowing", "costs", "examples"},
    {"optimization", "insertion"},
    {"data", "evaluation", "prediction", "training", "analysis"},
    {"recipes"},
    {"ablation"},
    {"demo", "cli", "__main__"},
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path):
    """Return the top-level part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(source):
    """Return the parts of the package that a module imports anywhere in its text; "" is the package itself."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "senet" else {node.module}
            )
    ours = {name for name in names if name.split(".")[0] == "senet"}
    return {name.split(".")[1] if "." in name else "" for name in ours}


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_reader_of_imports_sees_them_all():
    source = (
        "import senet.cli\ndef f():\n    from senet.data.order import seed_of\nfrom senet import demo\nimport torch"
    )
    assert imported_parts(source) == {"cli", "data", "demo"}
    assert imported_parts("import senet") == {""}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    layer = LAYER_OF[part_of(path)]
    higher = {part for part in imported_parts(path.read_text()) if LAYER_OF.get(part, len(LAYERS)) > layer}
    assert not higher


def test_every_public_name_resolves():
    for name in senet.__all__:
        assert getattr(senet, name).__name__ == name
    assert set(senet.__all__) <= set(dir(senet))
    with pytest.raises(AttributeError, match="has no attribute 'sebastian'"):
        _ = senet.sebastian


def test_importing_the_block_does_not_import_what_only_training_needs():
    heavy = ("timm", "accelerate", "datasets", "sklearn", "matplotlib", "torchvision", "tensorboard")
    assert all(find_spec(name) for name in heavy)
    assert python("import sys, senet; senet.__version__; print('torch' in sys.modules)") == ["False"]
    code = f"import sys, senet; senet.SEBlock(16); print(*(name for name in {heavy} if name in sys.modules))"
    assert python(code) == []
