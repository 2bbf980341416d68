"""The residual tail with SE as one operator, forward and backward in two passes each."""

from senet.ops.passes import Excitation
from senet.ops.tail import Norm, Tail, residual_tail

__all__ = ["Excitation", "Norm", "Tail", "residual_tail"]
