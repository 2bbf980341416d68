"""What all of our networks share: a chain of modules, a head, and the protocol that timm's tools expect."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.nn.block import Placement, SEOptions
from senet.nn.excitation import ExcitationBlock
from senet.nn.fused import Fusible, is_norm_and_relu
from senet.nn.tracing import is_traced

if TYPE_CHECKING:
    from senet.models.config import ModelConfig

BuildSE = Callable[[int], nn.Module]
"""channels -> SE."""


class SEUnit(Fusible):
    """A unit of a network that may hold an SE block, `se`."""

    se: nn.Module | None

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        """Return the layers (BatchNorm or convolution) whose outputs reach SE through homogeneous functions alone.

        Doubling the weights and biases of all of them doubles the input of SE and nothing else, exactly. Empty where
        there are no such layers.
        """
        raise NotImplementedError


class Network(Fusible):
    """A chain of modules, global average pooling and one linear layer; the base class of all of ours.

    Subclasses build the modules and name them: `trunk` lists those that run one after another, `levels` those of the
    trunk whose outputs make the feature pyramid. They register their modules in the order in which these run,
    `add_head` at the end, for some tools run them in that order. The methods and attributes that timm's scripts,
    loaders and feature extractors look for are here.

    Attributes:
        config: what it was built from, and can be built from again.
        preprocessing: how it wants its images.
        class_names: of its outputs; None until it is trained or loaded.
        num_features: channels of the last feature map.
        feature_info: num_chs, reduction (the stride) and module of each level of the pyramid, as in timm.
        halvings: for each layer with stride 2 whether it rounds an odd side up, as one with padding does.
    """

    config: "ModelConfig"
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    trunk: tuple[str, ...]
    num_features: int
    feature_info: list[dict[str, Any]]
    classifier_name = "fc"
    halvings: tuple[bool, ...] = (True,) * 5

    def __init__(self) -> None:
        super().__init__()
        self.global_pool = "avg"
        self.grad_checkpointing = False

    def add_trunk(self, **modules: nn.Module) -> None:
        """Register the modules of the trunk in this order, in which they run."""
        for name, module in modules.items():
            self.add_module(name, module)
        self.trunk = tuple(modules)

    def add_head(self, in_features: int, num_classes: int, dropout: float) -> None:
        """Register the dropout and the linear layer.

        Args:
            in_features: of the linear layer.
            num_classes: of the linear layer; 0 leaves it out.
            dropout: before the linear layer.

        Raises:
            SenetError: a dropout out of its range.
        """
        if not 0 <= dropout <= 1:
            raise SenetError(f"dropout is {dropout}; expected 0 to 1")
        self.num_classes = num_classes
        self.dropout = nn.Dropout(dropout)
        self.set_submodule(self.classifier_name, build_classifier(in_features, num_classes))

    def set_levels(self, *levels: tuple[str, int, int]) -> None:
        """Set `feature_info` and `num_features` from (module, channels, stride) of each level up to the last map."""
        self.feature_info = [{"num_chs": c, "reduction": stride, "module": name} for name, c, stride in levels]
        self.num_features = levels[-1][1]

    def last_side(self, side: int) -> int:
        """Return the side of the last feature map, in pixels, for images of `side` pixels."""
        number = self.feature_info[-1]["reduction"].bit_length() - 1
        for rounds_up in self.halvings[:number]:
            side = (side + rounds_up) // 2
        return side

    # ---- computation -------------------------------------------------------------------------------------------------

    def run_module(self, name: str, x: Tensor) -> Tensor:
        """Apply one module of the trunk, recomputing it in the backward pass if gradients are checkpointed."""
        module = self.get_submodule(name)
        checkpointed = self.grad_checkpointing and self.training and not is_traced(x)
        if checkpointed and any(True for _ in module.parameters()):
            if torch.compiler.is_compiling():  # it traces no contexts: the statistics move twice, as in timm
                return cast(Tensor, checkpoint(module, x, use_reentrant=False))
            contexts = partial(recompute_contexts, module)
            return cast(Tensor, checkpoint(module, x, use_reentrant=False, context_fn=contexts))
        return cast(Tensor, module(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> the last feature map, (N, num_features, h, w)."""
        features = x
        for _, features in self.run_trunk(x):  # noqa: B007  # the last
            pass
        return features

    def run_trunk(self, x: Tensor, wanted: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
        """Run the trunk; yield the name and the output of each module, those of `wanted` among them.

        BatchNorm and a ReLU after it run as one, so that the former may have no output of its own. To torch.fx, whose
        graph offers the output of each, they are two.
        """
        paired = not self.grad_checkpointing and not is_traced(x)
        i = 0
        while i < len(self.trunk):
            name, following = self.trunk[i], self.trunk[i + 1 : i + 2]
            pair = [self.get_submodule(n) for n in (name, *following)]
            if name not in wanted and paired and is_norm_and_relu(pair):
                i, name, x = i + 1, following[0], self.tail(x, pair[0])
            else:
                x = self.run_module(name, x)
            yield name, x
            i += 1

    def pool(self, x: Tensor) -> Tensor:
        """(N, num_features, h, w) -> (N, head_hidden_size), what the classifier sees."""
        return x.mean((2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> logits (N, num_classes), or what the classifier would see."""
        if self.global_pool == "avg":
            x = self.dropout(self.pool(x))
        return x if pre_logits else cast(Tensor, self.get_classifier()(x))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

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
            stop_early: compute nothing behind the last level that is wanted.
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
        """Return indices from the front for those that `forward_intermediates` takes."""
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
        """Remove what the pyramid's levels `indices` do not need; return them counted from the front."""
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

    # ---- the rest of timm's protocol ---------------------------------------------------------------------------------

    @property
    def default_cfg(self) -> dict[str, Any]:
        """The description of input, preprocessing and classifier that timm's `resolve_data_config` reads."""
        wants = self.preprocessing
        side = self.last_side(wants.image_size)
        return {
            "architecture": self.config.name,
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
    def first_conv(self) -> str:
        """The name of the convolution that sees the image."""
        names = (name for name, module in self.named_modules() if isinstance(module, nn.Conv2d))
        return str(next(names))

    @property
    def in_chans(self) -> int:
        """Number of input channels, by timm's name."""
        return self.config.in_channels

    @property
    def head_hidden_size(self) -> int:
        """Number of features that the classifier sees."""
        return self.num_features

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer; an identity if there is none."""
        return self.get_submodule(self.classifier_name)

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


def recompute_contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first and the second computation of a module, for `checkpoint`."""
    return nullcontext(), frozen_statistics(module)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's moving statistics and counts as they are."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    tracked = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    counts = [count.clone() for count in tracked]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for count, before in zip(tracked, counts, strict=True):
            count.copy_(before)


def classifier_names() -> set[str]:
    """Return what the classes of networks call their last layer."""
    kinds: list[type[Network]] = [Network]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.classifier_name for kind in kinds}


def build_classifier(in_features: int, num_classes: int) -> nn.Module:
    """Build the last linear layer; an identity for no classes."""
    return nn.Linear(in_features, num_classes) if num_classes else nn.Identity()


def initialize(model: nn.Module) -> None:
    """Initialize convolutions with He's method over the fan-out, linear layers with N(0, 0.01).

    The fan-out is that of a group: over all channels, what depthwise convolutions put out would fade from layer to
    layer. SE blocks initialize themselves.
    """
    inside_se = {id(m) for block in model.modules() if isinstance(block, ExcitationBlock) for m in block.modules()}
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in inside_se:
            fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def check_se(
    se: SEOptions | None, stages: Sequence[int], placements: Sequence[Placement] = get_args(Placement)
) -> None:
    """Raise a SenetError if SE is asked for in a stage or a place that the network does not have.

    Args:
        se: the options; None for a plain network.
        stages: the network's stages that have units.
        placements: the places in a unit.
    """
    if se is None:
        return
    if se.stages is not None and (not se.stages or not set(se.stages) <= set(stages)):
        stem = "" if 1 in stages else " (stage 1 is the stem)"
        raise SenetError(f"stages is {se.stages}; expected a choice of {tuple(stages)}{stem}")
    if se.placement not in placements:
        raise SenetError(
            f"placement is {se.placement!r}; this network has SE at {' or '.join(map(repr, placements))} only"
        )
