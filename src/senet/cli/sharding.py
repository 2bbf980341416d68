"""`senet shard`."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from senet.cli.parsing import Command
from senet.data.config import DataConfig
from senet.data.sharding import Form, write_shards
from senet.terminal import say


@dataclass(frozen=True, kw_only=True)
class ShardCommand(Command):
    """Write a data set as shards: tar files or parquet, with an index, which every --data takes, also from a server.

    The original bytes of the images are copied. If the command is stopped, the same command goes on after the last
    complete shard. At the end all shards are read back and compared; the same command once more compares them again.

    Examples:
        senet shard photos shards
        senet shard photos shards --format parquet --megabytes 500
        senet shard hf:OWNER/NAME shards --image-column img
        senet finetune shards --model se_resnet50 --output runs/photos
    """

    data: Annotated[Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """a folder, CSV file, name or anything else that --data takes"""
    output: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")]
    """the folder of the shards"""
    format: Form = "tar"
    """tar files as webdataset writes them, or parquet as Hugging Face's datasets does"""
    megabytes: float = 128
    """size of a shard, in 10**6 bytes"""
    shuffle: bool = True
    """put the images into a random order first, so that each shard has images of many classes"""
    seed: int = 0
    """of that order"""
    root: Path = Path("data")
    """folder of the torchvision data sets"""
    image_column: str = "image"
    """of a table or a data set of Hugging Face"""
    label_column: str = "label"
    """of a table or a data set of Hugging Face"""
    class_names: tuple[str, ...] | None = None
    """names of the classes where the data set has only numbers"""

    def run(self) -> None:
        """Write the shards, and say what can be done with them."""
        config = DataConfig(
            dataset=self.data,
            root=self.root,
            in_memory=False,
            image_column=self.image_column,
            label_column=self.label_column,
            class_names=self.class_names,
        )
        written = write_shards(
            config, self.output, form=self.format, megabytes=self.megabytes, seed=self.seed if self.shuffle else None
        )
        say(f"{written}. Next:\n  senet finetune {shlex.quote(str(self.output))} --model NAME --output RUN")
