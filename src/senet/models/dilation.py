"""Finer feature maps from the same weights: a stage without its stride, its convolutions dilated instead."""

from collections.abc import Iterable, Sequence

from torch import nn

from senet.errors import SenetError
from senet.models.residual import PadShortcut, ResidualUnit


def check_output_stride(output_stride: int | None, strides: Sequence[int]) -> int:
    """Return the stride of the last feature map.

    Args:
        output_stride: what is asked for; None for the last of `strides`.
        strides: of the stages, as they are without dilation.

    Raises:
        SenetError: no stage after the first has that stride.
    """
    if output_stride is None:
        return strides[-1]
    if output_stride not in strides[1:] or not isinstance(output_stride, int):
        raise SenetError(f"output_stride is {output_stride!r}; expected {' or '.join(map(str, strides[1:]))}")
    return output_stride


def dilate(units: Iterable[ResidualUnit], spacing: int) -> int:
    """Take the stride out of a stage and dilate its convolutions, so that it computes the same at more positions.

    A plain stage then computes, at every other position, exactly what it did before. With SE it computes about that:
    the gates see the average of four times as many positions.

    Args:
        units: of the stage, in the order in which they run; the first has the stride.
        spacing: from one position of the stage's input to the next that it saw with all strides in place: 1, or more
            if a stage before this one has been dilated.

    Returns:
        The spacing of the stage's output.

    Source: timm, models/resnet.py (`first_dilation`), for a stride on a 3x3 convolution;
    segmentation_models_pytorch, encoders/_utils.py (`replace_strides_with_dilation`), for one on a 1x1 convolution.
    """
    for unit in units:
        if unit.downsample is not None:
            dilate_path(unit.downsample.modules(), spacing)
        spacing = dilate_path((module for name, module in unit.named_children() if name.startswith("conv")), spacing)
    return spacing


def dilate_path(modules: Iterable[nn.Module], spacing: int) -> int:
    """Do so with the modules of one path through a unit, in the order in which they run."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            if module.kernel_size != (1, 1):
                module.dilation = (spacing, spacing)
                module.padding = (spacing * (module.kernel_size[0] // 2), spacing * (module.kernel_size[1] // 2))
            spacing *= module.stride[0]
            module.stride = (1, 1)
        elif isinstance(module, PadShortcut):
            spacing *= module.stride
            module.stride = 1
    return spacing
