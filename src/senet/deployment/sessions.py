"""Sessions of ONNX Runtime, all with the same settings."""

from pathlib import Path
from typing import Any

import torch


def open_session(model: Path | bytes) -> Any:
    """Open an ONNX model on the CPU, with PyTorch's number of threads.

    Args:
        model: a .onnx file, or what one holds.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # fatal: what it prints of lesser errors, it raises as well
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
