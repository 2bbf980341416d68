"""Data that fit in memory: augmented in batches on the device, which the host hands an epoch's order at once."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from senet.data.config import Augmentation
from senet.data.order import BatchOrder, seed_of
from senet.data.preprocessing import Preprocessing


class BatchAugmentation:
    """Random changes of normalized images, by choices that are drawn beforehand.

    What a choice means stands in small tables on the device, so that a batch takes few operators.

    Args:
        augmentation: flip, padding and cutout.
        height: of the images.
        width: of the images.
        device: where the images are.

    Source: cutout is that of DeVries and Taylor, arXiv:1708.04552.
    """

    def __init__(self, augmentation: Augmentation, height: int, width: int, device: torch.device) -> None:
        self.flip, self.padding, self.side = augmentation.flip, augmentation.padding, augmentation.cutout
        self.height, self.width = height, width
        self.padded_width = width + 2 * self.padding
        self.padded_area = (height + 2 * self.padding) * self.padded_width
        window_HW = torch.arange(height)[:, None] * self.padded_width + torch.arange(width)
        self.windows_2HW = torch.stack([window_HW, window_HW.flip(1)]).to(device)
        self.kept_rows_HH = kept_by_cutout(height, self.side).to(device)
        self.kept_columns_WW = kept_by_cutout(width, self.side).to(device)

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draw the choices of a batch, on the CPU.

        Returns:
            (N, 4): the first of the image's padded pixels that is shown, whether it is mirrored, and the row and the
            column of cutout's center.
        """

        def integers(high: int) -> Tensor:
            return torch.randint(high, (num_images,), generator=generator)

        first = torch.zeros(num_images, dtype=torch.int64)
        mirrored = row = column = torch.zeros_like(first)
        if self.flip or self.padding:
            places = 2 * self.padding + 1
            first += integers(places) * self.padded_width
            mirrored = integers(2) if self.flip else mirrored
            first += integers(places)
        if self.side:
            row, column = integers(self.height), integers(self.width)
        return torch.stack([first, mirrored, row, column], dim=1)

    def in_batch(self, choices_N4: Tensor) -> Tensor:
        """Return choices with the first pixel counted from that of the padded batch."""
        choices_N4[:, 0] += torch.arange(len(choices_N4)) * self.padded_area
        return choices_N4

    def __call__(self, x_NCHW: Tensor, choices_N4: Tensor) -> Tensor:
        """Mirror and shift every image, and set a square of each to zero, the mean color.

        Args:
            x_NCHW: the images.
            choices_N4: of `draw`, through `in_batch`.

        Returns:
            (N, C, H, W), in the channels-last memory of the images.
        """
        first, mirrored, row, column = choices_N4.unbind(1)
        if self.flip or self.padding:
            padded = F.pad(x_NCHW, (self.padding,) * 4) if self.padding else x_NCHW
            shown = self.windows_2HW[mirrored] + first[:, None, None]
            # A sixth of the time that indices of images, rows and columns take on the CPU.
            pixels = padded.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, shown.flatten())
            x_NCHW = pixels.view(*shown.shape, -1).permute(0, 3, 1, 2)
        if self.side:
            rows, columns = self.kept_rows_HH[row], self.kept_columns_WW[column]
            x_NCHW = x_NCHW * (rows[:, None, :, None] | columns[:, None, None, :])  # masked_fill changes the format
        return x_NCHW


def kept_by_cutout(length: int, side: int) -> Tensor:
    """Return (center, position): whether a position is outside of a square around a center, which may cross a border.

    Args:
        length: of an axis of the image.
        side: of the square.
    """
    offset = torch.arange(length) - (torch.arange(length)[:, None] - side // 2)
    return (offset < 0) | (offset >= side)


class MemoryLoader:
    """Yields batches of images that are kept on the device.

    The order of an epoch and all its random choices are drawn at its start and go to the device at once: a batch copies
    nothing from the host and never waits for the device. The choices of a batch are a function of (seed, epoch, batch,
    replica), the same on every device: an epoch resumed in the middle has the same batches as an uninterrupted one.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
        order: which images make a batch.
        preprocessing: for the normalization.
        augmentation: None for evaluation.
        device: where the images are kept and augmented.
        name: index -> what an image is called.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        order: BatchOrder,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
        device: torch.device,
        name: Callable[[int], str] = "image {}".format,
    ) -> None:
        self.name = name
        self.pixels = images.permute(0, 2, 3, 1).contiguous().to(device)
        self.labels = labels.to(device)
        self.order = order
        self.augmentation = None
        if augmentation is not None and (augmentation.flip or augmentation.padding or augmentation.cutout):
            self.augmentation = BatchAugmentation(augmentation, images.shape[2], images.shape[3], device)
        self.device = device
        # As large as an image: PyTorch multiplies three channels by three numbers in loops of three.
        scale_HWC = torch.tensor(preprocessing.std, device=device).expand(self.pixels.shape[1:]).contiguous() * 255
        self.scale = 1 / scale_HWC
        self.offset = -torch.tensor(preprocessing.mean, device=device) * 255 / scale_HWC

    @property
    def images(self) -> Tensor:
        """The images (N, C, H, W) in uint8."""
        return self.pixels.permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (N, C, H, W) float32 in channels-last memory, labels (N,)) of `epoch` from batch `start` on."""
        chosen = list(self.order.batches(epoch, start))
        if not chosen:
            return
        sizes = [len(indices) for indices in chosen]
        order = self.moved(torch.from_numpy(np.concatenate(chosen)))
        labels = self.labels[order].split(sizes)
        if self.augmentation is None:
            for indices, its_labels in zip(order.split(sizes), labels, strict=True):
                yield self.normalized(indices), its_labels
            return
        choices = self.choices(self.augmentation, epoch, start, sizes).split(sizes)
        for indices, its_choices, its_labels in zip(order.split(sizes), choices, labels, strict=True):
            yield self.augmentation(self.normalized(indices), its_choices), its_labels

    def normalized(self, indices: Tensor) -> Tensor:
        """Return normalized images, float32 (N, C, H, W)."""
        return (self.pixels.index_select(0, indices) * self.scale).add_(self.offset).permute(0, 3, 1, 2)

    def choices(self, augmentation: BatchAugmentation, epoch: int, start: int, sizes: list[int]) -> Tensor:
        """Draw the random choices (M, 4) of the batches of `epoch` from number `start` on."""
        generator, drawn, order = torch.Generator(), [], self.order
        for place, size in enumerate(sizes):  # 20 microseconds each, on the CPU
            number, share = start + place // len(order.own_shares), order.own_shares[place % len(order.own_shares)]
            generator.manual_seed(seed_of(order.seed, epoch, number, share.replica))
            if share.parts == 1:
                choices = augmentation.draw(size, generator)
            else:  # for all images of the replica, so that each has the choices that it has in one process
                whole = order.num_of_replica(number)
                choices = augmentation.draw(whole, generator)[share.places(whole, even=order.even)]
            drawn.append(augmentation.in_batch(choices))
        return self.moved(torch.cat(drawn))

    def moved(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to the device without waiting for it."""
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)
