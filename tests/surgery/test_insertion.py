"""SE blocks in models that were written without: where they go, what stays, what survives."""

import copy
import pickle
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from senet import SenetError, SEOptions, find_sites, insert_se, remove_se
from senet.nn.attached import attached_blocks
from surgery_models import excite, hooks_of, image, randomize
from tiers import slow_except

torchvision_model = partial(torchvision.models.get_model, weights=None)


# ---- where -----------------------------------------------------------------------------------------------------------

RESNET50 = [f"layer{s}.{i}.bn3" for s, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for i in range(n)]
PLACES = {
    "resnet50": RESNET50,
    "resnetv2_50": [f"stages.{s}.blocks.{i}.conv3" for s, n in enumerate((3, 4, 6, 3)) for i in range(n)],
    "resnet26d": [f"layer{s}.{i}.bn3" for s in (1, 2, 3, 4) for i in range(2)],
    "densenet121": [
        f"features.denseblock{b}.denselayer{i + 1}.conv2"
        for b, n in ((1, 6), (2, 12), (3, 24), (4, 16))
        for i in range(n)
    ],
    "halonet26t": [f"stages.{s}.{i}.conv3_1x1.bn" for s in range(4) for i in range(2)],
    "ese_vovnet19b_slim": [f">stages.{s}.blocks.0.conv_concat.conv" for s in range(4)],
    "inception_v3": [f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")],
}
TORCHVISION_PLACES = {
    "vgg11_bn": [f"features.{i}" for i in (2, 6, 10, 13, 17, 20, 24, 27)],
    "alexnet": [f"features.{i}" for i in (1, 4, 7, 9, 11)],
    "googlenet": [f"inception{name}" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")],
    "squeezenet1_1": [f"features.{i}" for i in (3, 4, 6, 7, 9, 10, 11, 12)],
    "convnext_tiny": [f"features.{s}.{i}.block.6" for s, n in ((1, 3), (3, 3), (5, 9), (7, 3)) for i in range(n)],
    "mobilenet_v2": [f"features.{i}.conv.3" for i in range(2, 18)],
}


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("create", "name", "places"),
    [(timm.create_model, n, p) for n, p in PLACES.items()]
    + [(torchvision_model, n, p) for n, p in TORCHVISION_PLACES.items()],
    ids=[*PLACES, *TORCHVISION_PLACES],
)
def test_where_blocks_go(create, name, places):
    sites = find_sites(create(name)).sites
    assert [f"{'>' * site.before}{site.module}" for site in sites] == places


def test_inserting_into_timms_resnet_gives_timms_seresnet():
    """The strongest evidence there is: with the weights of one the other computes the same."""
    plain, gated = timm.create_model("resnet50").eval(), randomize(timm.create_model("seresnet50")).eval()
    insert_se(plain)
    state = {}
    for key, tensor in gated.state_dict().items():
        block, _, rest = key.partition(".se.")
        state[f"{block}.bn3.se.{rest}" if rest else key] = tensor
    for block in attached_blocks(plain).values():
        block.set_gate("sigmoid")
    plain.load_state_dict(state)
    x = image()
    torch.testing.assert_close(plain(x), gated(x), rtol=1e-5, atol=1e-5)


def test_stages_are_the_papers():
    sites = find_sites(timm.create_model("resnet50")).sites
    assert [site.stage for site in sites] == [2] * 3 + [3] * 4 + [4] * 6 + [5] * 3
    report = insert_se(timm.create_model("resnet50"), SEOptions(stages=(3, 5)))
    assert [site.module for site in report.sites] == RESNET50[3:7] + RESNET50[13:]


@pytest.mark.parametrize("where", ["layer2.*", ["layer2.*", "nothing"], lambda name: name.startswith("layer2")])
def test_where_chooses_by_name(where):
    report = insert_se(timm.create_model("resnet50"), where=where)
    assert [site.module for site in report.sites] == RESNET50[3:7]
    assert {skip.reason for skip in report.skipped} == {"its name does not match where"}


class Recalibrated(nn.Module):
    """A bottleneck with SE written where each placement says."""

    def __init__(self, block: nn.Module, se: nn.Module, placement: str) -> None:
        super().__init__()
        self.block, self.se, self.placement = block, se, placement

    def forward(self, x: Tensor) -> Tensor:
        b = self.block
        out = b.conv1(self.se(x) if self.placement == "pre" else x)
        out = b.bn2(b.conv2(F.relu(b.bn1(out))))
        out = b.bn3(b.conv3(F.relu(self.se(out) if self.placement == "3x3" else out)))
        out = self.se(out) if self.placement == "standard" else out
        out = F.relu(out + x)
        return self.se(out) if self.placement == "post" else out


@pytest.mark.quick_every(2)
@pytest.mark.parametrize("placement", ["standard", "pre", "post", "3x3"])
def test_placements_against_a_block_written_by_hand(placement):
    model = randomize(torchvision_model("resnet50")).eval()
    report = insert_se(model, SEOptions(placement=placement), where="layer1.1*")
    excite(model)
    (site,) = report.sites
    block = copy.deepcopy(model.layer1[1])
    parent = block.get_submodule(site.module.removeprefix("layer1.1").removeprefix("."))
    se = copy.deepcopy(parent.se)
    remove_se(block)
    x = image(14, channels=256)
    torch.testing.assert_close(model.layer1[1](x), Recalibrated(block, se, placement)(x), rtol=1e-5, atol=1e-5)


# ---- models that users write -----------------------------------------------------------------------------------------


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Branch(nn.Module):
    """A residual block of somebody's, in the ways that people write them."""

    def __init__(self, norm: type, act: type, *, scale: bool, drop: float, style: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.norm1, self.norm2 = norm(32), norm(32)
        self.act = act()
        self.gamma = nn.Parameter(torch.full((32, 1, 1), 0.5)) if scale else None
        self.drop, self.style = drop, style

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        if self.gamma is not None:
            out = out * self.gamma
        if self.drop and self.training:
            out = out * torch.empty(len(out), 1, 1, 1).bernoulli_(1 - self.drop) / (1 - self.drop)
        if self.style == "in place":
            out += x
            return F.relu_(out)
        return torch.relu(torch.add(x, out))


class Written(nn.Module):
    """Blocks nested in lists and dictionaries, and a loop that torch.fx cannot trace."""

    def __init__(self, *arguments: type, **options: object) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.parts = nn.ModuleDict({"a": nn.ModuleList([Branch(*arguments, **options) for _ in range(2)])})
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.parts["a"]:
            if x.abs().mean() > 0:
                x = block(x)
        return self.head(x.mean((2, 3)))


NORMS = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 4), "layer": LayerNorm2d, "none": nn.Identity}


@pytest.mark.quick_every(5)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SiLU])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("style", ["in place", "sum"])
def test_blocks_that_users_write(norm, act, scale, drop, style):
    model = randomize(Written(NORMS[norm], act, scale=scale, drop=drop, style=style))
    x, labels = image(8), torch.tensor([0, 1])
    before = model.eval()(x)
    report = insert_se(model)
    assert [site.module for site in report.sites] == [
        f"parts.a.{i}.{'norm2' if norm != 'none' else 'conv2'}" for i in range(2)
    ]
    assert torch.equal(model(x), before)
    excite(model)
    assert not torch.allclose(model(x), before)
    F.cross_entropy(model.train()(x), labels).backward()
    assert all(p.grad is not None for p in model.parameters())


class Concatenation(nn.Module):
    """Parallel branches joined by a function, and the join's own user."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 1)
        self.a, self.b = nn.Conv2d(32, 16, 1), nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], dim=1)).mean((2, 3))


def test_a_join_without_a_module_of_its_own():
    model, x = Concatenation().eval(), image(8)
    before = model(x)
    (site,) = insert_se(model).sites
    assert (site.module, site.before, site.kind, site.channels) == ("head", True, "concatenation", 32)
    assert torch.equal(model(x), before)
    excite(model)
    stem = F.relu(model.stem(x))
    joined = torch.cat([F.relu(model.a(stem)), F.relu(model.b(stem))], 1)
    expected = F.conv2d(model.head.se(joined), model.head.weight, model.head.bias).mean((2, 3))
    torch.testing.assert_close(model(x), expected)


# ---- bit for bit -----------------------------------------------------------------------------------------------------

SAMPLE = (
    "resnet18",
    "densenet121",
    "mobilenetv2_100",
    "convnext_atto",
    "regnetx_002",
    "dla34",
    "selecsls42",
    "ese_vovnet19b_slim",
    "mixnet_s",
)
GATES = (("sigmoid", True), ("sigmoid", False), ("hard_sigmoid", True), ("relu", True))


@pytest.mark.parametrize("name", slow_except(("resnet18", "mobilenetv2_100", "regnetx_002", "convnext_atto"), SAMPLE))
def test_outputs_and_keys_stay(name):
    model = randomize(timm.create_model(name, num_classes=7))
    reference, x = copy.deepcopy(model), image()
    keys = list(model.state_dict())
    report = insert_se(model)
    assert [key for key in model.state_dict() if key in keys] == keys
    added = [key for key in model.state_dict() if key not in keys]
    assert added == list(report.parameters)
    assert all(".se.fc" in key for key in added)
    assert sum(model.get_parameter(key).numel() for key in report.parameters) == report.num_parameters
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        inserted_one, plain_one = (copy.deepcopy(m).to(dtype) for m in (model, reference))
        with torch.no_grad():
            assert torch.equal(inserted_one.eval()(x.to(dtype)), plain_one.eval()(x.to(dtype))), dtype
            torch.manual_seed(0)
            trained = inserted_one.train()(x.to(dtype))
            torch.manual_seed(0)
            assert torch.equal(trained, plain_one.train()(x.to(dtype))), dtype


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(("gate", "bias"), GATES)
@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
def test_every_option_starts_at_one(gate, bias, squeeze):
    model = randomize(timm.create_model("resnet18")).eval()
    x = image()
    before = model(x)
    insert_se(model, SEOptions(gate=gate, bias=bias, squeeze=squeeze, reduction=4))
    assert torch.equal(model(x), before)
    with torch.autocast("cpu", torch.bfloat16):
        after = model(x)
    remove_se(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), after)


def test_outputs_change_where_they_may():
    model = randomize(timm.create_model("resnet18")).eval()
    x = image()
    before = model(x)
    insert_se(model, SEOptions(gate="tanh"), preserve_outputs=False)
    assert not torch.allclose(model(x), before)


def test_old_checkpoints_load():
    model = randomize(timm.create_model("resnet18")).eval()
    old, x = copy.deepcopy(model.state_dict()), image()
    before = model(x)
    report = insert_se(model)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data += 1
    excite(model)
    missing, unexpected = model.load_state_dict(old, strict=False)
    assert not unexpected
    assert set(missing) == set(report.parameters)
    for block in model.modules():
        if getattr(block, "attached_at", None):
            block.fc2.weight.data.zero_(), block.fc2.bias.data.zero_()
    assert torch.equal(model(x), before)


def test_removal_undoes_insertion():
    model = randomize(timm.create_model("densenet121")).eval()
    x, keys = image(), list(model.state_dict())
    before, written = model(x), pickle.dumps(model.state_dict())
    report = insert_se(model)
    excite(model)
    assert len(remove_se(model).sites) == len(report.sites)
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys
    assert pickle.dumps(model.state_dict()) == written
    assert hooks_of(model) == 0
    assert len(insert_se(model).sites) == len(report.sites)
    remove_se(model)
    with pytest.raises(SenetError, match="no SE blocks from insert_se"):
        remove_se(model)


def test_the_model_is_left_as_it_was_by_looking():
    model = timm.create_model("resnet18").train()
    model.layer1.eval()
    state = copy.deepcopy(model.state_dict())
    find_sites(model)
    assert model.training
    assert not model.layer1.training
    assert all(torch.equal(x, state[key]) for key, x in model.state_dict().items())
    assert hooks_of(model) == 0


# ---- gates that are there --------------------------------------------------------------------------------------------


@pytest.mark.quick_every(2)
@pytest.mark.parametrize(
    "name", ["seresnet50", "efficientnet_b0", "mobilenetv3_small_100", "regnety_002", "ecaresnet26t"]
)
def test_gated_branches_are_skipped_or_doubled(name):
    model = randomize(timm.create_model(name, num_classes=5)).eval()
    sites = find_sites(model).sites
    gated = [site.module for site in sites if site.gated]
    assert gated
    if len(gated) == len(sites):
        with pytest.raises(SenetError, match=r"every branch of .* has a gate already; pass existing='add'"):
            insert_se(model)
    else:
        report = insert_se(copy.deepcopy(model), SEOptions(reduction=4))
        assert not {site.module for site in report.sites} & set(gated)
        assert {skip.place for skip in report.skipped if "gate" in skip.reason} == set(gated)
    x = image()
    before = model(x)
    assert {site.module for site in insert_se(model, SEOptions(reduction=4), existing="add").sites} >= set(gated)
    assert torch.equal(model(x), before)
