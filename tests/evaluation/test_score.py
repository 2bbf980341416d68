"""Accuracy and loss against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from senet.evaluation.accuracy import likeliest, log_probabilities, score


def lookup(logits):
    """Return a network that looks up the logits of image `i`, an image whose pixels are all `i`."""
    table = torch.tensor(logits, dtype=torch.float32)

    class Lookup(nn.Module):
        def forward(self, x):
            return table[x[:, 0, 0, 0].long()]

    return Lookup()


def images(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[..., None, None, None].expand(
        *torch.tensor(numbers).shape, 1, 2, 2
    )


# Seven classes; the logits are the logarithms of these shares of 28.
SHARES = [[7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]]
LOGITS = [[math.log(share) for share in row] for row in SHARES]


def test_top1_top5_and_loss_are_what_one_works_out():
    """Label 0 of row 0 is first; 2 of row 1 is fifth; 5 of row 2 is sixth; 6 of row 1 is first."""
    batches = [(images(0, 1), torch.tensor([0, 2])), (images(2), torch.tensor([5])), (images(1), torch.tensor([6]))]
    result = score(lookup(LOGITS), batches)
    assert (result.top1, result.top5, result.num_images) == (50.0, 75.0, 4)
    assert result.loss == pytest.approx(-sum(math.log(share / 28) for share in (7, 3, 2, 7)) / 4, rel=1e-6)


def test_with_fewer_than_five_classes_all_are_among_the_first_five():
    result = score(lookup([[0.0, 1.0, 2.0]]), [(images(0, 0, 0, 0), torch.tensor([0, 1, 2, 2]))])
    assert (result.top1, result.top5) == (50.0, 100.0)


def test_of_equal_logits_the_first_class_is_predicted_as_by_argmax():
    """Logits of whole numbers are often equal, as those of an int8 file are."""
    logits = torch.randint(0, 4, (256, 10)).float()
    assert not torch.equal(logits.topk(5).indices[:, 0], logits.argmax(1))
    x = torch.arange(256.0)[:, None, None, None].expand(256, 1, 2, 2)
    assert score(lookup(logits.tolist()), [(x, logits.argmax(1))]).top1 == 100
    assert np.array_equal(likeliest(logits, 5), np.argsort(-logits.numpy(), axis=1, stable=True)[:, :5])


def test_views_are_averaged_by_probability():
    """The mean of the logits would prefer class 0, and so would the product of the probabilities."""
    views = torch.tensor([[0.400, 0.001, 0.599], [0.250, 0.740, 0.010]])
    model = lookup(views.log().tolist())
    mean = views.mean(0)
    assert views.log().mean(0).argmax() == 0
    assert mean.argmax() == 1

    x = images([0, 1], [1, 0])
    torch.testing.assert_close(log_probabilities(model, x).exp(), mean.expand(2, 3))
    result = score(model, [(x, torch.tensor([1, 0]))])
    assert (result.top1, result.num_images) == (50.0, 2)
    assert result.loss == pytest.approx(-(mean[1].log() + mean[0].log()).item() / 2, rel=1e-5)


def test_one_view_of_bfloat16_logits_is_scored_in_float32():
    model = lookup(LOGITS)
    logits = log_probabilities(lambda x: model(x).bfloat16(), images(0, 1))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(2))


def test_sums_are_reduced_over_processes_and_forward_is_what_is_called():
    """Two processes with the same images: the means stay, the number doubles."""
    model, called = lookup(LOGITS), []
    batches = [(images(0, 1), torch.tensor([0, 2]))]
    one = score(model, batches)
    two = score(model, batches, forward=lambda x: (called.append(len(x)), model(x))[1], reduce=lambda sums: 2 * sums)
    assert called == [2]
    assert (two.top1, two.top5, two.loss, two.num_images) == (one.top1, one.top5, one.loss, 4)


def test_a_network_is_scored_in_evaluation_mode_without_gradients():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 3))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    result = score(model, [(torch.randn(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64))])
    assert not model.training
    assert result.num_images == 8
    for key, tensor in before.items():
        assert torch.equal(model.state_dict()[key], tensor)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_batches_are_an_error():
    with pytest.raises(ValueError, match="no batches"):
        score(lookup(LOGITS), [])
