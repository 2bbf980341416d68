"""senet's networks in timm's registry: import this module, and `timm.create_model("se_resnet50")` builds them.

Names that timm has itself (resnet50, senet154, ...) stay timm's; this library's are "senet_resnet50" and the like.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from senet.data.preprocessing import Preprocessing, preprocessing_from_timm
from senet.errors import SenetError, needed_for
from senet.factory import create_model, public_weights
from senet.integrations.timm_features import wrap
from senet.models.catalog import CARDS, Card
from senet.models.config import se_from_dict
from senet.models.timm_protocol import name_for_timm
from senet.weights.folder import packaged_folder, packaged_weights

with needed_for("senet.integrations.timm"):
    from timm.models import get_pretrained_cfg, is_model, register_model

default_cfgs: dict[str, dict[str, Any]] = {}
"""What timm knows about a network before building it; `timm.models.register_model` looks for this name."""


def preprocessing_of_weights(card: Card) -> Preprocessing:
    """Return how images are prepared for the weights that `pretrained=True` means, or for the network if it has none.

    The paper's networks want their images otherwise than the weights of timm, which are the public ones.
    """
    first = card.weights[0] if card.weights else ""
    described = get_pretrained_cfg(first.removeprefix("timm/")) if first.startswith("timm/") else None
    return card.preprocessing if described is None else preprocessing_from_timm(vars(described))


def describe_card(card: Card) -> dict[str, Any]:
    """Return the values of timm's PretrainedCfg for a network with its own number of classes."""
    wants = preprocessing_of_weights(card)
    tags = packaged_weights(card.name)
    return {
        "file": str(packaged_folder(card.name, tags[0])) if tags else None,
        "hf_hub_id": card.weights[0] if card.weights and not tags else None,
        "num_classes": card.num_classes,
        "input_size": (wants.in_channels, wants.image_size, wants.image_size),
        "crop_pct": wants.image_size / wants.resize,
        "interpolation": wants.interpolation,
        "mean": wants.mean,
        "std": wants.std,
    }


def find_pretrained(name: str, cfg: Mapping[str, Any]) -> str:
    """Return the weights that timm means by `pretrained=True`: those of its hub id or folder, or the card's first.

    Raises:
        SenetError: there are none.
    """
    stated = cfg.get("hf_hub_id") if cfg.get("source") == "hf-hub" else cfg.get("file")
    return str(stated or public_weights(name))


def read_cfg(name: str, stated: Any, overlay: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the values of what timm takes as `pretrained_cfg`: a mapping, its own record, or a tag of the package.

    Raises:
        SenetError: the package has no such tag.
    """
    if isinstance(stated, str):
        tags = packaged_weights(name)
        if stated not in tags:
            raise SenetError(
                f"{name} has no weights {stated!r} in the package; its tags are {', '.join(tags) or 'none'}"
            )
        stated = {"file": str(packaged_folder(name, stated))}
    values = stated if isinstance(stated, Mapping) else vars(stated) if stated else {}
    return {**values, **(overlay or {})}


def entrypoint(name: str) -> Callable[..., nn.Module]:
    """Return the function that timm calls to build a network of this library."""

    def build(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
        cache_dir: Any = None,
        num_classes: int | None = None,
        in_chans: int | None = None,
        drop_rate: float | None = None,
        drop_path_rate: float | None = None,
        global_pool: str | None = None,
        features_only: bool = False,
        out_indices: int | Sequence[int] | None = None,
        feature_cls: str | None = None,
        feature_cfg: Mapping[str, Any] | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        pretrained_model_args: Any = None,  # what timm has read from a folder, and has filled in already
        **options: Any,
    ) -> nn.Module:
        stated = {"out_indices": out_indices, "feature_cls": feature_cls}
        wanted = {**(feature_cfg or {}), **{key: value for key, value in stated.items() if value is not None}}
        if wanted and not features_only:
            raise SenetError(f"{min(wanted)} has no effect without features_only=True")
        cfg = read_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
        if pretrained and cache_dir is not None:
            raise SenetError(f"cache_dir is {str(cache_dir)!r}, which senet does not take; set HF_HUB_CACHE instead")
        if num_classes is None and not pretrained:
            num_classes = cfg.get("num_classes")
        if in_chans is None:
            in_chans = cfg.get("input_size", (3,))[0]
        if drop_rate is not None:
            options["dropout"] = drop_rate
        if drop_path_rate is not None:
            options["drop_path"] = drop_path_rate
        if isinstance(options.get("se"), Mapping):  # timm's command line knows plain values only
            options["se"] = se_from_dict(options["se"])
        model = create_model(
            name, num_classes, in_chans, weights=find_pretrained(name, cfg) if pretrained else None, **options
        ).to(device, dtype)
        pool = "avg" if global_pool in (None, "fast") else global_pool
        if pool != model.global_pool:  # else the classifier, which may have been loaded, would start again
            model.reset_classifier(model.num_classes, pool)
        if not features_only:
            return model

        return wrap(model, **wanted)

    build.__name__ = build.__qualname__ = name_for_timm(name)
    build.__doc__ = f"Build senet's {name}; see `senet.create_model`."
    return build


def register() -> None:
    """Register the networks, but for those whose names timm has."""
    for name, card in CARDS.items():
        if not is_model(name_for_timm(name)):
            default_cfgs[name_for_timm(name)] = describe_card(card)
            register_model(entrypoint(name))


register()
