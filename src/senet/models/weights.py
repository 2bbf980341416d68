"""Reading state dicts from files, and loading them all or not at all."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from senet.errors import SenetError


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors, .pt or .pth file, on the CPU, executing nothing.

    A checkpoint that holds the state dict under "state_dict" or "model" is unwrapped.

    Raises:
        SenetError: the file is absent, truncated, not a state dict, or a pickle that would execute code.
    """
    path = Path(path)
    if not path.is_file():
        raise SenetError(f"there is no weights file {path}")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except SafetensorError as error:
        raise SenetError(f"{path} is truncated or not a safetensors file ({error}); get it again") from error
    except pickle.UnpicklingError as error:
        raise SenetError(
            f"{path} is refused: it is no weights file, or a pickle that may execute code; "
            "save its state_dict() as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise SenetError(f"{path} is truncated or not a PyTorch file; get it again") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SenetError(f"{path} does not hold a state dict (names to tensors)")
    return dict(state)


def load_weights(model: nn.Module, source: str | Path) -> None:
    """Load a file of weights into a model; every key and shape must match, or the model stays as it is.

    Args:
        model: the network.
        source: a .safetensors, .pt or .pth file.

    Raises:
        SenetError: a bad file, or weights of another architecture; the sentence names the first difference.
    """
    load_state_dict(model, read_state_dict(source), str(source))


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose keys and shapes must all match, or leave the model as it is.

    Raises:
        SenetError: the first difference; `source` names the origin in it.
    """
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    if missing or extra:
        said = [
            f"{len(keys)} {what} ({keys[0]}, ...)"
            for what, keys in (("missing", missing), ("unexpected", extra))
            if keys
        ]
        raise SenetError(
            f"{source} is of another architecture: {' and '.join(said)} keys; create the network it was saved from"
        )
    for key, tensor in expected.items():
        if tensor.shape != state[key].shape:
            raise SenetError(
                f"{source} does not fit: {key} is {tuple(state[key].shape)} there, {tuple(tensor.shape)} in the model"
            )
    model.load_state_dict(dict(state))
