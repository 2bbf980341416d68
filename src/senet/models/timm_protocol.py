"""The methods and attributes that timm's scripts, loaders and feature extractors expect of a network."""

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.models.config import ModelConfig
from senet.models.initialization import build_classifier, initialize
from senet.nn.fused import Fusible

NAMES_IN_TIMM = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d"),
    *("senet154", "vgg16_bn", "inception_resnet_v2"),
)
"""Names of networks that timm has too: in timm they mean its own, some of which compute something else."""
PREFIX = "senet_"


def name_for_timm(name: str) -> str:
    """Return what one of this library's networks is called in timm: its name, or "senet_resnet50" where timm has it."""
    return f"{PREFIX}{name}" if name in NAMES_IN_TIMM else name


def name_from_timm(name: str) -> str | None:
    """Return the name of one of this library's networks by that in timm; None for one of timm's own."""
    own = name.removeprefix(PREFIX)
    return own if name_for_timm(own) == name else None


class TimmProtocol(Fusible):
    """A mixin of `Network`, which has the chain of modules that this describes, cuts and runs in part."""

    config: ModelConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    trunk: tuple[str, ...]
    num_classes: int
    num_features: int
    feature_info: list[dict[str, Any]]
    classifier_name: str
    global_pool: str
    grad_checkpointing: bool

    @property
    @abstractmethod
    def first_conv(self) -> str:
        """The name of the convolution that sees the image."""

    @abstractmethod
    def run_trunk(self, x: Tensor, wanted: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
        """Run the trunk; yield the name and the output of each module."""

    @abstractmethod
    def last_side(self, side: int) -> int:
        """Return the side of the last feature map, in pixels."""

    # ---- the feature pyramid -----------------------------------------------------------------------------------------

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute the feature pyramid.

        Args:
            x: (N, in_channels, H, W).
            indices: which levels of `feature_info`; a number means that many of the last, None all.
            norm: no effect; for timm's callers.
            stop_early: compute nothing after the last level that is wanted.
            output_fmt: "NCHW".
            intermediates_only: leave the last feature map out of the result.

        Returns:
            The maps of the levels, or the last feature map and them.

        Raises:
            SenetError: a level that does not exist, or another format.
        """
        if output_fmt != "NCHW":
            raise SenetError(f"output_fmt is {output_fmt!r}; expected 'NCHW'")
        wanted = [self.feature_info[i]["module"] for i in self.level_indices(indices)]
        found: dict[str, Tensor] = {}
        for name, features in self.run_trunk(x, wanted):
            if name in wanted:
                found[name] = features
            if stop_early and len(found) == len(set(wanted)):
                break
        maps = [found[name] for name in wanted]
        return maps if intermediates_only else (features, maps)

    def level_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        """Return what `forward_intermediates` takes as `indices` as a list of indices from 0."""
        number = len(self.feature_info)
        last = number if indices is None else indices
        chosen = range(number - last, number) if isinstance(last, int) else last
        in_reach = 1 <= last <= number if isinstance(last, int) else all(-number <= i < number for i in last)
        if not chosen or not in_reach:
            raise SenetError(f"indices is {indices}; expected some of the {number} levels of feature_info")
        return [i % number for i in chosen]

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the modules that the levels `indices` do not need; return these levels as indices from 0."""
        chosen = self.level_indices(indices)
        self.feature_info = self.feature_info[: max(chosen) + 1]
        self.num_features = self.feature_info[-1]["num_chs"]
        last = self.trunk.index(self.feature_info[-1]["module"])
        for name in self.trunk[last + 1 :]:
            self.set_submodule(name, nn.Identity())
        self.trunk = self.trunk[: last + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    # ---- description, classifier, training ---------------------------------------------------------------------------

    @property
    def default_cfg(self) -> dict[str, Any]:
        """The description of input, preprocessing and classifier that timm's `resolve_data_config` reads."""
        wants = self.preprocessing
        side = self.last_side(wants.image_size)
        return {
            "architecture": name_for_timm(self.config.name),
            "num_classes": self.num_classes,
            "input_size": (wants.in_channels, wants.image_size, wants.image_size),
            "fixed_input_size": False,
            "pool_size": (side, side),
            "crop_pct": wants.image_size / wants.resize,
            "interpolation": wants.interpolation,
            "mean": wants.mean,
            "std": wants.std,
            "first_conv": self.first_conv,
            "classifier": self.classifier_name,
        }

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The same as `default_cfg`."""
        return self.default_cfg

    @property
    def in_chans(self) -> int:
        """Number of input channels, by timm's name."""
        return self.config.in_channels

    @property
    def head_hidden_size(self) -> int:
        """Number of features that the classifier sees."""
        return self.num_features

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one, initialized at random.

        Args:
            num_classes: 0 for none.
            global_pool: "avg"; "" to return the feature map itself, which takes num_classes 0; None for no change.

        Raises:
            SenetError: an argument out of its range.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if num_classes < 0 or pool not in ("avg", "") or (pool == "" and num_classes):
            raise SenetError(
                f"num_classes is {num_classes} and global_pool {pool!r}; "
                "expected at least 0 and 'avg', or 0 and '' (no pooling)"
            )
        old = next(self.parameters())
        classifier = build_classifier(self.head_hidden_size, num_classes)
        initialize(classifier)
        self.set_submodule(self.classifier_name, classifier.to(old.device, old.dtype))
        self.num_classes, self.global_pool = num_classes, pool
        if hasattr(self, "config"):
            self.config = replace(self.config, num_classes=num_classes)
        self.class_names = None

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the modules of the trunk again in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns by which timm groups parameters, for learning rates that decay with depth."""
        names = [name.replace(".", r"\.") for name in self.trunk]
        return {"stem": rf"^{names[0]}\.", "blocks": [(rf"^{name}\.", (i,)) for i, name in enumerate(names[1:])]}
