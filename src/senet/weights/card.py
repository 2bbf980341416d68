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
TAGS = ("senet", "pytorch")


def write_card(card: str, folder: Path) -> None:
    """Write the model card of a folder, unless somebody wrote one of their own."""
    path = folder / CARD_FILE
    if path.is_file() and GENERATED not in path.read_text():
        return
    with written_beside(path) as beside:
        beside.write_text(card)


def model_card_of(model: Network, surgery: Surgery, metrics: Mapping[str, float]) -> ModelCard:
    """Return the model card of a network."""
    has_se = any(isinstance(module, ExcitationBlock) for module in model.modules())
    return card_of("image-classification", model.config.name, summary(model, surgery), metrics, HOW_TO_LOAD, has_se)


def card_of_task(model: nn.Module, text: str, metrics: Mapping[str, float]) -> str:
    """Return the model card of a model that does not classify, which is described by a text."""
    has_se = any(isinstance(module, ExcitationBlock) for module in model.modules())
    return str(card_of("object-detection", type(model).__name__, text, metrics, HOW_TO_DETECT, has_se))


def card_of(
    pipeline: str, title: str, text: str, metrics: Mapping[str, float], how_to_load: str, has_se: bool
) -> ModelCard:
    """Return a model card.

    Args:
        pipeline: the hub's name of what the model does.
        title: of the card.
        text: what the model is.
        metrics: what was measured of it.
        how_to_load: its last part.
        has_se: whether it has SE blocks.
    """
    data = ModelCardData(
        library_name="senet",
        pipeline_tag=pipeline,
        tags=[*TAGS, pipeline, *(["squeeze-and-excitation"] if has_se else [])],
        metrics=sorted(metrics) or None,
    )
    parts = [f"---\n{data.to_yaml()}\n---", GENERATED, f"# {title}", text]
    if metrics:
        rows = (f"| {name} | {value:.6g} |" for name, value in metrics.items())
        parts.append("\n".join(("| measured | |", "|---|---|", *rows)))
    parts.append(how_to_load)
    return ModelCard("\n\n".join(parts) + "\n")


HOW_TO_LOAD = """## How to load it

```python
import senet

model = senet.from_pretrained("OWNER/NAME")  # this repository's id, or the folder of this file
print(senet.predict(model, ["photo.jpg"]))
```

or on the command line: `senet predict photo.jpg --model OWNER/NAME`. `model.preprocessing` describes its images and
`model.class_names` names its outputs."""
HOW_TO_DETECT = """## How to load it

```python
import senet

model = senet.from_pretrained("OWNER/NAME")  # this repository's id, or the folder of this file
print(senet.detect(model, ["photo.jpg"]))
```

or on the command line: `senet predict photo.jpg --model OWNER/NAME --output drawn`. `model.class_names` names its
labels, from 1 on."""


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
