"""The loss of a batch beside timm's and PyTorch's, and beside its formula in double precision."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy
from torch import nn

from senet.errors import SenetError
from senet.training.objective import Objective, binary_cross_entropy, by_class, cross_entropy, distillation
from senet.training.sections import ObjectiveConfig

N, C = 12, 5
WEIGHTS = torch.tensor([0.5, 0.25, 1.0, 4.0, 2.0], dtype=torch.float64)
BCE = "binary_cross_entropy"


@pytest.fixture
def logits():
    return torch.randn(N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def labels():
    return torch.arange(N) * 3 % C


@pytest.fixture
def shares(labels):
    """Each image is mixed with its mirror in the batch; where both are of one class, that has the whole share."""
    return 0.7 * F.one_hot(labels, C).double() + 0.3 * F.one_hot(labels.flip(0), C)


def mixed_by_timm(labels, smoothing):
    """Return the shares that timm's Mixup makes of labels, and the same smoothed."""
    images, results = torch.zeros(N, 1, 2, 2), []
    for amount in (0.0, smoothing):
        mixup = Mixup(mixup_alpha=1.0, num_classes=C, label_smoothing=amount)
        mixup._params_per_batch = lambda: (0.7, False)
        results.append(mixup(images, labels)[1].double())
    return results


# ---- cross entropy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_mixed_images_is_that_of_timms_smoothed_targets(logits, labels, smoothing):
    shares, smoothed = mixed_by_timm(labels, smoothing)
    expected = -(smoothed * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(cross_entropy(logits, shares, smoothing, None), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_of_hard_labels_are_pytorchs_divided_by_the_number_of_images(logits, labels, smoothing):
    found = cross_entropy(logits, labels, smoothing, WEIGHTS)
    total = F.cross_entropy(logits, labels, WEIGHTS, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(found, total / N)
    if not smoothing:  # PyTorch's mean divides by the weights instead
        mean = F.cross_entropy(logits, labels, WEIGHTS)
        torch.testing.assert_close(found, mean * WEIGHTS[labels].mean())
        torch.testing.assert_close(found, -(WEIGHTS[labels] * logits.log_softmax(1)[range(N), labels]).mean())


def test_the_weighted_loss_of_mixed_images_is_the_mixture_of_the_weighted_losses(logits, labels, shares):
    found = cross_entropy(logits, shares, 0.0, WEIGHTS)
    either = [cross_entropy(logits, each, 0.0, WEIGHTS) for each in (labels, labels.flip(0))]
    torch.testing.assert_close(found, 0.7 * either[0] + 0.3 * either[1])
    smoothed = 0.9 * shares + 0.1 / C
    by_hand = -(WEIGHTS * smoothed * logits.log_softmax(1)).sum() / N
    torch.testing.assert_close(cross_entropy(logits, shares, 0.1, WEIGHTS), by_hand)


@pytest.mark.parametrize("loss", ["cross_entropy", BCE])
@pytest.mark.parametrize("mixed", [False, True])
def test_two_half_batches_have_the_weighted_loss_and_gradient_of_the_whole(logits, labels, shares, loss, mixed):
    """So that processes and accumulated batches, whose classes differ, train as one batch does."""
    targets = shares if mixed else labels
    objective = Objective(nn.Identity(), "fp32", 0.1, config=ObjectiveConfig(loss=loss), class_weights=WEIGHTS)
    whole, halves = (logits.clone().requires_grad_() for _ in range(2))
    objective.loss(whole, targets).backward()
    for part in (slice(0, N // 2), slice(N // 2, N)):
        (objective.loss(halves[part], targets[part]) / 2).backward()
    torch.testing.assert_close(halves.grad, whole.grad)


@pytest.mark.parametrize("mixed", [False, True])
def test_class_offsets_are_added_to_the_logits_in_the_loss(logits, labels, shares, mixed):
    offsets, targets = torch.tensor([0.7, -1.0, 0.3, 2.0, 0.0]), shares if mixed else labels
    found = Objective(nn.Identity(), "fp32", 0.1, class_offsets=offsets).loss(logits, targets)
    expected = F.cross_entropy(logits + offsets, targets, label_smoothing=0.1)
    torch.testing.assert_close(found, expected)


def test_how_each_kind_of_balance_enters_the_loss():
    counts = np.array([8, 1, 3])
    assert by_class(ObjectiveConfig(), counts) == by_class(ObjectiveConfig(balance="sampler"), counts) == {}
    (weights,) = by_class(ObjectiveConfig(balance="weights"), counts).values()
    torch.testing.assert_close(weights, torch.tensor([0.5, 4.0, 4 / 3]))
    (offsets,) = by_class(ObjectiveConfig(balance="logits"), counts).values()
    torch.testing.assert_close(offsets, torch.tensor([2.0, 0.25, 0.75]).log())
    with pytest.raises(SenetError, match="balance logits needs the cross entropy, not binary_cross_entropy"):
        ObjectiveConfig(balance="logits", loss="binary_cross_entropy")


# ---- binary cross entropy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("smoothing", "threshold"), [(0.0, None), (0.1, None), (0.0, 0.2), (0.0, 0.5)])
def test_binary_cross_entropy_is_timms(logits, labels, smoothing, threshold):
    timms = BinaryCrossEntropy(smoothing, threshold)
    found = binary_cross_entropy(logits, labels, smoothing, threshold, None)
    torch.testing.assert_close(found, timms(logits, labels))
    shares, smoothed = mixed_by_timm(labels, smoothing)
    found = binary_cross_entropy(logits, shares, smoothing, threshold, None)
    torch.testing.assert_close(found, timms(logits, smoothed))


def test_the_threshold_makes_both_classes_of_a_mixed_image_present_and_the_smoothing_comes_after_it(logits, labels):
    shares, _ = mixed_by_timm(labels, 0.0)
    both = torch.maximum(F.one_hot(labels, C), F.one_hot(labels.flip(0), C)).double()
    found = binary_cross_entropy(logits, shares, 0.0, 0.2, None)
    torch.testing.assert_close(found, F.binary_cross_entropy(logits.sigmoid(), both))
    smoothed = both * (1 - 0.1) + 0.1 / C
    found = binary_cross_entropy(logits, shares, 0.1, 0.2, None)
    torch.testing.assert_close(found, F.binary_cross_entropy(logits.sigmoid(), smoothed))


def test_weights_of_the_binary_cross_entropy_are_those_of_whole_images(logits, labels, shares):
    p = logits.sigmoid()
    for targets, weights in ((F.one_hot(labels, C).double(), WEIGHTS[labels]), (shares, shares @ WEIGHTS)):
        losses = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean(1)
        expected = (weights * losses).mean()
        torch.testing.assert_close(binary_cross_entropy(logits, targets, 0.0, None, WEIGHTS), expected)
    hard = binary_cross_entropy(logits, labels, 0.0, None, WEIGHTS)
    torch.testing.assert_close(hard, binary_cross_entropy(logits, F.one_hot(labels, C).double(), 0.0, None, WEIGHTS))


# ---- the objective ---------------------------------------------------------------------------------------------------


def test_distillation_is_the_divergence_times_the_squared_temperature(logits):
    taught = logits.flip(0) * 2
    p, q = (taught / 3).softmax(1), (logits / 3).softmax(1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation(logits, taught, 3.0), expected)
    assert distillation(logits, logits, 3.0) == 0


def test_a_teacher_has_its_share_of_the_loss_and_no_gradient(logits, labels):
    teacher = nn.Linear(C, C).double().requires_grad_(False)
    config = ObjectiveConfig(teacher="it", distillation=0.3, temperature=4.0)
    objective = Objective(nn.Identity(), "fp32", 0.1, config=config, teacher=teacher)
    images = logits.float()
    teacher.float()
    expected = 0.7 * F.cross_entropy(images, labels, label_smoothing=0.1) + 0.3 * distillation(
        images, teacher(images), 4.0
    )
    torch.testing.assert_close(objective(images, labels), expected)


def test_the_objective_of_class_weights_keeps_them_out_of_state_dicts():
    objective = Objective(nn.Linear(2, C), "fp32", 0.0, class_weights=WEIGHTS.float())
    assert set(objective.state_dict()) == {"network.weight", "network.bias"}
    assert set(dict(objective.named_buffers())) == {"class_weights"}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", BCE])
def test_a_compiled_objective_computes_the_same(labels, shares, loss):
    torch.manual_seed(0)
    config = ObjectiveConfig(loss=loss, teacher="it")
    network, teacher = nn.Linear(8, C), nn.Linear(8, C).requires_grad_(False)
    objective = Objective(network, "fp32", 0.1, config=config, class_weights=WEIGHTS.float(), teacher=teacher)
    images = torch.randn(N, 8)
    for targets in (labels, shares.float()):
        expected = objective(images, targets)
        (gradient,) = torch.autograd.grad(expected, network.weight)
        found = torch.compile(objective, dynamic=False, fullgraph=True)(images, targets)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, network.weight)[0], gradient)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 4.0}, "objective.temperature has no effect without objective.teacher"),
        ({"distillation": 0.9}, "objective.distillation has no effect without objective.teacher"),
        ({"teacher": "runs/big", "distillation": 0.0}, "objective.teacher has no effect with a distillation of 0"),
        ({"target_threshold": 0.2}, "objective.target_threshold has no effect without binary_cross_entropy"),
    ],
)
def test_options_without_effect_are_refused(options, said):
    with pytest.raises(SenetError, match=said):
        ObjectiveConfig(**options)


def test_in_distributed_data_parallel_the_teacher_is_left_alone(labels, tmp_path):
    torch.manual_seed(0)
    network, teacher = (nn.Sequential(nn.Linear(8, C), nn.BatchNorm1d(C)) for _ in range(2))
    teacher.eval().requires_grad_(False)
    config, images = ObjectiveConfig(loss=BCE, target_threshold=0.2, teacher="it"), torch.randn(N, 8)
    objective = Objective(network, "fp32", 0.0, config=config, class_weights=WEIGHTS.float(), teacher=teacher)
    expected = objective(images, labels)
    expected.backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    objective.zero_grad()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(objective)
        assert {name.partition(".")[0] for name in wrapped.parameters_to_ignore} == {"teacher"}
        found = wrapped(images, labels)
        found.backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, expected)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
