"""Archives of torch.export, checked before they are opened, for `torch.export.load` runs code that one may hold.

It loads pickles without restriction where a restricted load fails, computes sizes with sympy, which evaluates text, and
compiles what a program states about its input as Python. An export needs none of that beyond sizes.

Source: torch/_export/serde/serialize.py, torch/export/_unlift.py and torch/export/pt2_archive/_package.py of PyTorch.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from senet.deployment.damage import unreadable
from senet.errors import SenetError
from senet.files import parse_json

SIZE = re.compile(r"('[a-z]+\d+'|[A-Z][A-Za-z]*|[a-z]+(?==)|\d+(\.\d+)?|[\s(),+*/<>=-])*")
"""How sizes are written, such as Add(Symbol('s77', positive=True, integer=True), Integer(-1))."""
GUARD = re.compile(
    r"(L\['\w+'\]\.size\(\)\[\d+\]|\b(and|or|not|[Mm]ax|[Mm]in|torch\.sym_(max|min|not))\b|\d+|[\s(),+*/%<>=!-])*"
)
"""How a program states what holds of sizes, such as (1 + L['x'].size()[2] // 2) != 1."""
OPERATION = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|torchvision)\.\w+(\.\w+)?|torch\.sym_\w+|math\.\w+|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
"""The operations of networks; others could be any function of PyTorch, such as torch.load."""


def check_archive(path: Path) -> None:
    """Raise a SenetError for a .pt2 file that is damaged, old, or could run code when it is opened."""
    from torch.export.pt2_archive._package import PT2ArchiveReader  # the same reader, so that both see the same

    try:
        with PT2ArchiveReader(str(path)) as archive:
            found = {name: archive.read_bytes(name) for name in archive.get_file_names() if is_read(name)}
            named = set(archive.get_file_names())
        reasons = list(suspicious(found, named))
    except Exception as error:  # zip, text and JSON errors
        raise unreadable(path, "torch.export", error) from error
    if reasons:
        raise SenetError(f"{path} could run code when it is opened, for {reasons[0]}; export the network again")


def is_read(name: str) -> bool:
    """Return whether a file of an archive is checked: all but raw weights and what no one interprets."""
    return name.endswith(".json") or name.startswith("data/sample_inputs/")


def suspicious(found: dict[str, bytes], named: set[str]) -> Iterator[str]:
    """Yield reasons why an archive could run code.

    Args:
        found: what it holds, without raw weights.
        named: the names of all files in it.
    """
    for name in sorted(named):
        if name.startswith("data/aotinductor/"):
            yield f"it holds compiled code, {name}"
    for name, content in found.items():
        if name.startswith("data/sample_inputs/"):
            try:
                torch.load(io.BytesIO(content), weights_only=True)
            except Exception:  # of unpickling, of which there are many
                yield f"{name} is no pickle of tensors alone"
        elif not name.startswith("extra/"):
            yield from (f"{name} {reason}" for reason in of_values(parse_json(content)))


def of_values(value: Any) -> Iterator[str]:
    """Yield reasons why values of a program, as JSON has them, could run code."""
    if isinstance(value, list):
        for each in value:
            yield from of_values(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "use_pickle" and each:
                yield "names a pickle"
            elif key == "expr_str" and not SIZE.fullmatch(str(each)):
                yield f"has the size {each!r}"
            elif key == "guards_code" and not all(GUARD.fullmatch(str(guard)) for guard in each):
                yield "has conditions that are more than sizes"
            elif key == "target" and isinstance(each, str) and not OPERATION.fullmatch(each):
                yield f"has the operation {each!r}"
            else:
                yield from of_values(each)
