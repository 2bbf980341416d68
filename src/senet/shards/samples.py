"""What a shard of any format holds: images with their places in the file, and their classes."""

from dataclasses import dataclass

Label = int | str | None
"""A class by number or name; None where a sample has none."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image in a shard.

    Args:
        name: for messages.
        offset: of its content in the shard, in bytes; in the unpacked one, if it has to be unpacked.
        size: of its content, in bytes.
        label: its class.
    """

    name: str
    offset: int
    size: int
    label: Label = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Which columns of a parquet file, or files of a sample, are the image and its class.

    Args:
        image: column, or extension such as "left.jpg".
        label: column, extension, or key in the JSON of a sample.
    """

    image: str = "image"
    label: str = "label"
