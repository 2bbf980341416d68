"""Weights that do not fit as they are: adapted exactly, or when asked, or refused; never in silence, never by half."""

import re
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from networks import assert_relatively_close, randomize, relative_difference
from senet.cli import main
from senet.errors import SenetError
from senet.factory import create_model, from_pretrained
from senet.models.catalog import list_models, model_card
from senet.nn.block import SEBlock, SEOptions
from senet.weights.folder import save_pretrained
from senet.weights.loading import load_weights
from senet.weights.matching import se_options
from tiers import slow_except

# Every SE network whose plain twin is small enough to run here; the deep ones differ in the number of units alone.
DEEP = ("101", "152", "110", "164", "56", "44", "32x4d", "resnet34")
TWINS = [
    (model_card(name).twin, name)
    for name in list_models("*se_*")
    if not name.endswith(DEEP) or name == "se_resnext50_32x4d"
]
QUICK = ("cifar_se_resnet20", "se_resnet18", "se_mobilenet_v1", "se_shufflenet_v1_g3", "cifar_se_wrn16_8")
SIDES = {"shake": 8, "wrn": 8, "cifar": 32, "inception_resnet": 107}


def side_of(name):
    return next((side for part, side in SIDES.items() if part in name), 64)


def random_network(name, seed=0, **options):
    torch.manual_seed(seed)
    model = create_model(name, **options)
    randomize(model)
    return model.eval()


def file_of(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / f"{model.config.name}.pth")
    return tmp_path / f"{model.config.name}.pth"


def snapshot(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def assert_refused(model, file, *said, **arguments):
    """Loading raises one sentence that names the file and leaves the model as it was."""
    before, config, preprocessing = snapshot(model), model.config, model.preprocessing
    with pytest.raises(SenetError) as caught:
        load_weights(model, file, **arguments)
    for words in (str(file), *said):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert (model.config, model.preprocessing) == (config, preprocessing)


@torch.no_grad()
def outputs(model, channels=3):
    torch.manual_seed(1)
    return model.eval()(torch.randn(2, channels, *(side_of(model.config.name),) * 2))


# ---- plain weights in a network with SE ------------------------------------------------------------------------------


@pytest.mark.quick_every(2)
@pytest.mark.parametrize(("plain", "with_se"), slow_except(QUICK, TWINS), ids=[name for _, name in TWINS])
def test_a_plain_networks_weights_keep_its_outputs_bit_for_bit(plain, with_se, tmp_path):
    theirs = random_network(plain)
    ours = random_network(with_se, seed=2)
    report = load_weights(ours, file_of(theirs, tmp_path))
    number = sum(isinstance(module, SEBlock) for module in ours.modules())
    assert number > 0
    assert report.adaptations == (f"{number} SE blocks start as the identity",)
    expected = outputs(theirs)
    assert torch.equal(outputs(ours), expected)
    assert torch.equal(outputs(create_model(with_se, weights=file_of(theirs, tmp_path))), expected)
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn(1, 3, *(side_of(plain),) * 2, dtype=dtype)
        with torch.no_grad():
            assert torch.equal(ours.to(dtype)(x), theirs.to(dtype)(x))


PLACEMENTS = ("standard", "pre", "post", "identity", "3x3")
STARTS = [
    *product(PLACEMENTS, ("sigmoid", "hard_sigmoid", "relu"), ("cifar_se_resnet20",)),
    *product(("standard", "3x3"), ("sigmoid",), ("se_resnet18", "cifar_se_preact_resnet110")),
    ("3x3", "sigmoid", "se_resnet50"),
]
ALL_STARTS = product(
    PLACEMENTS,
    ("sigmoid", "hard_sigmoid", "relu"),
    ("cifar_se_resnet20", "se_resnet18", "se_resnet50", "cifar_se_preact_resnet110"),
)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("placement", "gate", "with_se"),
    [*STARTS, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL_STARTS if case not in STARTS)],
)
def test_at_every_place_and_with_every_gate_that_can(placement, gate, with_se, tmp_path):
    theirs = random_network(with_se.replace("se_", "", 1))
    for bias in (True, False) if gate != "relu" else (True,):
        ours = create_model(with_se, se=SEOptions(placement=placement, gate=gate, bias=bias)).eval()
        load_weights(ours, file_of(theirs, tmp_path))
        assert torch.equal(outputs(ours), outputs(theirs))
        # Twice the gate where no layer before every block can be doubled, and nowhere else.
        needs_doubling = gate != "relu" and placement in ("pre", "post", "identity")
        assert ours.config.se.gate == (f"{gate}_x2" if needs_doubling else gate)


def test_training_mode_keeps_the_outputs_too(tmp_path):
    theirs = random_network("cifar_resnet20").train()
    ours = create_model("cifar_se_resnet20")
    load_weights(ours, file_of(theirs, tmp_path))
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(ours.train()(x), theirs(x))


def test_the_new_blocks_can_learn(tmp_path):
    theirs = random_network("cifar_resnet20")
    options = SEOptions(reduction=4)  # a single hidden unit may be inactive on every image
    ours = create_model("cifar_se_resnet20", se=options, weights=file_of(theirs, tmp_path)).train()
    F.cross_entropy(ours(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
    blocks = [module for module in ours.modules() if isinstance(module, SEBlock)]
    assert all(block.fc2.weight.grad.abs().max() > 0 for block in blocks)
    assert all(block.fc2.bias.grad.abs().max() > 0 for block in blocks)
    assert all(block.fc1.weight.std() > 0 for block in blocks)


def test_a_network_with_doubled_gates_is_saved_and_read_back(tmp_path):
    theirs = random_network("cifar_resnet20")
    options = SEOptions(placement="post")
    ours = create_model("cifar_se_resnet20", se=options, weights=file_of(theirs, tmp_path))
    save_pretrained(ours, tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    assert again.config == ours.config
    assert torch.equal(outputs(again), outputs(theirs))

    # The network's own state dict says so too, and a network with the usual gate follows it.
    fresh = create_model("cifar_se_resnet20", se=options)
    assert fresh.state_dict().keys() == ours.state_dict().keys()
    load_weights(fresh, file_of(ours, tmp_path))
    assert torch.equal(outputs(fresh.eval()), outputs(theirs))
    assert fresh.config.se.gate == "sigmoid_x2"
    # And back.
    usual = random_network("cifar_se_resnet20", se=options)
    load_weights(fresh, file_of(usual, tmp_path))
    assert fresh.config.se.gate == "sigmoid"
    assert torch.equal(outputs(fresh), outputs(usual))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SEOptions(gate="tanh"), "a tanh gate cannot start at 1"),
        (SEOptions(gate="tanh", bias=False), "a tanh gate cannot"),
        (SEOptions(gate="relu", bias=False), "a relu gate without biases cannot"),
    ],
)
def test_gates_that_cannot_be_the_identity_are_refused(options, said, tmp_path):
    file = file_of(random_network("cifar_resnet20"), tmp_path)
    assert_refused(random_network("cifar_se_resnet20", se=options), file, said, "gate in SEOptions")


def test_weights_with_se_do_not_go_into_a_plain_network(tmp_path):
    file = file_of(random_network("cifar_se_resnet20"), tmp_path)
    assert_refused(random_network("cifar_resnet20"), file, "holds cifar_se_resnet20, not cifar_resnet20")
    state = random_network("cifar_se_resnet20").state_dict()
    torch.save(dict(state), tmp_path / "bare.pth")
    assert_refused(random_network("cifar_resnet20"), tmp_path / "bare.pth", "has SE blocks, cifar_resnet20 has none")


# ---- SE of another shape ---------------------------------------------------------------------------------------------


def bare_file(model, tmp_path):
    """A file that does not say what network it is of."""
    torch.save(dict(model.state_dict()), tmp_path / "bare.pth")
    return tmp_path / "bare.pth"


def test_se_layers_without_biases_get_zero_biases(tmp_path):
    theirs = random_network("cifar_se_resnet20", se=SEOptions(bias=False))
    ours = random_network("cifar_se_resnet20", seed=2)
    report = load_weights(ours, bare_file(theirs, tmp_path))
    assert report.adaptations == ("18 SE layers without biases get zero biases",)
    assert torch.equal(outputs(ours), outputs(theirs))


def test_biases_that_have_no_place_are_refused(tmp_path):
    file = bare_file(random_network("cifar_se_resnet20"), tmp_path)
    model = random_network("cifar_se_resnet20", se=SEOptions(bias=False))
    assert_refused(model, file, "has biases in its SE layers", "SEOptions(bias=True)")


def test_fewer_hidden_units_are_filled_up_without_effect(tmp_path):
    theirs = random_network("cifar_se_resnet20", se=SEOptions(reduction=8))
    ours = random_network("cifar_se_resnet20", seed=2, se=SEOptions(reduction=4))
    report = load_weights(ours, bare_file(theirs, tmp_path))
    assert report.adaptations == ("9 SE blocks get hidden units with no effect",)
    assert_relatively_close(outputs(ours), outputs(theirs), 1e-6)
    # The added units can learn: their first layer is not zero.
    assert ours.layer1[0].se.fc1.weight.shape[0] == 4
    assert ours.layer1[0].se.fc1.weight[2:].abs().min() > 0


def test_more_hidden_units_are_refused_with_the_reduction_that_fits(tmp_path):
    theirs = random_network("cifar_se_resnet20", se=SEOptions(reduction=4))
    file = bare_file(theirs, tmp_path)
    assert_refused(random_network("cifar_se_resnet20"), file, "layer1.0.se", "SEOptions(reduction=4)")
    load_weights(random_network("cifar_se_resnet20", se=SEOptions(reduction=4)), file)
    chosen = create_model("cifar_se_resnet20", weights=file)
    assert chosen.config.se.reduction == 4
    assert torch.equal(outputs(chosen), outputs(theirs))


def test_se_in_other_stages_or_places_is_refused(tmp_path):
    file = bare_file(random_network("cifar_se_resnet20", se=SEOptions(stages=(3, 4))), tmp_path)
    assert_refused(random_network("cifar_se_resnet20"), file, "6 SE blocks, the model 9", "SEOptions.stages")
    file = bare_file(random_network("se_resnet50", se=SEOptions(placement="3x3")), tmp_path)
    model = random_network("se_resnet50")
    assert_refused(model, file, "SE on 64 channels", "SEOptions(placement='3x3')", layout="senet")


@pytest.mark.parametrize(
    "options",
    [{"gate": "tanh"}, {"squeeze": "max"}, {"placement": "pre"}, {"stages": (3,)}],
    ids=lambda o: next(iter(o)),
)
def test_stated_se_options_must_agree(options, tmp_path):
    theirs = random_network("cifar_se_resnet20", se=SEOptions(**options))
    (name,) = options
    file = file_of(theirs, tmp_path)
    assert_refused(random_network("cifar_se_resnet20"), file, f"se.{name}=", f"create it with SEOptions({name}=")
    again = create_model("cifar_se_resnet20", weights=file)
    assert again.config.se == theirs.config.se
    assert torch.equal(outputs(again), outputs(theirs))


# ---- classes and channels --------------------------------------------------------------------------------------------


def test_another_number_of_classes_must_be_asked_for(tmp_path):
    theirs = random_network("cifar_se_resnet20")
    file = file_of(theirs, tmp_path)
    model = random_network("cifar_se_resnet20", seed=2, num_classes=7)
    assert_refused(model, file, "has 10 classes, the model 7", "adapt=('classifier',)", "num_classes=10")

    own = model.fc.weight.clone()
    report = load_weights(model, file, adapt=("classifier",))
    assert report.adaptations == ("the classifier of 7 classes starts at random",)
    assert torch.equal(model.fc.weight, own)
    assert model.class_names is None
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.forward_features(x), theirs.forward_features(x))

    created = create_model("cifar_se_resnet20", num_classes=7, weights=file).eval()
    assert created.num_classes == 7
    assert torch.equal(created.forward_features(x), theirs.forward_features(x))


def test_without_a_classifier_that_of_the_weights_is_left_out(tmp_path):
    theirs = random_network("cifar_se_resnet20")
    model = random_network("cifar_se_resnet20", seed=2, num_classes=0)
    report = load_weights(model, file_of(theirs, tmp_path))
    assert report.adaptations == ("the classifier of 10 classes is left out",)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(x), theirs.forward_head(theirs.forward_features(x), pre_logits=True))

    file = file_of(model, tmp_path)
    assert_refused(random_network("cifar_se_resnet20"), file, "has no classifier", "num_classes=0")
    assert create_model("cifar_se_resnet20", weights=file).num_classes == 0


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_another_number_of_channels_must_be_asked_for(channels, tmp_path):
    theirs = random_network("cifar_se_resnet20")
    file = file_of(theirs, tmp_path)
    model = random_network("cifar_se_resnet20", seed=2, in_channels=channels)
    assert_refused(model, file, f"images of 3 channels, the model for {channels}", "adapt=('input',)", "in_channels=3")

    report = load_weights(model, file, adapt=("input",))
    assert report.adaptations == (f"the first convolution is converted from 3 to {channels} channels",)
    weight, ours = theirs.conv1.weight, model.conv1.weight
    if channels == 1:  # an image whose three channels are equal gives what its one channel gives now
        gray = torch.randn(2, 1, 32, 32)
        assert_relatively_close(model(gray), theirs(gray.expand(-1, 3, -1, -1)), 1e-5)
    else:
        for i in range(channels):
            torch.testing.assert_close(ours[:, i], weight[:, i % 3] * 3 / channels)
    created = create_model("cifar_se_resnet20", in_channels=channels, weights=file)
    assert torch.equal(created.conv1.weight, ours)
    assert created.preprocessing.in_channels == channels


def test_channels_are_converted_as_in_timm(tmp_path):
    from timm.models import adapt_input_conv

    theirs = random_network("resnet18")
    for channels in (1, 4, 5):
        model = create_model("resnet18", in_channels=channels, weights=file_of(theirs, tmp_path))
        torch.testing.assert_close(model.conv1.weight, adapt_input_conv(channels, theirs.conv1.weight))


def test_unknown_adaptations_are_refused(tmp_path):
    file = file_of(random_network("cifar_se_resnet20"), tmp_path)
    with pytest.raises(SenetError, match="adapt is 'head'; expected one of classifier, input"):
        load_weights(random_network("cifar_se_resnet20"), file, adapt=("head",))


# ---- the rest --------------------------------------------------------------------------------------------------------


def test_the_moving_count_of_batches_may_be_absent(tmp_path):
    theirs = random_network("cifar_se_resnet20")
    state = {key: tensor for key, tensor in theirs.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    model = random_network("cifar_se_resnet20", seed=2)
    assert load_weights(model, tmp_path / "old.pth").adaptations == ()
    assert torch.equal(outputs(model), outputs(theirs))


def test_the_report_says_what_was_done(tmp_path):
    file = file_of(random_network("cifar_resnet20"), tmp_path)
    model = random_network("cifar_se_resnet20", num_classes=3, in_channels=1)
    report = load_weights(model, file, adapt=("classifier", "input"))
    assert (report.source, report.layout) == (str(file), "senet")
    assert len(report.adaptations) == 3


def test_what_create_model_adapts_is_logged(tmp_path, caplog):
    create_model("cifar_se_resnet20", num_classes=3, weights=file_of(random_network("cifar_resnet20"), tmp_path))
    assert "the classifier of 3 classes starts at random" in caplog.text
    assert "9 SE blocks start as the identity" in caplog.text


def test_another_module_takes_its_own_state_dict_only(tmp_path):
    torch.manual_seed(0)
    theirs, ours = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save(theirs.state_dict(), tmp_path / "linear.pth")
    load_weights(ours, tmp_path / "linear.pth")
    assert torch.equal(ours.weight, theirs.weight)
    with pytest.raises(SenetError, match=re.escape("weight is (2, 3) there, (2, 4) in the model")):
        load_weights(nn.Linear(4, 2), tmp_path / "linear.pth")


def test_the_comparisons_here_can_fail(tmp_path):
    """Weights read in the wrong layout, against advice, compute something else."""
    import torchvision

    theirs = torchvision.models.resnet18().eval()
    randomize(theirs)
    model = create_model("resnet18")
    load_weights(model, bare_file(theirs, tmp_path), layout="senet")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_difference(model.eval()(x), theirs(x)) > 1e-2


# ---- gates are never lost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["layer1.0.se.conv.weight", "layer1.0.excitation.0.weight", "layer2.1.eca.conv.weight"])
def test_gates_of_another_kind_are_not_replaced_by_the_identity(key, tmp_path):
    state = dict(random_network("cifar_resnet20").state_dict())
    torch.save({**state, key: torch.zeros(1, 1, 3)}, tmp_path / "weights.pth")
    assert_refused(random_network("cifar_se_resnet20"), tmp_path / "weights.pth", "of another network", key)


@pytest.mark.parametrize("name", ["cifar_se_resnet20", "se_resnet18"])
@pytest.mark.parametrize("reduction", [1, 2, 3, 8, 12, 16, 24, 32, 64, 128])
def test_the_reduction_is_read_off_the_widths(name, reduction, tmp_path):
    """Also where max(1, channels // reduction) gives one unit, and where the reduction divides no width."""
    with torch.device("meta"):
        theirs = create_model(name, se=SEOptions(reduction=reduction))
    found = se_options(dict(theirs.state_dict()))
    with torch.device("meta"):
        ours = create_model(name, se=found)
    shapes = ({key: x.shape for key, x in model.state_dict().items()} for model in (ours, theirs))
    assert next(shapes) == next(shapes)
    if reduction <= (64 if name == "se_resnet18" else 16):
        assert found.reduction == reduction


def test_stages_are_read_off_too():
    with torch.device("meta"):
        theirs = create_model("cifar_se_resnet20", se=SEOptions(stages=(3, 4)))
    assert se_options(dict(theirs.state_dict())) == SEOptions(stages=(3, 4))


@torch.no_grad()
def test_widths_rounded_as_in_timm_get_units_without_effect(tmp_path):
    """timm rounds C / 16 up to a multiple of 8; no reduction gives 8, 8, 16 and 32 on 64, 128, 256 and 512 channels."""
    theirs = timm.create_model("seresnet18")
    randomize(theirs)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = create_model("se_resnet18", weights=tmp_path / "weights.pth")
    assert ours.config.se.reduction == 8
    x = torch.randn(2, 3, 64, 64)
    assert_relatively_close(ours.eval()(x), theirs.eval()(x), 1e-5)
    model = create_model("se_resnet18", stem_pool="pad")
    assert_refused(model, tmp_path / "weights.pth", "create it with SEOptions(reduction=8)")
    load_weights(create_model("se_resnet18", stem_pool="pad", se=SEOptions(reduction=8)), tmp_path / "weights.pth")


@torch.no_grad()
def test_bare_weights_of_this_library_load_with_the_options_that_the_caller_gives(tmp_path):
    options = {"stem_pool": "ceil", "se": SEOptions(gate="hard_sigmoid", reduction=8)}
    theirs = random_network("se_resnet18", **options)
    torch.save(dict(theirs.state_dict()), tmp_path / "weights.pth")
    with pytest.raises(SenetError, match="pass layout='senet'"):
        create_model("se_resnet18", weights=tmp_path / "weights.pth", **options)
    ours = create_model("se_resnet18", weights=tmp_path / "weights.pth", layout="senet", **options)
    assert torch.equal(outputs(ours), outputs(theirs))
    words = [
        "--layout",
        "senet",
        "--model-kwargs",
        "stem_pool=ceil",
        "--se.gate",
        "hard_sigmoid",
        "--se.reduction",
        "8",
    ]
    assert (
        main(["convert", "se_resnet18", str(tmp_path / "weights.pth"), "--output", str(tmp_path / "model"), *words])
        == 0
    )
    assert torch.equal(outputs(from_pretrained(tmp_path / "model")), outputs(theirs))


@pytest.mark.parametrize("placement", ["pre", "3x3"])
def test_another_place_is_named(placement, tmp_path):
    options = {"stem_pool": "ceil", "stride_on": "1x1"}
    with torch.device("meta"):
        theirs = create_model("se_resnet50", se=SEOptions(placement=placement), **options)
    state = {key: torch.zeros(tensor.shape) for key, tensor in theirs.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    model = create_model("se_resnet50", **options)
    assert_refused(model, tmp_path / "weights.pth", f"SEOptions(placement={placement!r})", layout="senet")
    load_weights(
        create_model("se_resnet50", se=SEOptions(placement=placement)), tmp_path / "weights.pth", layout="senet"
    )


def test_one_missing_bias_is_no_network_without_biases(tmp_path):
    state = dict(random_network("cifar_se_resnet20").state_dict())
    del state["layer2.0.se.fc1.bias"]
    torch.save(state, tmp_path / "weights.pth")
    assert_refused(
        random_network("cifar_se_resnet20"), tmp_path / "weights.pth", "1 missing (layer2.0.se.fc1.bias, ...)"
    )
