"""What all networks share: a chain of modules and a head."""

from collections.abc import Callable, Collection, Iterator
from typing import cast

from torch import Tensor, nn

from senet.errors import SenetError
from senet.models.hub_methods import HubMethods
from senet.models.initialization import build_classifier
from senet.models.timm_protocol import TimmProtocol
from senet.nn.fused import Fusible, is_norm_and_relu
from senet.nn.recompute import recomputed
from senet.nn.tracing import is_traced

BuildSE = Callable[[int], nn.Module]
"""channels -> SE."""


class SEUnit(Fusible):
    """A unit of a network that may hold an SE block, `se`."""

    se: nn.Module | None

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        """Return the layers (BatchNorm or convolution) that alone determine the scale of what SE gets.

        Doubling the weights and biases of all of them doubles the input of SE exactly, and nothing else: between them
        and SE are only functions for which f(2x) = 2 f(x), such as ReLU. Empty where there are no such layers.
        """
        raise NotImplementedError


class Network(HubMethods, TimmProtocol):
    """The base class of all networks here: a chain of modules, global average pooling and one linear layer.

    A subclass builds its modules in `__init__`: `add_trunk` takes those that run one after another, `set_levels` says
    which of them make the feature pyramid, and `add_head` adds the classifier. It calls them in this order, because
    torchvision's feature extractors run modules in the order of their registration.

    Attributes:
        config: the configuration from which `build` makes the same network.
        preprocessing: the size, mean and standard deviation of its images.
        class_names: of its outputs; None until it is trained or loaded.
        trunk: names of the modules that run one after another.
        num_features: channels of the last feature map.
        feature_info: num_chs (channels), reduction (stride) and module (name) of each level of the pyramid, as in timm.
        classifier_name: of the last linear layer.
        halvings: for each layer with stride 2 whether an odd side is rounded up, as with padding; else it is rounded
            down.
    """

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

    @property
    def first_conv(self) -> str:
        """The name of the convolution that sees the image."""
        names = (name for name, module in self.named_modules() if isinstance(module, nn.Conv2d))
        return str(next(names))

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer; an identity if there is none."""
        return self.get_submodule(self.classifier_name)

    # ---- computation -------------------------------------------------------------------------------------------------

    def run_module(self, name: str, x: Tensor) -> Tensor:
        """Apply one module of the trunk, recomputing it in the backward pass if gradients are checkpointed."""
        module = self.get_submodule(name)
        checkpointed = self.grad_checkpointing and self.training and not is_traced(x)
        if checkpointed and any(True for _ in module.parameters()):
            return recomputed(module, x)
        return cast(Tensor, module(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> the last feature map, (N, num_features, h, w)."""
        features = x
        for _, features in self.run_trunk(x):  # noqa: B007  # the last
            pass
        return features

    def run_trunk(self, x: Tensor, wanted: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
        """Run the trunk; yield the name and the output of each module, those of `wanted` among them.

        A BatchNorm and the ReLU after it run together and yield one output, unless that of the BatchNorm is wanted.
        Under torch.fx, whose graph offers the output of every module, they run one by one.
        """
        paired = self.runs_fused(x) and not self.grad_checkpointing
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


def classifier_names() -> set[str]:
    """Return the names that the classes of networks give their last layer."""
    kinds: list[type[Network]] = [Network]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.classifier_name for kind in kinds}
