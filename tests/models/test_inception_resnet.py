"""Inception-ResNet-v2: timm's network key for key, SE at the end of each residual branch."""

import pytest
import timm
import torch
from torch import nn

from networks import fresh_on_meta, num_parameters, on_meta, randomize
from senet.errors import SenetError
from senet.models.inception_resnet import InceptionResidual, block8, block17, block35
from senet.nn.block import SEBlock, SEOptions

BLOCKS = {"repeat": (10, 320), "repeat_1": (20, 1088), "repeat_2": (9, 2080), "block8": (1, 2080)}


def test_the_keys_and_shapes_are_timms():
    with torch.device("meta"):
        theirs = timm.create_model("inception_resnet_v2", pretrained=False)
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    ours = on_meta("inception_resnet_v2")
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    assert {key for key in on_meta("se_inception_resnet_v2").state_dict() if ".se." not in key} == set(shapes)
    assert ours.feature_info == [
        {k: info[k] for k in ("num_chs", "reduction", "module")} for info in theirs.feature_info
    ]


def test_se_in_every_residual_block():
    model = on_meta("se_inception_resnet_v2")
    names = [name for name, m in model.named_modules() if isinstance(m, SEBlock)]
    for part, (number, channels) in BLOCKS.items():
        of_part = [name for name in names if name.split(".")[0] == part]
        assert len(of_part) == number
        assert {model.get_submodule(name).channels for name in of_part} == {channels}
    assert len(names) == 40
    added = sum(n * (2 * c * (c // 16) + c // 16 + c) for n, c in BLOCKS.values())
    assert num_parameters(model) == num_parameters(on_meta("inception_resnet_v2")) + added


@pytest.mark.parametrize(("stage", "parts"), [(3, {"repeat"}), (4, {"repeat_1"}), (5, {"repeat_2", "block8"})])
def test_stages(stage, parts):
    model = on_meta("se_inception_resnet_v2", se=SEOptions(stages=(stage,)))
    assert {name.split(".")[0] for name, m in model.named_modules() if isinstance(m, SEBlock)} == parts


@torch.no_grad()
@pytest.mark.parametrize(("build", "scale", "relu"), [(block35, 0.17, True), (block17, 0.1, True), (block8, 0.2, True)])
def test_se_is_before_the_scaled_sum(build, scale, relu):
    torch.manual_seed(0)
    unit: InceptionResidual = build(SEOptions().block).double().eval()
    randomize(unit)
    x = torch.randn(2, unit.se.channels, 4, 3, dtype=torch.float64)
    branches = torch.cat([branch(x) for name, branch in unit.named_children() if name.startswith("branch")], 1)
    u = torch.einsum("nchw,oc->nohw", branches, unit.conv2d.weight[:, :, 0, 0]) + unit.conv2d.bias[:, None, None]
    torch.testing.assert_close(unit(x), (x + scale * unit.se.compute_gate(u) * u).clamp(min=0))
    assert unit.affine_before_se() == (unit.conv2d,)


@torch.no_grad()
def test_the_last_block_has_neither_scale_nor_relu():
    torch.manual_seed(0)
    unit = block8(None, last=True).eval()
    x = torch.randn(1, 2080, 2, 2)
    u = unit.conv2d(unit.concatenate(x))
    torch.testing.assert_close(unit(x), x + u)
    assert unit(x).min() < 0


def test_eps_and_preprocessing():
    model = on_meta("inception_resnet_v2")
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert (model.preprocessing.image_size, model.preprocessing.resize) == (299, 352)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"se": SEOptions(stages=(6,))}, r"stages is \(6,\); expected a choice of \(3, 4, 5\)"),
        ({"se": SEOptions(placement="identity")}, "placement is 'identity'"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(SenetError, match=message):
        fresh_on_meta("se_inception_resnet_v2", **arguments)
