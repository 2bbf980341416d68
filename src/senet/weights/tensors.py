"""Reading the tensors of a file, executing nothing, whatever wraps them and whatever else the file holds."""

import collections
import datetime
import decimal
import pathlib
import pickle
import re
import types
import uuid
import zipfile
from argparse import Namespace
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from senet.checksums import check_whole
from senet.errors import MissingFileError, SenetError
from senet.weights.layouts import State, is_first_layer

DESCRIPTION_KEY = "senet"
"""In the metadata of a safetensors file or a state dict: the JSON text that config.json has too."""
DEEPEST, MOST_DICTIONARIES = 50, 100_000
"""Of the dictionaries in a file, around weights and beside them: an optimizer has one for each of its tensors."""
MOST_UNPACKED, SMALL = 16, 2**26
"""Times its size that the tensors of a file may take; files of tensors that are nearly all zeros stay below 10. Never
too large are `SMALL` bytes."""
MIN_TENSORS = 50
"""Fewer are a part of a network: a decoder, a head, a unit. The smallest network here has 84."""
WRAPPED = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")
"""What torch.compile, FSDP and activation checkpointing put into names, wherever they wrap a module."""
COUNTERS = re.compile(r"(^|\.)(total_ops|total_params|num_batches_tracked|n_averaged)$")
"""What tools that count operations or average weights leave in a state dict, and BatchNorm's own count."""
RECORDS = (
    *(Namespace, types.SimpleNamespace, decimal.Decimal, uuid.UUID),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
    *(list, dict, tuple, frozenset, range, slice, int, float, str, bool),
    *(np.ndarray, np.dtype),
)
"""Harmless types that training scripts save with the weights: plain records, dates, containers, NumPy's values."""


def allowed() -> list[Any]:
    """Return what else may be read: types, and for some the name that files know them by."""
    numpy_types = {type(np.dtype(code)) for code in np.typecodes["All"]}
    rebuilders = [getattr(np._core.multiarray, name) for name in ("scalar", "_reconstruct")]  # type: ignore[attr-defined]
    renamed = [(f, f"numpy.{core}.multiarray.{f.__name__}") for f in rebuilders for core in ("core", "_core")]
    for module in ("pathlib", "pathlib._local"):  # a path of another system has no class here that may be made
        for system in ("Posix", "Windows"):
            pure = getattr(pathlib, f"Pure{system}Path")
            renamed += [(pure, f"{module}.{system}Path"), (pure, f"{module}.Pure{system}Path")]
    plain = [(plain_dict, "collections.defaultdict"), (plain_list, "collections.deque")]  # PyTorch fills no others
    return [*RECORDS, *numpy_types, *renamed, *plain]


def plain_dict(*_: object) -> dict[Any, Any]:
    """Return what stands for a defaultdict: an empty dictionary, which its items are put into."""
    return collections.OrderedDict()


def plain_list(items: Iterable[Any] = (), _: int | None = None) -> list[Any]:
    """Return what stands for a deque: a list, which its items are appended to."""
    return list(items)


@dataclass(frozen=True, kw_only=True)
class FileState:
    """The state dict of one network in a file.

    Args:
        tensors: by name, without what all names share.
        description: the JSON text that describes a network of this library; None if the file has none.
        notes: what was left out, a phrase each.
    """

    tensors: State
    description: str | None = None
    notes: tuple[str, ...] = ()


def read_state(path: Path, key: str | None = None, names: Collection[str] = ()) -> FileState:
    """Read the state dict of one network from a .safetensors or PyTorch file, on the CPU, executing nothing.

    It may lie in dictionaries inside dictionaries ("state_dict", "model", ...), and its names may have any prefix
    ("module.", "backbone.", ...): the place is found by the name of the first layer, or by given names.

    Args:
        path: the file.
        key: which of several networks: the names of the dictionaries and the prefix, joined by dots, or their end.
        names: those of the network's tensors; empty for this library's.

    Raises:
        SenetError: the file is absent, damaged, truncated, not a state dict, a pickle that would execute code, or holds
            several networks and no `key` says which.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no weights file {path}")
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise SenetError(f"{path} is a pointer of Git LFS, not the file itself; run `git lfs pull`")
    other = {"best": "last", "last": "best"}.get(path.parent.name)  # of a run
    check_whole(path, others=[] if other is None else [path.parent.with_name(other) / path.name])
    # A zip archive or a bare pickle; the first eight bytes of a safetensors file are a length, which may be any.
    pickled = start.startswith((b"PK", b"\x80")) and start[8:9] != b"{"
    if path.suffix == ".safetensors" and not pickled:
        tensors, descriptions, dictionaries = read_safetensors(path)
    else:
        content = read_pickle(path)
        try:
            tensors, descriptions, dictionaries = flatten(content)
        except ValueError as error:
            raise SenetError(f"{path} has {error}, as no weights file does; get it again") from error
    if not tensors:
        raise SenetError(f"{path} does not hold a state dict (names to tensors)")
    root = choose_root(path, tensors, descriptions, dictionaries, key, names)
    chosen = under(tensors, root)
    check_size(path, sum(tensor.numel() * tensor.itemsize for tensor in chosen.values()))
    home = max((place for place in dictionaries if root.startswith(place)), key=len, default="")
    others = [name for name in tensors if name.startswith(home) and not name.startswith(root)]
    others = [name for name in others if not COUNTERS.search(name)] if key is None else []
    left = f"what is not in {root.removesuffix('.')} is left out: {others[0]}, ..." if others else ""
    return FileState(tensors=chosen, description=descriptions.get(root), notes=(left,) if left else ())


def check_size(path: Path, size: int) -> None:
    """Raise a SenetError if what a file holds is much larger than the file: a few bytes may claim to be any number."""
    most = max(SMALL, MOST_UNPACKED * path.stat().st_size)
    if size > most:
        raise SenetError(
            f"{path} would take {size:,} bytes of memory, {most:,} at most for a file of its size; save the weights as "
            "they are, by torch.save(model.state_dict(), ...)"
        )


def under(tensors: Mapping[str, Tensor], prefix: str) -> State:
    """Return the tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


Contents = tuple[State, dict[str, str], dict[str, int]]
"""The tensors of a file under dotted names, descriptions of this library's networks by prefix, and how many tensors are
in each dictionary, by prefix. A prefix is empty or ends in a dot."""


def read_safetensors(path: Path) -> Contents:
    """Read a .safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {clean(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = (file.metadata() or {}).get(DESCRIPTION_KEY)
    except SafetensorError as error:
        raise SenetError(f"{path} is truncated or not a safetensors file ({error}); get it again") from error
    return tensors, {"": text} if text else {}, {"": len(tensors)}


def read_pickle(path: Path) -> Any:
    """Read what torch.save wrote, if it holds nothing but tensors and harmless records."""
    check_size(path, unpacked_size(path))
    try:
        with torch.serialization.safe_globals(allowed()), path.open("rb") as file:  # by name, its suffix would count
            return torch.load(file, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SenetError(f"{path} is refused: {refusal(path, str(error))}") from error
    except Exception as error:  # whatever PyTorch's reader meets in a damaged file
        if "TorchScript" in str(error):
            raise SenetError(f"{path} is refused: {refusal(path, str(error))}") from error
        raise SenetError(f"{path} is truncated or not a PyTorch file; get it again") from error


def unpacked_size(path: Path) -> int:
    """Return how many bytes a zip file unpacks to; 0 for other files and damaged ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return 0


def refusal(path: Path, said: str) -> str:
    """Return why a pickle is refused, and what to do: by the class that it needs, as PyTorch's message names it."""
    if "TorchScript" in said:
        return (
            "it is a TorchScript archive; save its weights alone: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pth')"
        )
    found = re.search(r"GLOBAL ([\w.]+)|(?:class|function|type) ([\w.]+\.[\w.]+)", said)
    if found is None:
        return "it is no weights file, or a pickle that may execute code; save its state_dict() as .safetensors"
    name = found[1] or found[2]
    return (
        f"it needs {name}, a pickle that may execute code; if you trust it, open it by "
        f"torch.load({str(path)!r}, weights_only=False) where its class can be imported, and torch.save "
        "its state dict alone"
    )


def clean(name: str) -> str:
    """Return a name without what wrappers put into it."""
    return WRAPPED.sub("", name).removeprefix(".")


def flatten(content: Any) -> Contents:
    """Return the contents of nested dictionaries under dotted names."""
    tensors: State = {}
    descriptions: dict[str, str] = {}
    dictionaries: dict[str, int] = {}
    for prefix, mapping in nested(content):
        own = {f"{prefix}{clean(str(name))}": value for name, value in mapping.items() if isinstance(value, Tensor)}
        tensors |= own
        if own:
            dictionaries[prefix] = len(own)
        for module, values in getattr(mapping, "_metadata", {}).items():
            text = values.get(DESCRIPTION_KEY) if isinstance(values, Mapping) else None
            if isinstance(text, str):
                place = clean(str(module))
                descriptions[f"{prefix}{place}{'.' if place else ''}"] = text
    return tensors, descriptions, dictionaries


def nested(content: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the dictionaries inside a dictionary, itself first, each with the prefix of its names.

    Raises:
        ValueError: there is no end of them: one is inside itself, or a few hold each other again and again.
    """
    left, found = [(content, "", 0)], 0
    while left:
        inner, prefix, depth = left.pop()
        if not isinstance(inner, Mapping):
            continue
        found += 1
        if found > MOST_DICTIONARIES or depth > DEEPEST:
            raise ValueError("dictionaries inside dictionaries without end")
        yield prefix, inner
        left += reversed([(value, f"{prefix}{name}.", depth + 1) for name, value in inner.items()])


def find_roots(tensors: Mapping[str, Tensor], descriptions: Mapping[str, str], names: Collection[str]) -> list[str]:
    """Return the prefixes under which a whole network lies: described as this library's, or known by its first layer.

    With the names of another's tensors, these are the prefixes with which most of them are there.
    """
    if names:
        longest = max(names, key=len)
        ends = (name.removesuffix(longest) for name in tensors if f".{name}".endswith(f".{longest}"))
        there = {root: sum(f"{root}{name}" in tensors for name in names) for root in ends}
        return [root for root, number in there.items() if number == max(there.values())]
    found = []
    for name in tensors:
        parts = name.split(".")
        prefixes = [".".join([*parts[:i], ""]) for i in range(len(parts))]
        found += [prefix for prefix in prefixes if is_first_layer(name.removeprefix(prefix))][:1]
    found = [root for root in found if sum(name.startswith(root) for name in tensors) >= MIN_TENSORS]
    found = list(dict.fromkeys([*descriptions, *(with_head(root, tensors) for root in found)]))
    return [root for root in found if not any(is_inside(root, other) for other in found)]


def is_inside(prefix: str, other: str) -> bool:
    """Whether one prefix is longer than another that it starts with."""
    return prefix != other and prefix.startswith(other)


def with_head(root: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the root that holds mmpretrain's backbone and classifier, for the root of the backbone alone."""
    whole = root.removesuffix("backbone.")
    return whole if f"{whole}head.fc.weight" in tensors else root


def choose_root(
    path: Path,
    tensors: Mapping[str, Tensor],
    descriptions: Mapping[str, str],
    dictionaries: Mapping[str, int],
    key: str | None,
    names: Collection[str],
) -> str:
    """Return the prefix of the network that is meant; the fullest dictionary if no network is recognized.

    Raises:
        SenetError: there are several and no key, or nothing under the key.
    """
    roots = find_roots(tensors, descriptions, names)
    if key is not None:
        meant = f".{key}."
        named = [root for root in roots if f".{root}".endswith(meant)]
        inside = [root for root in roots if f".{root}".startswith(meant)]
        here = [f"{key}."] if any(name.startswith(f"{key}.") for name in tensors) else []
        roots = named or inside or here
        if not roots:
            places = [place.removesuffix(".") for place in (*find_roots(tensors, descriptions, names), *dictionaries)]
            known = ", ".join(repr(place) for place in dict.fromkeys(places) if place)
            remedy = f"pass one of {known}" if known else "leave it out"
            raise SenetError(f"{path} has nothing under key={key!r}; {remedy}")
    if len(roots) > 1:
        found = ", ".join(repr(root.removesuffix(".")) for root in roots[:8])
        more = ", ..." if len(roots) > 8 else ""
        key = roots[0].removesuffix(".")
        raise SenetError(
            f"{path} holds several networks: {found}{more}; say which by key={key!r}, as "
            f"`senet convert NETWORK {path} --key {key} --output FOLDER` does"
        )
    return roots[0] if roots else max(dictionaries, key=lambda place: dictionaries[place])
