"""The optimizer: SGD, or another one of timm's factory, by name."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

import torch
from torch import nn

from senet.errors import SenetError, first_line, nearest, needed_for
from senet.training.groups import parameter_groups
from senet.training.sections import OptimizerConfig

FIELDS = frozenset({"params", "lr", "weight_decay", "momentum"})
"""Arguments of optimizers that are fields of `OptimizerConfig`."""
CHOSEN_HERE = frozenset({"foreach", "fused", "capturable", "differentiable", "maximize", "verbose"})
"""Arguments that depend on the device, or that no training needs."""
DTYPES = frozenset({"momentum_dtype", "mu_dtype", "precond_dtype"})
"""Arguments that are no plain values."""
FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Classes with a step of few kernels for all weights together, which does not wait for a scaled loss; on a CPU it takes
an eighth of the time of a loop over the weights (SGD, 11 million weights: 4 ms and 35)."""
FUSED_ON = ("cpu", "cuda")


class Chosen:
    """The optimizer of a configuration: its class, and the arguments that it takes.

    Args:
        config: of the optimizer.

    Raises:
        SenetError: there is no such optimizer, it cannot work here, or it takes no such option or momentum.
        MissingExtraError: timm, which brings all but "sgd", is not installed.
    """

    def __init__(self, config: OptimizerConfig) -> None:
        self.config, name = config, config.name
        if name == "sgd":
            self.kind: Any = torch.optim.SGD
            self.defaults: dict[str, Any] = {"momentum": config.momentum, "nesterov": config.nesterov}
            self.options = self.known() - {"nesterov"}
        else:
            self.kind, self.defaults = from_timm(config)
            self.options = self.known()
        for option in config.options:
            if option not in self.options:
                taken = self.options_like(option)
                raise SenetError(f"optimizer.options has {option!r}, which {name} does not take; it takes {taken}")

    def known(self) -> set[str]:
        """Return the names of the arguments that `optimizer.options` may hold."""
        return set(signature(self.kind).parameters) - FIELDS - CHOSEN_HERE - DTYPES

    def options_like(self, option: str) -> str:
        """Return the options in words, those that are most like one that is not known first."""
        first = get_close_matches(option, self.options, n=2)
        return ", ".join([*first, *sorted(self.options - set(first))]) or "none"

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the optimizer.

        Args:
            groups: of parameters, see `senet.training.groups`.

        Raises:
            SenetError: a value of an option that the optimizer refuses.
        """
        options = {name: as_tuples(value) for name, value in self.config.options.items()}
        fused = {"fused": groups[0]["params"][0].device.type in FUSED_ON or None} if self.kind in FUSED else {}
        values = {"lr": self.config.lr, **self.defaults, **fused, **options}
        if "weight_decay" in signature(self.kind).parameters:
            values["weight_decay"] = self.config.weight_decay
        try:
            optimizer: torch.optim.Optimizer = self.kind(groups, **values)
        except Exception as error:  # whatever an optimizer raises for a bad value
            raise self.refusal(error) from error
        return optimizer

    def try_out(self) -> None:
        """Take one step of a tiny network, to find values that the optimizer refuses only then.

        Raises:
            SenetError: it refuses one.
        """
        with torch.random.fork_rng(devices=()):
            tiny = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(2, 2))
        for parameter in tiny.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer = self.build([{"params": list(tiny.parameters())}])
        try:
            optimizer.step()
        except Exception as error:
            raise self.refusal(error) from error

    def refusal(self, error: Exception) -> SenetError:
        """Return the error for what an optimizer raised."""
        said = first_line(error).rstrip(".")
        options = " ".join(f"{name}={value}" for name, value in self.config.options.items())
        return SenetError(f"optimizer.options is {options or 'empty'}, which {self.config.name} refuses ({said})")


def from_timm(config: OptimizerConfig) -> tuple[Any, dict[str, Any]]:
    """Return the class and the default arguments of an optimizer of timm's factory.

    Raises:
        SenetError: there is no such optimizer, it cannot work here, or it has no momentum but one is asked for.
    """
    name = config.name
    with needed_for(f"optimizer.name {name}"):
        from timm.optim import get_optimizer_info, list_optimizers
    if name not in list_optimizers():
        raise SenetError(f"optimizer.name is {name!r}; the nearest are {nearest(name, list_optimizers())}")
    info = get_optimizer_info(name)
    kind: Any = info.opt_class
    if isinstance(kind, str):
        plain = name.removeprefix("bnb").removeprefix("fused").removesuffix("8bit")
        other = plain if plain in list_optimizers() else "adamw"
        package = kind.partition(".")[0]
        raise SenetError(f"optimizer.name {name} needs {package} and CUDA, and is not supported; take {other}")
    if info.second_order:
        raise SenetError(f"optimizer.name {name} needs second derivatives, which runs do not compute; take adamw")
    if kind.__name__ == "Kron":
        raise SenetError(
            f"optimizer.name {name} compiles its steps by itself, for each shape of weights, and is not supported; "
            "take muon"
        )
    if info.has_momentum:
        return kind, {**(info.defaults or {}), "momentum": config.momentum}
    if config.momentum != OptimizerConfig().momentum:
        takes = ", its averages are set by betas in optimizer.options" if info.has_betas else ""
        raise SenetError(f"optimizer.momentum is {config.momentum}, but {name} has none; leave it out{takes}")
    return kind, dict(info.defaults or {})


def as_tuples(value: Any) -> Any:
    """Return a value with tuples for lists, which config.json has in their place."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def build_optimizer(
    config: OptimizerConfig, model: nn.Module, parameters: Iterable[tuple[str, nn.Parameter]] | None = None
) -> torch.optim.Optimizer:
    """Build the optimizer of a network.

    Args:
        config: of the optimizer.
        model: on its device.
        parameters: those to optimize, with their names in the network; None for all.

    Raises:
        SenetError: see `Chosen`.
    """
    return Chosen(config).build(parameter_groups(config, model, parameters))


def check_optimizer(config: OptimizerConfig) -> None:
    """Find what is wrong with the settings of an optimizer before there is anything to optimize.

    Raises:
        SenetError: see `Chosen`.
        MissingExtraError: timm is not installed.
    """
    Chosen(config).try_out()


class Restorable:
    """An optimizer whose state is loaded but for how its steps are computed, which depends on device and version.

    Args:
        optimizer: on its device.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another optimizer was."""
        defaults = self.optimizer.defaults
        here = {key: defaults[key] for key in ("foreach", "fused") if key in defaults}
        groups = [{**group, **here} for group in state["param_groups"]]
        self.optimizer.load_state_dict({**state, "param_groups": groups})
