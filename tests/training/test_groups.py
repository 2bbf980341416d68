"""Groups of parameters: depth in networks of three libraries, heads, inserted blocks, and who decays."""

import pytest
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import senet
from senet.errors import SenetError
from senet.models.build import skeleton
from senet.models.config import ModelConfig
from senet.training.groups import classifier_names, depths_of, head_names, parameter_groups
from senet.training.schedule import Schedule
from senet.training.sections import OptimizerConfig, ScheduleConfig


def network(name):
    return skeleton(ModelConfig(name=name))


def first_of_groups(model):
    """Return the name of the first parameter of each group of layers, and check that groups follow each other."""
    depths = depths_of(model)
    assert depths.keys() == {name for name, _ in model.named_parameters()}
    found = {}
    for name, depth in depths.items():
        found.setdefault(depth, name)
    assert sorted(found) == list(range(len(found)))
    return [found[depth] for depth in sorted(found)]


STAGES = ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]


@pytest.mark.parametrize("name", ["resnet50", "se_resnet50", "timm/resnet50", "torchvision/resnet50"])
def test_the_groups_of_a_resnet_are_its_stages_whichever_library_wrote_it(name):
    model = network(name)
    assert [first.split(".")[0] for first in first_of_groups(model)] == STAGES
    depths = depths_of(model)
    assert depths["bn1.bias"] == depths["conv1.weight"] == 0
    assert depths["layer4.2.bn3.weight"] == 4
    assert depths["fc.bias"] == 5


@pytest.mark.parametrize(
    ("name", "number", "last"),
    [
        ("cifar_se_resnet20", 4, "fc.weight"),
        ("se_mobilenet_v1", 6, "classifier.weight"),
        ("vgg16_bn", 7, "classifier.6.weight"),
        ("timm/vit_tiny_patch16_224", 14, "head.weight"),
        ("timm/convnext_tiny", 7, "head.fc.weight"),
        ("timm/deit_tiny_distilled_patch16_224", 14, "head.weight"),
        ("torchvision/vit_b_16", 14, "heads.head.weight"),
        ("torchvision/vgg16", 14, "classifier.6.weight"),
        ("torchvision/densenet121", 9, "classifier.weight"),
        ("torchvision/convnext_tiny", 10, "classifier.2.weight"),
        ("torchvision/squeezenet1_0", 10, "classifier.1.weight"),
        ("torchvision/shufflenet_v2_x1_0", 6, "fc.weight"),
        ("torchvision/mobilenet_v3_large", 14, "classifier.3.weight"),
    ],
)
def test_every_network_has_groups_and_a_classifier(name, number, last):
    groups = first_of_groups(network(name))
    assert (len(groups), groups[-1]) == (number, last)


def test_torchvision_s_transformer_is_grouped_by_block():
    depths = depths_of(network("torchvision/vit_b_16"))
    blocks = [depths[f"encoder.layers.encoder_layer_{i}.ln_1.weight"] for i in range(12)]
    assert blocks == list(range(1, 13))
    assert depths["class_token"] == depths["encoder.pos_embedding"] == 0
    assert depths["encoder.ln.weight"] == 12


def test_inserted_blocks_and_the_classifier_are_the_head():
    model = senet.create_model("torchvision/resnet18", num_classes=3)
    report = senet.insert_se(model)
    assert head_names(model) == {"fc.weight", "fc.bias", *report.parameters}
    depths = depths_of(model)
    assert {depths[name] for name in report.parameters} == {5}
    assert depths["layer1.0.bn2.weight"] == 1
    assert {"layer1.0.se.fc1.weight"} <= depths_of(network("cifar_se_resnet20")).keys() - head_names(
        network("cifar_se_resnet20")
    )


def test_a_network_without_a_classifier_is_refused_in_one_sentence():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    model.num_classes = 7
    with pytest.raises(SenetError, match="Sequential has no layer of 7 outputs, the classifier that freezing and"):
        classifier_names(model)


def test_layer_decay_is_a_power_for_each_group_and_agrees_with_timm():
    model = senet.create_model("timm/vit_tiny_patch16_224", num_classes=3, depth=3)
    config = OptimizerConfig(name="adamw", lr=1.0, layer_decay=0.5, weight_decay=0.05, decay_norm_and_bias=False)
    scales = scales_of(model, parameter_groups(config, model))
    expected = scales_of(model, param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5))
    assert scales == expected
    assert sorted(set(scales.values())) == [0.5**4, 0.5**3, 0.25, 0.5, 1.0]
    kept = [group["params"] for group in parameter_groups(config, model) if group.get("weight_decay") == 0.0]
    assert any(weight is model.pos_embed for weights in kept for weight in weights)  # as the network itself asks for


def scales_of(model, groups):
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {names[id(weight)]: group["lr_scale"] for group in groups for weight in group["params"]}


def test_the_schedule_sets_each_group_s_share():
    model = senet.create_model("cifar_se_resnet20", num_classes=3)
    groups = parameter_groups(OptimizerConfig(layer_decay=0.5), model)
    optimizer = torch.optim.SGD(groups, lr=9.0)
    schedule = Schedule(ScheduleConfig(name="step", milestones=(3,)), optimizer, 0.8, 10)
    for epoch, lr in ((0, 0.8), (3, 0.08)):
        assert schedule.set_lr(epoch) == pytest.approx(lr)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([lr / 8, lr / 4, lr / 2, lr])


def test_without_layer_decay_the_groups_are_what_they_always_were():
    """The order of parameters and groups is that of the states of older runs."""
    model = senet.create_model("cifar_se_resnet20", num_classes=3)
    weights = list(model.parameters())
    (group,) = parameter_groups(OptimizerConfig(), model)
    assert [id(weight) for weight in group["params"]] == [id(weight) for weight in weights]
    assert group.keys() == {"params"}
    without, others = parameter_groups(OptimizerConfig(decay_norm_and_bias=False), model)
    assert without["weight_decay"] == 0.0
    assert [id(w) for w in without["params"]] == [id(w) for w in weights if w.ndim == 1]
    assert [id(w) for w in others["params"]] == [id(w) for w in weights if w.ndim > 1]
