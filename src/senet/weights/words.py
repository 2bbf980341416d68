"""What a word that somebody typed names: a network, weights, or something else."""

from pathlib import Path

from PIL import Image

from senet.errors import SenetError
from senet.models.catalog import CARDS, model_card
from senet.models.external import is_external
from senet.weights.hub import EXPORTED, FILES, is_hub_id
from senet.weights.reading import alike, find_model_folder


def is_source(word: str | Path) -> bool:
    """Whether a word is what `read` takes: a path that exists or ends as files of weights do, or a hub id."""
    return Path(word).exists() or is_hub_id(str(word)) or Path(word).suffix in FILES


def names_a_network(word: str) -> bool:
    """Whether a word names a network, for `load_model`, rather than a file of something else, such as an image."""
    path = Path(word)
    if path.exists():
        return path.is_dir() or path.suffix in FILES or path.suffix.lower() in EXPORTED
    return (
        is_known_name(word)
        or path.suffix in FILES
        or path.suffix.lower() in EXPORTED
        or (is_hub_id(word) and not is_image(path))
    )


def is_known_name(word: str) -> bool:
    """Whether a word names one of this library's networks, or of timm's or torchvision's."""
    return word in CARDS or is_external(word)


def refuse_unknown(word: str) -> None:
    """Raise the error for a word that names no network, and is no file or folder: with the names that are nearest.

    Raises:
        SenetError: there is no such network, or no such folder.
    """
    if "/" in word:
        find_model_folder(word)
    try:
        model_card(word)
    except SenetError as error:
        error.args = (f"{error}{alike(Path(word))}",)
        raise


def is_image(path: Path) -> bool:
    """Whether a path ends as files of images do."""
    return path.suffix.lower() in Image.registered_extensions()
