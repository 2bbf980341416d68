"""The networks as trunks in other programs, as docs/detection.md shows it."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

import senet
from networks import randomize
from page_blocks import block_with
from senet.data.preprocessing import STANDARDIZED
from senet.models.base import Network
from tiers import slow_except

PAGE = "detection.md"


def network_with_random_statistics(name: str, **options: object) -> Network:
    torch.manual_seed(0)
    model = senet.create_model(name, **options)
    randomize(model)
    return model.eval()


# ---- torchvision's BackboneWithFPN -----------------------------------------------------------------------------------

TRUNKS = (
    *("se_resnet18", "se_resnet50", "resnext50_32x4d", "senet154", "cifar_se_resnet20", "cifar_preact_resnet110"),
    *("se_bn_inception", "se_inception_resnet_v2", "se_shufflenet_v1_g3"),
)


DILATED = tuple(f"{name}, dilated" for name in TRUNKS[:6])


@torch.no_grad()
@pytest.mark.parametrize(
    "trunk", slow_except(("se_resnet18", "se_resnet18, dilated", "cifar_se_resnet20"), (*TRUNKS, *DILATED))
)
def test_backbone_with_fpn(trunk):
    """As the page builds it, from `feature_info`: the maps that enter its pyramid are those of the network."""
    name, _, dilated = trunk.partition(", ")
    output_stride = 2 if name.startswith("cifar_") else 8
    network = network_with_random_statistics(name, **({"output_stride": output_stride} if dilated else {}))
    x = torch.randn(1, 3, 128, 96)
    expected = network.forward_intermediates(x, intermediates_only=True)[1:]
    levels = network.feature_info[1:]
    return_layers = {level["module"]: str(i) for i, level in enumerate(levels)}
    backbone = BackboneWithFPN(network, return_layers, [level["num_chs"] for level in levels], 8).eval()
    maps = backbone.body(x)
    assert list(maps) == [str(i) for i in range(len(levels))]
    for found, ours in zip(maps.values(), expected, strict=True):
        assert torch.equal(found, ours)
    pyramid = backbone(x)
    assert [m.shape[2:] for m in pyramid.values()][:-1] == [m.shape[2:] for m in expected]
    top_down = backbone.fpn({str(i): m for i, m in enumerate(expected)})
    assert all(torch.equal(pyramid[key], top_down[key]) for key in top_down)


@pytest.mark.slow
def test_the_block_of_the_page_trains():
    names = {"senet": senet, "torch": torch}
    exec(block_with(PAGE, "backbone = BackboneWithFPN("), names)
    detector = names["detector"].train()
    targets = [{"boxes": torch.tensor([[10.0, 10.0, 50.0, 60.0]]), "labels": torch.tensor([3])}]
    detector.transform.min_size, detector.transform.max_size = (64,), 64
    sum(detector([torch.rand(3, 64, 64)], targets).values()).backward()
    gate = names["network"].layer4[1].se.fc2.weight
    assert gate.grad is not None
    assert gate.grad.abs().max() > 0
    assert detector.transform.image_mean == names["network"].preprocessing.mean


# ---- mmdetection -----------------------------------------------------------------------------------------------------


class Registry:
    """What the page uses of mmengine's registry: modules by the names of their classes, built from dictionaries."""

    def __init__(self) -> None:
        self.modules: dict[str, type[nn.Module]] = {}

    def register_module(self):
        def register(module: type[nn.Module]) -> type[nn.Module]:
            self.modules[module.__name__] = module
            return module

        return register

    def build(self, config: dict[str, object]) -> nn.Module:
        arguments = dict(config)
        return self.modules[arguments.pop("type")](**arguments)


class BaseModule(nn.Module):
    """What mmengine's class of this name takes."""

    def __init__(self, init_cfg: object = None) -> None:
        super().__init__()
        self.init_cfg = init_cfg


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """With the class of the page; mmdet itself cannot be installed beside the PyTorch that this library needs."""
    found = Registry()
    contents = {"mmdet.registry": {"MODELS": found}, "mmengine.model": {"BaseModule": BaseModule}}
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name.partition(".")[0], ModuleType(name.partition(".")[0]))
        monkeypatch.setitem(sys.modules, name, module)
    exec(block_with(PAGE, "class SENetTrunk(BaseModule)"), {"__name__": "senet_trunk"})
    return found


def trained_parts(trunk: nn.Module) -> set[str]:
    return {name.split(".")[1] for name, parameter in trunk.named_parameters() if parameter.requires_grad}


def moved(trunk: nn.Module, x: Tensor) -> set[str]:
    """Which BatchNorms a training pass moves."""
    before = {key: value.clone() for key, value in trunk.state_dict().items() if "num_batches" in key}
    trunk.train()(x)
    return {key.split(".")[1] for key, value in trunk.state_dict().items() if key in before and value != before[key]}


@pytest.mark.parametrize(("out_indices", "levels"), [((1, 2, 3, 4), [1, 2, 3, 4]), ((2, 3), [2, 3]), ((-1,), [4])])
def test_a_registered_trunk_gives_the_levels_of_the_network(registry, out_indices, levels):
    trunk = registry.build({"type": "SENetTrunk", "name": "se_resnet18", "out_indices": out_indices}).eval()
    randomize(trunk)
    whole = senet.create_model("se_resnet18")
    whole.load_state_dict(trunk.network.state_dict(), strict=False)
    x = torch.randn(1, 3, 97, 75)
    with torch.no_grad():
        maps = trunk(x)
        expected = whole.eval().forward_intermediates(x, levels, intermediates_only=True)
    assert isinstance(maps, tuple)
    assert len(maps) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


@pytest.mark.parametrize(
    ("frozen_stages", "trained"),
    [
        (-1, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
        (0, {"layer1", "layer2", "layer3", "layer4"}),
        (1, {"layer2", "layer3", "layer4"}),
        (3, {"layer4"}),
    ],
)
def test_a_registered_trunk_freezes_as_mmdets_resnet_does(registry, frozen_stages, trained):
    x = torch.randn(2, 3, 64, 64)
    config = {"type": "SENetTrunk", "name": "se_resnet18", "frozen_stages": frozen_stages}
    trunk = registry.build(config)
    assert trained_parts(trunk) == trained
    assert moved(trunk, x) == set()
    trunk = registry.build(config | {"norm_eval": False})
    assert moved(trunk, x) == trained - {"conv1"}
    assert all(module.training for module in trunk.modules() if isinstance(module, nn.Dropout))


def test_the_configuration_of_the_page_is_that_of_the_trunk(registry):
    names: dict[str, object] = {}
    exec(block_with(PAGE, 'custom_imports = dict(imports=["senet_trunk"]'), names)
    asked = dict(names["model"]["backbone"])
    assert asked.pop("_delete_")
    assert asked.pop("pretrained")  # from the hub, which is not asked in tests
    with torch.device("meta"):
        trunk = registry.build(asked | {"output_stride": 16})
    assert [trunk.network.feature_info[i]["num_chs"] for i in trunk.out_indices] == names["model"]["neck"][
        "in_channels"
    ]
    assert trunk.network.feature_info[-1]["reduction"] == 16
    wants = STANDARDIZED
    prepared = names["model"]["data_preprocessor"]
    assert prepared["mean"] == pytest.approx([255 * value for value in wants.mean])
    assert prepared["std"] == pytest.approx([255 * value for value in wants.std])
