"""Blocks in models of other shapes: chains, several inputs, one and three dimensions, no memory, unknown sizes."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import SenetError, SEOptions, find_sites, insert_se, remove_se
from senet.analysis.gates import find_blocks
from senet.nn.attached import attached_blocks


def image(side: int = 64, images: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(images, channels, side, side, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """Convolutions with one activation for all of them, a function or a module that is called again and again."""

    def __init__(self, *widths: int, shared: bool) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1) for a, b in pairs])
        self.act = nn.ReLU() if shared else F.relu

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.act(conv(x))
        return x.mean((2, 3))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("widths", [(16, 16), (16, 32), (16, 16, 16), (32, 16, 64)])
def test_chains_of_convolutions_get_a_block_each(widths, shared):
    model, x = Chain(*widths, shared=shared).eval(), image(8)
    before = model(x)
    report = insert_se(model, SEOptions(reduction=4))
    blocks = list(attached_blocks(model))
    assert blocks == [f"{site.module}.se" for site in report.sites] == [f"convs.{i}.se" for i in range(len(widths))]
    assert [site.channels for site in report.sites] == list(widths)
    assert sum(model.get_parameter(name).numel() for name in report.parameters) == report.num_parameters
    assert torch.equal(model(x), before)


class TwoInputs(nn.Module):
    """An image and numbers that belong to it."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.numbers = timm.create_model("test_resnet", num_classes=5), nn.Linear(2, 5)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        return self.network(image) + self.numbers(numbers)


@pytest.mark.parametrize("keywords", [False, True])
def test_models_with_several_inputs(keywords):
    inputs = (image(), torch.randn(2, 2))
    model = TwoInputs().eval()
    before = model(*inputs)
    report = insert_se(
        model, example_inputs=dict(zip(("image", "numbers"), inputs, strict=True)) if keywords else inputs
    )
    assert len(report.sites) == 4
    assert torch.equal(model(*inputs), before)
    assert [block.module for block in find_blocks(model, inputs)] == [f"{site.module}.se" for site in report.sites]


class ResidualOf(nn.Module):
    def __init__(self, conv: type, norm: type) -> None:
        super().__init__()
        self.conv, self.norm, self.last = conv(16, 16, 3, padding=1), norm(16), conv(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.last(F.relu(self.conv(x)))))


SIGNALS = {
    1: (nn.Conv1d, nn.BatchNorm1d, (2, 16, 9)),
    3: (nn.Conv3d, nn.BatchNorm3d, (2, 16, 3, 4, 5)),
}


@pytest.mark.parametrize("dimensions", SIGNALS)
@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
def test_networks_of_one_and_three_dimensions(dimensions, squeeze):
    conv, norm, shape = SIGNALS[dimensions]
    model, x = nn.Sequential(ResidualOf(conv, norm), ResidualOf(conv, norm)).eval(), torch.randn(shape)
    before = model(x)
    report = insert_se(model, SEOptions(reduction=4, squeeze=squeeze), example_inputs=x)
    assert [(site.module, site.side) for site in report.sites] == [(f"{i}.norm", shape[2:]) for i in (0, 1)]
    assert torch.equal(model(x), before)
    se, z = model[1].norm.se, torch.randn(shape)
    nn.init.normal_(se.fc2.weight)
    positions = tuple(range(2, 2 + dimensions))
    pooled = {"avg": z.mean(positions, keepdim=True), "max": z.amax(positions, keepdim=True), "none": z}[squeeze]
    hidden = torch.einsum("oc,nc...->no...", se.fc1.weight.flatten(1), pooled)
    hidden = F.relu(hidden + se.fc1.bias.view(-1, *[1] * dimensions))
    gate = torch.einsum("oc,nc...->no...", se.fc2.weight.flatten(1), hidden) + se.fc2.bias.view(-1, *[1] * dimensions)
    torch.testing.assert_close(se(z), z * 2 * torch.sigmoid(gate), rtol=1e-4, atol=1e-4)


def test_examples_are_chosen_by_the_first_convolution():
    assert len(find_sites(nn.Sequential(nn.Conv1d(3, 16, 1), ResidualOf(nn.Conv1d, nn.BatchNorm1d))).sites) == 1


def test_norms_of_one_and_three_dimensions_by_name():
    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.three = nn.Conv2d(3, 8, 1), nn.BatchNorm1d(8), nn.BatchNorm3d(8)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not here")

    model = Unknown().eval()
    for norm, shape in ((model.one, (2, 8, 5)), (model.three, (2, 8, 2, 3, 4))):
        x = torch.randn(shape)
        before = norm(x)
        insert_se(model, SEOptions(reduction=2), where="one" if norm is model.one else "three")
        assert torch.equal(norm(x), before)
        remove_se(model)
    insert_se(model, SEOptions(reduction=2), where="one")
    with pytest.raises(SenetError, match=r"the input is \(2, 8\)"):
        model.one(torch.randn(2, 8))


def test_models_without_memory_are_looked_at_but_get_no_blocks():
    with torch.device("meta"):
        model = timm.create_model("test_resnet")
    assert len(find_sites(model).sites) == 4
    with pytest.raises(SenetError, match="on the meta device, where blocks would have no values"):
        insert_se(model)
    model.to_empty(device="cpu")
    model.load_state_dict(timm.create_model("test_resnet").state_dict())
    assert len(insert_se(model).sites) == 4
