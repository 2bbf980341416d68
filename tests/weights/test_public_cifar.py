"""The public weights of CIFAR networks: the same logits as the networks that they come from, or one true sentence.

The networks here are written again, from what the repositories say of theirs: names, shapes and arithmetic.
"""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks import num_parameters, randomize, relative_difference
from senet.cli import main
from senet.data.preprocessing import CIFAR
from senet.errors import SenetError
from senet.factory import create_model, from_pretrained
from senet.models.catalog import model_card
from senet.nn.block import SEBlock
from senet.weights.loading import load_weights
from senet.weights.reading import read

IMAGENET_MEAN = (0.485, 0.456, 0.406)


class Unit(nn.Module):
    """A basic unit: akamaster's (`shortcut`: zeros on both sides, or a projection) or chenyaofo's (`downsample`)."""

    def __init__(self, before, after, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.margin, self.name = stride, (after - before) // 2, None
        if before != after and shortcut != "zeros":
            self.name = shortcut
            projection = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            self.add_module(shortcut, projection)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.name is not None:
            return F.relu(out + self.get_submodule(self.name)(x))
        return F.relu(out + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.margin, self.margin)))


class Peer(nn.Module):
    """A ResNet for CIFAR-10 as in akamaster/pytorch_resnet_cifar10 or chenyaofo/pytorch-cifar-models, resnet.py."""

    def __init__(self, units, shortcut, classifier, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for i in (1, 2, 3):
            stage = [Unit(widths[i - 1], widths[i], 1 if i == 1 else 2, shortcut)]
            stage += [Unit(widths[i], widths[i], 1, shortcut) for _ in range(units - 1)]
            self.add_module(f"layer{i}", nn.Sequential(*stage))
        self.add_module(classifier, nn.Linear(64, num_classes))
        self.classifier = classifier

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.get_submodule(self.classifier)(x.mean((2, 3)))


def peer(*arguments, **options):
    torch.manual_seed(0)
    model = Peer(*arguments, **options)
    randomize(model)
    return model.eval()


@torch.no_grad()
def assert_same_function(ours, theirs):
    """In float64, so that nothing but the order of sums may differ."""
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = theirs.double()(x)
    assert expected.std() > 0
    assert relative_difference(ours.eval().double()(x), expected) < 1e-12


@pytest.mark.parametrize(
    ("units", "name", "options"), [(3, "cifar_resnet20", {}), (4, "cifar_resnet20", {"depth": 26})]
)
@pytest.mark.parametrize("shortcut", ["zeros", "shortcut"])
def test_akamasters_files_load(units, name, options, shortcut, tmp_path):
    """As trainer.py there writes them: from DataParallel, inside `state_dict`, in a file called .th."""
    theirs, file = peer(units, shortcut, "linear"), tmp_path / "resnet.th"
    state = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 92.6}, file)
    assert read(file).layout.name == "akamaster"
    ours = create_model(name, weights=file, **options)
    assert ours.config.options["shortcut"] == ("pad" if shortcut == "zeros" else "projection")
    assert (ours.preprocessing.mean, ours.preprocessing.image_size) == (IMAGENET_MEAN, 32)
    assert_same_function(ours, theirs)
    if shortcut == "zeros":
        with_se = create_model(model_card(name).twin, weights=file, **options)
        assert any(isinstance(module, SEBlock) for module in with_se.modules())
        assert_same_function(with_se, theirs)


@pytest.mark.parametrize(("num_classes", "mean", "std"), [(10, 0.4914, 0.2023), (100, 0.5070, 0.2673)])
def test_chenyaofos_files_load(num_classes, mean, std, tmp_path, caplog):
    theirs, file = peer(3, "downsample", "fc", num_classes=num_classes), tmp_path / "cifar_resnet20.pt"
    torch.save(theirs.state_dict(), file)
    assert read(file).layout.name == "chenyaofo"
    ours = create_model("cifar_resnet20", weights=file)
    assert ours.config.options["shortcut"] == "projection"
    assert (ours.preprocessing.mean[0], ours.preprocessing.std[0]) == (mean, std)
    assert_same_function(ours, theirs)
    assert "with its preprocessing; pass layout='senet'" in caplog.text  # the keys are those of ours too
    assert create_model("cifar_resnet20", weights=file, layout="senet").preprocessing == CIFAR
    with pytest.raises(SenetError, match=re.escape("create it with shortcut='projection'")):
        load_weights(create_model("cifar_resnet20", num_classes), file)


def test_depths_beyond_the_registry():
    """The number of parameters that akamaster's page gives for ResNet-1202: 19.4 million."""
    with torch.device("meta"):
        assert round(num_parameters(create_model("cifar_resnet110", depth=1202)) / 1e6, 1) == 19.4
        assert num_parameters(create_model("cifar_se_resnet20", depth=56)) == num_parameters(
            create_model("cifar_se_resnet56")
        )
    for depth, said in ((21, "depth is 21; expected 6n"), ("26", "depth is '26'; expected a whole number, 6n")):
        with pytest.raises(SenetError, match=said):
            create_model("cifar_resnet20", depth=depth)


@pytest.mark.parametrize(("units", "remedy"), [(5, "create cifar_resnet32"), (4, "create it with depth=26")])
def test_another_depth_is_refused_with_what_fits(units, remedy, tmp_path):
    theirs, file = peer(units, "zeros", "linear"), tmp_path / "resnet.th"
    torch.save(theirs.state_dict(), file)
    with pytest.raises(SenetError, match=f"depth {6 * units + 2}, the model of 20; {remedy}"):
        create_model("cifar_resnet20", weights=file)
    name, options = (remedy.split()[1], {}) if units == 5 else ("cifar_resnet20", {"depth": 26})
    assert_same_function(create_model(name, weights=file, **options), theirs)
    words = [word for key, value in options.items() for word in ("--model-kwargs", f"{key}={value}")]
    assert main(["convert", name, str(file), "--output", str(tmp_path / "model"), *words]) == 0
    assert_same_function(from_pretrained(tmp_path / "model"), theirs)


STRANGERS = {
    "weiaicunzai": ("pre.0.weight", "stage1.0.residual.0.weight", "stage1.0.excitation.0.weight", "linear.weight"),
    "kuangliu": (
        "conv1.weight",
        "layer1.0.fc1.weight",
        "layer4.0.fc1.weight",
        "layer4.0.shortcut.0.weight",
        "linear.weight",
    ),
}


@pytest.mark.parametrize("owner", STRANGERS)
@pytest.mark.parametrize("name", ["cifar_se_resnet20", "se_resnet18"])
def test_networks_that_this_library_lacks_are_named(owner, name, tmp_path):
    """Their SE networks have 64 to 512 channels at 32 pixels: models/senet.py in both."""
    file = tmp_path / "senet.pth"
    torch.save({key: torch.zeros(8, 8) for key in STRANGERS[owner]}, file)
    for load in (lambda: create_model(name, weights=file), lambda: load_weights(create_model(name), file)):
        with pytest.raises(SenetError, match=f"{owner}.*none of this library's; load it into the class") as caught:
            load()
        assert "\n" not in str(caught.value)
    its_class = nn.Module()
    for key in STRANGERS[owner]:
        place, _, leaf = key.rpartition(".")
        module = its_class
        for part in place.split("."):
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(leaf, nn.Parameter(torch.ones(8, 8)))
    load_weights(its_class, file)
    assert not any(parameter.any() for parameter in its_class.parameters())
