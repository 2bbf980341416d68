"""PyTorch layers that run fused: BatchNorm and the SE block, sum and ReLU after it in two passes over the feature map.

In training that is the default wherever there are kernels (a C++ compiler on the CPU, Triton on CUDA) and it is faster:
with SE always, without SE for large maps. In evaluation mode the layers run one after another unless `fused` is True,
so that outputs are bit for bit those of the layers, and exported models are made of nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from senet.nn.attached import ScaledInput, attached, plain_class
from senet.nn.excitation import ExcitationBlock
from senet.nn.synchronized import is_plain_norm, is_synchronized, move_statistics, norm_of
from senet.nn.tracing import is_traced, script_form
from senet.ops.excitation import excited_sum
from senet.ops.function import Excitation
from senet.ops.gates import GATE_OF_LAYER
from senet.ops.operators import has_kernels
from senet.ops.tail import unchecked_tail

# The smallest feature maps, in values, that the four operators are worth calling for. On the CPU as measured. On CUDA
# an estimate: a launch takes 2 microseconds, there are 18 more without SE and 28 with it, and 3 and 10 of the passes
# over a map are saved, at 3 TB/s in 16 bits.
MIN_FUSED_NUMEL: Mapping[str, int] = {"cpu": 3_000_000, "cuda": 16_000_000}
"""Without SE, by type of device: smaller maps run layer by layer."""
MIN_FUSED_NUMEL_SE: Mapping[str, int] = {"cpu": 150_000, "cuda": 8_000_000}
"""With SE: smaller maps run as BatchNorm and `excited_sum` on the CPU, layer by layer elsewhere."""


def needs_layers() -> bool:
    """Return whether something looks on that takes no autograd function without a formula for it.

    This is torch.jit.trace, a transform of torch.func, or forward-mode differentiation.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


class Fusible(nn.Module):
    """A module whose BatchNorm, SE, sum and ReLU may run fused.

    torch.fx and TorchScript see the single layers.

    Attributes:
        fused: True, False, or None: in training mode, where gradients are recorded and it is faster. On the CPU the
            first fused call takes some seconds, to compile the kernels.
    """

    fused: bool | None = None

    def __prepare_scriptable__(self) -> nn.Module:
        """Return what `torch.jit.script` compiles in this module's place."""
        return script_form(self)

    def tail(
        self,
        u: Tensor,
        norm: nn.Module | None = None,
        se: nn.Module | None = None,
        shortcut: Tensor | None = None,
        *,
        shortcut_norm: nn.Module | None = None,
        relu: bool = True,
    ) -> Tensor:
        """Compute `relu(se(norm(u)) + shortcut_norm(shortcut))`, any part of which may be left out.

        Layers that cannot be fused, layers with hooks, and all layers under torch.func run one after another.

        Args:
            u: (N, C, H, W).
            norm: BatchNorm.
            se: a module (N, C, H, W) -> (N, C, H, W).
            shortcut: like u.
            shortcut_norm: BatchNorm of the shortcut.
            relu: close with a ReLU.
        """
        if self.runs_fused(u):
            y = fused_tail(u, norm, se, shortcut, shortcut_norm, relu)
            if y is not None:
                return y
        out = u if norm is None else norm(u)
        out = out if se is None else se(out)
        if shortcut is not None:
            out = out + (shortcut if shortcut_norm is None else shortcut_norm(shortcut))
        return F.relu(out) if relu else cast(Tensor, out)

    def runs_fused(self, u: Tensor) -> bool:
        """Return whether layers that can run fused do so for the feature map u."""
        if self.fused is None:
            return self.training and torch.is_grad_enabled() and type(u) is Tensor
        return self.fused and not is_traced(u)

    def chain(self, modules: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Apply modules one after another, BatchNorm and the ReLU after it fused."""
        i = 0
        while i < len(modules):
            pair = self.runs_fused(x) and is_norm_and_relu(modules[i : i + 2])
            x = self.tail(x, modules[i]) if pair else modules[i](x)
            i += 2 if pair else 1
        return x


class Chain(Fusible, nn.Sequential):
    """A sequence in which BatchNorm and ReLU may run fused."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the modules one after another."""
        return self.chain(list(self), x)


def set_fused(model: nn.Module, fused: bool | None) -> int:
    """Set `fused` of all fusible modules of a model, see `Fusible`; return their number."""
    fusible = [module for module in model.modules() if isinstance(module, Fusible)]
    for module in fusible:
        module.fused = fused
    return len(fusible)


def is_norm_and_relu(modules: Sequence[nn.Module]) -> bool:
    """Return True for BatchNorm (optionally with an attached SE block) followed by ReLU, if neither has hooks."""
    if len(modules) < 2 or type(modules[1]) is not nn.ReLU or isinstance(modules[0], ScaledInput):
        return False
    return is_plain_norm(modules[0]) and not has_hooks(modules)


def has_hooks(modules: Iterable[nn.Module]) -> bool:
    """Whether a module or all have hooks, or one a `forward` set on it: only a call of the module itself runs these."""
    if nn.modules.module._has_any_global_hook():
        return True
    for module in modules:
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
            return True
        if "forward" in own:
            return True
    return False


def fused_tail(
    u: Tensor,
    norm: nn.Module | None,
    se: nn.Module | None,
    shortcut: Tensor | None,
    shortcut_norm: nn.Module | None,
    relu: bool,
) -> Tensor | None:
    """Compute `Fusible.tail` in few operations; return None where that is impossible, or slower."""
    if se is None and type(norm) is nn.BatchNorm2d and is_small(u, None):
        return None  # the commonest case first
    inserted = attached(norm)
    if inserted is not None:
        if se is not None or inserted.attached_at == "input":
            return None
        se = inserted
    elif type(se) is nn.Identity and not has_hooks((se,)):
        se = None
    synchronized = is_synchronized(norm) or is_synchronized(shortcut_norm)  # which fuse at no further cost
    large = (not is_small(u, se) or synchronized) and has_kernels(u.device.type, u.dtype)
    # A compiler fuses the layers by itself, and elsewhere than on the CPU they take the host less time (docs/speed.md).
    if needs_layers() or (not large and (se is None or not u.is_cpu or torch.compiler.is_compiling())):
        return None
    if shortcut is not None and (shortcut.dtype != u.dtype or shortcut.shape != u.shape):
        return None
    if se is None:
        return large_tail(u, norm, None, shortcut, shortcut_norm, relu)
    excitation = excitation_of(se)
    if excitation is None:
        return None
    tail = large_tail if large else small_tail
    return tail(u, norm, excitation, shortcut, shortcut_norm, relu)


def small_tail(
    u: Tensor,
    norm: nn.Module | None,
    excitation: Excitation,
    shortcut: Tensor | None,
    shortcut_norm: nn.Module | None,
    relu: bool,
) -> Tensor | None:
    """Run the norms as they are, and compute what follows in few operations; None where that is impossible."""
    if norm is not None:
        if attached(norm) is None:
            u = norm(u)
        elif has_hooks((norm,)):
            return None
        else:
            u = plain_class(norm).forward(norm, u)
    if shortcut is not None and shortcut_norm is not None:
        shortcut = cast(Tensor, shortcut_norm(shortcut))
    return excited_sum(u, excitation, shortcut, relu)


def large_tail(
    u: Tensor,
    norm: nn.Module | None,
    excitation: Excitation | None,
    shortcut: Tensor | None,
    shortcut_norm: nn.Module | None,
    relu: bool,
) -> Tensor | None:
    """Compute the tail with the four operators, and move the running statistics; None where that is impossible."""
    norms = [m for m in (norm, shortcut_norm) if m is not None]
    shared = norm is not None and norm is shortcut_norm
    fits = all(map(is_plain_norm, norms))
    if shared or not fits or has_hooks(norms) or u.numel() == 0:
        return None
    norm_values = None if norm is None else norm_of(norm)
    shortcut_values = None if shortcut_norm is None else norm_of(shortcut_norm)
    result = unchecked_tail(u, norm_values, excitation, shortcut, shortcut_values, relu)
    if norm is not None and result.statistics is not None:
        move_statistics(norm, result.statistics)
    if shortcut_norm is not None and result.shortcut_statistics is not None:
        move_statistics(shortcut_norm, result.shortcut_statistics)
    return result.y


def is_small(u: Tensor, se: nn.Module | None) -> bool:
    """Return whether the four operators cost more time than they save for this feature map."""
    if u.is_cuda and torch.compiler.is_compiling():
        return se is None  # the compiler makes the same passes of BatchNorm, sum and ReLU
    return u.numel() < (MIN_FUSED_NUMEL if se is None else MIN_FUSED_NUMEL_SE).get(u.device.type, 0)


def excitation_of(se: nn.Module) -> Excitation | None:
    """Return an SE block, this library's or timm's, as the fused tail takes it; None if that cannot compute it."""
    if has_hooks((se,)) or has_hooks_inside(se):
        return None
    if isinstance(se, ExcitationBlock):
        return se.fused_form()
    gate = timm_gate(se)
    fc1, fc2 = (getattr(se, name, None) for name in ("fc1", "fc2"))
    if gate is None or type(fc1) is not nn.Conv2d or type(fc2) is not nn.Conv2d:
        return None
    return Excitation(fc1.weight, fc2.weight, fc1.bias, fc2.bias, gate)


def has_hooks_inside(module: nn.Module) -> bool:
    """Whether a module further down has hooks, see `has_hooks`."""
    children = [child for child in module._modules.values() if child is not None]
    return has_hooks(children) or any(has_hooks_inside(child) for child in children if child._modules)


def timm_gate(se: nn.Module) -> str | None:
    """Return the name of the gate of one of timm's SE blocks; None for other modules, and blocks of other layers."""
    kind = (type(se).__module__, type(se).__name__)
    if kind == ("timm.models.senet", "SEModule"):
        return "sigmoid"
    plain = kind == ("timm.layers.squeeze_excite", "SEModule") and not se.add_maxpool
    if not plain or type(se.bn) is not nn.Identity or type(se.act) is not nn.ReLU:
        return None
    return GATE_OF_LAYER.get(type(se.gate).__name__)
