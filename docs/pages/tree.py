"""Write the tree of files in CONTRIBUTING.md from the first lines of the modules' docstrings."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "src" / "senet"
OTHERS = {
    "__init__.pyi": "The public names, and the module that each comes from.",
    "py.typed": "Says that the package has type annotations.",
    "analysis/page": "The templates of the pages: HTML, style, scripts.",
    "deployment/page": "The page of `--to web`: HTML, style, the parts of its script.",
    "ops/kernels.cpp": "The operators in C++, compiled by `cpu.py` on first use.",
    "pictures": "Pictures of leaves, drawn by docs/leaves.py: what the demo fine-tunes a network to.",
    "pretrained": "The weights that are part of the package.",
}
"""What is not a module."""
WIDTH = 24
"""Characters before the text of a line."""


def summary(path: Path) -> str:
    """Return the first line of a module's docstring, or what is written here of another file."""
    name = path.relative_to(PACKAGE).as_posix()
    if name in OTHERS:
        return OTHERS[name]
    text = ast.get_docstring(ast.parse((path if path.is_file() else path / "__init__.py").read_text()))
    if text is None:
        raise ValueError(f"{path} has no docstring")
    return text.splitlines()[0]


def lines(folder: Path, depth: int = 0) -> list[str]:
    """Return a line for a folder and for each file below it: files first, then folders."""
    found = [f"{'  ' * depth + folder.name + '/':<{WIDTH}} {summary(folder)}"]
    if folder.relative_to(PACKAGE).as_posix() in OTHERS:
        return found
    children = [path for path in sorted(folder.iterdir()) if path.name not in ("__init__.py", "__pycache__")]
    for path in (path for path in children if path.is_file()):
        found.append(f"{'  ' * (depth + 1) + path.name:<{WIDTH}} {summary(path)}")
    for path in (path for path in children if path.is_dir()):
        found += lines(path, depth + 1)
    return found


def tree() -> str:
    """Return the tree as a block of Markdown."""
    return "\n".join(["```text", *lines(PACKAGE), "```\n"])


if __name__ == "__main__":
    print(tree())
