"""The model card of a model folder: README.md, which the Hugging Face hub shows and searches."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from torch import nn

from senet.files import written_beside
from senet.models.base import Network
from senet.models.catalog import CARDS
from senet.models.description import Surgery
from senet.models.external import is_external
from senet.nn.excitation import ExcitationBlock

CARD_FILE = "README.md"
GENERATED = "<!-- Written by senet. Delete this line and the next save leaves this file as you changed it. -->"
TAGS = ("senet", "pytorch", "image-classification")


def write_card(model: Network, surgery: Surgery, folder: Path, metrics: Mapping[str, float]) -> None:
    """Write the model card of a folder, unless somebody wrote one of their own.

    Args:
        model: the network.
        surgery: what was inserted into it and removed from it.
        folder: the model folder.
        metrics: what was measured of it.
    """
    path = folder / CARD_FILE
    if path.is_file() and GENERATED not in path.read_text():
        return
    with written_beside(path) as beside:
        beside.write_text(str(model_card_of(model, surgery, metrics)))


def model_card_of(model: Network, surgery: Surgery, metrics: Mapping[str, float]) -> ModelCard:
    """Return the model card of a network."""
    has_se = any(isinstance(module, ExcitationBlock) for module in model.modules())
    data = ModelCardData(
        library_name="senet",
        pipeline_tag="image-classification",
        tags=[*TAGS, *(["squeeze-and-excitation"] if has_se else [])],
        metrics=sorted(metrics) or None,
    )
    parts = [f"---\n{data.to_yaml()}\n---", GENERATED, f"# {model.config.name}", summary(model, surgery)]
    if metrics:
        rows = (f"| {name} | {value:.6g} |" for name, value in metrics.items())
        parts.append("\n".join(("| measured | |", "|---|---|", *rows)))
    parts.append(HOW_TO_LOAD)
    return ModelCard("\n\n".join(parts) + "\n")


HOW_TO_LOAD = """## How to load it

```python
import senet

model = senet.from_pretrained("OWNER/NAME")  # this repository's id, or the folder of this file
print(senet.predict(model, ["photo.jpg"]))
```

or on the command line: `senet predict photo.jpg --model OWNER/NAME`. `model.preprocessing` describes its images and
`model.class_names` names its outputs."""


def summary(model: Network, surgery: Surgery) -> str:
    """Return what a network is, in a few lines."""
    config, wants = model.config, model.preprocessing
    parameters, side = sum(parameter.numel() for parameter in nn.Module.parameters(model)), wants.image_size
    lines = [
        f"{parameters:,} parameters; {config.num_classes} classes; images of {side}x{side} pixels and "
        f"{config.in_channels} channels."
    ]
    if config.name in CARDS:
        lines.append(f"The architecture is described in {CARDS[config.name].source}.")
        if CARDS[config.name].has_se:
            lines.append(f"Its SE blocks: {config.se}.")
    elif is_external(config.name):
        lines.append(f"The network is that of {config.name.partition('/')[0]}.")
    if surgery.inserted:
        lines.append(f"{len(surgery.inserted)} SE blocks were inserted: {surgery.inserted_se}.")
    if surgery.removed:
        lines.append(f"{len(surgery.removed)} SE blocks were removed: {', '.join(surgery.removed)}.")
    return "\n".join(lines)
