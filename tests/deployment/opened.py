"""Exported networks that say nothing of themselves, opened by their runtimes alone."""

import torch

from senet.deployment.candidate import Candidate


def opened(path, batch=None):
    """A file that takes normalized images; `batch` is its fixed number of them."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        run = lambda images: session.run(None, {name: images})[0]  # noqa: E731
    else:
        import openvino

        model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        run = lambda images: model(images)[0].copy()  # noqa: E731

    def logits(images):
        return torch.cat([torch.from_numpy(run(part.numpy())) for part in images.split(batch or len(images))])

    return Candidate(
        run=logits,
        name=str(path),
        path=path,
        module=None,
        precision="fp32",
        feed=lambda images: images,
        batch=batch,
        size=None,
    )
