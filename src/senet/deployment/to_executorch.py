"""ExecuTorch: a .pte file for phones and boards, computed by XNNPACK on their CPUs.

Source: https://docs.pytorch.org/executorch/stable/backends-xnnpack.html.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet.deployment.config import ExportConfig
from senet.deployment.graph import ExportGraph
from senet.deployment.metadata import KEY, as_text, from_text
from senet.errors import SenetError, first_line, needed_for
from senet.quiet import quiet

METHOD = "forward"
"""The method of a .pte file that computes the network; another one, `KEY`, returns the metadata as a string."""
OLDEST_TORCH = "2.14"
"""With which ExecuTorch 1.5 is tested; it states none, and with 2.11 fails with "tensor does not have a device"."""


def check_torch(what: str) -> None:
    """Raise a SenetError if PyTorch is too old for ExecuTorch.

    Args:
        what: needs it.
    """
    if torch.__version__ < OLDEST_TORCH:
        raise SenetError(
            f"{what} needs PyTorch {OLDEST_TORCH} or later for ExecuTorch, and this is {torch.__version__}; run: "
            "pip install -U 'senet[executorch]'"
        )


def write(graph: ExportGraph, path: Path, config: ExportConfig, metadata: Any, calibration: Any) -> None:
    """Write a .pte file, see `senet.deployment.targets.Format`."""
    check_torch("the export")
    program = graph.program()
    try:
        with quiet(), torch.no_grad():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            lowered = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods={KEY: as_text(metadata)}
            ).to_executorch()
    except Exception as error:  # each of its passes has its own
        raise SenetError(f"the network cannot be exported to ExecuTorch: {first_line(error)}") from error
    path.write_bytes(lowered.buffer)


def open_file(path: Path) -> tuple[Any, Any]:
    """Open a .pte file in ExecuTorch's runtime for Python, see `senet.deployment.targets.Format`."""
    check_torch(f"{path}")
    with needed_for(f"{path}"), quiet():
        from executorch.runtime import Runtime

    try:
        program = Runtime.get().load_program(path)
        network = program.load_method(METHOD)
        stated = program.load_method(KEY) if KEY in program.method_names else None
    except RuntimeError as error:
        raise SenetError(f"{path} cannot be opened by ExecuTorch: {first_line(error)}") from error
    if network is None:
        raise SenetError(f"{path} has no method {METHOD!r}; export it again")
    metadata = {} if stated is None else from_text(stated.execute([])[0], path)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(network.execute([images.contiguous()]))

    return run, metadata
