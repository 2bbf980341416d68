"""The network that a detector takes as its trunk: built with weights, SE blocks put in, its classifier taken off."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from senet.detection.detector_config import DetectorConfig
from senet.detection.trunk import AFTER_THE_TRUNK, Level, frozen_modules, levels_of, pyramid_levels
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.base import Network
from senet.models.build import build, surgery_of
from senet.models.catalog import CARDS, model_card
from senet.models.config import ModelConfig
from senet.models.external import is_external
from senet.nn.block import SEOptions
from senet.surgery.insertion import insert_se


def build_body(
    config: DetectorConfig, weights: str | Path | None, layout: str | None = None, key: str | None = None
) -> tuple[nn.Module, DetectorConfig]:
    """Build the classification network of a detector.

    Args:
        config: of the detector.
        weights: see `build_detector`.
        layout: see `build_detector`.
        key: see `build_detector`.

    Returns:
        The network, and the configuration with all that follows from it: the options of the trunk, the places of SE
        blocks, the mean and the standard deviation of images.

    Raises:
        SenetError: as `build_detector`.
    """
    name = config.trunk
    has_se = not is_external(name) and name in CARDS and model_card(name).has_se
    own_se = config.se if has_se else None
    if weights is None and config.surgery:
        described = ModelConfig(name=name, se=own_se or SEOptions(), options=config.trunk_options)
        body = build(described, config.surgery)
    else:
        options: dict[str, Any] = dict(config.trunk_options)
        body = with_weights(name, in_channels=3, se=own_se, weights=weights, layout=layout, key=key, **options)
        config = replace(config, trunk=body.config.name)
        insert_blocks(body, config)
    return body, replace(
        config,
        trunk_options=dict(body.config.options),
        se=body.config.se if has_se else config.se,
        surgery=surgery_of(body),
        image_mean=config.image_mean or body.preprocessing.mean,
        image_std=config.image_std or body.preprocessing.std,
    )


def with_weights(name: str, **arguments: Any) -> Any:
    """Return a network as `create_model` does, also with weights that have no classifier, which a trunk has none of.

    Raises:
        SenetError: see `create_model`.
    """
    try:
        return create_model(name, **arguments)
    except SenetError as error:
        if arguments["weights"] is None or "num_classes" in arguments:
            raise
        try:
            return create_model(name, num_classes=0, **arguments)
        except SenetError:
            raise error from None


def insert_blocks(body: nn.Module, config: DetectorConfig) -> None:
    """Put SE blocks into a trunk without SE, in those stages that are trained, if the configuration asks for them.

    Raises:
        SenetError: there are inserted blocks already, or blocks in frozen stages are asked for.
    """
    se, name = config.se, config.trunk
    if se is None or (name in CARDS and model_card(name).has_se):
        return
    if surgery_of(cast(Any, body)).inserted:
        raise SenetError(f"se is given, but the weights of {name} have inserted SE blocks already; leave it out")
    kept = [stage for stage in se.stages or () if stage <= config.frozen_stages]
    if kept:
        raise SenetError(
            f"se.stages has {kept[0]}, but frozen_stages is {config.frozen_stages}: a block there would never be "
            "trained; leave the stage out"
        )
    levels = levels_of(body, name)
    pyramid_levels(levels, name)  # says what is wrong with a network that is no trunk before it is changed
    frozen = frozen_modules(body, levels, config.frozen_stages, name)
    insert_se(body, se, where=lambda module: not any(f"{layer}.".startswith(f"{module}.") for layer in frozen))


def without_classifier(body: nn.Module, levels: Sequence[Level]) -> None:
    """Remove what a network computes after the levels of its pyramid, in place: parameters that would get no gradient.

    Args:
        body: a network of this library, timm or torchvision.
        levels: those that are used.
    """
    if hasattr(body, "prune_intermediate_layers"):
        cast(Any, body).prune_intermediate_layers([level.index for level in levels], prune_norm=True, prune_head=True)
    if isinstance(body, Network):  # of VGG the hidden layers of the classifier are left
        used = {name.partition(".")[0] for name in body.trunk}
        rest = [name for name, _ in body.named_children() if name not in used]
    else:
        chained = not hasattr(body, "prune_intermediate_layers")
        rest = [name for name, _ in body.named_children() if chained and name in AFTER_THE_TRUNK]
    for name in rest:
        body.set_submodule(name, nn.Identity())
