"""Squeeze-and-Excitation networks in PyTorch: the block, the networks of the paper, training, evaluation.

The public names are those of `__init__.pyi`; each is imported from its module when it is first used, so that
`import senet` costs no more than what is used of it.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
