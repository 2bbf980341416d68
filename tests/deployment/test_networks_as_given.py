"""Networks as users have them: wrapped, compiled, in half precision, with other channels or class names than said."""

import copy
import logging

import pytest
import torch
from torch import nn

import senet
from senet.data.preprocessing import CIFAR
from senet.deployment.config import ExportConfig
from senet.deployment.graph import bare_network, build_graph
from senet.deployment.parity import compare_exported
from senet.errors import SenetError

timm = pytest.importorskip("timm", reason="timm is not installed")


class Net(nn.Module):
    """A small network of three classes, called a, b and c."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.preprocessing, self.class_names = CIFAR.with_channels(channels), ("a", "b", "c")

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def trained():
    torch.manual_seed(0)
    model = Net()
    for _ in range(3):
        model(torch.randn(8, 3, 32, 32))
    return model


def distributed(model):
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        return nn.parallel.DistributedDataParallel(model)
    finally:
        torch.distributed.destroy_process_group()


WRAPPED = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": distributed,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "torch.compile": torch.compile,
    "both": lambda model: torch.compile(nn.DataParallel(model)),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_networks_are_exported_as_what_is_inside(wrap, tmp_path):
    model = trained()
    made = senet.export(wrap(model), tmp_path / "a.pt2", to="torch_export")
    assert made.metadata["class_names"] == ["a", "b", "c"]
    assert model.training
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(senet.load_exported(made.path)(x), model.eval()(x), rtol=1e-5, atol=1e-5)


def test_what_a_wrapper_states_counts_where_the_network_states_nothing():
    model = trained()
    del model.preprocessing, model.class_names
    wrapper = nn.DataParallel(model)
    wrapper.preprocessing, wrapper.class_names = CIFAR, ("x", "y", "z")
    found = bare_network(wrapper)
    assert (found.preprocessing, found.class_names) == (CIFAR, ("x", "y", "z"))
    assert not hasattr(model, "preprocessing")
    model.class_names = ("a", "b", "c")
    assert bare_network(wrapper).class_names == ("a", "b", "c")


def test_a_network_compiled_in_place_is_not_compiled_for_the_comparison():
    model = trained()
    model.compile(backend=lambda *_: pytest.fail("it was compiled"))
    found = bare_network(model)
    found.eval()(torch.zeros(1, 3, 32, 32))
    assert model.training


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_exported_in_float32_and_the_log_says_so(kind, tmp_path, caplog):
    caplog.set_level(logging.INFO, "senet.deployment")
    model = trained().to(kind)
    exact = copy.deepcopy(model).float().eval()
    made = senet.export(model, tmp_path / "a.pt2", to="torch_export")
    assert made.parity.within_tolerance
    assert f"the network is in {str(kind)[6:]}; its copy in float32 is exported" in caplog.messages
    assert next(model.parameters()).dtype == kind
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(senet.load_exported(made.path)(x), exact(x), rtol=1e-5, atol=1e-5)
    assert compare_exported(model, made.path, timed=False).within_tolerance


def test_a_network_without_weights_is_refused(tmp_path):
    with pytest.raises(SenetError, match="Net is on the meta device, where it has no weights; load them first"):
        senet.export(Net().to("meta"), tmp_path / "a.pt2", to="torch_export")


@pytest.mark.parametrize("channels", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_channels_that_the_preprocessing_does_not_have_and_the_remedy(channels, tmp_path):
    model = timm.create_model("mobilenetv3_small_050", in_chans=channels, num_classes=3).eval()
    said = (
        rf"takes images of {channels} channels?, but its preprocessing has 3; set model\.preprocessing to a senet\.Pre"
    )
    with pytest.raises(SenetError, match=said):
        senet.export(model, tmp_path / "a.pt2", to="torch_export")
    assert not list(tmp_path.iterdir())
    mean = std = (0.5,) * channels
    model.preprocessing = senet.Preprocessing(image_size=32, resize=32, mean=mean, std=std)
    made = senet.export(model, tmp_path / "a.pt2", to="torch_export")
    assert made.metadata["input"]["shape"] == ["batch", channels, 32, 32]


def test_what_does_not_run_or_returns_no_logits_is_said(tmp_path):
    with pytest.raises(
        SenetError, match=r"Net cannot be exported for it does not run on an input of shape \(2, 3, 2, 2"
    ):
        build_graph(Net().eval(), ExportConfig(image_size=(2, 2)))
    model = Net().eval()
    model.forward = lambda x: {"out": x}
    with pytest.raises(SenetError, match=r"Net returns a dict; networks that return logits \(N, classes\)"):
        build_graph(model, ExportConfig(rewrite=False))


@pytest.mark.parametrize("number", [1, 2, 4])
def test_class_names_that_are_not_as_many_as_the_logits(number, tmp_path):
    model = Net().eval()
    model.class_names = tuple("abcd"[:number])
    said = f"model.class_names has {number} names?, but Net computes 3 logits; give a name for each, in their order"
    with pytest.raises(SenetError, match=said):
        senet.export(model, tmp_path / "a.pt2", to="torch_export")
    assert not list(tmp_path.iterdir())
    model.class_names = None
    made = senet.export(model, tmp_path / "a.pt2", to="torch_export")
    opened = senet.load_exported(made.path)
    opened.function.class_names = ("a", "b")
    with pytest.raises(SenetError, match=r"a\.pt2 computes 3 logits, but its metadata name 2 classes; export it again"):
        opened(torch.zeros(1, 3, 32, 32))
