"""Inputs that are bad on purpose: code in every place that could run some, names that lead elsewhere, small files that
claim to be large, nesting without end. Each of those with code would make the folder `canary` if it ran."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuzz import seeds
from fuzz.mutations import Files

DEEP = 100_000


class Trap:
    """Makes a folder when it is unpickled without restriction."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


Crafted = dict[str, "Files | Callable[[], Files]"]
"""Inputs by what they are; those that take a while to make are made when they are needed."""


def nothing(canary: Path) -> Crafted:
    """No input."""
    return {}


def pickles(canary: Path) -> dict[str, bytes]:
    """Pickles with code, in every form in which PyTorch has written any."""
    trap = Trap(canary)
    old = io.BytesIO()
    with tarfile.open(fileobj=old, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            add(archive, name, pickle.dumps(trap))
    arrays = io.BytesIO()
    np.savez(arrays, weight=np.array([trap], dtype=object))
    state = dict(seeds.network().state_dict())
    return {
        "code in a pickle": pickle.dumps({"state_dict": trap}),
        "code in a zip file": seeds.saved({"state_dict": trap}),
        "code beside weights": seeds.saved({"model": state, "args": trap}),
        "code in a legacy file": seeds.saved({"state_dict": trap}, zipped=False),
        "code in PyTorch's first format": old.getvalue(),
        "code in NumPy's arrays": arrays.getvalue(),
        "code by name": b"\x80\x02cos\nsystem\nX" + text(f"mkdir {canary}") + b"\x85R.",
        "code by build": b"\x80\x02cfunctools\npartial\nX" + text(f"mkdir {canary}") + b"\x85R.",
        "code by eval": b"\x80\x02cbuiltins\neval\nX" + text(f"__import__('os').mkdir({str(canary)!r})") + b"\x85R.",
    }


def text(words: str) -> bytes:
    """Return the argument of a pickle's BINUNICODE."""
    return len(words.encode()).to_bytes(4, "little") + words.encode()


def add(archive: tarfile.TarFile, name: str, content: bytes, **about: Any) -> None:
    """Add a file to a tar file."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in about.items():
        setattr(entry, key, value)
    archive.addfile(entry, io.BytesIO(content))


def with_main(name: str, contents: Mapping[str, bytes], beside: Files | None = None) -> dict[str, Files]:
    """Return inputs that differ in one file."""
    return {about: {**(beside or {}), name: content} for about, content in contents.items()}


def odd_texts() -> tuple[str, ...]:
    """JSON of all kinds."""
    return "[" * DEEP, '{"a":' * DEEP, "3", "null", "[]", '{"model": 3}', '"x"', "9" * 5000, "NaN", ""


def with_values(name: str, files: Files, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Files]:
    """Return inputs in whose JSON some values, by their dotted names, are others."""
    found = {}
    for about, values in changes.items():
        content = json.loads(files[name])
        for key, value in values.items():
            *homes, last = key.split(".")
            home = content
            for each in homes:
                home = home[each]
            home[last] = value
        found[about] = {**files, name: json.dumps(content).encode()}
    return found


def odd_json(name: str, files: Files) -> dict[str, Files]:
    """Return inputs whose file of JSON holds something else."""
    texts = {f"{name} is {word[:20]}": word.encode() for word in odd_texts()}
    texts |= {f"{name} in UTF-16": files[name].decode().encode("utf-16"), f"{name} in Latin": b'{"\xe4": 1}'}
    return {about: {**files, name: content} for about, content in texts.items()}


def objects(canary: Path) -> bytes:
    """Return an array of NumPy's whose values are a pickle with code."""
    file = io.BytesIO()
    np.save(file, np.array([Trap(canary)], dtype=object))
    return file.getvalue()
