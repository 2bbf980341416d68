"""Models and options that insertion refuses, each with one sentence, and leaves as they are."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from senet import SenetError, SEOptions, insert_se, remove_se
from surgery_models import hooks_of, image

torchvision_model = partial(torchvision.models.get_model, weights=None)


# ---- bad input -------------------------------------------------------------------------------------------------------


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("give me a dictionary")


def test_a_model_that_does_not_run():
    model = Broken()
    with pytest.raises(
        SenetError, match=r"Broken does not run on images of .* \(give me a dictionary\); pass example_inputs, or where"
    ):
        insert_se(model)
    report = insert_se(model, where="norm")
    assert [(site.module, site.channels, site.kind) for site in report.sites] == [("norm", 32, "named module")]
    x = image(4, channels=32)
    assert torch.equal(model.norm(x), F.batch_norm(x, None, None, model.norm.weight, model.norm.bias, training=True))
    remove_se(model)
    with pytest.raises(SenetError, match="where matches no module"):
        insert_se(model, where="nothing*")


class RunsItsChildren(nn.Module):
    """Runs whatever children it has, and so a block among them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(32, 16, 1), nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([child(x) for child in self.children()], 1)


class SumsItsChildren(nn.Module):
    """A branch that runs a block among its children as it runs the others, and nothing fails."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return sum(child(x) for child in self.children())


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = SumsItsChildren()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 32, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)) + torch.rand(1)


CASES = {
    "runs its children": (
        lambda: nn.Sequential(nn.Conv2d(3, 32, 1), RunsItsChildren()),
        {},
        "Sequential does not run with blocks in it, or its outputs differ",
    ),
    "runs a block twice": (
        lambda: nn.Sequential(nn.Conv2d(3, 32, 1), Around()),
        {"preserve_outputs": False},
        r"Sequential does not run the block at 1\.branch exactly once; leave that module out by where",
    ),
    "noisy": (Noisy, {}, "Noisy does not run with blocks in it, or its outputs differ, with them or"),
    "not a CNN": (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)),
        {},
        "Sequential has no convolution; SE is for CNNs",
    ),
    "a ReLU": (nn.ReLU, {}, "ReLU has no convolution; SE is for CNNs"),
    "no site": (lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.Flatten()), {}, "no place for an SE block"),
    "no match": (None, {"where": "layer9*"}, "where matches none of the 8 sites of ResNet, such as layer1.0.bn2"),
    "no stage": (
        None,
        {"options": SEOptions(stages=(9,))},
        r"options\.stages is \(9,\), but the sites of ResNet are in the stages 2, 3, 4, 5",
    ),
    "reduction": (
        None,
        {"options": SEOptions(reduction=1024)},
        r"options\.reduction is 1024, but the widest site of ResNet has 512 channels",
    ),
    "options": (None, {"options": {"reduction": 8}}, r"options is \{'reduction': 8\}; expected senet\.SEOptions"),
    "tanh": (
        None,
        {"options": SEOptions(gate="tanh")},
        "a tanh gate cannot start at 1; choose another gate, or preserve_outputs=False",
    ),
    "relu": (None, {"options": SEOptions(gate="relu", bias=False)}, "a relu gate without biases cannot start at 1"),
    "placement": (
        None,
        {"options": SEOptions(placement="identity")},
        r"options\.placement is 'identity'; expected one of standard, pre, post, 3x3",
    ),
    "placement without residual blocks": (
        lambda: torchvision_model("vgg11_bn"),
        {"options": SEOptions(placement="pre")},
        r"options\.placement is 'pre', but VGG has no residual block .*; leave it out",
    ),
    "existing": (None, {"existing": "twice"}, "existing is 'twice'; expected one of skip, add"),
    "inputs of five channels": (
        None,
        {"example_inputs": torch.zeros(1, 5, 64, 64)},
        r"ResNet does not run on example_inputs \(1, 5, 64, 64\)",
    ),
    "inputs": (
        None,
        {"example_inputs": "images"},
        "example_inputs is a str; expected a tensor, a list, a tuple or a dictionary",
    ),
    "inputs of two": (
        None,
        {"example_inputs": (torch.zeros(1, 3, 64, 64), torch.zeros(3))},
        r"does not run on example_inputs \(\(1, 3, 64, 64\), \(3,\)\)",
    ),
    "scripted": (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 1))), {}, "is scripted"),
    "compiled": (lambda: torch.compile(nn.Conv2d(3, 8, 1)), {}, "the model is compiled"),
    "quantized": (lambda: nn.Sequential(torch.ao.nn.quantized.Conv2d(3, 8, 1)), {}, "is quantized"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_bad_input_is_one_sentence_and_the_model_stays(case):
    create, options, message = CASES[case]
    model = timm.create_model("resnet18") if create is None else create()
    keys, hooks = list(model.state_dict()), hooks_of(model)
    with pytest.raises(SenetError, match=message) as raised:
        insert_se(model, **options)
    assert "\n" not in str(raised.value)
    assert list(model.state_dict()) == keys
    assert hooks_of(model) == hooks


def test_narrow_sites_are_skipped():
    report = insert_se(timm.create_model("mobilenetv2_100"), SEOptions(reduction=100))
    assert min(site.channels for site in report.sites) >= 100
    assert "24 channels are fewer than the reduction 100" in {skip.reason for skip in report.skipped}


def test_the_report_is_a_table():
    text = str(insert_se(timm.create_model("resnet18"), SEOptions(stages=(5,))))
    assert "layer4.1.bn2" in text
    assert "skipped: stage 2" in text
    assert "2 SE blocks, 66,624 parameters (+0.57 %), 0.07 million multiply-adds an image" in text
