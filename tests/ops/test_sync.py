"""The residual tail in two processes, whose batches count as one, against the plain formula on the whole batch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from drivers import run_in_two_processes

SIZES = (3, 2)  # images of each process
C, K = 8, 3
EPS = 1e-3


def formula(x: dict[str, Tensor]) -> Tensor:
    def normalized(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean = u.mean((0, 2, 3), keepdim=True)
        var = (u - mean).square().mean((0, 2, 3), keepdim=True)
        return (u - mean) / (var + EPS).sqrt() * weight[:, None, None] + bias[:, None, None]

    y = normalized(x["u"], x["weight"], x["bias"])
    if "fc1" in x:
        hidden = (y.mean((2, 3)) @ x["fc1"].T + x["bias1"]).clamp(min=0)
        y = y * torch.tanh(hidden @ x["fc2"].T + x["bias2"])[:, :, None, None]
    s = x["shortcut"]
    return (y + (normalized(s, x["s_weight"], x["s_bias"]) if "s_weight" in x else s)).clamp(min=0)


def random_inputs(se: bool, shortcut_norm: bool, dtype: torch.dtype, last: bool) -> dict[str, object]:
    """The whole batch; the processes' parts differ in mean and variance."""
    shape = (sum(SIZES), C, 5, 4)
    of_process = torch.tensor([0.0] * SIZES[0] + [1.0] * SIZES[1])[:, None, None, None]
    x = {name: (1 + of_process) * torch.randn(shape) + 2 * of_process for name in ("u", "shortcut")}
    x |= {"dy": torch.randn(shape), "weight": torch.rand(C) + 0.5, "bias": torch.randn(C)}
    if se:
        x |= {"fc1": torch.randn(K, C), "fc2": torch.randn(C, K), "bias1": torch.randn(K), "bias2": torch.randn(C)}
    if shortcut_norm:
        x |= {"s_weight": torch.rand(C) + 0.5, "s_bias": torch.randn(C)}
    return {name: value.to(dtype) for name, value in x.items()} | {"last": last}


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    largest = expected.abs().max().item()
    torch.testing.assert_close(
        actual.double(),
        expected.detach(),
        rtol=tolerance,
        atol=tolerance * largest,
        msg=lambda text: f"{what}: {text}",
    )


CASES = {
    "everything": (True, True, torch.float64, True),
    "nchw": (True, True, torch.float64, False),
    "without_se": (False, True, torch.float64, True),
    "plain_shortcut": (True, False, torch.float64, True),
    "float32": (True, True, torch.float32, True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what they computed."""
    folder = tmp_path_factory.mktemp("processes")
    torch.manual_seed(0)
    torch.save({name: random_inputs(*case) for name, case in CASES.items()}, folder / "inputs.pt")
    run_in_two_processes("tail_of_two_processes.py", folder)
    return folder


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_batch(folder, name):
    x = torch.load(folder / "inputs.pt")[name]
    tolerance = 1e-11 if x["u"].dtype == torch.float64 else 2e-5
    del x["last"]
    x = {key: value.double().requires_grad_(key != "dy") for key, value in x.items()}
    y = formula(x)
    leaves = {key: value for key, value in x.items() if key != "dy"}
    expected = dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), x["dy"]), strict=True))
    for rank in range(2):
        found = torch.load(folder / f"{name}_{rank}.pt")
        assert_close(found["y"], y.split(SIZES)[rank], tolerance, "y")
        for key, gradient in found["gradients"].items():
            part = expected[key].split(SIZES)[rank] if key in ("u", "shortcut") else expected[key]
            assert_close(gradient, part, tolerance, f"gradient of {key}")
        for key, statistics in (("u", found["statistics"]), ("shortcut", found["s_statistics"])):
            if statistics is None:
                assert "s_weight" not in x
                continue
            mean, *variances = statistics
            assert_close(mean, x[key].mean((0, 2, 3)), tolerance, "mean")
            for correction, variance in enumerate(variances):
                assert_close(variance, x[key].var((0, 2, 3), correction=correction), tolerance, "variance")
