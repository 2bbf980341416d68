"""The file of a detector scales pictures to the very size to which PyTorch does: one pixel less is another picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from senet.deployment.scaling import ExactTransform

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


class Scaled(nn.Module):
    """The scaled picture, and its size."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        images, _ = self.transform([image])
        return images.tensors, torch.stack([torch.as_tensor(side) for side in images.image_sizes[0]])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("shorter", "longer"), [(160, 240), (64, 96), (100, 167)])
def test_sizes_are_those_of_pytorch(shorter: int, longer: int, tmp_path: Path) -> None:
    transform = GeneralizedRCNNTransform(shorter, longer, [0.5] * 3, [0.25] * 3)
    axes = {"image": {1: "height", 2: "width"}}
    torch.onnx.export(
        Scaled(ExactTransform(transform, in_integers=False)).eval(),
        (torch.rand(3, 48, 64),),
        tmp_path / "a.onnx",
        dynamo=False,
        opset_version=18,
        input_names=["image"],
        dynamic_axes=axes,
    )
    session, random = onnxruntime.InferenceSession(tmp_path / "a.onnx"), np.random.default_rng(0)
    sizes = [(80, 200), (427, 640), (333, 500), (1, 1), (1, 13), *random.integers(20, 300, (40, 2)).tolist()]
    for size in sizes:
        image = random.random((3, *size), np.float32)
        pixels, found = session.run(None, {"image": image})
        wanted, wanted_size = Scaled(transform).eval()(torch.from_numpy(image))
        assert found.tolist() == wanted_size.tolist(), size
        np.testing.assert_allclose(pixels, wanted.numpy(), atol=2e-3)


def test_sizes_in_integers_are_the_same_but_for_rounding() -> None:
    transform = ExactTransform(GeneralizedRCNNTransform(800, 1333, [0.5] * 3, [0.25] * 3), in_integers=True)
    for rows, columns in np.random.default_rng(0).integers(1, 3000, (200, 2)).tolist():
        scale = min(800 / min(rows, columns), 1333 / max(rows, columns))
        found = transform.sizes(torch.tensor([rows, columns])).tolist()
        assert found == [int(side * scale + 1e-6) for side in (rows, columns)]
