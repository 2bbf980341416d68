"""Operators that make SE free: the residual tail, forward and backward in two passes each."""

from senet.ops.tail import Excitation, Norm, Tail, residual_tail

__all__ = ["Excitation", "Norm", "Tail", "residual_tail"]
