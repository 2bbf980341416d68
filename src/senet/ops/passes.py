"""The steps of the residual tail in plain PyTorch: what every implementation of them computes.

Shapes: N images, C channels, M = H * W positions. Feature maps are (N, C, H, W) in any memory format; the suffixes _C
and _NC name the shapes of vectors and matrices over channels, which are float32, or float64 where the map is.

Every value is centered before it is multiplied, so that large means with small variances lose nothing.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.gates import GATES


class Affine(NamedTuple):
    """`(x - center) * scale + shift`: center is (C,); scale and shift are both (C,), or both (N, C)."""

    center_C: Tensor
    scale: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to a feature map, in the precision of its vectors."""
        return (x.to(self.scale.dtype) - over_map(self.center_C)) * over_map(self.scale) + over_map(self.shift)


class Slope(NamedTuple):
    """How a gradient goes back through an `Affine` whose statistics may depend on x: `g * P + (x - center) * Q + R`."""

    P: Tensor
    Q_C: Tensor
    R: Tensor


@dataclass(frozen=True)
class Branches:
    """The inputs of the sum and the ReLU: `relu(affine(u) + shortcut_affine(shortcut))`.

    Args:
        u: the residual branch before its last BatchNorm, (N, C, H, W).
        affine: what BatchNorm, and SE after it, do to `u`.
        relu: whether a ReLU closes.
        shortcut: as `u`; None for none.
        shortcut_affine: what the shortcut's own BatchNorm does, with vectors (C,); None for none.
    """

    u: Tensor
    affine: Affine
    relu: bool
    shortcut: Tensor | None = None
    shortcut_affine: Affine | None = None


class Excitation(NamedTuple):
    """The two layers between the squeeze and the scale.

    Args:
        fc1: (K, C).
        fc2: (C, K).
        bias1: (K,); None for no biases.
        bias2: (C,); None for no biases.
        gate: the name of one of `senet.ops.gates.GATES`.
    """

    fc1: Tensor
    fc2: Tensor
    bias1: Tensor | None = None
    bias2: Tensor | None = None
    gate: str = "sigmoid"


class ExcitationOutput(NamedTuple):
    """What an excitation computes.

    Args:
        hidden_NK: after its ReLU.
        gate_NC: the gate.
        affine: BatchNorm followed by the gate, with scale and shift (N, C).
    """

    hidden_NK: Tensor
    gate_NC: Tensor
    affine: Affine


class ExcitationGradients(NamedTuple):
    """The gradients of an excitation's layers, of its squeeze, and of the scale and shift before it."""

    fc1: Tensor
    fc2: Tensor
    bias1: Tensor
    bias2: Tensor
    z_NC: Tensor
    scale_C: Tensor
    shift_C: Tensor


class BatchStatistics(NamedTuple):
    """Mean, variance and unbiased variance of each channel over images and positions."""

    mean_C: Tensor
    var_C: Tensor
    unbiased_C: Tensor


class Passes(Protocol):
    """An implementation of the steps: four passes over the feature map, and what lies between them."""

    def moments(self, u: Tensor, second: bool) -> tuple[Tensor, Tensor | None]:
        """Return mean and, if `second`, centered second moment over positions: (N, C) each."""

    def statistics(self, m_NC: Tensor, q_NC: Tensor, positions: int) -> BatchStatistics:
        """Combine the moments of the images, each over `positions` positions."""

    def apply(self, branches: Branches) -> Tensor:
        """Return y, like `branches.u`."""

    def sums(
        self, dy: Tensor, y: Tensor | None, branches: Branches
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the (N, C) sums over positions of g, g * (u - center) and g * (shortcut - its center), and g.

        Args:
            dy: the gradient of y; g is `dy` where y is positive, or everywhere if there is no ReLU.
            y: the output, whose sign is used; None without a ReLU or without a shortcut, where u has the sign.
            branches: what y was computed from. Without a shortcut g is not returned, without an affine function of it
                the third sum is not.
        """

    def excite(self, m_NC: Tensor, affine: Affine, se: Excitation) -> ExcitationOutput:
        """Squeeze and excite.

        Args:
            m_NC: mean of u over positions.
            affine: what BatchNorm does to u, with vectors (C,).
            se: in the type of the sums.
        """

    def excite_gradients(
        self, A_NC: Tensor, B_NC: Tensor, m_NC: Tensor, affine: Affine, se: Excitation, output: ExcitationOutput
    ) -> ExcitationGradients:
        """Go back through `excite`.

        Args:
            A_NC: the first sum of `sums`.
            B_NC: the second.
            m_NC: as in `excite`.
            affine: as in `excite`.
            se: as in `excite`.
            output: what `excite` returned.
        """

    def gradients(
        self, g: Tensor, branches: Branches, slope: Slope, shortcut_slope: Slope | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of u and of the shortcut.

        Args:
            g: what `sums` returned, which may be overwritten; dy without a shortcut.
            branches: as in `sums`.
            slope: of u.
            shortcut_slope: of the shortcut, if it has an affine function.
        """


def over_map(vector: Tensor) -> Tensor:
    """View (C,) or (N, C) so that it broadcasts over (N, C, H, W)."""
    return vector.reshape(*(vector.shape if vector.dim() == 2 else (1, -1)), 1, 1)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which values of `dtype` are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def squeeze(m_NC: Tensor, affine: Affine) -> Tensor:
    """Return the means after an affine function from those before it."""
    return torch.addcmul(affine.shift, m_NC - affine.center_C, affine.scale)


def gated(affine: Affine, gate_NC: Tensor) -> Affine:
    """Return an affine function with vectors (C,) followed by a gate."""
    return Affine(affine.center_C, gate_NC * affine.scale, gate_NC * affine.shift)


def centered(x: Tensor, affine: Affine) -> Tensor:
    """Return the feature map x less the center, in the precision of the vectors."""
    return x.to(affine.scale.dtype) - over_map(affine.center_C)


class PlainPasses:
    """The steps in plain PyTorch."""

    def moments(self, u: Tensor, second: bool) -> tuple[Tensor, Tensor | None]:
        """See `Passes`."""
        x = u.to(accumulator(u.dtype))
        mean_NC = x.mean((2, 3))
        return mean_NC, (x - over_map(mean_NC)).square().mean((2, 3)) if second else None

    def statistics(self, m_NC: Tensor, q_NC: Tensor, positions: int) -> BatchStatistics:
        """See `Passes`."""
        count = len(m_NC) * positions
        mean_C = m_NC.mean(0)
        var_C = (q_NC + (m_NC - mean_C).square()).mean(0)
        return BatchStatistics(mean_C, var_C, var_C * (count / max(count - 1, 1)))

    def apply(self, branches: Branches) -> Tensor:
        """See `Passes`."""
        y = branches.affine(branches.u)
        if branches.shortcut is not None:
            affine = branches.shortcut_affine
            y = y + (branches.shortcut.to(y.dtype) if affine is None else affine(branches.shortcut))
        return (y.relu() if branches.relu else y).to(branches.u.dtype)

    def sums(
        self, dy: Tensor, y: Tensor | None, branches: Branches
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """See `Passes`."""
        g = self._masked(dy, y, branches)
        A_NC, B_NC = g.sum((2, 3)), (g * centered(branches.u, branches.affine)).sum((2, 3))
        if branches.shortcut is None:
            return A_NC, B_NC, None, None
        affine = branches.shortcut_affine
        W_NC = None if affine is None else (g * centered(branches.shortcut, affine)).sum((2, 3))
        return A_NC, B_NC, W_NC, g.to(dy.dtype, copy=True)

    def excite(self, m_NC: Tensor, affine: Affine, se: Excitation) -> ExcitationOutput:
        """See `Passes`."""
        hidden_NK = F.linear(squeeze(m_NC, affine), se.fc1, se.bias1).relu_()
        gate_NC = GATES[se.gate].function(F.linear(hidden_NK, se.fc2, se.bias2))
        return ExcitationOutput(hidden_NK, gate_NC, gated(affine, gate_NC))

    def excite_gradients(
        self, A_NC: Tensor, B_NC: Tensor, m_NC: Tensor, affine: Affine, se: Excitation, output: ExcitationOutput
    ) -> ExcitationGradients:
        """See `Passes`."""
        slope_NC = GATES[se.gate].slope_from(output.gate_NC)
        dlogit_NC = (affine.scale * B_NC + affine.shift * A_NC) * slope_NC
        dhidden_NK = torch.where(output.hidden_NK > 0, dlogit_NC @ se.fc2, 0.0)
        dz_NC = dhidden_NK @ se.fc1
        return ExcitationGradients(
            dhidden_NK.T @ squeeze(m_NC, affine),
            dlogit_NC.T @ output.hidden_NK,
            dhidden_NK.sum(0),
            dlogit_NC.sum(0),
            dz_NC,
            (output.gate_NC * B_NC + dz_NC * (m_NC - affine.center_C)).sum(0),
            (output.gate_NC * A_NC + dz_NC).sum(0),
        )

    def gradients(
        self, g: Tensor, branches: Branches, slope: Slope, shortcut_slope: Slope | None
    ) -> tuple[Tensor, Tensor | None]:
        """See `Passes`."""
        shortcut, affine = branches.shortcut, branches.shortcut_affine
        if shortcut is None:
            return self._gradient(self._masked(g, None, branches), branches.u, branches.affine, slope), None
        du = self._gradient(g, branches.u, branches.affine, slope)
        if affine is None or shortcut_slope is None:
            return du, g
        return du, self._gradient(g, shortcut, affine, shortcut_slope)

    @staticmethod
    def _masked(dy: Tensor, y: Tensor | None, branches: Branches) -> Tensor:
        g = dy.to(accumulator(dy.dtype))
        if not branches.relu:
            return g
        return torch.where((branches.affine(branches.u) if y is None else y) > 0, g, torch.zeros_like(g))

    @staticmethod
    def _gradient(g: Tensor, x: Tensor, affine: Affine, slope: Slope) -> Tensor:
        g = g.to(affine.scale.dtype)
        return (g * over_map(slope.P) + centered(x, affine) * over_map(slope.Q_C) + over_map(slope.R)).to(x.dtype)
