"""What is in a picture: classes with probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import nn

from senet.errors import SenetError
from senet.models.folder import load_model
from senet.preprocessing import transform


@dataclass(frozen=True, kw_only=True)
class ClassProbability:
    """One class of one prediction; `probability` is in [0, 1]."""

    class_name: str
    probability: float


def open_image(path: str | Path) -> Image.Image:
    """Read an image file, turned upright as its EXIF data says.

    Raises:
        SenetError: the file is absent, not an image, or truncated.
    """
    path = Path(path)
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise SenetError(f"there is no image {path}") from None
    except UnidentifiedImageError:
        raise SenetError(f"{path} is not an image that can be read (JPEG, PNG, WebP, ...)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SenetError(f"{path} cannot be read ({error}); it may be damaged, or a folder") from error
    return ImageOps.exif_transpose(image)


@torch.no_grad()
def predict(
    run_or_model: nn.Module | str | Path,
    images: Sequence[str | Path | Image.Image],
    *,
    top: int = 5,
    batch_size: int = 64,
) -> list[list[ClassProbability]]:
    """Classify images.

    Args:
        run_or_model: a network with `preprocessing`, a run or model folder, or the name of a network with weights in
            the package.
        images: files or PIL images of any size.
        top: how many classes to return for each; at least 1.
        batch_size: images at once.

    Returns:
        For every image its `top` likeliest classes, likeliest first.

    Raises:
        SenetError: a model or image that cannot be read.
    """
    if top < 1:
        raise SenetError(f"top is {top}; expected at least 1")
    model = run_or_model if isinstance(run_or_model, nn.Module) else load_model(run_or_model)
    to_tensor = transform(model)
    pictures = [image if isinstance(image, Image.Image) else open_image(image) for image in images]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    predictions = []
    for start in range(0, len(pictures), batch_size):
        batch = torch.stack([to_tensor(picture) for picture in pictures[start : start + batch_size]]).to(device)
        probabilities = model(batch).float().softmax(1)
        names = getattr(model, "class_names", None) or [str(i) for i in range(probabilities.shape[1])]
        values, indices = probabilities.topk(min(top, probabilities.shape[1]))
        for row, chosen in zip(values.tolist(), indices.tolist(), strict=True):
            predictions.append(
                [ClassProbability(class_name=names[i], probability=p) for p, i in zip(row, chosen, strict=True)]
            )
    model.train(was_training)
    return predictions
