"""PyTorch layers that run as one fused operator: BatchNorm and the SE block, sum and ReLU after it.

It is off by default. On the CPU the first call compiles for some seconds. On a GPU its kernels are faster than
the single layers', but each call spends 3 ms in Python, whatever the size of the map, and `torch.compile` can fuse
nothing with it: a training step of se_resnet50 (batch 256, bf16, channels-last; one H100, 2026-11-26) took 88 ms fused
and 92 ms layer by layer, but 87 ms against 54 ms under `torch.compile`; small maps lose in both.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from senet.nn.attached import ScaledInput, attached, plain_class
from senet.nn.excitation import ExcitationBlock
from senet.nn.tracing import is_traced, script_form
from senet.ops import Excitation, Norm, residual_tail
from senet.ops.dispatch import has_fused_passes
from senet.ops.gates import GATE_OF_LAYER
from senet.ops.passes import BatchStatistics

MIN_FUSED_NUMEL = 3_000_000
"""Feature maps on the CPU without SE that hold fewer values run unfused: calling the operator would cost more time."""


class Fusible(nn.Module):
    """A module whose BatchNorm, SE, sum and ReLU may run as one operator.

    torch.fx and TorchScript see the single layers.

    Attributes:
        fused: True, False, or None, which is False on every device. On the CPU the first fused call takes some seconds,
            to compile the operator.
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

        Layers that the operator cannot compute, and layers with hooks, run one after another.

        Args:
            u: (N, C, H, W).
            norm: BatchNorm.
            se: a module (N, C, H, W) -> (N, C, H, W).
            shortcut: like u.
            shortcut_norm: BatchNorm of the shortcut.
            relu: close with a ReLU.
        """
        if self.fused and not is_traced(u):
            y = fused_tail(u, norm, se, shortcut, shortcut_norm, relu)
            if y is not None:
                return y
        out = u if norm is None else norm(u)
        out = out if se is None else se(out)
        if shortcut is not None:
            out = out + (shortcut if shortcut_norm is None else shortcut_norm(shortcut))
        return F.relu(out) if relu else cast(Tensor, out)

    def chain(self, modules: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Apply modules one after another, BatchNorm and the ReLU after it as one operator."""
        i = 0
        while i < len(modules):
            pair = not is_traced(x) and is_norm_and_relu(modules[i : i + 2])
            x = self.tail(x, modules[i]) if pair else modules[i](x)
            i += 2 if pair else 1
        return x


class Chain(Fusible, nn.Sequential):
    """A sequence in which BatchNorm and ReLU may run as one operator."""

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
    return plain_class(modules[0]) in (nn.BatchNorm2d, nn.SyncBatchNorm) and not has_hooks(modules)


def has_hooks(modules: Iterable[nn.Module]) -> bool:
    """Whether a module has hooks, or a `forward` that was set on it; only a call of the module itself runs these."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any("forward" in m.__dict__ or any(m.__dict__[kind] for kind in kinds) for m in modules)


def fused_tail(
    u: Tensor,
    norm: nn.Module | None,
    se: nn.Module | None,
    shortcut: Tensor | None,
    shortcut_norm: nn.Module | None,
    relu: bool,
) -> Tensor | None:
    """Compute `Fusible.tail` with the operator; return None where it cannot, or would be slower."""
    norms = [m for m in (norm, shortcut_norm) if m is not None]
    inserted = attached(norm)
    if inserted and (se or inserted.attached_at == "input"):
        return None
    kinds = [plain_class(m) if m is norm else type(m) for m in norms]
    if u.numel() == 0 or any(kind not in (nn.BatchNorm2d, nn.SyncBatchNorm) for kind in kinds) or has_hooks(norms):
        return None
    se = inserted or (None if type(se) is nn.Identity and not has_hooks((se,)) else se)
    synchronized = nn.SyncBatchNorm in kinds
    if se is None and not synchronized and not u.is_cuda and u.numel() < MIN_FUSED_NUMEL:
        return None
    excitation = None if se is None else excitation_of(se)
    if (se is not None and excitation is None) or not has_fused_passes(u.device.type, u.dtype):
        return None
    if shortcut is not None and (shortcut.dtype != u.dtype or shortcut.shape != u.shape):
        return None
    norm_values = None if norm is None else norm_of(norm)
    shortcut_values = None if shortcut_norm is None else norm_of(shortcut_norm)
    result = residual_tail(u, norm_values, excitation, shortcut, shortcut_values, relu)
    for module, statistics in ((norm, result.statistics), (shortcut_norm, result.shortcut_statistics)):
        if module is not None and statistics is not None:
            move_statistics(cast(nn.BatchNorm2d, module), statistics)
    return result.y


def excitation_of(se: nn.Module) -> Excitation | None:
    """Return an SE block, this library's or timm's, as the operator takes it; None if it cannot compute the block."""
    if has_hooks(se.modules()):
        return None
    if isinstance(se, ExcitationBlock):
        return se.fused_form()
    gate = timm_gate(se)
    fc1, fc2 = (getattr(se, name, None) for name in ("fc1", "fc2"))
    if gate is None or type(fc1) is not nn.Conv2d or type(fc2) is not nn.Conv2d:
        return None
    return Excitation(fc1.weight.flatten(1), fc2.weight.flatten(1), fc1.bias, fc2.bias, gate)


def timm_gate(se: nn.Module) -> str | None:
    """Return the name of the gate of one of timm's SE blocks; None for other modules, and blocks of other layers."""
    kind = (type(se).__module__, type(se).__name__)
    if kind == ("timm.models.senet", "SEModule"):
        return "sigmoid"
    plain = kind == ("timm.layers.squeeze_excite", "SEModule") and not se.add_maxpool
    if not plain or type(se.bn) is not nn.Identity or type(se.act) is not nn.ReLU:
        return None
    return GATE_OF_LAYER.get(type(se.gate).__name__)


def norm_of(norm: nn.Module) -> Norm:
    """Return a BatchNorm as the operator takes it, with the statistics that its own `forward` would use."""
    norm = cast(nn.BatchNorm2d, norm)
    of_batch = norm.training or norm.running_mean is None or norm.running_var is None
    group = ""
    if norm.training and isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        members = norm.process_group or dist.group.WORLD
        group = members.group_name if members is not None and members.size() > 1 else ""
    mean, var = (None, None) if of_batch else (norm.running_mean, norm.running_var)
    return Norm(norm.weight, norm.bias, mean, var, norm.eps, group or None)


@torch.no_grad()
def move_statistics(norm: nn.BatchNorm2d, statistics: BatchStatistics) -> None:
    """Move a BatchNorm's running statistics towards those of the batch, as its own `forward` does."""
    if not norm.training or not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    share: float | Tensor = 0.0 if norm.momentum is None else norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            share = 1.0 / norm.num_batches_tracked.to(norm.running_mean.dtype)
    norm.running_mean.lerp_(statistics.mean_C.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(statistics.unbiased_C.to(norm.running_var.dtype), share)
