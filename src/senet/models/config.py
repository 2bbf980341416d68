"""The configuration that a network is built from, and how it is written and read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

import tyro

from senet.configs import from_dict, to_dict
from senet.errors import SenetError
from senet.nn.block import SEOptions
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
    """

    name: str
    num_classes: int | None = None
    in_channels: int = 3
    se: SEOptions = field(default_factory=SEOptions)
    options: Annotated[
        Mapping[str, bool | int | float | str], tyro.conf.arg(name="model-kwargs", prefix_name=False)
    ] = field(default_factory=dict)


DROP_PATH_OPTIONS = ("drop_path", "drop_path_rate", "stochastic_depth_prob")
"""The options that set stochastic depth: of this library's networks, of timm's, of torchvision's."""

SURGERY_OF_SENET_1 = ("inserted", "inserted_se", "removed")
"""Entries that "senet/1" keeps in a network's configuration; see `senet.models.description.Surgery`."""


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Return a configuration as plain values, for JSON."""
    return to_dict(config, name="model") | {"se": se_to_dict(config.se)}


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that `config_to_dict` wrote.

    Raises:
        SenetError: a field that does not exist, or a value of another type.
    """
    own = {name: value for name, value in values.items() if name not in ("se", *SURGERY_OF_SENET_1)}
    return replace(from_dict(ModelConfig, own, name="model"), se=se_from_dict(values.get("se", {})))


def se_to_dict(options: SEOptions) -> dict[str, Any]:
    """Return SE options as plain values, without those that a subclass adds."""
    values = to_dict(options, name="se")
    return {each.name: values[each.name] for each in fields(SEOptions)}


def se_from_dict(values: Mapping[str, Any]) -> SEOptions:
    """Return the SE options of plain values, also of those of "senet/1" with a constant factor of the gate.

    Raises:
        SenetError: an option that does not exist, a value of another type, or a factor for which there is no gate.
    """
    factor = values.get("factor", 1)
    values = {name: value for name, value in values.items() if name != "factor"}
    if factor != 1:
        values["gate"] = gate_times(values.get("gate", "sigmoid"), factor)
    return from_dict(SEOptions, values, name="se")


def gate_times(gate: str, factor: float) -> str:
    """Return the name of the gate that is `factor` times another.

    Raises:
        SenetError: there is none.
    """
    doubled = GATES[gate].doubled if gate in GATES else None
    if factor == 1:
        return gate
    if factor != 2 or doubled is None:
        raise SenetError(f"its SE blocks have a {gate} gate with a factor of {factor:g}, which this version lacks")
    return doubled
