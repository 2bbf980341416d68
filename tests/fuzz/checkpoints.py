"""Files of weights as training scripts leave them, and damaged ones, through `senet convert`."""

import copy
import io
import pickle
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

import senet
from fuzz.judge import Case
from fuzz.pictures import SIDE, named

NETWORKS = ("cifar_se_resnet20", "cifar_resnet20")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "encoder.", "backbone.", "student.", "my.own.prefix.")
WRAPPERS = ("state_dict", "model", "weight", "weights", "net", "params", "model_ema", "network", "anything")
BESIDE: tuple[tuple[str, Any], ...] = (
    *(("epoch", 3), ("best_acc", np.float64(0.9)), ("loss", np.float32(1)), ("arch", "x"), ("path", Path("a"))),
    *(("args", Namespace(lr=0.1)), ("date", datetime(2026, 1, 2, tzinfo=UTC)), ("optimizer", {"state": {}})),
    *(("scheduler", OrderedDict(last=1)), ("history", [1, 2.0, None]), ("array", np.arange(3))),
    ("dtype", torch.float32),
)
"""What scripts keep beside the weights."""
State = dict[str, torch.Tensor]


@cache
def original(name: str) -> torch.nn.Module:
    """Return a network whose every parameter and statistic matters."""
    generator = torch.Generator().manual_seed(0)
    model = senet.create_model(name, num_classes=10)
    state = {
        key: value if not value.is_floating_point() else value + 0.1 * torch.rand(value.shape, generator=generator)
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


def saved(value: Any, random: Random) -> bytes:
    """Return what torch.save writes, in its format of today or of old."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=random.random() < 0.8)
    return file.getvalue()


def plain(state: State, random: Random) -> tuple[str, Any]:
    """The state dict itself."""
    return "plain", state


def prefixed(state: State, random: Random) -> tuple[str, Any]:
    """Every key with a prefix, or with two."""
    prefix = "".join(random.choices(PREFIXES, k=random.choice((1, 1, 2))))
    return f"prefix {prefix}", {prefix + key: value for key, value in state.items()}


def wrapped(state: State, random: Random) -> tuple[str, Any]:
    """A dict around it, or two, with other things beside it."""
    about, inner = random.choice((plain, prefixed, counted))(state, random)
    for name in random.sample(WRAPPERS, random.choice((1, 1, 2))):
        beside = dict(random.sample(BESIDE, random.randrange(3)))
        inner, about = {**beside, name: inner}, f"{about} in {name} beside {', '.join(beside) or 'nothing'}"
    return about, inner


def counted(state: State, random: Random) -> tuple[str, Any]:
    """The keys that counters of operations leave."""
    more = {f"{key.rpartition('.')[0]}.total_ops": torch.zeros(1) for key in random.sample(sorted(state), 3)}
    return "total_ops", state | more | {"total_params": torch.zeros(1)}


KINDS = (torch.float16, torch.bfloat16, torch.float64)


def halved(state: State, random: Random) -> tuple[str, Any]:
    """Half precision, and orders of memory that convolutions like."""
    kind = random.choice(KINDS)
    last = {k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in state.items()}
    return str(kind), {k: v.to(kind) if v.is_floating_point() else v for k, v in last.items()}


def as_parameters(state: State, random: Random) -> tuple[str, Any]:
    """Parameters in place of tensors, as in `dict(model.named_parameters())` with the buffers."""
    return "parameters", OrderedDict(
        (k, torch.nn.Parameter(v) if v.is_floating_point() else v) for k, v in state.items()
    )


GOOD = (plain, prefixed, wrapped, wrapped, counted, halved, as_parameters)


def without_a_key(state: State, random: Random) -> tuple[str, Any, str]:
    """A key is missing."""
    key = random.choice([key for key in state if "num_batches" not in key])
    return f"without {key}", {k: v for k, v in state.items() if k != key}, key


def with_another_key(state: State, random: Random) -> tuple[str, Any, str]:
    """There is a key that no network has."""
    return "another key", state | {"layer9.weight": torch.zeros(2)}, "layer9.weight"


def with_another_shape(state: State, random: Random) -> tuple[str, Any, str]:
    """A tensor has one row more, or a dimension less."""
    key = random.choice([key for key in state if state[key].dim() and not key.startswith("fc.")])
    value = state[key]
    changed = torch.cat([value, value[:1]]) if random.random() < 0.5 else value.sum(0)
    return f"shape {tuple(changed.shape)}", state | {key: changed}, key


def with_no_number(state: State, random: Random) -> tuple[str, Any, str]:
    """A tensor holds integers, complex numbers, or is a list."""
    key = random.choice([key for key in state if state[key].dim()])
    value = state[key]
    changed = random.choice((value.to(torch.complex64), value.tolist(), value.to(torch.int8), None))
    return f"{getattr(changed, 'dtype', type(changed).__name__)} in place of numbers", state | {key: changed}, key


BAD = (without_a_key, with_another_key, with_another_shape, with_no_number)


class Strange:
    """A class of somebody's own."""


def no_weights(random: Random) -> tuple[str, bytes]:
    """A file that holds no weights."""
    kinds: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "text": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "noise": lambda: random.randbytes(2000),
        "pickle of a class": lambda: pickle.dumps(Fraction(1, 3)),
        "saved class": lambda: saved({"state_dict": Strange()}, random),
        "list": lambda: saved([torch.zeros(2)], random),
        "number": lambda: saved(3, random),
        "empty dict": lambda: saved({}, random),
        "nested nothing": lambda: saved({"state_dict": {"model": {}}}, random),
        "numbers for keys": lambda: saved({1: torch.zeros(2)}, random),
    }
    kind = random.choice(list(kinds))
    return kind, kinds[kind]()


def make(random: Random, folder: Path) -> Case:
    """Make a file, and turn it into a model folder."""
    name = random.choice(NETWORKS)
    state = {key: value.clone() for key, value in original(name).state_dict().items()}
    path = named(random, folder / "files", random.choice((".pth", ".pt", ".bin", ".pkl", ".pth.tar", ".ckpt")))
    path.parent.mkdir(parents=True)
    names: tuple[str, ...] = (str(path.relative_to(folder)),)
    expected, draw = "refused", random.random()
    if draw < 0.5:
        expected = "done"
        about, value = random.choice(GOOD)(state, random)
        content = saved(value, random)
        if about == "plain" and random.random() < 0.5:
            about, content, path = "safetensors", save(state), path.with_name("a [red].safetensors")
            names = (str(path.relative_to(folder)),)
    elif draw < 0.7:
        about, value, key = random.choice(BAD)(state, random)
        content, names = saved(value, random), (key, *names)
    elif draw < 0.85:
        about, content = no_weights(random)
    else:
        about, content = "cut", saved(state, random)
        content = content[: random.randrange(len(content) - 100)]
    path.write_bytes(content)
    source = str(path.relative_to(folder))
    return Case(
        about=f"{name}, {about}",
        argv=["convert", name, source, "--output", "out"],
        names=names,
        expected=expected,
        check=lambda out, err: compared(folder / "out", name, about),
    )


@torch.no_grad()
def compared(folder: Path, name: str, about: str) -> str:
    """Compare the outputs of what was written with those of the network that the weights are of, rounded alike."""
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    kind = next((kind for kind in KINDS if str(kind) == about), torch.float32)
    rounded = copy.deepcopy(original(name)).to(kind).float()
    right, found = rounded(images), senet.from_pretrained(folder)(images)
    apart = float((right - found).abs().max() / right.abs().max())
    return f"outputs differ by {apart:.1e}" if not apart < 1e-4 else ""
