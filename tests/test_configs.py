"""Every configuration is written and read back, and a mistake in one is a sentence with its dotted name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pytest

from senet.configs import from_dict, to_dict
from senet.errors import SenetError


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3
    ratio: float = 0.5
    stages: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.width < 1:
            raise SenetError(f"inner.width is {self.width}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None
    mode: Literal["auto", "on", "off"] = "auto"
    root: Path = Path("data")
    limits: tuple[float, float] = (0.0, 1.0)
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    free: Any = None
    noted: Mapping[str, Any] = field(default_factory=dict, compare=False)


FULL = Outer(
    name="x",
    inner=Inner(width=2, ratio=2.0, stages=(1, 2)),
    other=Inner(stages=()),
    mode="off",
    root=Path("/a/b"),
    limits=(1.0, 2.5),
    options=MappingProxyType({"a": True, "b": 1, "c": 1.5, "d": "e"}),
    noted={"not": "written"},
)


@pytest.mark.parametrize("config", [FULL, Outer(name="")])
def test_what_is_written_is_read_back(config):
    read = from_dict(Outer, json.loads(json.dumps(to_dict(config))))
    assert read == config
    assert list(map(type, read.options.values())) == list(map(type, config.options.values()))
    assert isinstance(read.root, Path)
    assert read.noted == {}


def test_an_integer_in_the_place_of_a_float_becomes_one():
    read = from_dict(Outer, {"name": "x", "inner": {"ratio": 1}, "limits": [0, 1]})
    assert [type(value) for value in (read.inner.ratio, *read.limits)] == [float] * 3


MISTAKES = {
    "inner.widht is unknown; the nearest are width": {"name": "x", "inner": {"widht": 3}},
    "depth is unknown": {"name": "x", "depth": 3},
    "noted is unknown": {"name": "x", "noted": {}},
    "name is missing": {},
    "name is 3; expected a string": {"name": 3},
    "inner is 3; expected keys and values": {"name": "x", "inner": 3},
    "inner.width is '3'; expected an integer": {"name": "x", "inner": {"width": "3"}},
    "inner.width is True; expected an integer": {"name": "x", "inner": {"width": True}},
    "inner.width is 0; expected at least 1": {"name": "x", "inner": {"width": 0}},
    "inner.ratio is True; expected a number": {"name": "x", "inner": {"ratio": True}},
    "inner.stages is [1.5]; expected a list of an integer or null": {"name": "x", "inner": {"stages": [1.5]}},
    "other.width is 'a'; expected an integer": {"name": "x", "other": {"width": "a"}},
    "mode is None; expected one of 'auto', 'on', 'off'": {"name": "x", "mode": None},
    "mode is ['on']; expected one of": {"name": "x", "mode": ["on"]},
    "root is 3; expected a path": {"name": "x", "root": 3},
    "limits is [1, 2, 3]; expected a list of 2: a number": {"name": "x", "limits": [1, 2, 3]},
    "options.a is [1]; expected true or false or an integer or a number or a string": {
        "name": "x",
        "options": {"a": [1]},
    },
    "the configuration is []; expected keys and values": [],
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_a_sentence_with_the_dotted_name(message):
    with pytest.raises(SenetError) as caught:
        from_dict(Outer, MISTAKES[message])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_value_that_no_file_can_hold_is_refused_by_its_name():
    with pytest.raises(SenetError, match=r"options.a is of class object, which cannot be written"):
        to_dict(Outer(name="x", options={"a": object()}))
