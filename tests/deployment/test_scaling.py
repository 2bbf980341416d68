"""The file of a detector scales pictures to the very size to which PyTorch does: one pixel less is another picture."""

from collections.abc import Callable
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
        Scaled(ExactTransform(transform)).eval(),
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


class Sizes(nn.Module):
    """The scaled sizes of many pictures, (N, 2)."""

    def __init__(self, shorter: int, longer: int) -> None:
        super().__init__()
        self.transform = ExactTransform(GeneralizedRCNNTransform(shorter, longer, [0.5] * 3, [0.25] * 3))

    def forward(self, sides: Tensor) -> Tensor:
        return self.transform.sizes(sides)


def in_runtimes(sizes: Sizes, path: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What computes the sizes in each runtime."""
    torch.onnx.export(
        sizes,
        (torch.tensor([[48, 64], [20, 30]]),),
        path,
        dynamo=False,
        opset_version=18,
        input_names=["sides"],
        dynamic_axes={"sides": {0: "n"}},
    )
    openvino = pytest.importorskip("openvino")
    session, compiled = onnxruntime.InferenceSession(path), openvino.compile_model(path, "CPU")
    return {
        "ONNX Runtime": lambda sides: session.run(None, {"sides": sides})[0],
        "OpenVINO": lambda sides: compiled(sides)[0],
    }


def of_pytorch(sides: np.ndarray, shorter: int, longer: int) -> np.ndarray:
    """What torchvision and PyTorch compute, in double precision: floor(side * min(shorter / least, longer / most))."""
    scale = np.minimum(shorter / sides.min(1), longer / sides.max(1))
    return np.floor(sides * scale[:, None]).astype(np.int64)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("shorter", "longer"), [(800, 1333), (160, 240), (1000, 1000), (7, 11)])
def test_sizes_of_all_sides_are_those_of_pytorch_in_both_runtimes(shorter: int, longer: int, tmp_path: Path) -> None:
    of_runtime = in_runtimes(Sizes(shorter, longer).eval(), tmp_path / "sizes.onnx")
    each = np.arange(1, 2001)
    others = (each, 2 * each, 3 * each, np.full(2000, 1999), np.random.default_rng(0).integers(1, 32768, 2000))
    sides = np.concatenate([np.stack([each, other], 1) for other in others])
    wanted = of_pytorch(sides, shorter, longer)
    exact = sides * [shorter] // sides.min(1, keepdims=True)
    assert (wanted != exact)[:2000].any()  # of some sides, PyTorch's rounding makes the picture a pixel smaller
    for name, run in of_runtime.items():
        np.testing.assert_array_equal(run(sides), wanted, name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("shorter", "longer"), [(800, 1333), (640, 640), (416, 2000)])
def test_sizes_of_all_pairs_of_sides(shorter: int, longer: int, tmp_path: Path) -> None:
    of_runtime = in_runtimes(Sizes(shorter, longer).eval(), tmp_path / "sizes.onnx")
    each = np.arange(1, 2001)
    for first in range(1, 2001, 50):
        sides = np.stack(np.meshgrid(each[first - 1 : first + 49], each), -1).reshape(-1, 2)
        for name, run in of_runtime.items():
            np.testing.assert_array_equal(run(sides), of_pytorch(sides, shorter, longer), name)


def test_the_double_precision_of_the_test_is_that_of_torchvision() -> None:
    transform = GeneralizedRCNNTransform(800, 1333, [0.5] * 3, [0.25] * 3).eval()
    sides = np.array([[1, 1], [13, 27], [333, 500], [119, 158], [94, 94]])
    for size, wanted in zip(sides.tolist(), of_pytorch(sides, 800, 1333).tolist(), strict=True):
        images, _ = transform([torch.zeros(3, *size)])
        assert list(images.image_sizes[0]) == wanted
