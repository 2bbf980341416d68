"""The residual tail with SE as four operators, two passes over the feature map forward and two backward."""

from senet.ops.function import Excitation, Norm
from senet.ops.tail import Tail, residual_tail

__all__ = ["Excitation", "Norm", "Tail", "residual_tail"]
