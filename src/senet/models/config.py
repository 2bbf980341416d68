"""The configuration that a network is built from, and how it is written and read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from senet.errors import SenetError
from senet.nn.block import EXCITATIONS, SEOptions
from senet.ops.gates import GATES


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that `create_model` needs to build a network again.

    Args:
        name: of the network, see `senet models`; or "timm/..." or "torchvision/..." for one of these libraries.
        num_classes: None for the card's number; 0 for no classifier.
        in_channels: channels of the images.
        se: SE options; must stay at their defaults for a plain network.
        options: further arguments of the network, such as stride_on, stem_pool, dropout, zero_init_last.
        inserted: the blocks of `senet.insert_se`, "module=channels" each, with ">" in front of one on a module's input.
        inserted_se: their options.
        removed: the names of the network's own blocks that `senet.prune_se` took out.
    """

    name: str
    num_classes: int | None = None
    in_channels: int = 3
    se: SEOptions = field(default_factory=SEOptions)
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    inserted: tuple[str, ...] = ()
    inserted_se: SEOptions = field(default_factory=SEOptions)
    removed: tuple[str, ...] = ()


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Return a configuration as plain values, for JSON."""
    without = [name for name in ("inserted", "inserted_se", "removed") if not getattr(config, name)]
    without += [] if config.inserted else ["inserted_se"]
    values = asdict(config) | {"options": dict(config.options)}
    values |= {name: se_to_dict(getattr(config, name)) for name in ("se", "inserted_se")}
    return {name: value for name, value in values.items() if name not in without}


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that `config_to_dict` wrote.

    Raises:
        TypeError: a field that does not exist.
    """
    options = {name: se_from_dict(values.get(name, {})) for name in ("se", "inserted_se")}
    names = {name: tuple(values.get(name, ())) for name in ("inserted", "removed")}
    return ModelConfig(**{**values, **options, **names})


def se_to_dict(options: SEOptions) -> dict[str, Any]:
    """Return SE options as plain values, for JSON, with the modules of other packages that reading them requires."""
    values = {field.name: getattr(options, field.name) for field in fields(SEOptions)}  # not those of a subclass
    modules = (EXCITATIONS.module_of(options.excitation), GATES.module_of(options.gate))
    requires = sorted({module for module in modules if module is not None})
    return values | ({"requires": requires} if requires else {})


def se_from_dict(values: Mapping[str, Any]) -> SEOptions:
    """Return the SE options of plain values, or of those that versions with a constant factor of the gate wrote.

    Raises:
        TypeError: an option that does not exist.
        SenetError: a gate or excitation of a module that has not been imported, or a factor without a gate of its own.
    """
    values, stages = dict(values), values.get("stages")
    requires = values.pop("requires", [])
    known = values.get("excitation", "se") in EXCITATIONS and values.get("gate", "sigmoid") in GATES
    if requires and not known:
        words = " and ".join(requires)
        raise SenetError(f"its SE blocks need {words}; import {words} first (senet --import {requires[0]} ...)")
    factor = values.pop("factor", 1)
    if factor != 1:
        values["gate"] = gate_times(values.get("gate", "sigmoid"), factor)
    return SEOptions(**{**values, "stages": None if stages is None else tuple(stages)})


def gate_times(gate: str, factor: float) -> str:
    """Return the gate that is `factor` times another.

    Raises:
        SenetError: there is none.
    """
    doubled = GATES[gate].doubled if gate in GATES else None
    if factor == 1:
        return gate
    if factor != 2 or doubled is None:
        raise SenetError(f"its SE blocks have a {gate} gate with a factor of {factor:g}, which this version lacks")
    return doubled
