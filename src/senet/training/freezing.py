"""What of a network stays as it is while the rest is trained."""

from collections.abc import Iterator

from torch import nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from senet.training.config import TrainConfig
from senet.training.groups import head_names


class Frozen:
    """Keeps as it is what of a network says so itself: by parameters without gradient, and by its method `train`.

    Args:
        model: the network.

    Attributes:
        trunk: what may be frozen for some epochs, with the names of the parameters.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.trunk: list[tuple[str, Parameter]] = []

    def set_gradients(self, epoch: int) -> bool:
        """Let those parameters have gradients that an epoch trains, and return whether others had them before."""
        return False

    def trained(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters that are trained, with their names."""
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    def set_modes(self, epoch: int, num_epochs: int) -> str:
        """Set training mode, and return how the steps differ from those of other epochs, in words."""
        self.model.train()
        return ""


class Freezing(Frozen):
    """Keeps the trunk of a network, or the statistics of its BatchNorm, as they are, by the epoch.

    Frozen parameters need no gradient, so that the backward pass ends at the head. A module all of whose parameters are
    frozen is in evaluation mode; so is every BatchNorm whose own parameters are.

    Args:
        config: of the run.
        model: the network.

    Raises:
        SenetError: the trunk is to be frozen, but the network has no classifier that can be told from it.
    """

    def __init__(self, config: TrainConfig, model: nn.Module) -> None:
        super().__init__(model)
        self.config = config
        self.head = head_names(model) if config.freeze == "trunk" or config.head_epochs else set()
        trunk = [(name, p) for name, p in model.named_parameters() if name not in self.head]
        self.trunk = [(name, parameter) for name, parameter in trunk if parameter.requires_grad]
        self.is_frozen = False

    def has_frozen_trunk(self, epoch: int) -> bool:
        """Whether the trunk is frozen in an epoch, counted from 0."""
        return self.config.freeze == "trunk" or epoch < self.config.head_epochs

    def set_gradients(self, epoch: int) -> bool:
        """Let those parameters have gradients that an epoch trains, and return whether others had them before."""
        frozen = self.has_frozen_trunk(epoch)
        changed, self.is_frozen = frozen != self.is_frozen, frozen
        if changed:
            for _, parameter in self.trunk:
                parameter.requires_grad_(not frozen)
        return changed

    def trained(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters that are trained, with their names."""
        return ((name, p) for name, p in self.model.named_parameters() if not self.is_frozen or name in self.head)

    def set_modes(self, epoch: int, num_epochs: int) -> str:
        """Set training mode, but evaluation mode for what stays as it is.

        Args:
            epoch: from 0.
            num_epochs: of the run; in the last `freeze_bn_epochs` BatchNorm keeps its statistics.

        Returns:
            How the steps differ from those of other epochs, in words; empty if nothing is frozen.
        """
        self.model.train()
        if self.is_frozen:
            for module in self.model.modules():
                is_norm = isinstance(module, _BatchNorm)  # to which an SE block may be attached that is trained
                own = list(module.parameters(recurse=not is_norm))
                if (own or is_norm) and not any(parameter.requires_grad for parameter in own):
                    module.training = False
                    for inside in module.children():
                        if not any(p.requires_grad for p in inside.parameters()):
                            inside.eval()
            return " with a frozen trunk"
        keeps = self.config.freeze == "bn" or epoch >= num_epochs - self.config.regularization.freeze_bn_epochs
        if keeps:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False
        return " with frozen BatchNorm" if keeps else ""
