"""The table of gates: what it says of each, and what is refused."""

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from senet.errors import SenetError
from senet.ops.gates import GATES, Gate, check_gate, register_gate
from senet.registry import Registry

SOFTSIGN = Gate(name="softsign", function=F.softsign, slope=lambda v: (1 - v.abs()).square(), low=-1, high=1)


@pytest.fixture(autouse=True)
def _table_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GATES, "_entries", dict(GATES._entries))
    monkeypatch.setattr(GATES, "_modules", dict(GATES._modules))


@pytest.mark.parametrize("name", GATES)
def test_the_record_says_what_the_function_computes(name):
    gate = GATES[name]
    assert gate.name == name
    check_gate(gate)  # slope, range, and where it is one


def test_a_gate_of_ones_own_joins_the_table():
    register_gate(SOFTSIGN)
    assert GATES["softsign"] is SOFTSIGN
    assert GATES.module_of("softsign") == __name__
    assert GATES.module_of("sigmoid") is None
    with pytest.raises(SenetError, match=f"^the gate 'softsign' is registered already, by {re.escape(__name__)}"):
        register_gate(SOFTSIGN)
    with pytest.raises(SenetError, match=r"^the gate 'sigmoid' is registered already, by senet"):
        register_gate(replace(SOFTSIGN, name="sigmoid"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"slope": lambda v: 1 - v.square()}, "a slope that is not the derivative"),
        ({"high": 0.5}, "low=-1 and high=0.5, but its function takes values from -0.834 to 0.833"),
        ({"one_at": 1.0}, "has one_at, but is not exactly 1 at a logit of 1"),
        ({"doubled": "sigmoid_x2"}, "has doubled, but is not exactly 0.5 at a logit of 0"),
        ({"doubled": "softsign_x2"}, "doubled='softsign_x2', which is no gate"),
        ({"function": lambda x: F.softsign(x).float()}, "a function that returns torch.float32"),
        ({"function": lambda x: F.softsign(x)[None]}, r"of shape \(1, 64\)"),
        ({"function": torch.log}, "a function that is not finite for logits from -5 to 5"),
        ({"function": torch.sign}, "a function without a derivative other than 0"),
        ({"function": lambda x: (x > 0).to(x.dtype)}, "a function without a derivative other than 0"),
        (
            {"function": lambda x: 1 + x**3, "slope": None, "low": -130, "high": 130, "one_at": 0},
            "its slope is 0 there",
        ),
        ({"name": "softsign 2"}, "has a name that is not of letters, digits, '_' and '-'"),
    ],
)
def test_records_that_contradict_their_function_are_refused(changed, said):
    with pytest.raises(SenetError, match=f"^the gate 'softsign.* {said}"):
        register_gate(replace(SOFTSIGN, **changed))
    assert "softsign" not in GATES


def test_a_gate_without_a_slope_has_none():
    gate = replace(SOFTSIGN, slope=None)
    register_gate(gate)
    with pytest.raises(SenetError, match="'softsign' has no slope"):
        gate.slope_from(torch.zeros(1))


def test_ends_of_ranges():
    assert {name: (gate.low, gate.high) for name, gate in GATES.items() if GATES.module_of(name) is None} == {
        "sigmoid": (0, 1),
        "tanh": (-1, 1),
        "relu": (0, math.inf),
        "hard_sigmoid": (0, 1),
        "sigmoid_x2": (0, 2),
        "hard_sigmoid_x2": (0, 2),
    }


def test_a_registry_is_a_mapping_in_order():
    registry: Registry[int] = Registry("number", {"one": 1})
    registry.register("two", 2, "somewhere")
    assert dict(registry) == {"one": 1, "two": 2}
    assert (len(registry), "three" in registry, registry.get("three")) == (2, False, None)
    with pytest.raises(
        SenetError, match=r"^the number 'two' is registered already, by somewhere; choose another name$"
    ):
        registry.register("two", 3, "elsewhere")
    assert registry["two"] == 2
