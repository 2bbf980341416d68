"""SE blocks hung on the modules of a model that was written without them.

A block becomes the child `se` of a module and runs behind its output, or in front of its input, by a hook of PyTorch's:
the model's classes, its forward passes and every key of its state dict stay what they were.

A conversion that replaces a BatchNorm by another and moves its children, as `nn.SyncBatchNorm.convert_sync_batchnorm`
does, loses hooks. So a BatchNorm that is given an attached block as its child `se` runs it.
"""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_module_registration_hook

from senet.block import SEBlock, SEOptions
from senet.errors import SenetError

NAME = "se"


class AttachedSE(SEBlock):
    """An SE block that runs when its parent module does.

    Args:
        channels: C of the feature map.
        options: of the block; its placement and stages have no meaning here.
        in_front: whether it scales the parent's input instead of its output.
    """

    def __init__(self, channels: int, options: SEOptions, in_front: bool = False) -> None:
        block = (options.reduction, options.squeeze, options.gate, options.bias, options.factor)
        super().__init__(channels, *block)
        self.in_front = in_front


def scale_output(module: nn.Module, _: tuple[object, ...], output: Tensor) -> Tensor:
    """Scale what a module returns by the block that is attached to it."""
    return cast(Tensor, module.se(output))  # type: ignore[operator]


def scale_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Scale the first argument of a module by the block that is attached to it."""
    return (module.se(inputs[0]), *inputs[1:])  # type: ignore[operator]


HOOKS = (scale_output, scale_input)


def run(module: nn.Module, block: AttachedSE) -> None:
    """Make a module run its block."""
    if block.in_front:
        module.register_forward_pre_hook(scale_input)
    else:
        module.register_forward_hook(scale_output, prepend=True)  # the module's other hooks see what comes out


def run_in_batchnorm(module: nn.Module, name: str, child: nn.Module | None) -> None:
    """Make a BatchNorm run the attached block that it is given as a child."""
    if isinstance(child, AttachedSE) and name == NAME and isinstance(module, _BatchNorm) and not has_hook(module):
        run(module, child)


register_module_module_registration_hook(run_in_batchnorm)


def has_hook(module: nn.Module) -> bool:
    """Whether a module runs an attached block."""
    return any(hook in HOOKS for hooks in (module._forward_hooks, module._forward_pre_hooks) for hook in hooks.values())


def attached(module: nn.Module | None) -> AttachedSE | None:
    """Return the block that runs behind a module or in front of it; None if there is none."""
    block = None if module is None else module._modules.get(NAME)
    return block if isinstance(block, AttachedSE) else None


def attach(module: nn.Module, block: AttachedSE) -> None:
    """Run a block behind a module's output or in front of its input; it must have no attribute `se`."""
    module.add_module(NAME, block)
    if not has_hook(module):
        run(module, block)


def attached_sites(model: nn.Module) -> tuple[str, ...]:
    """Return the blocks of a model as `attach_at` takes them: "module=channels", ">" in front of one on an input."""
    modules = [(name, attached(module)) for name, module in model.named_modules()]
    return tuple(f"{'>' if se.in_front else ''}{name}={se.channels}" for name, se in modules if se is not None)


def attach_at(model: nn.Module, sites: Iterable[str], options: SEOptions) -> None:
    """Put blocks where `attached_sites` said they were.

    Raises:
        SenetError: the model has no such module, or the module has an attribute `se`.
    """
    for site in sites:
        name, _, channels = site.removeprefix(">").rpartition("=")
        try:
            module = model.get_submodule(name)
            width = int(channels)
        except (AttributeError, ValueError):
            raise SenetError(f"{type(model).__name__} has no place {site!r} for an SE block") from None
        if hasattr(module, NAME):
            raise SenetError(f"{name} of {type(model).__name__} has an attribute se already")
        attach(module, AttachedSE(width, options, in_front=site.startswith(">")))


def detach(module: nn.Module) -> None:
    """Undo `attach`."""
    del module._modules[NAME]
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in hooks.items() if hook in HOOKS]:
            del hooks[key]
