"""The precisions: which device has which, and PyTorch's settings of float32 products, set and restored."""

import warnings
from contextlib import suppress

import pytest
import torch

from senet.errors import SenetError
from senet.nn import precision
from senet.nn.precision import check_precision, computing, float32_products

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BACKENDS = torch.backends


def settings():
    """Return all of PyTorch's settings of float32 products, of both generations."""
    newer = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.mkldnn.matmul, BACKENDS)
    return [part.fp32_precision for part in newer], precision.older_settings()


@pytest.fixture(autouse=True)
def _settings_of_a_new_process():
    def reset():
        torch.set_float32_matmul_precision("highest")
        BACKENDS.cudnn.allow_tf32 = True
        for part in (BACKENDS, BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul):
            part.fp32_precision = "none"
        for part in (BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn):
            part.fp32_precision = "tf32"

    reset()
    yield
    reset()


def nothing():
    """Leave PyTorch as it is when it is imported: products in float32, convolutions in TF32."""


def older():
    BACKENDS.cuda.matmul.allow_tf32 = True
    BACKENDS.cudnn.allow_tf32 = False


def medium():
    torch.set_float32_matmul_precision("medium")


def newer():
    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    BACKENDS.cudnn.conv.fp32_precision = "ieee"


def everywhere():
    BACKENDS.fp32_precision = "tf32"


@pytest.mark.parametrize("chosen_by_the_user", [nothing, older, medium, newer, everywhere], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["fp32", "tf32"])
@pytest.mark.filterwarnings("error")
def test_products_on_cuda_are_as_asked_and_the_settings_come_back(name, chosen_by_the_user):
    chosen_by_the_user()
    before = settings()
    with suppress(KeyError), float32_products(GPU, name):
        matmul, cudnn = BACKENDS.cuda.matmul, BACKENDS.cudnn
        used = {part.fp32_precision for part in (matmul, cudnn.conv, cudnn.rnn)}
        assert used == {"tf32" if name == "tf32" else "ieee"}
        # What torch.compile reads: an error if the two generations contradict each other.
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (name == "tf32",) * 2
        assert torch.get_float32_matmul_precision() == ("high" if name == "tf32" else "highest")
        raise KeyError  # an error restores them too
    after = settings()
    assert after[0] == before[0]
    assert all(now == was for now, was in zip(after[1], before[1], strict=True) if was is not None)


@pytest.mark.parametrize(("device", "name"), [(GPU, "bf16"), (GPU, "fp16"), (CPU, "fp32")])
def test_other_precisions_and_devices_leave_the_settings_alone(device, name):
    older()
    before = settings()
    with float32_products(device, name):
        assert settings() == before


@pytest.mark.parametrize(("capability", "expected"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_needs_ampere(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.has_tf32(GPU) == expected
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not precision.has_tf32(GPU)
    if expected:
        return
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(SenetError, match=r"^option is 'tf32', which NVIDIA's GPUs have since Ampere; use auto"):
        check_precision("option", "tf32", GPU)


def test_what_the_cpu_does_not_have_is_refused():
    with pytest.raises(SenetError, match=r"^precision is 'tf32', .* on the CPU$"), computing(CPU, "tf32"):
        pass
    with pytest.raises(SenetError, match=r"^precision is 'fp16', which needs a GPU"), computing(CPU, "fp16"):
        pass
    with pytest.raises(SenetError, match=r"^precision is 'fp8'; expected one of auto, fp32, tf32, bf16, fp16$"):
        check_precision("precision", "fp8", CPU)


def test_a_network_on_cuda_computes_as_asked(monkeypatch):
    """On a device that says it is one: the settings hold while the context is open, together with autocast."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # autocast on a device that is not there
        for name, expected in (("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "none"), ("auto", "none")):
            with computing(GPU, name):
                assert BACKENDS.cuda.matmul.fp32_precision == expected
