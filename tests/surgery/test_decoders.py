"""Where blocks go in networks that are more than a classifier: encoder-decoders, feature pyramids, detectors."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from senet import SEOptions, find_sites, insert_se
from senet.nn.attached import attached_blocks

PYRAMID = "a sum of maps of several levels, none of them the branch of a block"


class Unit(nn.Module):
    """A residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Layers(nn.Sequential):
    """Convolution, norm, activation."""

    def __init__(self, inputs: int, outputs: int, size: int = 3) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.BatchNorm2d(outputs), nn.ReLU())


class Encoder(nn.Module):
    def __init__(self, unit: type) -> None:
        super().__init__()
        self.stages = nn.ModuleList([unit(3, 16, 2), unit(16, 32, 2), unit(32, 64, 2)])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Plain(Layers):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs)
        self[0].stride = (stride, stride)


class Concatenated(nn.Module):
    """U-Net: the upsampled map and the encoder's, joined, then convolutions."""

    def __init__(self, inputs: int, skip: int) -> None:
        super().__init__()
        self.conv = Layers(inputs + skip, skip)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))


class Added(nn.Module):
    """LinkNet: a branch that upsamples, added to the encoder's map."""

    def __init__(self, inputs: int, skip: int) -> None:
        super().__init__()
        self.reduce, self.expand = Layers(inputs, 16, 1), Layers(16, skip, 1)
        self.up = nn.ConvTranspose2d(16, 16, 4, 2, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.expand(self.up(self.reduce(x))) + skip


class Lateral(nn.Module):
    """A feature pyramid: the upsampled map added to a convolution of the encoder's."""

    def __init__(self, inputs: int, skip: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(inputs, skip, 1)
        self.lateral = nn.Conv2d(skip, skip, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return F.interpolate(self.before(x), scale_factor=2.0) + self.lateral(skip)


class Gated(Concatenated):
    """MAnet: the upsampled map scaled by the sum of two gates, from itself and from the encoder's map."""

    def __init__(self, inputs: int, skip: int) -> None:
        super().__init__(inputs, skip)
        self.high, self.low = nn.Conv2d(inputs, inputs, 1), nn.Conv2d(skip, inputs, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        high = torch.sigmoid(self.high(F.adaptive_avg_pool2d(x, 1)))
        low = torch.sigmoid(self.low(F.adaptive_avg_pool2d(skip, 1)))
        return super().forward(x * (high + low), skip)


class Dense(nn.Module):
    """An encoder, a decoder, a map of scores."""

    def __init__(self, block: type, unit: type = Unit) -> None:
        super().__init__()
        self.encoder = Encoder(unit)
        self.decoder = nn.ModuleList([block(64, 32), block(32, 16)])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        *skips, x = self.encoder(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
        return self.head(x)


class Flat(Dense):
    """The same with everything in one forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.encoder.stages[0](x)
        b = self.encoder.stages[1](a)
        c = self.encoder.stages[2](b)
        b = self.decoder[0].conv(torch.cat([F.interpolate(c, scale_factor=2.0), b], 1))
        a = self.decoder[1].conv(torch.cat([F.interpolate(b, scale_factor=2.0), a], 1))
        return self.head(a)


def images(side: int = 32) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


ENCODER = [(f"encoder.stages.{i}.bn2", "residual branch") for i in range(3)]
JOINED = [(f">decoder.{i}.conv.0", "concatenation") for i in range(2)]
PLACES = {
    "U-Net": (lambda: Dense(Concatenated), ENCODER + JOINED, []),
    "U-Net in one pass": (lambda: Flat(Concatenated), ENCODER + JOINED, []),
    "U-Net without residual blocks": (lambda: Dense(Concatenated, Plain), JOINED, []),
    "LinkNet": (
        lambda: Dense(Added),
        ENCODER + [(f"decoder.{i}.expand.2", "decoder branch") for i in range(2)],
        [],
    ),
    "pyramid": (lambda: Dense(Lateral), ENCODER, [("decoder.0", PYRAMID), ("decoder.1", PYRAMID)]),
    "gated": (
        lambda: Dense(Gated),
        ENCODER,
        [(f"decoder.{i}.conv.0", "its branch has a gate already") for i in range(2)],
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_decoders_get_blocks_where_they_belong_and_every_other_merge_is_told(name):
    create, places, skipped = PLACES[name]
    torch.manual_seed(0)
    model = create().eval()
    before = model(images())
    report = insert_se(model, SEOptions(reduction=4), example_inputs=images())
    found = [(">" * site.before + site.module, site.kind) for site in report.sites]
    assert found == places
    assert [(skip.place, skip.reason) for skip in report.skipped] == skipped
    assert torch.equal(model(images()), before)
    assert len(attached_blocks(model)) == len(report.sites)


RESNET18 = [f"backbone.body.layer{s}.{i}.bn2" for s in (1, 2, 3, 4) for i in (0, 1)]


@pytest.mark.parametrize("create", [detection.FasterRCNN, detection.RetinaNet, detection.FCOS])
def test_detectors_have_blocks_in_the_residual_branches_of_their_backbone(create):
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    anchors = detection.anchor_utils.AnchorGenerator(tuple((8 * 2**i,) for i in range(5)), ((1.0,),) * 5)
    options = {} if create is detection.FasterRCNN else {"anchor_generator": anchors}
    model = create(backbone, 3, min_size=64, max_size=64, **options).eval()
    report = insert_se(model, example_inputs=[images(64)[0]])
    assert [(site.module, site.kind) for site in report.sites] == [(name, "residual branch") for name in RESNET18]
    assert [skip.reason for skip in report.skipped] == [PYRAMID] * 3
    assert {skip.place for skip in report.skipped} == {"backbone.fpn"}
    assert len(model([images(64)[0]])) == 1


@pytest.mark.parametrize(
    ("name", "kinds", "skipped"),
    [
        ("deeplabv3_mobilenet_v3_large", {"concatenation": 1, "residual branch": 10, "block without a sum": 3}, []),
        ("lraspp_mobilenet_v3_large", {"residual branch": 10, "block without a sum": 3}, ["classifier"]),
    ],
)
def test_torchvisions_segmentation(name, kinds, skipped):
    model = getattr(segmentation, name)(weights=None, weights_backbone=None)
    report = find_sites(model, images(64))
    sites, skips = report.sites, report.skipped
    assert Counter(site.kind for site in sites) == kinds
    assert [skip.place for skip in skips] == skipped


def test_merges_inside_the_branch_of_another_are_told():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.a(x), self.b(x)], 1)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = Inner(), nn.Conv2d(32, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.last(self.inner(x))

    model = nn.Sequential(nn.Conv2d(3, 16, 1), Outer(), Outer())
    report = find_sites(model, images(8))
    sites, skipped = report.sites, report.skipped
    assert [site.module for site in sites] == ["1.last", "2.last"]
    assert [(skip.place, skip.reason) for skip in skipped] == [
        (f"{i}.inner", f"concatenation: inside the branch of {i}, which is a site itself") for i in (1, 2)
    ]
