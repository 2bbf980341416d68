"""Converting pictures of any kind to 8 bits and the number of channels that a network takes."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.errors import SenetError, counted

Picture = Image.Image | Tensor | np.ndarray
"""A PIL image, a tensor (C, H, W), or an array (H, W), (H, W, C) or (C, H, W)."""
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
RANGE_IS_KNOWN = (None, "PNG", "PPM")
"""Formats whose images of mode "I" are unsigned 16-bit; in a TIFF they may be 32-bit or signed."""


class UnfitPictureError(SenetError):
    """The network does not accept a picture; `problem` says why, without the name of the picture."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the image {problem}")
        self.problem = problem


class ToChannels(nn.Module):
    """Converts a picture to a number of channels, see `to_channels`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, picture: Picture) -> Image.Image | Tensor:
        """Return a PIL image of mode L or RGB, or a tensor (C, H, W)."""
        return to_channels(picture, self.channels)

    def extra_repr(self) -> str:
        """Show the number of channels."""
        return str(self.channels)


def to_channels(picture: Picture, channels: int) -> Image.Image | Tensor:
    """Convert a picture to 8 bits and a number of channels.

    Gray and color are converted into each other. Transparency is dropped, unless the network takes 2 channels (gray and
    alpha) or 4 (RGB and alpha): then the picture must have an alpha channel. Any other number of channels must be that
    of the picture. 16-bit values are scaled by their range: 65535 becomes 255.

    Returns:
        A PIL image for 1 or 3 channels, so that PIL resizes it; else a uint8 tensor (C, H, W), because PIL's resize
        multiplies colors by the fourth channel. A tensor stays a tensor.

    Raises:
        UnfitPictureError: the picture has other channels, or values whose range is not known.
    """
    if isinstance(picture, np.ndarray):
        picture = from_array(picture, channels)
    if isinstance(picture, Tensor):
        return tensor_to_channels(picture, channels)
    image = to_eight_bits(picture)
    if image.mode == "RGBX" and channels == 4:  # a TIFF whose fourth channel is not declared as alpha
        return as_tensor(image)
    if channels not in MODES or (channels in (2, 4) and not image.has_transparency_data):
        raise other_channels(len(image.getbands()), channels, f" ({image.mode})")
    if image.mode == "LAB":  # PIL converts LAB to RGB only
        image = image.convert("RGB")
    if image.mode != MODES[channels]:
        try:
            image = image.convert(MODES[channels])
        except ValueError as error:
            raise UnfitPictureError(f"has the mode {image.mode}, which cannot be converted; save it as RGB") from error
    return image if channels in (1, 3) else as_tensor(image)


def other_channels(found: int, channels: int, mode: str = "") -> UnfitPictureError:
    """Return the error for a picture whose number of channels the network does not take."""
    has = f"{counted(found, 'channel')}{mode}"
    remedies = {1: "as gray", 2: "as gray with an alpha channel", 3: "as RGB", 4: "as RGB with an alpha channel"}
    as_array = f"as a .npy array (H, W, {channels})"
    remedy = f"{remedies[channels]}, or {as_array}" if channels in remedies else as_array
    return UnfitPictureError(f"has {has}, but the network takes {channels}; save it {remedy}")


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Return an image with 8 bits a channel.

    Raises:
        UnfitPictureError: the range of its values is not known.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray(scaled(np.asarray(image)))
    if image.mode == "I":
        values = np.asarray(image)
        if image.format in RANGE_IS_KNOWN and values.min() >= 0 and values.max() <= 65535:
            return Image.fromarray(scaled(values))
    if image.mode in ("I", "F"):
        kind = "32-bit or signed integers" if image.mode == "I" else "floating-point values"
        raise UnfitPictureError(f"has {kind}, whose range is not known; save it with 8 bits, or 16 without a sign")
    return image


def scaled(values: np.ndarray) -> np.ndarray:
    """Scale 16-bit values to 8 bits: 65535 becomes 255, rounded to the nearest."""
    small: np.ndarray = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return small


def array_to_eight_bits(array: np.ndarray) -> np.ndarray:
    """Return an array of uint8 for one of uint8 or uint16.

    Raises:
        UnfitPictureError: it has another dtype, or no values.
    """
    if array.size == 0:
        raise UnfitPictureError(f"has no pixels: its shape is {array.shape}")
    if array.dtype.newbyteorder("=") == np.uint16:
        return scaled(array)
    if array.dtype != np.uint8:
        raise UnfitPictureError(f"holds {array.dtype} values, whose range is not known; save it as uint8 or uint16")
    return array


def from_array(array: np.ndarray, channels: int) -> Image.Image | Tensor:
    """Convert an array, whichever axis its channels are on: to a PIL image for 1 or 3, else to a tensor (C, H, W)."""
    array = array_to_eight_bits(array)
    if array.ndim == 2:
        return Image.fromarray(array)
    wanted = [{channels}, {1, 3}] if channels in (1, 3) else [{channels}]
    axes = [axis for sizes in wanted for axis in (0, 2) if array.ndim == 3 and array.shape[axis] in sizes]
    if not axes or (len(set(axes)) > 1 and array.shape[0] == array.shape[2]):
        raise UnfitPictureError(
            f"has the shape {array.shape}; expected (H, W, {channels}) or ({channels}, H, W), "
            "with the channels that the network takes"
        )
    array = np.ascontiguousarray(np.moveaxis(array, axes[0], 2))
    if array.shape[2] in (1, 3):
        return Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)
    return torch.from_numpy(array).permute(2, 0, 1)


def tensor_to_channels(picture: Tensor, channels: int) -> Tensor:
    """Convert a tensor (C, H, W) to a number of channels: gray to color, or color to gray."""
    found = picture.shape[-3] if picture.dim() >= 3 else 0
    if found == channels:
        return picture
    if (found, channels) == (3, 1):
        gray: Tensor = v2.functional.rgb_to_grayscale(picture)
        return gray
    if (found, channels) == (1, 3):
        return picture.expand(*picture.shape[:-3], 3, *picture.shape[-2:])
    raise other_channels(found, channels)


def as_tensor(image: Image.Image) -> Tensor:
    """Convert a PIL image with several channels to a uint8 tensor (C, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_rgb(picture: Picture, channels: int) -> Image.Image:
    """Return an RGB image for display: the first three of more than four channels, the first of two."""
    prepared = to_channels(picture, channels)
    if isinstance(prepared, Image.Image):
        return prepared.convert("RGB")
    displayed = prepared[:3] if len(prepared) >= 3 else prepared[:1]
    image: Image.Image = v2.functional.to_pil_image(displayed)
    return image.convert("RGB")
