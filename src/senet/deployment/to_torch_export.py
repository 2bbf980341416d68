"""torch.export: a .pt2 file that PyTorch opens without this library."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet.deployment.archives import check_archive
from senet.deployment.config import ExportConfig
from senet.deployment.damage import unreadable
from senet.deployment.graph import ExportGraph
from senet.deployment.metadata import KEY, as_text, from_text

METADATA_FILE = f"{KEY}.json"
"""The file within a .pt2 that holds our metadata; `torch.export.load(extra_files=...)` reads it."""


def write(graph: ExportGraph, path: Path, config: ExportConfig, metadata: Any, calibration: Any) -> None:
    """Write a .pt2 file, see `senet.deployment.targets.Format`."""
    content = io.BytesIO()  # PyTorch 2.14 ends the program where its own writer finds no room on the disk
    torch.export.save(graph.program(), content, extra_files={METADATA_FILE: as_text(metadata)})
    path.write_bytes(content.getbuffer())


def open_file(path: Path) -> tuple[Any, Any]:
    """Open a .pt2 file in PyTorch, see `senet.deployment.targets.Format`."""
    check_archive(path)
    extra = {METADATA_FILE: ""}
    try:
        module = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # zip, pickle and schema errors
        raise unreadable(path, "torch.export", error) from error

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            found = module(images)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    return run, from_text(extra[METADATA_FILE], path) if extra[METADATA_FILE] else {}
