"""Weights that have been read, and what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from senet.data.preprocessing import Preprocessing
from senet.models.config import ModelConfig
from senet.models.description import Surgery
from senet.weights.layouts import Layout, State

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a network and what is known of it.

    Args:
        source: the file, folder or id, for messages.
        state: the tensors under this library's keys and in its shapes; for another library's network, under its own.
        layout: whose keys and shapes they had.
        config: what the network was built from, if the source says it.
        surgery: what was inserted into it and removed from it then.
        architecture: the name that timm or torchvision has for the network, if the source says it.
        name: the name of the network in `create_model`; None if the source does not say it, or for one of another
            library that this library does not have.
        preprocessing: of the network, if the source says it.
        class_names: of the outputs, if the source says it.
        block: the class of the SE blocks that the weights were trained in, if it is not what `config` describes.
        description: the content of config.json, for a model that does not classify (see `senet.weights.tasks`).
        notes: what was left out of the file, a phrase each.
    """

    source: str
    state: State = field(repr=False)
    layout: Layout
    config: ModelConfig | None = None
    surgery: Surgery = field(default_factory=Surgery)
    architecture: str | None = None
    name: str | None = None
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None
    block: str | None = None
    description: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def stated(self) -> str | None:
        """What the source itself says that it holds; None if it does not."""
        return self.architecture or self.name
