"""The configuration that a network is built from, and how it is written and read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

import tyro

from senet.nn.block import SEOptions


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
    options: Annotated[
        Mapping[str, bool | int | float | str], tyro.conf.arg(name="model-kwargs", prefix_name=False)
    ] = field(default_factory=dict)
    inserted: tuple[str, ...] = ()
    inserted_se: SEOptions = field(default_factory=SEOptions)
    removed: tuple[str, ...] = ()


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Return a configuration as plain values, for JSON."""
    without = [name for name in ("inserted", "inserted_se", "removed") if not getattr(config, name)]
    without += [] if config.inserted else ["inserted_se"]
    values = asdict(config) | {"options": dict(config.options)}
    known = [field.name for field in fields(SEOptions)]  # not those of a subclass
    values |= {name: {option: values[name][option] for option in known} for name in ("se", "inserted_se")}
    return {name: value for name, value in values.items() if name not in without}


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that `config_to_dict` wrote.

    Raises:
        TypeError: a field that does not exist.
    """
    options = {name: se_from_dict(values.get(name, {})) for name in ("se", "inserted_se")}
    names = {name: tuple(values.get(name, ())) for name in ("inserted", "removed")}
    return ModelConfig(**{**values, **options, **names})


def se_from_dict(values: Mapping[str, Any]) -> SEOptions:
    """Return the SE options of plain values.

    Raises:
        TypeError: an option that does not exist.
    """
    stages = values.get("stages")
    return SEOptions(**{**values, "stages": None if stages is None else tuple(stages)})
