"""Decoders of segmentation_models_pytorch on this library's networks, which it builds through timm ("tu-NAME")."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import senet
import senet.integrations.timm  # registers the networks
from networks import assert_relatively_close, on_cpu_with_random_weights, randomize
from page_blocks import block_with
from senet.errors import SenetError
from senet.models.base import Network
from tiers import slow_except

smp = pytest.importorskip("segmentation_models_pytorch")

DEPTH = 5
# All its decoders but DPT, which takes vision transformers alone, with the output stride that each asks for.
DECODERS = {
    **dict.fromkeys(("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "UPerNet", "Segformer"), 32),
    **{"PSPNet": 32, "DeepLabV3": 8, "DeepLabV3Plus": 16, "PAN": 16},
}
SIDE = 64


def side_of(decoder: str) -> int:
    return 2 * SIDE if decoder == "PAN" else SIDE  # its pooling needs the room


def assert_features_are_the_intermediates(model: nn.Module, whole: Network, x: Tensor) -> None:
    """What the decoder gets, against another network with the same weights."""
    image, *features = model.encoder(x)
    assert torch.equal(image, x)
    inside = model.encoder.model.model  # below smp's and timm's wrappers
    missing, unexpected = whole.load_state_dict(inside.state_dict(), strict=False)
    assert not unexpected
    levels = range(len(features))
    expected = whole.eval().forward_intermediates(x, levels, intermediates_only=True)
    last = whole.trunk.index(whole.feature_info[levels[-1]]["module"])
    assert {key.split(".")[0] for key in missing} <= {*whole.trunk[last + 1 :], "fc"}
    for ours, theirs in zip(features, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert model.encoder.out_channels == [x.shape[1], *(m.shape[1] for m in expected)]


@pytest.mark.quick_every(4)
@torch.no_grad()
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder(decoder):
    torch.manual_seed(0)
    model = getattr(smp, decoder)("tu-se_resnet18", encoder_weights=None, classes=2)
    randomize(model.eval())
    side = side_of(decoder)
    x = torch.randn(2, 3, side, side)
    assert model(x).shape == (2, 2, side, side)
    whole = senet.create_model("se_resnet18", output_stride=DECODERS[decoder])
    assert_features_are_the_intermediates(model, whole, x)
    assert model.encoder.output_stride == (8 if decoder == "PSPNet" else DECODERS[decoder])


@pytest.mark.quick_every(2)
@torch.no_grad()
@pytest.mark.parametrize("in_channels", [1, 3, 4])
@pytest.mark.parametrize("decoder", slow_except(("Unet", "DeepLabV3Plus"), DECODERS))
@pytest.mark.parametrize("name", slow_except(["se_resnet18"], ["se_resnet18", "se_resnet50", "se_resnext50_32x4d"]))
def test_channels(name, decoder, in_channels):
    model = getattr(smp, decoder)(f"tu-{name}", encoder_weights=None, in_channels=in_channels, classes=2).eval()
    side = side_of(decoder)
    x = torch.randn(1, in_channels, side, side)
    assert model(x).shape == (1, 2, side, side)
    whole = senet.create_model(name, in_channels=in_channels, output_stride=DECODERS[decoder])
    assert_features_are_the_intermediates(model, whole, x)


@torch.no_grad()
@pytest.mark.parametrize("depth", [3, 4, 5])
def test_depths(depth):
    model = smp.Unet("tu-se_resnet18", encoder_weights=None, encoder_depth=depth, decoder_channels=[8] * depth).eval()
    x = torch.randn(1, 3, SIDE, SIDE)
    assert model(x).shape == (1, 1, SIDE, SIDE)
    assert len(model.encoder(x)) == 1 + depth
    assert_features_are_the_intermediates(model, senet.create_model("se_resnet18"), x)
    assert hasattr(model.encoder.model.model, "layer4")
    assert isinstance(model.encoder.model.model.layer4, nn.Identity) == (depth < DEPTH)


def test_training_reaches_the_encoder_and_a_frozen_one_stays():
    torch.manual_seed(0)
    model = smp.Unet("tu-cifar_se_resnet20", encoder_weights=True, encoder_depth=2, decoder_channels=(8, 8))
    inside = model.encoder.model.model
    x, mask = torch.randn(2, 3, 32, 32), torch.rand(2, 1, 32, 32).round()
    loss = nn.functional.binary_cross_entropy_with_logits(model.train()(x), mask)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in inside.layer3.parameters())
    assert (
        inside.bn1.num_batches_tracked
        == 1 + senet.create_model("cifar_se_resnet20", weights="cifar10").bn1.num_batches_tracked
    )
    model.freeze_encoder()
    before = {key: value.clone() for key, value in inside.state_dict().items()}
    model.train()(x)
    assert all(torch.equal(value, before[key]) for key, value in inside.state_dict().items())
    assert not any(p.requires_grad for p in inside.parameters())


# ---- weights ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_weights_of_the_package():
    model = smp.Unet("tu-cifar_se_resnet20", encoder_weights=True, encoder_depth=2, decoder_channels=(16, 8)).eval()
    whole = senet.create_model("cifar_se_resnet20", weights="cifar10").eval()
    x = torch.randn(2, 3, 32, 32)
    assert model(x).shape == (2, 1, 32, 32)
    maps = whole.forward_intermediates(x, intermediates_only=True)
    for ours, theirs in zip(model.encoder(x), maps, strict=True):  # the first has the image's size, and stands for it
        assert torch.equal(ours, theirs)
    wants = smp.encoders.get_preprocessing_params("tu-cifar_se_resnet20")
    assert (tuple(wants["mean"]), tuple(wants["std"])) == (whole.preprocessing.mean, whole.preprocessing.std)


@pytest.fixture
def trunk(tmp_path: Path) -> tuple[str, Network]:
    """A model folder of a network whose options are not the defaults, and the network."""
    model = senet.create_model("se_resnet18", num_classes=3, se=senet.SEOptions(reduction=4), stem_pool="pad")
    randomize(model)
    senet.save_pretrained(model, tmp_path / "trunk")
    return f"tu-local-dir:{tmp_path / 'trunk'}", model.eval()


@torch.no_grad()
@pytest.mark.parametrize("decoder", ["Unet", "DeepLabV3Plus"])
def test_a_model_folder_is_an_encoder(trunk, decoder):
    name, whole = trunk
    model = getattr(smp, decoder)(name, encoder_weights=True).eval()
    x = torch.randn(1, 3, SIDE, SIDE)
    expected = whole.forward_intermediates(x, intermediates_only=True)
    same = DEPTH if decoder == "Unet" else DEPTH - 1  # the last stage is dilated, for which its gates are others
    for ours, theirs in list(zip(model.encoder(x)[1:], expected, strict=True))[:same]:
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_a_model_of_smp_is_saved_and_opened(trunk, tmp_path):
    name, _ = trunk
    model = smp.FPN(name, encoder_weights=True).eval()
    model.save_pretrained(str(tmp_path / "saved"))
    again = smp.from_pretrained(str(tmp_path / "saved")).eval()
    x = torch.randn(1, 3, SIDE, SIDE)
    assert torch.equal(again(x), model(x))


@pytest.mark.slow
def test_the_block_of_the_page_runs():
    names: dict[str, object] = {}
    exec(block_with("detection.md", "import segmentation_models_pytorch"), names)
    assert names["model"].encoder.model.model.config.name == "cifar_se_resnet20"


def test_what_an_encoder_cannot_is_refused_in_one_sentence():
    with pytest.raises(SenetError, match=r"^indices is \(0, 1, 2, 3, 4, 5\); expected some of the 3 levels"):
        smp.Unet("tu-cifar_se_resnet20", encoder_weights=None)
    with pytest.raises(SenetError, match=r"^se_mobilenet_v1 has no option 'output_stride'"):
        smp.DeepLabV3("tu-se_mobilenet_v1", encoder_weights=None)


# ---- its own port of the same networks -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        *(("se_resnet50", stride) for stride in (8, 16, 32)),
        pytest.param("se_resnext50_32x4d", 32, marks=pytest.mark.slow),
        pytest.param("senet154", 32, marks=pytest.mark.slow),
    ],
)
def test_its_own_encoder_has_the_same_maps(name, output_stride, tmp_path):
    """smp dilates as is exact for a stride on the 1x1 convolution, as SE-ResNet has; for the others it differs."""
    theirs = on_cpu_with_random_weights(
        partial(smp.encoders.get_encoder, name, weights=None, output_stride=output_stride)
    )
    state = theirs.state_dict() | {"last_linear.weight": torch.randn(2, 2048), "last_linear.bias": torch.randn(2)}
    torch.save(state, tmp_path / "encoder.pth")
    ours = senet.create_model(name, weights=tmp_path / "encoder.pth", output_stride=output_stride).eval()
    x = torch.randn(1, 3, 96, 64)
    for a, b in zip(ours.forward_intermediates(x, intermediates_only=True), theirs(x)[1:], strict=True):
        assert_relatively_close(a, b, 1e-4)


# ---- exported --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("how", ["script", "trace", "export"])
def test_a_whole_model_becomes_a_program(how):
    model = smp.DeepLabV3Plus("tu-se_resnet18", encoder_weights=None).eval()
    randomize(model)
    x = torch.randn(1, 3, SIDE, SIDE)
    expected = model(x)
    if how == "export":
        program = torch.export.export(model, (x,)).module()
    else:
        program = torch.jit.script(model) if how == "script" else torch.jit.trace(model, x)
    assert_relatively_close(program(x), expected, 1e-5)
