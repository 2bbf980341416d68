"""SE blocks attached to the layers of a model that was written without them.

A block becomes the child `se` of a layer, and the layer's class is replaced by a subclass of it that runs the block on
the layer's output or input. So the model's code and all other keys of the state dict stay the same. Tools that look for
a BatchNorm or a convolution by its exact class leave the layer alone, and torch.fx records layer and block as one node.

Tools that replace layers would drop the blocks. So every module that holds such a layer, directly or further down,
keeps its children in a `Children` dictionary: when a layer is replaced, its block moves to the new layer, and a change
that would lose a block is an error.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from types import new_class
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_module_registration_hook

from senet.errors import SenetError
from senet.nn.block import SEOptions
from senet.nn.excitation import ExcitationBlock

NAME = "se"


# ---- layers that run a block -----------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A layer that runs the block that is its child `se`."""

    se: nn.Module

    def __prepare_scriptable__(self) -> nn.Module:
        """Raise a SenetError: torch.jit.script cannot compile classes that are made while a program runs."""
        raise SenetError(
            "torch.jit.script cannot compile a model with SE blocks from insert_se; use "
            "torch.jit.trace(model, example) or torch.export.export(model, (example,))"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle through the layer's original class: this one has no name by which it could be imported."""
        reduced: Any = super().__reduce_ex__(protocol)
        function, arguments, *rest = reduced
        if not is_scaled(self):
            return function, arguments, *rest
        return rebuild, (function, type(self).__bases__, arguments[1:]), *rest

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a layer that is given another class still runs its block."""
        if name == "__class__" and is_scaled(self) and not issubclass(value, Scaled):
            value = scaled_class(type(self).__bases__[0], value)
        super().__setattr__(name, value)


class ScaledOutput(Scaled):
    """A layer whose output is scaled."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, then the block."""
        return self.se(super().forward(*args, **kwargs))


class ScaledInput(Scaled):
    """A layer whose first argument is scaled."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the block, then the layer."""
        return super().forward(self.se(x), *args, **kwargs)


@cache
def scaled_class(kind: Any, plain: Any) -> Any:
    """Return the class that runs a block on the output or the input of a class of layers.

    Its `__module__` is the layer's: by that torch.fx recognizes PyTorch's layers, which it does not trace into.
    """
    return new_class(
        f"{plain.__name__}WithSE", (kind, plain), exec_body=lambda body: body.update(__module__=plain.__module__)
    )


def rebuild(function: Any, bases: tuple[Any, Any], arguments: tuple[Any, ...]) -> Any:
    """Build the layer that `Scaled.__reduce_ex__` reduced."""
    return function(scaled_class(*bases), *arguments)


def is_scaled(module: nn.Module) -> bool:
    """Whether a module's class comes from `scaled_class` itself, and is not a subclass of such a class."""
    return type(module).__bases__[0] in (ScaledOutput, ScaledInput)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module has without its block."""
    return type(module).__bases__[1] if is_scaled(module) else type(module)


def attached(module: nn.Module | None) -> ExcitationBlock | None:
    """Return the block that runs after a module or before it; None if there is none."""
    block = module._modules.get(NAME) if isinstance(module, Scaled) else None
    return block if isinstance(block, ExcitationBlock) else None


def can_carry(module: nn.Module) -> bool:
    """Whether a block can be attached: no attribute `se`, no `forward` set on the instance, no plain container."""
    unfit = nn.Sequential | nn.ModuleList | nn.ModuleDict | fx.GraphModule | torch.jit.ScriptModule
    return not hasattr(module, NAME) and "forward" not in module.__dict__ and not isinstance(module, unfit)


def run(module: nn.Module, block: ExcitationBlock) -> None:
    """Replace the class of a module by one that runs its block."""
    plain: Any = type(module)
    module.__class__ = scaled_class(ScaledInput if block.attached_at == "input" else ScaledOutput, plain)


# ---- modules that hold such layers -----------------------------------------------------------------------------------


class Children(dict[str, nn.Module | None]):
    """The children of a module; a block moves along when its layer is replaced."""

    def __setitem__(self, name: str, new: nn.Module | None) -> None:
        """Set a child; it takes over the block of the child that it replaces.

        Raises:
            SenetError: blocks would be lost.
        """
        old = self.get(name)
        if old is not None and old is not new and holds_blocks(old):
            moved = any(child is old for key, child in self.items() if key != name)
            if not moved and not keeps_blocks(old, new):
                self.hand_over(name, old, new)
        super().__setitem__(name, new)

    def __delitem__(self, name: str) -> None:
        """Remove a child.

        Raises:
            SenetError: blocks would be lost.
        """
        old = self[name]
        if old is not None and holds_blocks(old) and not any(m is old for key, m in self.items() if key != name):
            refuse(name, old)
        super().__delitem__(name)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a child and return it; see `__delitem__`."""
        if name not in self:
            return super().pop(name, *default)
        child = self[name]
        del self[name]
        return child

    def update(self, *others: Any, **more: Any) -> None:
        """Set several children; see `__setitem__`."""
        for name, child in dict(*others, **more).items():
            self[name] = child

    def hand_over(self, name: str, old: nn.Module, new: nn.Module | None) -> None:
        """Move the block of a child to the module that replaces it."""
        block = attached(old)
        if block is None or new is None or not (getattr(new, NAME, None) is block or can_carry(new)):
            if any(attached(module) for module in old.modules()):
                refuse(name, old)
        else:
            run(new, block)
            new._modules[NAME] = block


def keeps_blocks(old: nn.Module, new: nn.Module | None) -> bool:
    """Whether a replacement keeps the blocks by itself: it contains the old module, or is a copy with blocks."""
    if new is None:
        return False
    if attached(old) and attached(new) and attached(old) is not attached(new):
        return plain_class(old) is plain_class(new)  # else it is one layer for several places, such as one Identity
    return any(module is old or isinstance(module, Scaled) for module in new.modules())


def refuse(name: str, child: nn.Module) -> None:
    """Raise the error for a change that would lose the blocks of a child."""
    blocks = sum(attached(module) is not None for module in child.modules())
    if blocks:
        raise SenetError(
            f"{name} ({plain_class(child).__name__}) has {blocks} SE block{'s' * (blocks > 1)} from insert_se, which "
            "this change would lose; make it before insert_se, or take them out first by senet.remove_se"
        )


def holds_blocks(module: nn.Module) -> bool:
    """Whether a module runs a block, or may hold one that does."""
    return isinstance(module, Scaled) or isinstance(module.__dict__.get("_modules"), Children)


def guard(module: nn.Module) -> None:
    """Make a module keep its children in a `Children` dictionary."""
    if not isinstance(module._modules, Children):
        module.__dict__["_modules"] = Children(module._modules)


def keep_blocks(parent: nn.Module, name: str, child: nn.Module | None) -> None:
    """Guard the blocks of a child that a module is about to get; a hook that PyTorch calls for every new child."""
    if torch.compiler.is_compiling():  # torch.compile registers modules of its own, and cannot trace what follows
        return
    if isinstance(child, ExcitationBlock) and child.attached_at is not None and name == NAME:
        if isinstance(parent, _BatchNorm) and not isinstance(parent, Scaled):  # a conversion moves children over
            run(parent, child)
    elif isinstance(parent.__dict__.get("_modules"), dict) and any(
        m is not None and holds_blocks(m) for m in (child, parent._modules.get(name))
    ):
        guard(parent)
        parent._modules[name] = child  # PyTorch sets the child in the old dictionary


register_module_module_registration_hook(keep_blocks)


# ---- models ----------------------------------------------------------------------------------------------------------


def build_attachable(channels: int, options: SEOptions, *, before: bool) -> ExcitationBlock:
    """Build a block for `attach`.

    Args:
        channels: C of the feature map.
        options: of the block; placement and stages are ignored.
        before: whether it scales the input of a module instead of its output.
    """
    block = options.block(channels)
    block.attached_at = "input" if before else "output"
    block.attached_options = options  # saved with the model, see `senet.models.description.Surgery`
    return block


def attach(model: nn.Module, blocks: Mapping[str, ExcitationBlock]) -> None:
    """Run blocks on the outputs or inputs of modules.

    Args:
        model: changes in place.
        blocks: from `build_attachable`, by the name of the module, which must be one that `can_carry` a block.
    """
    for name, block in blocks.items():
        module = model.get_submodule(name)
        run(module, block)
        module.add_module(NAME, block)
    for module in reversed(list(model.modules())):  # children before their parents
        if any(holds_blocks(child) for child in module.children()):
            guard(module)


def attached_blocks(model: nn.Module) -> dict[str, ExcitationBlock]:
    """Return the attached blocks of a model by their own names, which end in "se"."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ExcitationBlock) and module.attached_at is not None
    }


def attached_sites(model: nn.Module) -> tuple[str, ...]:
    """Return the blocks of a model as `attach_at` takes them: "module=channels", ">" before one on an input."""
    modules = [(name, attached(module)) for name, module in model.named_modules()]
    return tuple(
        f"{'>' if se.attached_at == 'input' else ''}{name}={se.channels}" for name, se in modules if se is not None
    )


def attach_at(model: nn.Module, sites: Iterable[str], options: SEOptions) -> None:
    """Put blocks where `attached_sites` said they were.

    Raises:
        SenetError: the model has no such module, or the module cannot carry a block.
    """
    blocks = {}
    for site in sites:
        name, _, channels = site.removeprefix(">").rpartition("=")
        try:
            module = model.get_submodule(name)
            width = int(channels)
        except (AttributeError, ValueError):
            raise SenetError(f"{type(model).__name__} has no place {site!r} for an SE block") from None
        if hasattr(module, NAME):
            raise SenetError(f"{name} of {type(model).__name__} has an attribute se already")
        if not can_carry(module):
            raise SenetError(f"{name} of {type(model).__name__}, a {type(module).__name__}, cannot run an SE block")
        blocks[name] = build_attachable(width, options, before=site.startswith(">"))
    attach(model, blocks)


def detach(model: nn.Module, names: Iterable[str]) -> None:
    """Take the blocks off modules of a model.

    Args:
        model: changes in place.
        names: of modules with blocks.

    Raises:
        SenetError: the class of a module was changed since; the model is then as it was.
    """
    modules = {name: model.get_submodule(name) for name in names}
    for name, module in modules.items():
        if not is_scaled(module):
            raise SenetError(f"the class of {name} was changed to {type(module).__name__}; undo that first")
    for module in modules.values():
        object.__setattr__(module, "__class__", plain_class(module))
        del module._modules[NAME]
    for module in reversed(list(model.modules())):
        if isinstance(module._modules, Children) and not any(holds_blocks(child) for child in module.children()):
            module.__dict__["_modules"] = dict(cast(dict[str, nn.Module | None], module._modules))
