"""The feature pyramid of a network of this library in timm's wrappers: what `features_only=True` builds."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from senet.errors import check_choice, needed_for
from senet.models.base import Network
from senet.nn.tracing import script_form

with needed_for("senet.integrations.timm"):
    from timm.models._builder import pretrained_cfg_for_features
    from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet, FeatureListNet
    from timm.models._features_fx import FeatureGraphNet


class Pyramid(FeatureGetterNet):  # type: ignore[misc]  # timm has no types
    """The maps of `forward_intermediates`; what comes after the last of them is cut off."""

    def __prepare_scriptable__(self) -> nn.Module:
        """Return what `torch.jit.script` compiles in this module's place."""
        return script_form(self)


WRAPPERS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "getter": Pyramid,
        "fx": FeatureGraphNet,
        "hook": FeatureHookNet,
        "list": FeatureListNet,
        "dict": FeatureDictNet,
    }
)


def wrap(model: Network, out_indices: Any = None, feature_cls: str = "getter", **feature_cfg: Any) -> nn.Module:
    """Wrap a network so that it returns the maps of its pyramid.

    Args:
        model: the network, which the wrapper takes apart.
        out_indices: see `Network.forward_intermediates`.
        feature_cls: one of `WRAPPERS`, by timm's names.
        **feature_cfg: further arguments of the wrapper.

    Raises:
        SenetError: another wrapper.
    """
    check_choice("feature_cls", feature_cls, tuple(WRAPPERS))
    if feature_cls in ("list", "dict") and any("." in info["module"] for info in model.feature_info):
        feature_cfg.setdefault("flatten_sequential", True)  # else they look at the network's children alone
    description = pretrained_cfg_for_features(model.default_cfg)
    pyramid = WRAPPERS[feature_cls](model, out_indices=model.level_indices(out_indices), **feature_cfg)
    pyramid.default_cfg = pyramid.pretrained_cfg = description
    return pyramid
