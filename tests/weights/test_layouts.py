"""Weights of every other library, in our networks: the same logits as theirs, whatever their keys are called."""

import re

import pytest
import timm
import torch
import torchvision
from torch import nn

import senet
from networks import assert_relatively_close, fresh_on_meta, on_cpu_with_random_weights
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.catalog import model_card
from senet.nn.block import SEOptions
from senet.weights.folder import packaged_weights
from senet.weights.layouts import LAYOUTS, Layout, find_layout, recognize
from senet.weights.loading import load_weights
from senet.weights.reading import read
from tiers import slow_except

AS_IN_TORCHVISION = {"stride_on": "3x3", "stem_pool": "pad"}


def timm_model(name):
    return lambda: timm.create_model(name, pretrained=False)


# Our name, the layout, their network, images' side.
PEERS = {
    "timm resnet18": ("resnet18", "torchvision", timm_model("resnet18"), 64),
    "timm resnet50": ("resnet50", "torchvision", timm_model("resnet50"), 75),
    "timm resnext50": ("resnext50_32x4d", "torchvision", timm_model("resnext50_32x4d"), 64),
    "timm resnet34": ("resnet34", "torchvision", timm_model("resnet34"), 64),
    "timm resnet101": ("resnet101", "torchvision", timm_model("resnet101"), 64),
    "timm resnet152": ("resnet152", "torchvision", timm_model("resnet152"), 64),
    "timm resnext101": ("resnext101_32x4d", "torchvision", timm_model("resnext101_32x4d"), 64),
    "timm seresnet18": ("se_resnet18", "torchvision", timm_model("seresnet18"), 64),
    "timm seresnet34": ("se_resnet34", "torchvision", timm_model("seresnet34"), 64),
    "timm seresnet50": ("se_resnet50", "torchvision", timm_model("seresnet50"), 75),
    "timm seresnet101": ("se_resnet101", "torchvision", timm_model("seresnet101"), 64),
    "timm seresnet152": ("se_resnet152", "torchvision", timm_model("seresnet152"), 64),
    "timm seresnext50": ("se_resnext50_32x4d", "torchvision", timm_model("seresnext50_32x4d"), 75),
    "timm seresnext101": ("se_resnext101_32x4d", "torchvision", timm_model("seresnext101_32x4d"), 64),
    "timm senet154": ("senet154", "torchvision", timm_model("senet154"), 64),
    "timm legacy_seresnet18": ("se_resnet18", "timm_legacy", timm_model("legacy_seresnet18"), 75),
    "timm legacy_seresnet34": ("se_resnet34", "timm_legacy", timm_model("legacy_seresnet34"), 64),
    "timm legacy_seresnet50": ("se_resnet50", "timm_legacy", timm_model("legacy_seresnet50"), 75),
    "timm legacy_seresnet101": ("se_resnet101", "timm_legacy", timm_model("legacy_seresnet101"), 64),
    "timm legacy_seresnet152": ("se_resnet152", "timm_legacy", timm_model("legacy_seresnet152"), 64),
    "timm legacy_seresnext50": ("se_resnext50_32x4d", "timm_legacy", timm_model("legacy_seresnext50_32x4d"), 75),
    "timm legacy_seresnext101": ("se_resnext101_32x4d", "timm_legacy", timm_model("legacy_seresnext101_32x4d"), 64),
    "timm legacy_senet154": ("senet154", "timm_legacy_deep", timm_model("legacy_senet154"), 64),
    "timm vgg16_bn": ("vgg16_bn", "timm_vgg", timm_model("vgg16_bn"), 64),
    "timm inception_resnet_v2": ("inception_resnet_v2", "torchvision", timm_model("inception_resnet_v2"), 107),
    "timm mobilenetv1_100": ("mobilenet_v1", "torchvision", timm_model("mobilenetv1_100"), 64),
    "torchvision resnet18": ("resnet18", "torchvision", torchvision.models.resnet18, 75),
    "torchvision resnet34": ("resnet34", "torchvision", torchvision.models.resnet34, 64),
    "torchvision resnet50": ("resnet50", "torchvision", torchvision.models.resnet50, 75),
    "torchvision resnet101": ("resnet101", "torchvision", torchvision.models.resnet101, 64),
    "torchvision resnet152": ("resnet152", "torchvision", torchvision.models.resnet152, 64),
    "torchvision resnext50": ("resnext50_32x4d", "torchvision", torchvision.models.resnext50_32x4d, 64),
    "torchvision vgg16_bn": ("vgg16_bn", "torchvision", torchvision.models.vgg16_bn, 64),
}

# Each layout, stride and family once; the others are deeper.
QUICK = (
    *("timm resnet50", "timm seresnet18", "timm legacy_seresnet18", "timm mobilenetv1_100", "torchvision resnet18"),
)


@pytest.fixture
def saved(tmp_path):
    """Write a state dict as other libraries do; return the file."""

    def save(state):
        torch.save(dict(state), tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


@torch.no_grad()
def assert_same_logits(ours: nn.Module, theirs: nn.Module, side: int) -> None:
    x = torch.randn(2, 3, side, side)
    assert_relatively_close(ours.eval()(x), theirs.eval()(x), 1e-5)


@pytest.mark.parametrize("peer", slow_except(QUICK, PEERS))
def test_the_weights_of_a_peer_give_its_logits(peer, saved):
    torch.manual_seed(0)
    name, layout, build, side = PEERS[peer]
    theirs = on_cpu_with_random_weights(build)
    file = saved(theirs.state_dict())
    assert read(file).layout.name == layout
    ours = create_model(name, weights=file)
    assert_same_logits(ours, theirs, side)


@pytest.mark.quick_every(4)
@pytest.mark.parametrize("name", senet.list_models(pretrained=True))
def test_the_public_weights_of_a_card_are_of_networks_that_are_compared_here(name):
    for weights in model_card(name).weights:
        if weights in packaged_weights(name):
            continue
        published = weights.removeprefix("timm/")
        assert published in timm.list_pretrained(exclude_filters="")
        assert (timm.get_pretrained_cfg_value(published, "hf_hub_id") or weights) == weights
        assert timm.get_pretrained_cfg_value(published, "num_classes") == model_card(name).num_classes
        architecture = published.partition(".")[0]
        with torch.device("meta"):
            state = timm.create_model(architecture).state_dict()
        compared = [
            peer for peer, (own, layout, *_) in PEERS.items() if own == name and layout == recognize(state).name
        ]
        assert any(peer.startswith("timm ") for peer in compared), weights


def test_the_preprocessing_is_that_of_the_weights(saved):
    theirs = saved(torchvision.models.resnet18().state_dict())
    model = create_model("resnet18", weights=theirs)
    assert (model.preprocessing.mean, model.preprocessing.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    gray = create_model("resnet18", in_channels=1, weights=theirs)
    assert gray.preprocessing.mean == (pytest.approx(0.449),)
    assert model_card("resnet18").preprocessing.mean != model.preprocessing.mean


# ---- layouts of libraries that are not installed: their keys, written from ours --------------------------------------


def as_mmpretrain(key):
    key = re.sub(r"\.se\.fc([12])\.", r".se_layer.conv\1.conv.", key)
    return f"head.{key}" if key.startswith("fc.") else f"backbone.{key}"


def as_cadene(key):
    key = key.replace(".se.", ".se_module.").replace("fc.", "last_linear.") if key.startswith("fc.") else key
    key = key.replace(".se.", ".se_module.")
    return f"layer0.{key}" if re.match(r"(conv1|bn1)\.", key) else key


def as_moskomule(key):
    return key.replace(".se.fc1.", ".se.fc.0.").replace(".se.fc2.", ".se.fc.2.")


@pytest.mark.parametrize(
    ("layout", "rename", "wrapped"),
    [("mmpretrain", as_mmpretrain, True), ("timm_legacy", as_cadene, False)],
)
def test_renamed_keys(layout, rename, wrapped, saved):
    """mmpretrain's checkpoints (models/backbones/seresnet.py) and Cadene's (models/senet.py)."""
    torch.manual_seed(0)
    options = AS_IN_TORCHVISION if layout == "mmpretrain" else {}
    theirs = on_cpu_with_random_weights(lambda: create_model("se_resnet50", **options))
    state = {rename(key): tensor for key, tensor in theirs.state_dict().items()}
    file = saved({"meta": {"epoch": 100}, "state_dict": state} if wrapped else state)
    assert read(file).layout.name == layout
    assert_same_logits(create_model("se_resnet50", weights=file), theirs, 75)


@pytest.mark.parametrize(
    ("name", "options", "side"),
    slow_except(
        ["cifar_se_resnet20"],
        [("se_resnet50", AS_IN_TORCHVISION, 75), ("cifar_se_resnet20", {"shortcut": "projection"}, 32)],
    ),
)
def test_moskomules_keys_and_linear_layers_without_biases(name, options, side, saved):
    """senet.pytorch, senet/se_resnet.py and se_module.py."""
    torch.manual_seed(0)
    theirs = on_cpu_with_random_weights(lambda: create_model(name, se=SEOptions(bias=False), **options))
    state = {as_moskomule(key): tensor for key, tensor in theirs.state_dict().items()}
    state = {key: tensor.flatten(1) if ".se.fc." in key else tensor for key, tensor in state.items()}
    file = saved(state)
    assert read(file).layout.name == "moskomule"
    ours = create_model(name, weights=file)
    assert not ours.config.se.bias
    assert_same_logits(ours, theirs, side)

    with_biases = create_model(name, se=SEOptions(bias=True), **options)
    report = load_weights(with_biases, file)
    assert report.adaptations == (f"{2 * len(list(se_blocks(theirs)))} SE layers without biases get zero biases",)
    assert_same_logits(with_biases.eval(), theirs, side)


def se_blocks(model):
    return (name for name, _ in model.named_modules() if name.endswith(".se"))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_the_wrappers_of_ddp_and_compile_are_taken_off(wrapper, saved):
    torch.manual_seed(0)
    theirs = on_cpu_with_random_weights(torchvision.models.resnet18)
    file = saved({wrapper + key: tensor for key, tensor in theirs.state_dict().items()})
    assert_same_logits(create_model("resnet18", weights=file), theirs, 64)


# ---- what differs in computation is said, or chosen ------------------------------------------------------------------


def test_another_stride_or_pooling_is_refused_by_name(saved):
    file = saved(torchvision.models.resnet50().state_dict())
    model = create_model("resnet50", stem_pool="pad")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(SenetError, match=re.escape("create it with stride_on='3x3'")) as caught:
        load_weights(model, file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())

    with pytest.raises(SenetError, match=re.escape("create it with stem_pool='pad'")):
        load_weights(create_model("resnet50", stride_on="3x3"), file)
    with pytest.raises(SenetError, match=re.escape("create it with stride_on='3x3'")):
        create_model("resnet50", weights=file, stride_on="1x1")
    load_weights(create_model("resnet50", **AS_IN_TORCHVISION), file)


def test_our_own_state_dict_is_not_mistaken_for_torchvisions(saved, tmp_path):
    """The keys are the same; a state dict that PyTorch writes says whose it is."""
    torch.manual_seed(0)
    ours = create_model("resnet18").eval()
    torch.save(ours.state_dict(), tmp_path / "ours.pth")
    again = create_model("resnet18", weights=tmp_path / "ours.pth")
    assert read(tmp_path / "ours.pth").layout.name == "senet"
    assert again.config.options == {} or again.config.options["stem_pool"] == "ceil"
    assert_same_logits(again, ours, 75)

    bare = saved(ours.state_dict())  # a plain dict has lost the description
    with pytest.raises(SenetError, match="layout='senet'"):
        load_weights(create_model("resnet18"), bare)
    model = create_model("resnet18")
    load_weights(model, bare, layout="senet")
    assert_same_logits(model.eval(), ours, 75)


def test_building_as_torchvision_is_said(saved, caplog):
    create_model("resnet18", weights=saved(torchvision.models.resnet18().state_dict()))
    assert "read as weights of torchvision or timm, which means stem_pool='pad'" in caplog.text


def test_no_file_is_of_two_layouts():
    """The first layout that matches is the only one, except torchvision's, whose keys are in others too."""
    for peer in ("timm legacy_senet154", "timm legacy_seresnet50", "timm vgg16_bn"):
        name, layout, build, _ = PEERS[peer]
        with torch.device("meta"):
            keys = build().state_dict()
        matching = [each.name for each in LAYOUTS if any(each.mark.search(key) for key in keys)]
        assert matching[0] == layout, name
    assert recognize(fresh_on_meta("se_resnet50").state_dict()).name == "torchvision"
    assert recognize(["unheard_of.weight"]).name == "torchvision"


def test_unknown_layouts_are_refused(saved):
    with pytest.raises(SenetError, match="layout is 'keras'; expected one of senet, caffe, timm_legacy_deep"):
        find_layout("keras")
    with pytest.raises(SenetError, match="layout is 'keras'"):
        load_weights(create_model("resnet18"), saved(torchvision.models.resnet18().state_dict()), layout="keras")


def test_keys_are_converted_once(saved, monkeypatch):
    conversions = []
    convert = Layout.convert
    monkeypatch.setattr(Layout, "convert", lambda *given: conversions.append(given) or convert(*given))
    create_model("se_resnet18", num_classes=3, weights=saved(timm.create_model("legacy_seresnet18").state_dict()))
    assert len(conversions) == 1
