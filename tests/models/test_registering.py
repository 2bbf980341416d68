"""Networks of other packages: registered, they do what this library's own do."""

import json
from dataclasses import replace

import pytest
import timm
import torch

import senet
from networks import randomize
from senet.data.preprocessing import CIFAR
from senet.errors import SenetError
from senet.integrations.timm import register
from senet.models.catalog import CARDS, Card, list_models, model_card, register_model
from senet.nn.block import SEOptions
from senet.weights.folder import save_pretrained
from tiny_family import TinyNet

TINY = Card(
    name="tiny",
    build=TinyNet,
    family="tiny",
    has_se=False,
    twin="tiny_with_gates",
    source="made up",
    preprocessing=CIFAR,
    num_classes=10,
    options=("width", "dropout"),
)


@pytest.fixture
def tiny(monkeypatch):
    """The registry with two more networks, for one test."""
    monkeypatch.setattr(CARDS, "_entries", dict(CARDS._entries))
    monkeypatch.setattr(CARDS, "_modules", dict(CARDS._modules))
    register_model(TINY)
    register_model(replace(TINY, name="tiny_with_gates", has_se=True, twin="tiny"))


def random_network(name, **options):
    torch.manual_seed(0)
    model = senet.create_model(name, **options)
    randomize(model)
    return model.eval()


def test_a_registered_network_is_listed_and_built(tiny):
    assert list_models("tiny*") == ["tiny", "tiny_with_gates"]
    assert model_card("tiny") == TINY
    assert CARDS.module_of("tiny") == __name__
    assert CARDS.module_of("resnet50") is None
    model = senet.create_model("tiny_with_gates", 7, 1, se=SEOptions(reduction=4), width=8)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert (model.stage2[0].se.fc1.out_channels, model.first_conv) == (2, "entry")
    with pytest.raises(SenetError, match="tiny is a plain network; the network with SE is tiny_with_gates"):
        senet.create_model("tiny", se=SEOptions())


def test_a_registered_network_starts_from_its_plain_twin(tiny, tmp_path):
    plain, x = random_network("tiny"), torch.randn(2, 3, 32, 32)
    save_pretrained(plain, tmp_path / "plain")
    model = senet.create_model("tiny_with_gates", weights=tmp_path / "plain").eval()
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
    fewer = senet.create_model("tiny_with_gates", 3, 1, weights=tmp_path / "plain")
    assert fewer.head.out_features == 3
    assert torch.equal(fewer.entry.weight, plain.entry.weight.sum(1, keepdim=True))


def test_a_registered_network_is_saved_and_read(tiny, tmp_path):
    model, x = random_network("tiny_with_gates", width=8), torch.randn(2, 3, 32, 32)
    save_pretrained(model, tmp_path / "folder")
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["requires"] == [__name__]
    read = senet.from_pretrained(tmp_path / "folder")
    with torch.no_grad():
        assert torch.equal(read(x), model(x))
    assert read.config == model.config


def test_timm_builds_a_registered_network(tiny):
    register()
    model = timm.create_model("tiny_with_gates", num_classes=5, drop_rate=0.25)
    assert isinstance(model, TinyNet)
    assert (model.num_classes, model.dropout.p) == (5, 0.25)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "the network 'resnet50' is registered already, by senet; choose another name"),
        ("mine/tiny", "name is 'mine/tiny'; expected one without '/'"),
    ],
)
def test_names_that_are_refused(name, message, tiny):
    with pytest.raises(SenetError, match=message):
        register_model(replace(TINY, name=name))
