"""timm builds, loads, trains and saves our networks with its own tools."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import load_checkpoint, resolve_model_input_args
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn

import senet
import senet.integrations.timm
from checks import assert_one_sentence, assert_same_weights
from networks import randomize
from senet.data.preprocessing import CIFAR
from senet.errors import SenetError
from senet.models.resnet import ResNet
from senet.models.timm_protocol import NAMES_IN_TIMM, name_for_timm

NAME = "cifar_se_resnet20"


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


# ---- the registry ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_importing_this_library_changes_nothing_in_timm() -> None:
    code = "import senet, timm; senet.create_model; print(sorted(set(timm.list_models()) & set(senet.list_models())))"
    assert NAME not in run(code)


def test_every_network_of_senet_is_in_the_registry_and_none_of_timms_is_replaced() -> None:
    alone = set(run("import timm; print(*timm.list_models())").split())
    now = set(timm.list_models())
    assert now - alone == set(map(name_for_timm, senet.list_models()))
    assert alone <= now
    both = alone & set(senet.list_models())
    assert both == set(NAMES_IN_TIMM)
    assert all(timm.models.model_entrypoint(name).__module__.startswith("timm.") for name in both)
    assert {"se_resnet50", "se_resnext50_32x4d", NAME} <= now - alone


def test_arguments_by_the_names_of_timm() -> None:
    model = timm.create_model("se_resnet50", num_classes=7, in_chans=1, drop_rate=0.3)
    assert isinstance(model, ResNet)
    assert model.training
    assert model.fc.weight.shape == (7, 2048)
    assert model.conv1.weight.shape[1] == model.in_chans == 1
    assert model.dropout.p == 0.3
    assert model.get_classifier() is model.fc


def test_our_own_options_pass_through() -> None:
    """As plain values, which is all that timm's `--model-kwargs` can say."""
    with torch.device("meta"):
        model = timm.create_model("se_resnet50", stride_on="3x3", se={"reduction": 8, "stages": [3, 4]})
    assert model.config.se == senet.SEOptions(reduction=8, stages=(3, 4))
    assert model.layer2[0].conv2.stride == (2, 2)


def test_device_and_type() -> None:
    model = timm.create_model(NAME, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("pool", ["avg", "fast"])
def test_the_average_is_our_pooling(pool: str) -> None:
    assert timm.create_model(NAME, num_classes=3, global_pool=pool)(torch.ones(2, 3, 8, 8)).shape == (2, 3)


def test_no_classifier_and_no_pooling() -> None:
    model = timm.create_model(NAME, num_classes=0, global_pool="").eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), model.forward_features(x))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop_path_rate": 1.0}, "drop_path is 1.0"),
        ({"drop_block_rate": 0.1}, "drop_block_rate"),
        ({"global_pool": "max"}, "'max'"),
        ({"drop_rate": 1.5}, "1.5"),
        ({"pretrained": True, "cache_dir": "models"}, "cache_dir"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(options: dict[str, object], said: str) -> None:
    with pytest.raises(SenetError) as caught:
        timm.create_model(NAME, **options)
    assert_one_sentence(caught, said)


PREPARATION = ("num_classes", "input_size", "crop_pct", "interpolation", "mean", "std")


@pytest.mark.parametrize("name", ["se_bn_inception", NAME])
def test_what_timm_knows_beforehand_is_what_the_network_says(name: str) -> None:
    with torch.device("meta"):
        built = senet.create_model(name)
    for key in PREPARATION:
        assert timm.models.get_pretrained_cfg_value(name, key) == built.default_cfg[key]


@pytest.mark.parametrize(
    ("name", "first"), [("se_resnet50", "seresnet50.ra2_in1k"), ("se_resnet18", "legacy_seresnet18.in1k")]
)
def test_what_timm_knows_of_public_weights_is_what_these_want(name: str, first: str) -> None:
    """Not what the paper's network wants: segmentation_models_pytorch prepares its images by this."""
    known, expected = timm.models.get_pretrained_cfg(name), timm.models.get_pretrained_cfg(first)
    assert (known.mean, known.std, known.interpolation) == (expected.mean, expected.std, expected.interpolation)
    assert (known.input_size, known.num_classes) == (expected.input_size, 1000)
    assert known.crop_pct == pytest.approx(expected.crop_pct, rel=0.01)


def test_timms_scripts_build_a_network_with_its_own_classes() -> None:
    """They resolve the input first and pass on all that timm knows of the name."""
    model = timm.create_model(**resolve_model_input_args(NAME, in_chans=2))
    assert (model.num_classes, model.in_chans) == (10, 2)


# ---- the pyramid -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [(0, 1, 2), (0, 2), (-1,), 2])
def test_features_are_the_intermediates(indices: int | tuple[int, ...]) -> None:
    torch.manual_seed(0)
    pyramid = timm.create_model(NAME, features_only=True, out_indices=indices).eval()
    whole = senet.create_model(NAME)
    whole.load_state_dict(pyramid.model.state_dict(), strict=False)
    whole.eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        maps = pyramid(x)
        expected = whole.forward_intermediates(x, indices, intermediates_only=True)
    assert len(maps) == len(expected) == (indices if isinstance(indices, int) else len(indices))
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
    assert pyramid.feature_info.channels() == [m.shape[1] for m in maps]
    assert pyramid.feature_info.reduction() == [32 // m.shape[-1] for m in maps]


def test_the_pyramid_of_a_resnet_is_timms() -> None:
    with torch.device("meta"):
        ours = timm.create_model("se_resnet50", features_only=True, out_indices=(1, 2, 3, 4))
        theirs = timm.create_model("seresnet50", features_only=True, out_indices=(1, 2, 3, 4))
    assert ours.feature_info.channels() == theirs.feature_info.channels() == [256, 512, 1024, 2048]
    assert ours.feature_info.reduction() == theirs.feature_info.reduction() == [4, 8, 16, 32]


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, f"{NAME}.cifar10"])
def test_pretrained_means_the_weights_in_the_package(name: str) -> None:
    model = timm.create_model(name, pretrained=True)
    assert_same_weights(model, senet.create_model(NAME, weights="cifar10"))
    assert resolve_data_config(model=model)["mean"] == CIFAR.mean
    assert NAME in timm.list_models(pretrained=True)


def test_pretrained_for_other_classes() -> None:
    model = timm.create_model(NAME, pretrained=True, num_classes=4)
    packaged = senet.create_model(NAME, weights="cifar10")
    assert model.num_classes == 4
    assert torch.equal(model.layer3[2].conv2.weight, packaged.layer3[2].conv2.weight)


def test_pretrained_without_weights_is_refused() -> None:
    with pytest.raises(SenetError) as caught:
        timm.create_model("se_shufflenet_v1_g3", pretrained=True)
    assert_one_sentence(caught, "se_shufflenet_v1_g3", "no public weights")
    assert "se_shufflenet_v1_g3" not in timm.list_models(pretrained=True)
    assert "se_resnet50" in timm.list_models(pretrained=True)


def test_a_pooling_that_is_the_networks_own_keeps_the_classifier() -> None:
    model = timm.create_model(NAME, pretrained=True, global_pool="avg")
    assert_same_weights(model, senet.create_model(NAME, weights="cifar10"))


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_tag_that_does_not_exist_is_refused(pretrained: bool) -> None:
    with pytest.raises(SenetError) as caught:
        timm.create_model(f"{NAME}.imagenet", pretrained=pretrained)
    assert_one_sentence(caught, NAME, "'imagenet'", "cifar10")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[str, nn.Module]:
    """A model folder of a network in which nothing has its default value."""
    model = senet.create_model(NAME, num_classes=3, in_channels=1, se=senet.SEOptions(reduction=4, squeeze="max"))
    randomize(model)
    senet.save_pretrained(model, tmp_path / "net")
    return f"local-dir:{tmp_path / 'net'}", model.eval()


def test_a_model_folder_comes_back_as_it_was_saved(saved) -> None:
    folder, expected = saved
    model = timm.create_model(folder, pretrained=True)
    assert model.config == expected.config
    assert_same_weights(model, expected)
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(model.eval()(x), expected(x))


def test_a_model_folder_of_a_name_that_timm_has_too_is_never_taken_for_its_own(tmp_path: Path) -> None:
    """timm's resnet50 has its strides in other layers, and tensors of the same names and shapes."""
    model = senet.create_model("resnet50", num_classes=3).eval()
    randomize(model)
    senet.save_pretrained(model, tmp_path)
    x = torch.randn(1, 3, 64, 64)
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(opened(x), model(x))
    timm.models.save_for_hf(opened, tmp_path / "again")
    assert torch.equal(senet.create_model("resnet50", 3, weights=tmp_path / "again").eval()(x), model(x))
    code = f"import timm; timm.create_model({f'local-dir:{tmp_path}'!r}, pretrained=True)"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Unknown model (senet_resnet50)" in alone.stderr


def test_a_model_folder_for_another_task(saved) -> None:
    folder, expected = saved
    model = timm.create_model(folder, pretrained=True, num_classes=9, in_chans=1, drop_rate=0.1)
    assert (model.num_classes, model.config.se.squeeze, model.dropout.p) == (9, "max", 0.1)
    assert torch.equal(model.layer1[0].conv1.weight, expected.layer1[0].conv1.weight)


def test_a_model_folder_without_its_weights(saved) -> None:
    folder, expected = saved
    model = timm.create_model(folder)
    assert (model.num_classes, model.in_chans) == (3, 1)
    assert model.config.se == expected.config.se
    assert not torch.equal(model.conv1.weight, expected.conv1.weight)


def test_what_timm_saves_is_opened_by_timm(tmp_path: Path) -> None:
    model = timm.create_model("se_resnet18", num_classes=3, stem_pool="pad", se={"reduction": 4})
    randomize(model)
    timm.models.save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, output_stride=16)
    assert_same_weights(again, model)
    assert again.config.options == {"stem_pool": "pad", "output_stride": 16}


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_checkpoint_is_loaded_after_the_network_is_built(tmp_path: Path, wrapped: bool) -> None:
    expected = senet.create_model(NAME, num_classes=5)
    randomize(expected)
    state = expected.state_dict()
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "file.pth")
    model = timm.create_model(NAME, num_classes=5, checkpoint_path=str(tmp_path / "file.pth"))
    assert_same_weights(model, expected)


# ---- training as timm's train.py does --------------------------------------------------------------------------------

COLORS = {"blue": (20, 30, 220), "red": (220, 30, 20)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of classes: tiny images of one color, each a little different."""
    for split, number in (("train", 8), ("validation", 4)):
        for color, rgb in COLORS.items():
            folder = tmp_path / "pictures" / split / color
            folder.mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (20 + i, 24), tuple(max(0, value - 3 * i) for value in rgb)).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def open_loader(root: Path, split: str, config: dict[str, object], training: bool):
    return create_loader(
        create_dataset("", root=root, split=split, is_training=training),
        input_size=config["input_size"],
        batch_size=8,
        is_training=training,
        use_prefetcher=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        num_workers=0,
        pin_memory=False,
        **({"auto_augment": "rand-m3-n1", "re_prob": 0.1, "hflip": 0.5} if training else {}),
    )


@torch.no_grad()
def top1(model: nn.Module, loader) -> float:
    model.eval()
    right = [(model(images).argmax(1) == targets).float() for images, targets in loader]
    return 100 * torch.cat(right).mean().item()


def test_training_with_the_tools_of_timm(pictures: Path, tmp_path: Path) -> None:
    timm.utils.random_seed(0)
    model = timm.create_model(NAME, num_classes=2)
    config = resolve_data_config({}, model=model)
    assert (config["input_size"], config["mean"], config["std"]) == ((3, 32, 32), CIFAR.mean, CIFAR.std)
    train = open_loader(pictures, "train", config, training=True)
    validation = open_loader(pictures, "validation", config, training=False)

    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4, layer_decay=0.9)
    scales = sorted({group["lr_scale"] for group in optimizer.param_groups})
    assert scales == pytest.approx([0.9**depth for depth in range(5, -1, -1)])  # conv1, bn1, three stages, fc
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=6, warmup_epochs=1, warmup_lr=1e-3)
    ema = ModelEmaV3(model, decay=0.8)
    (tmp_path / "run").mkdir()
    saver = CheckpointSaver(model, optimizer, model_ema=ema, checkpoint_dir=str(tmp_path / "run"), max_history=2)
    rates = []
    for epoch in range(epochs):
        model.train()
        for step, (images, targets) in enumerate(train):
            assert images.shape == (8, 3, 32, 32)
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            timm.utils.dispatch_clip_grad(timm.models.model_parameters(model), value=5.0)
            optimizer.step()
            ema.update(model, step=epoch * len(train) + step)
        rates.append(max(group["lr"] for group in optimizer.param_groups))
        scheduler.step(epoch + 1, top1(model, validation))
        saver.save_checkpoint(epoch, metric=top1(ema.module, validation))
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] < rates[1]
    assert top1(model, validation) == 100

    last = tmp_path / "run" / "last.pth.tar"
    for expected, use_ema in ((model, False), (ema.module, True)):
        restored = timm.create_model(NAME, num_classes=2)
        load_checkpoint(restored, str(last), use_ema=use_ema)
        assert_same_weights(restored, expected)
    ours = senet.create_model(NAME, num_classes=2)
    with pytest.raises(senet.SenetError, match="holds several networks: 'state_dict', 'state_dict_ema'"):
        senet.load_weights(ours, tmp_path / "run" / "model_best.pth.tar")
    senet.load_weights(ours, tmp_path / "run" / "model_best.pth.tar", key="state_dict")
    assert top1(ours, validation) == 100


@torch.no_grad()
@pytest.mark.parametrize("stem_pool", ["ceil", "pad"])
def test_what_timm_saves_of_this_librarys_networks_is_read_as_such(tmp_path, stem_pool):
    """Their keys could be timm's own seresnet18, which computes something else."""
    options = {"stem_pool": stem_pool, "se": {"reduction": 8, "gate": "hard_sigmoid", "stages": [3, 4]}}
    model = timm.create_model("se_resnet18", num_classes=7, in_chans=1, drop_rate=0.1, **options)
    randomize(model)
    timm.models.save_for_hf(model, tmp_path)
    again = senet.from_pretrained(tmp_path)
    x = torch.randn(2, 1, 75, 75)
    assert torch.equal(again(x), model.eval()(x))
    assert again.config.se == model.config.se
    assert again.preprocessing == model.preprocessing


def test_arguments_that_cannot_be_read_back_are_refused(tmp_path):
    model = timm.create_model("cifar_se_resnet20")
    timm.models.save_for_hf(model, tmp_path, model_args={"width": 20})
    with pytest.raises(senet.SenetError, match="model_args has 'width', which cifar_se_resnet20 does not take"):
        senet.from_pretrained(tmp_path)
